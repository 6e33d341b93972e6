//! How far a packet's checksum is: what the kernel does not show to programs of tc, and is read nevertheless where that can be done.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel};
use proxy_common::CAST_PLACEHOLDER;

use crate::settings;

/// The device has computed a sum over the packet (`CHECKSUM_COMPLETE`, linux/skbuff.h).
pub(super) const COMPLETE: u8 = 2;
/// The sender has left the checksum to the device (`CHECKSUM_PARTIAL`).
pub(super) const PARTIAL: u8 = 3;

/// The kernel's `bpf_cast_to_kern_ctx`.
type Cast = unsafe extern "C" fn(*mut __sk_buff) -> *const u8;

/// The state of the packet's checksum, where programs can read it.
///
/// # Safety
/// `skb` is the context that the kernel gave to the program.
#[inline(always)]
pub(super) unsafe fn state(skb: *mut __sk_buff) -> Option<u8> {
    let bit = settings::ip_summed()?;
    let offset = (bit / 8) as usize;
    let byte = if settings::reads_kernel() {
        // SAFETY: the caller's promise.
        unsafe { read_kernel(skb, offset) }?
    } else {
        // SAFETY: as above.
        unsafe { cast_and_read(skb, offset) }
    };
    Some(byte >> (bit % 8) & 3)
}

/// A byte of the kernel's own socket buffer.
///
/// # Safety
/// As of [`state`].
#[inline(always)]
unsafe fn cast_and_read(skb: *mut __sk_buff, offset: usize) -> u8 {
    // SAFETY: the daemon puts a call of the kernel's `bpf_cast_to_kern_ctx` in the place of this one, or it is never reached.
    let cast = unsafe { core::mem::transmute::<usize, Cast>(CAST_PLACEHOLDER as usize) };
    // SAFETY: as above; it yields the kernel's own socket buffer.
    let skb = unsafe { cast(skb) };
    // SAFETY: a byte of it, by the kernel's own word; the verifier checks it again.
    unsafe { *skb.wrapping_add(offset) }
}

/// The same by a helper: what a program is given is the kernel's own socket buffer, only that the verifier does not let it look there.
///
/// # Safety
/// As of [`state`].
#[inline(always)]
unsafe fn read_kernel(skb: *mut __sk_buff, offset: usize) -> Option<u8> {
    let mut byte = 0_u8;
    let place = skb.cast::<u8>().wrapping_add(offset);
    // SAFETY: the helper writes the one byte, and checks where it reads.
    let error = unsafe { bpf_probe_read_kernel((&raw mut byte).cast(), 1, place.cast()) };
    (error == 0).then_some(byte)
}
