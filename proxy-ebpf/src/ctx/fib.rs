//! The kernel's routing, asked where a packet would go.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS},
    helpers::generated::bpf_fib_lookup,
};

use super::{Hop, Route};
use crate::ip::Ip;

/// A question to the kernel's routing, and the answer (`struct bpf_fib_lookup`, linux/bpf.h), in words: the compiler calls a function to clear
/// anything smaller.
///
/// * 0: the family in the first byte, and in the last two the packet's length; in the answer what fits, on kernels from 5.12 on
/// * 1: the device by which the packet came in the first half; in the answer the one by which it leaves
/// * 2 and 3: the source
/// * 4 and 5: the destination; in the answer the next hop
/// * 6 and 7: VLAN and hardware addresses, which nobody asks for
struct Fib(MaybeUninit<[u64; 8]>);

/// Where a packet of this length would go that comes by the device of the context.
///
/// # Safety
/// `skb` is the context that the kernel gave to the program.
#[inline(always)]
pub(super) unsafe fn route<F: Ip>(skb: *mut __sk_buff, src: F::Addr, dst: F::Addr, len: u16) -> Route {
    let mut fib = Fib(MaybeUninit::uninit());
    // SAFETY: the caller's promise.
    let answer = unsafe { fib.ask::<F>(skb, src, dst, len) };
    // Kernels from 5.12 on have looked, and say what fits.
    let said = fib.len();
    match answer {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            let device = Device::find::<F>(fib.ifindex());
            let fits = if said == len { device.mtu } else { said };
            if len > fits { Route::TooBig(fits) } else { Route::By(fib.hop(device)) }
        }
        BPF_FIB_LKUP_RET_NOT_FWDED => Route::Here,
        BPF_FIB_LKUP_RET_FRAG_NEEDED if said == len => {
            // Older ones do not even say which device it is: it is the one for the smallest packet.
            // SAFETY: the caller's promise.
            unsafe { fib.ask::<F>(skb, src, dst, 1) };
            let fits = Device::find::<F>(fib.ifindex()).mtu;
            Route::TooBig(if fits < len { fits } else { F::LEAST_MTU })
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Route::TooBig(said),
        _ => Route::Nowhere,
    }
}

impl Fib {
    /// Writes the question and has it answered.
    ///
    /// # Safety
    /// As of [`route`].
    #[inline(always)]
    unsafe fn ask<F: Ip>(&mut self, skb: *mut __sk_buff, src: F::Addr, dst: F::Addr, len: u16) -> u32 {
        // SAFETY: the caller's promise.
        self.write::<F>(src, dst, len, unsafe { (*skb).ifindex });
        // SAFETY: as above, and the question lies on the stack.
        let answer = unsafe { bpf_fib_lookup(skb.cast(), self.0.as_mut_ptr().cast(), size_of::<Self>() as i32, 0) };
        answer as u32
    }

    /// Writes the question. Here and not where the room is made: the compiler would then copy it.
    #[inline(always)]
    fn write<F: Ip>(&mut self, src: F::Addr, dst: F::Addr, len: u16, ifindex: u32) {
        let ([src, src_rest], [dst, dst_rest]) = (F::in_words(src), F::in_words(dst));
        let first = in_one_word([in_one([F::AF, 0], [0, 0]), in_one([0, 0], len.to_ne_bytes())]);
        let second = in_one_word([ifindex, 0]);
        self.put(0, first);
        self.put(1, second);
        self.put(2, src);
        self.put(3, src_rest);
        self.put(4, dst);
        self.put(5, dst_rest);
        self.put(6, 0);
        self.put(7, 0);
    }

    #[inline(always)]
    fn put(&mut self, n: usize, word: u64) {
        // SAFETY: one of eight words.
        let place = unsafe { self.0.as_mut_ptr().cast::<u64>().add(n) };
        // SAFETY: as said; volatile, so that it is a store of its own.
        unsafe { place.write_volatile(word) };
    }

    #[inline(always)]
    fn word(&self, n: usize) -> [u8; 8] {
        // SAFETY: one of eight words.
        let place = unsafe { self.0.as_ptr().cast::<u64>().add(n) };
        // SAFETY: `write` has written it; volatile, because the kernel has written it again.
        unsafe { place.read_volatile() }.to_ne_bytes()
    }

    #[inline(always)]
    fn len(&self) -> u16 {
        let [.., a, b] = self.word(0);
        u16::from_ne_bytes([a, b])
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        let [a, b, c, d, ..] = self.word(1);
        u32::from_ne_bytes([a, b, c, d])
    }

    #[inline(always)]
    fn hop(&self, device: Device) -> Hop {
        let [family, ..] = self.word(0);
        let addr = [4, 5].map(|n| u64::from_ne_bytes(self.word(n)));
        Hop { ifindex: self.ifindex(), family: if device.is_bare { 0 } else { u32::from(family) }, addr }
    }
}

#[inline(always)]
const fn in_one([a, b]: [u8; 2], [c, d]: [u8; 2]) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn in_one_word(halves: [u32; 2]) -> u64 {
    bytemuck::cast(halves)
}

/// What the daemon knows of a device.
#[derive(Clone, Copy)]
struct Device {
    /// The largest packet that it takes, network header included.
    mtu: u16,
    /// Whether packets leave it without an Ethernet header.
    is_bare: bool,
}

impl Device {
    #[inline(always)]
    fn find<F: Ip>(ifindex: u32) -> Self {
        // SAFETY: the daemon replaces an entry as a whole.
        let Some(source) = (unsafe { F::snat().get(&ifindex) }) else { return Self { mtu: u16::MAX, is_bare: false } };
        Self { mtu: if source.mtu == 0 { u16::MAX } else { source.mtu }, is_bare: source.bare != 0 }
    }
}
