//! Loud, typed skips: what a test needs from the machine, and what happens where that is missing.
//!
//! A test that cannot run says `SKIP: <test>: <requirement>` on standard error, past the harness's capture.
//! With `SHUNT_REQUIRE_ALL=1`, as in CI, a skip is a failure.

use std::{
    fmt,
    io::{self, Write as _},
    path::Path,
};

use crate::{control_plane, name::BedName, netns::Netns, scratch};

/// Something a test cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Root, for namespaces, mounts and BPF.
    Root,
    /// A program on the path.
    Tool(&'static str),
    /// A kernel that has BPF and its own type information.
    Btf,
    /// A mounted cgroup v2 hierarchy.
    CgroupV2,
    /// The programs of a real control plane.
    ControlPlane,
    /// At least this kernel.
    Kernel(u32, u32),
    /// A kernel with SCTP. Many have none, so this is never required, and no skip: `cargo xtask kernels` has such.
    Sctp,
    /// A kernel with VLANs, of which the same is true.
    Vlan,
    /// A kernel with IPIP tunnels, and again.
    Ipip,
}

/// What building a testbed takes.
pub const TESTBED: &[Need] = &[Need::Root, Need::Tool("ip"), Need::Tool("bridge"), Need::Tool("nft"), Need::CgroupV2];

/// What running the daemon on a testbed takes.
pub const DAEMON: &[Need] = &[Need::Root, Need::Tool("ip"), Need::Tool("bridge"), Need::Tool("nft"), Need::Btf, Need::CgroupV2];

/// Says whether the running test must be skipped, and says so aloud.
///
/// # Panics
/// When it must and `SHUNT_REQUIRE_ALL=1` is set.
pub fn skip(needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !need.is_met()) else {
        return false;
    };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let required = std::env::var("SHUNT_REQUIRE_ALL").is_ok_and(|value| value == "1");
    let is_elsewhere = matches!(missing, Need::Sctp | Need::Vlan | Need::Ipip);
    assert!(!required || is_elsewhere, "{test} may not be skipped here but lacks {missing}");
    // The harness captures what `eprintln` writes and throws it away when the test passes.
    let word = if is_elsewhere { "ELSEWHERE" } else { "SKIP" };
    let line = format!("{word}: {test}: {missing}\n");
    io::stderr().write_all(line.as_bytes()).expect("standard error is writable");
    true
}

impl Need {
    /// Whether this machine has it.
    pub fn is_met(self) -> bool {
        match self {
            Self::Root => nix::unistd::geteuid().is_root(),
            Self::Tool(tool) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path).any(|directory| directory.join(tool).is_file())
            }
            Self::Btf => Path::new("/sys/kernel/btf/vmlinux").exists(),
            Self::CgroupV2 => scratch::own_cgroup().is_ok(),
            Self::ControlPlane => control_plane::is_available(),
            Self::Kernel(major, minor) => kernel() >= (major, minor),
            Self::Sctp => has_sctp(),
            Self::Vlan => has("link add below type veth peer name end\nlink add link below name above type vlan id 1\n"),
            Self::Ipip => has("link add tunnel type ipip local 192.0.2.1\n"),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Tool(tool) => write!(f, "the program `{tool}`"),
            Self::Btf => f.write_str("a kernel with BTF (/sys/kernel/btf/vmlinux)"),
            Self::CgroupV2 => f.write_str("a mounted cgroup v2 hierarchy"),
            Self::ControlPlane => f.write_str("a control plane (`cargo xtask setup`, or a folder named by KUBEBUILDER_ASSETS)"),
            Self::Kernel(major, minor) => write!(f, "Linux {major}.{minor} or newer"),
            Self::Sctp => f.write_str("a kernel with SCTP"),
            Self::Vlan => f.write_str("a kernel with VLANs"),
            Self::Ipip => f.write_str("a kernel with IPIP tunnels"),
        }
    }
}

fn has_sctp() -> bool {
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) };
    // SAFETY: closes what was opened just now, or nothing.
    socket >= 0 && unsafe { libc::close(socket) } == 0
}

/// Whether the kernel makes these devices.
fn has(devices: &str) -> bool {
    Netns::create(&BedName::next().part("need")).is_ok_and(|netns| netns.ip(devices).is_ok())
}

/// Major and minor number of the running kernel; zeros where it does not say.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_are_recognised() {
        assert!(Need::Tool("sh").is_met());
        assert!(!Need::Tool("no-such-tool").is_met());
        assert!(Need::Kernel(3, 0).is_met());
        assert!(!Need::Kernel(1000, 0).is_met());
    }
}
