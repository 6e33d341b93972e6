//! A packet in tc: a socket buffer, of which the first part can be reached directly.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_adj_room_mode},
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_l4_csum_replace, bpf_probe_read_kernel, bpf_skb_adjust_room, bpf_skb_change_tail,
        bpf_skb_pull_data,
    },
};
use proxy_common::{CAST_PLACEHOLDER, reason::Reason};

use super::{ETH_LEN, PacketCtx, TRANSLATED_MARK, too_short};
use crate::{
    csum::{Delta, replace, replace_begun},
    settings,
    verdict::{Step, Stop},
};

/// How much of a packet is made directly reachable: the longest headers that are looked at, with room to spare.
const HEADERS: u32 = 192;

/// The device has computed a sum over the packet (`CHECKSUM_COMPLETE`, linux/skbuff.h).
const CHECKSUM_COMPLETE: u8 = 2;
/// The sender has left the checksum to the device (`CHECKSUM_PARTIAL`).
const CHECKSUM_PARTIAL: u8 = 3;

/// The kernel's `bpf_cast_to_kern_ctx`.
type Cast = unsafe extern "C" fn(*mut __sk_buff) -> *const u8;

/// A socket buffer on a device with (`L2`) or without an Ethernet header.
pub struct TcCtx<const L2: bool> {
    skb: *mut __sk_buff,
}

impl<const L2: bool> TcCtx<L2> {
    /// Makes the headers of a socket buffer reachable.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub unsafe fn new(skb: *mut __sk_buff) -> Step<Self> {
        let ctx = Self { skb };
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        if ctx.data() + wanted as usize > ctx.data_end() {
            // SAFETY: the context is the kernel's own. No pointer into the packet is held here.
            let error = unsafe { bpf_skb_pull_data(ctx.skb, wanted) };
            if error != 0 {
                return Err(too_short());
            }
        }
        Ok(ctx)
    }

    /// Whether XDP has marked the packet as one that it has translated.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub unsafe fn is_marked(skb: *mut __sk_buff) -> bool {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        let mark = unsafe { (*skb).data_meta as usize };
        // SAFETY: as above.
        let data = unsafe { (*skb).data as usize };
        // SAFETY: the bounds are checked before.
        mark + size_of::<u32>() <= data && unsafe { (mark as *const u32).read() } == TRANSLATED_MARK
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.skb).data_end as usize }
    }

    /// The state of the packet's checksum, where programs can read it.
    #[inline(always)]
    fn checksum_state(&self) -> Option<u8> {
        let bit = settings::ip_summed()?;
        let offset = (bit / 8) as usize;
        let byte = if settings::reads_kernel() { self.read_kernel(offset)? } else { self.cast_and_read(offset) };
        Some(byte >> (bit % 8) & 3)
    }

    /// A byte of the kernel's own socket buffer.
    #[inline(always)]
    fn cast_and_read(&self, offset: usize) -> u8 {
        // SAFETY: the daemon puts a call of the kernel's `bpf_cast_to_kern_ctx` in the place of this one, or it is never reached.
        let cast = unsafe { core::mem::transmute::<usize, Cast>(CAST_PLACEHOLDER as usize) };
        // SAFETY: as above; it yields the kernel's own socket buffer.
        let skb = unsafe { cast(self.skb) };
        // SAFETY: a byte of it, by the kernel's own word; the verifier checks it again.
        unsafe { *skb.wrapping_add(offset) }
    }

    /// The same by a helper: what a program is given is the kernel's own socket buffer, only that the verifier does not let it look there.
    #[inline(always)]
    fn read_kernel(&self, offset: usize) -> Option<u8> {
        let mut byte = 0_u8;
        let place = self.skb.cast::<u8>().wrapping_add(offset);
        // SAFETY: the helper writes the one byte, and checks where it reads.
        let error = unsafe { bpf_probe_read_kernel((&raw mut byte).cast(), 1, place.cast()) };
        (error == 0).then_some(byte)
    }

    /// Changes a checksum directly. Says no where only the kernel's helpers know what to do.
    #[inline(always)]
    fn fix_directly(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, ipv6: bool) -> Step<bool> {
        let Some(state) = self.checksum_state() else { return Ok(false) };
        let old = self.read::<u16>(offset)?;
        if state == CHECKSUM_PARTIAL {
            // The device adds everything else.
            self.write(offset, replace_begun(old, pseudo))?;
            return Ok(true);
        }
        self.write(offset, replace(old, pseudo.plus(transport), optional))?;
        if state == CHECKSUM_COMPLETE && !ipv6 {
            // The device's sum covers the IPv4 header too, whose checksum makes up for the addresses once more.
            self.change_sum(pseudo.reversed());
        }
        Ok(true)
    }

    #[inline(always)]
    fn replace_l4(&mut self, offset: usize, delta: Delta, flags: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own, which checks the offset.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(delta.word()), u64::from(flags)) };
        done(error)
    }

    /// Corrects the sum that the device has computed over the packet, if it has (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    fn change_sum(&mut self, delta: Delta) {
        // SAFETY: the context is the kernel's own. An error only says that the packet has no such sum.
        unsafe { bpf_csum_update(self.skb, delta.word()) };
    }
}

#[inline(always)]
const fn done(error: i64) -> Step<()> {
    if error < 0 { Err(Stop::Drop(Reason::RewriteFailed)) } else { Ok(()) }
}

impl<const L2: bool> PacketCtx for TcCtx<L2> {
    #[inline(always)]
    fn l3(&self) -> usize {
        if L2 { ETH_LEN } else { 0 }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Step<*mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(too_short());
        }
        Ok(start as *mut T)
    }

    #[inline(always)]
    fn fix_l4_csum(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, ipv6: bool) -> Step<()> {
        if optional && self.read::<u16>(offset)? == 0 {
            // There is no checksum whose change would make up for the others in a sum that the device has computed. Only the change of
            // IPv4 addresses is made up for, by the header's checksum.
            self.change_sum(if ipv6 { pseudo.plus(transport) } else { transport });
            return Ok(());
        }
        if self.fix_directly(offset, pseudo, transport, optional, ipv6)? {
            return Ok(());
        }
        let optional = if optional { BPF_F_MARK_MANGLED_0 } else { 0 };
        if !transport.is_zero() {
            self.replace_l4(offset, transport, optional)?;
        }
        if !pseudo.is_zero() {
            self.replace_l4(offset, pseudo, optional | BPF_F_PSEUDO_HDR)?;
            if ipv6 {
                // For a packet whose sum the device has computed (CHECKSUM_COMPLETE) the helper corrects that sum as if an IPv4 header
                // checksum had been corrected too. IPv6 has none: the addresses' change and the checksum's cancel out, so take it back.
                self.change_sum(pseudo);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn sum<const WORDS: usize>(&self, offset: usize) -> Step<u64> {
        let words = self.at::<[u32; WORDS]>(offset)?;
        // SAFETY: `at` has checked the bounds; the length is a multiple of four, as the helper asks.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words.cast(), WORDS as u32 * 4, 0) };
        Ok(sum as u64 & 0xffff_ffff)
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own.
        done(unsafe { bpf_skb_change_tail(self.skb, len, 0) })
    }

    #[inline(always)]
    fn insert_before_l3(&mut self, len: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own.
        done(unsafe { bpf_skb_adjust_room(self.skb, len as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0) })
    }
}
