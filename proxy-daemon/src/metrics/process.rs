//! What this process uses, under the names that every client library has (<https://prometheus.io/docs/instrumenting/writing_clientlibs>).

use std::{fmt, fs, time::Duration};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

const CPU: &str = "process_cpu_seconds";
const MEMORY: &str = "process_resident_memory_bytes";
const FILES: &str = "process_open_fds";

/// Reads it at each scrape.
#[derive(Debug)]
pub(super) struct Process;

#[derive(Debug, PartialEq)]
struct Usage {
    cpu: Duration,
    memory: u64,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(Usage { cpu, memory }) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| usage(&text)) {
            let mut metric = encoder.encode_descriptor(CPU, "Time that the process has computed", None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, _, f64>(&cpu.as_secs_f64(), None)?;
            encoder.encode_descriptor(MEMORY, "Memory that the process has", None, MetricType::Gauge)?.encode_gauge(&memory)?;
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            let files = u64::try_from(files.count()).unwrap_or(u64::MAX);
            encoder.encode_descriptor(FILES, "Files that the process has open", None, MetricType::Gauge)?.encode_gauge(&files)?;
        }
        Ok(())
    }
}

/// Of a line of `/proc/PID/stat` (`proc_pid_stat(5)`).
fn usage(stat: &str) -> Option<Usage> {
    // The name before may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let field = |number: usize| fields.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    let per_second = unit(SysconfVar::CLK_TCK)?;
    let millis = (field(14)? + field(15)?) * 1000 / per_second;
    Some(Usage { cpu: Duration::from_millis(millis), memory: field(24)? * unit(SysconfVar::PAGE_SIZE)? })
}

fn unit(name: SysconfVar) -> Option<u64> {
    sysconf(name).ok()??.try_into().ok().filter(|unit| *unit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_brackets_do_not_matter() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 9 0 100 5000 25 18446744073709551615 1 1";
        let page = unit(SysconfVar::PAGE_SIZE).unwrap();
        let expected = Usage { cpu: Duration::from_millis(200 * 1000 / unit(SysconfVar::CLK_TCK).unwrap()), memory: 25 * page };
        assert_eq!(usage(stat), Some(expected));
    }
}
