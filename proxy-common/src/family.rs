//! The address families, as types: all the datapath is generic over them.

use crate::{Addr4, Addr6, Address};

mod sealed {
    #[expect(unnameable_types, reason = "a sealed trait: only this module can name it")]
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address family. There are two, and no others can be made.
pub trait Family: sealed::Sealed + Copy + Eq + Ord + core::fmt::Debug + Send + Sync + 'static {
    /// The address of this family, in network byte order.
    type Addr: Address;
    /// Fills a frontend's key to a multiple of eight bytes; always zero.
    type Pad: bytemuck::Pod + Eq + Ord + core::fmt::Debug + Send + Sync;
    /// Fills rows of an address and four more bytes (or twelve) to a multiple of eight bytes; always zero.
    type RowPad: bytemuck::Pod + Eq + core::fmt::Debug + Send + Sync;
    /// The suffix of this family's map names.
    const SUFFIX: &'static str;
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    type Pad = [u8; 1];
    type RowPad = [u8; 0];
    const SUFFIX: &'static str = "V4";
}

impl Family for V6 {
    type Addr = Addr6;
    type Pad = [u8; 5];
    type RowPad = [u8; 4];
    const SUFFIX: &'static str = "V6";
}
