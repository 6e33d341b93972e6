//! A packet in XDP: a frame in the driver's memory.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_meta, bpf_xdp_adjust_tail},
};
use proxy_common::{Port, Protocol, Tuple, reason::Reason};

use super::{ETH_LEN, Hop, PacketCtx, Route, TRANSLATED_MARK, socket, too_short};
use crate::{
    csum::{Delta, replace},
    ip::{
        Ip,
        extensions::{self, ExtensionsWord},
    },
    verdict::{End, Step},
};

/// An Ethernet frame.
pub struct XdpCtx {
    xdp: *mut xdp_md,
}

impl XdpCtx {
    /// A frame.
    ///
    /// # Safety
    /// `xdp` is the context that the kernel gave to the program.
    #[inline(always)]
    pub const unsafe fn new(xdp: *mut xdp_md) -> Self {
        Self { xdp }
    }

    /// The number of the network protocol (IEEE 802 ethertype), in host order.
    #[inline(always)]
    pub fn ethertype(&self) -> Step<u16> {
        Ok(self.read::<Port>(ETH_LEN - 2)?.to_host())
    }

    /// Marks the frame, for tc, as one that has been translated. Where the driver has no room for that tc looks it up in vain.
    #[inline(always)]
    pub fn mark(&mut self) {
        // SAFETY: the context is the kernel's own.
        if unsafe { bpf_xdp_adjust_meta(self.xdp, -(size_of::<u32>() as i32)) } != 0 {
            return;
        }
        // SAFETY: as in `data`.
        let mark = unsafe { (*self.xdp).data_meta as usize };
        if mark + size_of::<u32>() <= self.data() {
            // SAFETY: the bounds were checked just now.
            unsafe { (mark as *mut u32).write(TRANSLATED_MARK) };
        }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        unsafe { (*self.xdp).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.xdp).data_end as usize }
    }
}

