//! A packet in a byte buffer: the context of host tests, and of whoever wants to run the packet core without a kernel.

use super::{ETH_LEN, Hop, PacketCtx, Route, too_short};
use crate::{
    csum::{Delta, replace},
    ip::{
        Ip,
        extensions::{self, ExtensionsWord},
    },
    verdict::{End, Step},
};
use proxy_common::{Protocol, Tuple, reason::Reason};

/// An Ethernet frame in a buffer of `N` bytes, of which the first `len` are the frame.
pub struct BufCtx<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> BufCtx<N> {
    /// A frame; what does not fit the buffer is cut off.
    pub fn new(frame: &[u8]) -> Self {
        let mut bytes = [0; N];
        for (to, from) in bytes.iter_mut().zip(frame) {
            *to = *from;
        }
        Self { bytes, len: frame.len().min(N) }
    }

    /// The frame as it is now.
    pub fn frame(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl<const N: usize> PacketCtx for BufCtx<N> {
    fn l3(&self) -> usize {
        ETH_LEN
    }

    fn len(&self) -> u32 {
        self.len as u32
    }

    fn at<T>(&self, offset: usize) -> Step<*mut T> {
        match offset.checked_add(size_of::<T>()) {
            Some(end) if end <= self.len => Ok(self.bytes.as_ptr().wrapping_add(offset).cast_mut().cast()),
            _ => Err(too_short()),
        }
    }

    fn fix_l4_csum(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, _: bool) -> Step<()> {
        let old = self.read::<u16>(offset)?;
        self.write(offset, replace(old, pseudo.plus(transport), optional))
    }

    fn sum<const WORDS: usize>(&self, offset: usize) -> Step<u64> {
        Ok(self.read::<[u32; WORDS]>(offset)?.iter().map(|&word| u64::from(word)).sum())
    }

    fn segment_len(&self, _: usize, end: usize, _: Protocol) -> Step<u16> {
        Ok(end.wrapping_sub(ETH_LEN) as u16)
    }

    /// Nothing is sent on from here.
    fn route<F: Ip>(&self, _: F::Addr, _: F::Addr, _: u16) -> Route {
        Route::Nowhere
    }

    fn send_on(&mut self, _: &Hop) -> Step<()> {
        Err(End::drop(Reason::NoRoute))
    }

    fn has_socket<F: Ip>(&self, _: &Tuple<F>, _: Protocol) -> bool {
        false
    }

    fn has_connection<F: Ip>(&self, _: &Tuple<F>, _: Protocol) -> bool {
        false
    }

    fn learn_pod(&self) {}

    fn try_node_port<F: Ip>(&self, _: bool) -> bool {
        false
    }

    fn take_node_port<F: Ip>(&self, _: u32, _: u32, _: bool) -> bool {
        false
    }

    fn walk_extensions(&self, first: u8) -> ExtensionsWord {
        extensions::walk(self, first)
    }

    fn note_change(&mut self, _: Delta) {}

    fn truncate(&mut self, len: u32) -> Step<()> {
        self.len = self.len.min(len as usize);
        Ok(())
    }

    fn insert_before_l3(&mut self, len: u32) -> Step<()> {
        let len = len as usize;
        if self.len + len > N || self.len < ETH_LEN {
            return Err(End::drop(Reason::RewriteFailed));
        }
        self.bytes.copy_within(ETH_LEN..self.len, ETH_LEN + len);
        self.len += len;
        Ok(())
    }

    fn write<T: bytemuck::Pod>(&mut self, offset: usize, value: T) -> Step<()> {
        let end = offset.checked_add(size_of::<T>()).filter(|&end| end <= self.len).ok_or(too_short())?;
        let place = self.bytes.get_mut(offset..end).ok_or(too_short())?;
        place.copy_from_slice(bytemuck::bytes_of(&value));
        Ok(())
    }
}
