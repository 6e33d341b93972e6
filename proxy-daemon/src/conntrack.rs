//! What kube-proxy asks of the kernel's connection tracking, for the same reasons: packets of Services pass it still, with the addresses of their
//! backends, wherever a CNI, a network policy or a masquerading rule has it at work.
//!
//! In: the flags of the same names. Out: sysctls of this network namespace. Shunt's own tables depend on none of them.

use std::{
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Where the sysctls are, which are there while something tracks connections.
const SYSCTLS: &str = "/proc/sys/net/netfilter";
/// How many buckets the table has, for the whole machine.
const HASH_SIZE: &str = "/sys/module/nf_conntrack/parameters/hashsize";
/// However many CPUs there are, no more than this comes of `max_per_core`.
const MOST: u32 = 1 << 20;
/// How many entries a bucket is to have.
const PER_BUCKET: u32 = 4;

/// What is asked. Of what is nothing the kernel's own stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// How many connections at least, for each CPU.
    pub max_per_core: u32,
    /// How many connections at least.
    pub min: u32,
    /// How long an established TCP connection may be silent.
    pub tcp_established: Option<Duration>,
    /// How long a half-closed one may be.
    pub tcp_close_wait: Option<Duration>,
    /// Whether TCP packets out of window are let through.
    pub tcp_be_liberal: bool,
    /// How long a UDP flow of one datagram is remembered.
    pub udp: Option<Duration>,
    /// How long one of several is.
    pub udp_stream: Option<Duration>,
}

/// One file, and what is to be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Setting {
    file: PathBuf,
    value: u64,
    /// A greater value is as good.
    at_least: bool,
}

impl Conntrack {
    /// Sets what differs, and warns of what cannot be set. False where nothing tracks connections yet.
    pub fn apply(&self) -> bool {
        if !Path::new(SYSCTLS).is_dir() {
            return false;
        }
        for setting in self.settings(thread::available_parallelism().map_or(1, NonZero::get)) {
            setting.apply();
        }
        true
    }

    fn settings(&self, cpus: usize) -> Vec<Setting> {
        let sysctl = |name: &str| Path::new(SYSCTLS).join(format!("nf_conntrack_{name}"));
        let mut settings = Vec::new();
        if self.max_per_core > 0 {
            let scaled = u32::try_from(cpus).unwrap_or(MOST).saturating_mul(self.max_per_core).min(MOST);
            let max = scaled.max(self.min);
            settings.push(Setting { file: sysctl("max"), value: max.into(), at_least: true });
            settings.push(Setting { file: HASH_SIZE.into(), value: (max / PER_BUCKET).into(), at_least: true });
        }
        if self.tcp_be_liberal {
            settings.push(Setting { file: sysctl("tcp_be_liberal"), value: 1, at_least: true });
        }
        let timeouts = [
            ("tcp_timeout_established", self.tcp_established),
            ("tcp_timeout_close_wait", self.tcp_close_wait),
            ("udp_timeout", self.udp),
            ("udp_timeout_stream", self.udp_stream),
        ];
        settings.extend(
            timeouts.into_iter().filter_map(|(name, time)| Some(Setting { file: sysctl(name), value: time?.as_secs(), at_least: false })),
        );
        settings
    }
}

impl Setting {
    fn apply(&self) {
        let Self { file, value, .. } = self;
        match self.set() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => tracing::debug!(file = %file.display(), "there is no such setting"),
            // As in a container that is not privileged: it was tried in one that is, by `shunt prepare`.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => tracing::info!(
                file = %file.display(), value,
                "sysctls are read-only here: connection tracking stays as it is"
            ),
            Err(error) => tracing::warn!(
                file = %file.display(), value, %error,
                "connection tracking stays as it is: Services do not depend on it, but see to it that it has room for this node's connections"
            ),
        }
    }

    fn set(&self) -> io::Result<()> {
        let now = fs::read_to_string(&self.file)?;
        let now = now.trim().parse::<u64>().map_err(io::Error::other)?;
        if now == self.value || self.at_least && now > self.value {
            return Ok(());
        }
        fs::write(&self.file, self.value.to_string())?;
        tracing::info!(file = %self.file.display(), before = now, now = self.value, "set, as kube-proxy does");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Conntrack = Conntrack {
        max_per_core: 0,
        min: 131_072,
        tcp_established: None,
        tcp_close_wait: None,
        tcp_be_liberal: false,
        udp: None,
        udp_stream: None,
    };

    fn asked(conntrack: &Conntrack, cpus: usize) -> Vec<(String, u64)> {
        let name = |file: &Path| file.file_name().unwrap().to_str().unwrap().trim_start_matches("nf_conntrack_").to_owned();
        conntrack.settings(cpus).iter().map(|setting| (name(&setting.file), setting.value)).collect()
    }

    #[test]
    fn nothing_is_asked_where_all_is_zero() {
        assert_eq!(asked(&NOTHING, 4), []);
    }

    #[test]
    fn room_grows_with_the_cpus_and_has_bounds() {
        let max = |max_per_core, min, cpus| asked(&Conntrack { max_per_core, min, ..NOTHING }, cpus)[0].1;
        assert_eq!(max(32_768, 131_072, 2), 131_072);
        assert_eq!(max(32_768, 131_072, 8), 262_144);
        assert_eq!(max(32_768, 131_072, 128), 1 << 20);
        assert_eq!(max(32_768, 1 << 22, 128), 1 << 22);
        assert_eq!(asked(&Conntrack { max_per_core: 32_768, ..NOTHING }, 8)[1], ("hashsize".to_owned(), 65_536));
    }

    #[test]
    fn more_is_as_good_as_asked_and_another_time_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let after = |before: &str, value, at_least| {
            fs::write(&file, before).unwrap();
            Setting { file: file.clone(), value, at_least }.set().unwrap();
            fs::read_to_string(&file).unwrap().trim().to_owned()
        };
        assert_eq!(after("200\n", 100, true), "200");
        assert_eq!(after("50\n", 100, true), "100");
        assert_eq!(after("200\n", 100, false), "100");
    }
}
