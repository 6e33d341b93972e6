//! The network namespace of the process that calls: whether it is a pod's, and whether it has rules of netfilter for what is sent there.
//!
//! A machine has network namespaces that are no pods': those of containers that something else runs, or of a cluster within a pod, whose Services may
//! have the very addresses of ours. What they send comes by no pod's device as it left them. So a namespace counts as a pod's from when a packet
//! has come by such a device that still belongs to a socket there which has dialled a frontend: between two routers it would not any more. Until then its
//! packets are translated.
//!
//! A sidecar of a service mesh has such rules in its pod: they lead what the pod sends to the sidecar, which asks the kernel what was dialled. It
//! has to find the Service there, so such a pod's sockets are left alone, and its packets translated once they have left the pod.

use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel};

use crate::{
    ip::Ip,
    maps::{CALLERS, PODS},
    settings,
};

/// Whether a network namespace, by its cookie, is known to be a pod's.
#[inline(always)]
pub(crate) fn is_pods(namespace: u64) -> bool {
    PODS.get_ptr(&namespace).is_some()
}

/// Remembers that a socket has dialled from a namespace, both by their cookies.
#[inline(always)]
pub(crate) fn note(socket: u64, namespace: u64) {
    // Where there is no room for it another one will do.
    _ = CALLERS.insert(&socket, &namespace, 0);
}

/// A packet of a socket has come by a pod's device.
#[inline(always)]
pub(crate) fn learn(socket: u64) {
    // SAFETY: a word that is written once, before it is found.
    if let Some(&namespace) = unsafe { CALLERS.get(&socket) } {
        _ = PODS.insert(&namespace, &1, 0);
        _ = CALLERS.remove(&socket);
    }
}

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
