//! Sockets of the node, asked for by the tuple of their packets.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_CURRENT_NETNS,
    helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};
use proxy_common::{Protocol, Tuple};

use crate::ip::Ip;

/// States (`net/tcp_states.h`) of sockets that are no connections. One for datagrams has TCP's state of an established connection where it is
/// connected, and else of a closed one.
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;

/// The state of the socket that packets with this tuple are for.
///
/// # Safety
/// `ctx` is the context that the kernel gave to the program.
#[inline(always)]
pub(super) unsafe fn state<F: Ip>(ctx: *mut c_void, tuple: &Tuple<F>, protocol: Protocol) -> Option<u32> {
    let (mut v4, mut v6) = ([0_u32; 3], [0_u32; 9]);
    let (place, len) = F::sock_tuple(tuple, &mut v4, &mut v6);
    let sock = match protocol {
        // SAFETY: the context is the kernel's own, and the tuple lies on the stack.
        Protocol::Tcp => unsafe { bpf_sk_lookup_tcp(ctx, place.cast(), len, BPF_F_CURRENT_NETNS as u64, 0) },
        // SAFETY: as above.
        Protocol::Udp => unsafe { bpf_sk_lookup_udp(ctx, place.cast(), len, BPF_F_CURRENT_NETNS as u64, 0) },
        Protocol::Sctp => core::ptr::null_mut(),
    };
    // SAFETY: the kernel gives a whole socket, or none.
    let state = unsafe { sock.as_ref() }?.state;
    // SAFETY: a socket that the kernel has just given us, and that nobody uses afterwards.
    unsafe { bpf_sk_release(sock.cast()) };
    Some(state)
}

/// Whether that socket is connected, or is about to be: it waits for nobody.
///
/// # Safety
/// As of [`state`].
#[inline(always)]
pub(super) unsafe fn is_connection<F: Ip>(ctx: *mut c_void, tuple: &Tuple<F>, protocol: Protocol) -> bool {
    // SAFETY: the caller's promise.
    unsafe { state(ctx, tuple, protocol) }.is_some_and(|state| state != TCP_LISTEN && state != TCP_CLOSE)
}
