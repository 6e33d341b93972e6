//! The network namespace of the process that calls: whether it has rules of netfilter for what is sent there.
//!
//! A sidecar of a service mesh has such rules in its pod: they lead what the pod sends to the sidecar, which asks the kernel what was dialled. It
//! has to find the Service there, so such a pod's sockets are left alone, and its packets translated once they have left the pod.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::{ip::Ip, settings};

/// Whether the namespace has such rules. Where that cannot be found out it may have some.
#[inline(always)]
pub(crate) fn has_rules<F: Ip>() -> bool {
    rules::<F>() != Some(0)
}

/// What the namespace has for rules: nothing is zero.
#[inline(always)]
fn rules<F: Ip>() -> Option<u64> {
    let at = settings::namespace()?;
    // SAFETY: a helper without arguments.
    let task = unsafe { bpf_get_current_task() };
    let namespaces = read(task, at.of_task)?;
    let network = read(namespaces, at.network)?;
    read(network, if F::IPV6 { at.rules_v6 } else { at.rules_v4 })
}

/// A pointer in a structure of the kernel's.
#[inline(always)]
fn read(structure: u64, offset: u32) -> Option<u64> {
    let mut pointer = 0_u64;
    let place = structure.wrapping_add(u64::from(offset));
    // SAFETY: the helper takes any address, and says when it cannot read there; there is room for the eight bytes that it writes.
    let error = unsafe { bpf_probe_read_kernel((&raw mut pointer).cast(), size_of::<u64>() as u32, place as *const core::ffi::c_void) };
    if error == 0 { Some(pointer) } else { None }
}