impl PacketCtx for XdpCtx {
    #[inline(always)]
    fn l3(&self) -> usize {
        ETH_LEN
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        (self.data_end() - self.data()) as u32
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
    fn fix_l4_csum(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, _: bool) -> Step<()> {
        let old = self.read::<u16>(offset)?;
        self.write(offset, replace(old, pseudo.plus(transport), optional))
    }

    #[inline(always)]
    fn sum<const WORDS: usize>(&self, offset: usize) -> Step<u64> {
        Ok(self.read::<[u32; WORDS]>(offset)?.iter().map(|&word| u64::from(word)).sum())
    }

    #[inline(always)]
    fn segment_len(&self, _: usize, end: usize, _: Protocol) -> Step<u16> {
        Ok(end.wrapping_sub(ETH_LEN) as u16)
    }

    /// Nothing is sent on from here.
    #[inline(always)]
    fn route<F: Ip>(&self, _: F::Addr, _: F::Addr, _: u16) -> Route {
        Route::Nowhere
    }

    #[inline(always)]
    fn send_on(&mut self, _: &Hop) -> Step<()> {
        Err(End::drop(Reason::NoRoute))
    }

    #[inline(always)]
    fn has_socket<F: Ip>(&self, _: &Tuple<F>, _: Protocol) -> bool {
        false
    }

    #[inline(always)]
    fn has_connection<F: Ip>(&self, tuple: &Tuple<F>, protocol: Protocol) -> bool {
        // SAFETY: the context is the kernel's own.
        unsafe { socket::is_connection(self.xdp.cast(), tuple, protocol) }
    }

    /// Nothing comes by a pod's device here.
    #[inline(always)]
    fn learn_pod(&self) {}

    #[inline(always)]
    fn try_node_port<F: Ip>(&self, _: bool) -> bool {
        false
    }

    #[inline(always)]
    fn take_node_port<F: Ip>(&self, _: u32, _: u32, _: bool) -> bool {
        false
    }

    #[inline(always)]
    fn walk_extensions(&self, first: u8) -> ExtensionsWord {
        extensions::walk(self, first)
    }

    #[inline(always)]
    fn note_change(&mut self, _: Delta) {}

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Step<()> {
        let change = len as i32 - self.len() as i32;
        // SAFETY: the context is the kernel's own.
        let error = unsafe { bpf_xdp_adjust_tail(self.xdp, change) };
        if error != 0 { Err(End::drop(Reason::RewriteFailed)) } else { Ok(()) }
    }

    /// Frames are not answered in XDP: what has no backends is left to tc.
    #[inline(always)]
    fn insert_before_l3(&mut self, _: u32) -> Step<()> {
        Err(End::drop(Reason::RewriteFailed))
    }
}

/// A frame of XDP is named by 32-bit numbers, so it has to lie low in memory; only this architecture offers that.
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use core::num::NonZeroUsize;
    use std::ptr::NonNull;

    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};
    use proxy_common::{Protocol, V4, V6};

    use super::*;
    use crate::{
        ctx::BufCtx,
        ip::Ip,
        parse::parse,
        testing::{Ends, ends4, ends6},
        translate::translate,
        verdict::Verdict,
    };

    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

    /// A frame low in memory.
    struct Frame {
        memory: NonNull<core::ffi::c_void>,
        len: usize,
    }

    impl Frame {
        fn new(bytes: &[u8]) -> Self {
            let (protection, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT);
            // SAFETY: a new mapping, at an address of the kernel's choice.
            let memory = unsafe { mmap_anonymous(None, PAGE, protection, flags) }.unwrap();
            assert!(bytes.len() <= PAGE.get());
            // SAFETY: the mapping is as large as a page, and nobody else knows of it.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast(), bytes.len()) };
            Self { memory, len: bytes.len() }
        }

        fn context(&self) -> xdp_md {
            let data = self.memory.as_ptr() as usize;
            xdp_md {
                data: data as u32,
                data_end: (data + self.len) as u32,
                data_meta: 0,
                ingress_ifindex: 0,
                rx_queue_index: 0,
                egress_ifindex: 0,
            }
        }

        fn bytes(&self) -> Vec<u8> {
            // SAFETY: so many bytes were written there, and no reference to them is left.
            unsafe { core::slice::from_raw_parts(self.memory.as_ptr().cast::<u8>(), self.len) }.to_vec()
        }
    }

    impl Drop for Frame {
        fn drop(&mut self) {
            // SAFETY: the mapping that `new` made.
            unsafe { munmap(self.memory, PAGE.get()) }.unwrap();
        }
    }

    fn ran<F: Ip, C: PacketCtx>(ctx: &mut C, to: Ends) -> Step<Verdict> {
        let packet = parse::<F, _>(ctx)?;
        translate(ctx, &packet, &to.tuple())
    }

    /// Whatever the length, a frame fares as the same bytes in a buffer do.
    fn check<F: Ip>(frame: &[u8], to: Ends) {
        for len in 0..=frame.len() {
            let mut buf = BufCtx::<2048>::new(&frame[..len]);
            let low = Frame::new(&frame[..len]);
            let mut md = low.context();
            // SAFETY: the bounds are those of the frame, which outlives the context.
            let mut xdp = unsafe { XdpCtx::new(&raw mut md) };
            assert_eq!(ran::<F, _>(&mut xdp, to), ran::<F, _>(&mut buf, to), "{len} bytes");
            assert_eq!(low.bytes(), buf.frame());
        }
    }

    #[test]
    fn a_frame_fares_as_a_buffer_does() {
        let there = [Ends::new("10.244.1.5:40000", "10.244.2.7:8080"), Ends::new("[fd00:244::5]:40000", "[fd00:244::7]:8080")];
        let itself = [Ends::new("172.30.0.11:2000", "10.244.1.5:8080"), Ends::new("[fd30::11]:2000", "[fd00:244::5]:8080")];
        for [to4, to6] in [there, itself] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                check::<V4>(&ends4().frame(protocol, b"payload"), to4);
                check::<V6>(&ends6().frame(protocol, b"payload"), to6);
            }
        }
    }
}
