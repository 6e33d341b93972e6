//! What Shunt uses of the kernel, and whether the running one has it: each thing is tried, no version is compared.
//!
//! In: nothing. Out: a list. What has to be attached for it is attached in a network namespace that goes at once.

use std::{fs, thread};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    maps::{Array, MapError, MapType},
    programs::{ProgramType, tc::qdisc_add_clsact},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use nix::sched::{CloneFlags, unshare};

use super::{
    checksum::{ChecksumState, Checksums},
    hook::Way,
    namespace::{NamespaceOffsets, netns_cookie},
};
use crate::net;

/// Something of the kernel that Shunt uses.
#[derive(Debug)]
pub struct Feature {
    pub name: &'static str,
    /// The kernel that had it first, where it is not switched off.
    pub since: &'static str,
    /// Whether Shunt cannot run without it.
    pub required: bool,
    /// What becomes of Shunt without it.
    pub without: &'static str,
    /// Whether it is there. An error where that cannot be found out.
    pub available: Result<bool>,
}

/// Helpers that only tc programs call, and those that both kinds do.
const TC_HELPERS: [BpfHelper; 8] = [
    BpfHelper::BPF_FUNC_csum_diff,
    BpfHelper::BPF_FUNC_csum_update,
    BpfHelper::BPF_FUNC_jiffies64,
    BpfHelper::BPF_FUNC_l4_csum_replace,
    BpfHelper::BPF_FUNC_redirect,
    BpfHelper::BPF_FUNC_skb_adjust_room,
    BpfHelper::BPF_FUNC_skb_change_tail,
    BpfHelper::BPF_FUNC_skb_pull_data,
];
const XDP_HELPERS: [BpfHelper; 3] = [BpfHelper::BPF_FUNC_csum_diff, BpfHelper::BPF_FUNC_jiffies64, BpfHelper::BPF_FUNC_xdp_adjust_tail];
const MAPS: [MapType; 4] = [MapType::Hash, MapType::LruHash, MapType::Array, MapType::PerCpuArray];
const BTF: &str = "/sys/kernel/btf/vmlinux";
const FILE_SYSTEMS: &str = "/proc/filesystems";
const JIT: &str = "/proc/sys/net/core/bpf_jit_enable";
/// The flag of arrays that a process maps into its memory (`BPF_F_MMAPABLE`).
const MAPPABLE: u32 = 1 << 10;

/// All that Shunt uses, what it cannot do without first.
pub fn features() -> Vec<Feature> {
    let needed = |name, since, without, available| Feature { name, since, required: true, without, available };
    let used = |name, since, without, available| Feature { name, since, required: false, without, available };
    vec![
        needed("maps", "4.10", "does not run", MAPS.into_iter().try_fold(true, |all, kind| Ok(is_map_supported(kind)? && all))),
        needed("mapped_arrays", "5.5", "does not run", maps_arrays()),
        needed("bpffs", "4.4", "does not run", has_bpffs()),
        needed("tc_helpers", "5.5", "does not run", has_helpers(ProgramType::SchedClassifier, &TC_HELPERS)),
        used("tcx", "6.6", "attaches by clsact", Way::of_this_kernel().map(|way| way == Way::Tcx)),
        used("clsact", "4.5", "needs tcx", has_clsact()),
        used("xdp", "5.9", "runs with --xdp off only", has_xdp()),
        used("btf", "5.4", "has neither checksum_cast nor checksum_read", Ok(fs::File::open(BTF).is_ok())),
        used("checksum_cast", "6.2", "has a helper read the state of checksums", Ok(finds_checksum_state(Checksums::Cast))),
        used("checksum_read", "5.8", "changes checksums by helpers", reads_checksum_state()),
        used("memory_by_cgroup", "5.11", "lifts the limit of locked memory", counts_memory_by_cgroup()),
        used("cgroup_sockets", "5.9", "does not serve processes of the node", has_cgroup_sockets()),
        used("namespaces", "5.8", "leaves pods' sockets alone", Ok(NamespaceOffsets::of_this_kernel().is_some())),
        used(
            "set_retval",
            "6.1",
            "has calls fail with EPERM where nobody serves",
            has_helpers(ProgramType::CgroupSockAddr, &[BpfHelper::BPF_FUNC_set_retval]),
        ),
        used(
            "close_sockets",
            "4.9",
            "leaves connected UDP sockets on backends that have gone",
            net::closes_udp().context("asking with a socket that is not there"),
        ),
        used("netns_cookie", "5.14", "takes the first network namespace for the node's", netns_cookie().map(|cookie| cookie.is_some())),
        used("ring_buffers", "5.8", "cannot run with --bpf-log", is_map_supported(MapType::RingBuf).map_err(Into::into)),
        used("jit", "3.18", "is slow", has_jit()),
    ]
}

fn has_helpers(kind: ProgramType, helpers: &[BpfHelper]) -> Result<bool> {
    helpers.iter().try_fold(true, |all, helper| Ok(is_helper_supported(kind, *helper)? && all))
}

/// Asks for an array that can be mapped.
fn maps_arrays() -> Result<bool> {
    match Array::<_, u32>::create(1, MAPPABLE) {
        Ok(_) => Ok(true),
        Err(MapError::CreateError { io_error, .. }) if io_error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn has_bpffs() -> Result<bool> {
    let known = fs::read_to_string(FILE_SYSTEMS).with_context(|| format!("reading {FILE_SYSTEMS}"))?;
    Ok(known.lines().any(|line| line.split_whitespace().last() == Some("bpf")))
}

/// Whether the kernel tells what programs need to know to read the state of a checksum in this way.
fn finds_checksum_state(way: Checksums) -> bool {
    ChecksumState::on_this_kernel(way).first().is_some_and(|state| state.way() == way)
}

/// The helper is not there where the kernel is locked down.
fn reads_checksum_state() -> Result<bool> {
    Ok(finds_checksum_state(Checksums::Read) && has_helpers(ProgramType::SchedClassifier, &[BpfHelper::BPF_FUNC_probe_read_kernel])?)
}

fn has_cgroup_sockets() -> Result<bool> {
    Ok(is_program_supported(ProgramType::CgroupSockAddr)? && is_program_supported(ProgramType::CgroupSock)?)
}

fn has_xdp() -> Result<bool> {
    Ok(is_program_supported(ProgramType::Xdp)? && has_helpers(ProgramType::Xdp, &XDP_HELPERS)?)
}

/// The helper came with the accounting, which nothing else gives away.
fn counts_memory_by_cgroup() -> Result<bool> {
    has_helpers(ProgramType::SchedClassifier, &[BpfHelper::BPF_FUNC_ktime_get_coarse_ns])
}

fn has_jit() -> Result<bool> {
    let enabled = fs::read_to_string(JIT).with_context(|| format!("reading {JIT}"))?;
    Ok(enabled.trim() != "0")
}

/// Gives loopback the qdisc, in a network namespace of its own: there nothing but its absence is in the way.
fn has_clsact() -> Result<bool> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        Ok(qdisc_add_clsact("lo").is_ok())
    };
    thread::spawn(attempt).join().map_err(|_panic| anyhow!("the attempt panicked"))?
}
