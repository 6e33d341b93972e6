//! Where and when figures were measured: figures of another machine are no match for them.

use std::{fmt, fs};

use k8s_openapi::jiff::Timestamp;

/// What a reader of a figure has to know of the machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    cpu: String,
    cpus: usize,
    kernel: String,
    jit: bool,
}

impl Machine {
    pub(super) fn this() -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let models = || cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, model)| model);
        let jit = read("/proc/sys/net/core/bpf_jit_enable");
        Self {
            cpu: models().next().unwrap_or("an unknown CPU").to_owned(),
            cpus: models().count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            jit: jit.trim() != "0",
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, kernel, jit } = self;
        let jit = if *jit { "on" } else { "off" };
        write!(f, "{cpu}, {cpus} CPUs, Linux {kernel}, BPF JIT {jit}, {}", Timestamp::now().strftime("%Y-%m-%d"))
    }
}
