//! A packet in XDP: a frame in the driver's memory.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail};
use proxy_common::{Port, reason::Reason};

use super::{ETH_LEN, PacketCtx, too_short};
use crate::{
    csum::{Delta, replace},
    verdict::{Step, Stop},
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
    fn truncate(&mut self, len: u32) -> Step<()> {
        let change = len as i32 - self.len() as i32;
        // SAFETY: the context is the kernel's own.
        let error = unsafe { bpf_xdp_adjust_tail(self.xdp, change) };
        if error != 0 { Err(Stop::Drop(Reason::RewriteFailed)) } else { Ok(()) }
    }

    /// Frames are not answered in XDP: what has no backends is left to tc.
    #[inline(always)]
    fn insert_before_l3(&mut self, _: u32) -> Step<()> {
        Err(Stop::Drop(Reason::RewriteFailed))
    }
}
