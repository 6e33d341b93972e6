//! The address families, as types: all the datapath is generic over them.

use crate::{
    Addr4, Addr6, Address, BackendRef, Flow, FlowKey, FlowOwner, FrontendKey, Port, Protocol, Tuple, hash,
    pack::{bytes, pair, port_byte, ports},
};

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
    /// Fills rows of an address and four more bytes (or twelve) to a multiple of eight bytes; always zero.
    type RowPad: bytemuck::Pod + Eq + Ord + core::fmt::Debug + Send + Sync;
    /// The suffix of this family's map names.
    const SUFFIX: &'static str;

    /// A 32-bit hash of a tuple and its protocol, all bits equally good: what chooses a flow's backend.
    fn hash(tuple: &Tuple<Self>, protocol: Protocol, seed: u64) -> u32;

    /// Packs a frontend's key.
    fn frontend_key(addr: Self::Addr, port: Port, protocol: u8) -> FrontendKey<Self>;

    /// Packs a flow's key.
    fn flow_key(tuple: &Tuple<Self>, protocol: u8, side: u8) -> FlowKey<Self>;

    /// Packs a flow's value.
    fn flow(tuple: &Tuple<Self>, last_used: u32, backend: BackendRef, owner: FlowOwner) -> Flow<Self>;
}

/// IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    type RowPad = [u32; 0];
    const SUFFIX: &'static str = "V4";

    #[inline(always)]
    fn hash(tuple: &Tuple<Self>, protocol: Protocol, seed: u64) -> u32 {
        hash::tuple4(tuple, protocol, seed)
    }

    #[inline(always)]
    fn frontend_key(addr: Addr4, port: Port, protocol: u8) -> FrontendKey<Self> {
        bytemuck::cast(pair(addr.raw(), port_byte(port, protocol)))
    }

    #[inline(always)]
    fn flow_key(tuple: &Tuple<Self>, protocol: u8, side: u8) -> FlowKey<Self> {
        let Tuple { src, dst, src_port, dst_port } = *tuple;
        bytemuck::cast([pair(src.raw(), dst.raw()), pair(ports(src_port, dst_port), bytes(protocol, side))])
    }

    #[inline(always)]
    fn flow(tuple: &Tuple<Self>, last_used: u32, backend: BackendRef, owner: FlowOwner) -> Flow<Self> {
        let Tuple { src, dst, src_port, dst_port } = *tuple;
        bytemuck::cast([pair(src.raw(), dst.raw()), pair(ports(src_port, dst_port), last_used), pair(backend.0, owner.raw())])
    }
}

impl Family for V6 {
    type Addr = Addr6;
    type RowPad = [u32; 1];
    const SUFFIX: &'static str = "V6";

    #[inline(always)]
    fn hash(tuple: &Tuple<Self>, protocol: Protocol, seed: u64) -> u32 {
        hash::tuple6(tuple, protocol, seed)
    }

    #[inline(always)]
    fn frontend_key(addr: Addr6, port: Port, protocol: u8) -> FrontendKey<Self> {
        let [high, low] = addr.raw();
        bytemuck::cast([high, low, pair(port_byte(port, protocol), 0)])
    }

    #[inline(always)]
    fn flow_key(tuple: &Tuple<Self>, protocol: u8, side: u8) -> FlowKey<Self> {
        let [[a, b], [c, d]] = [tuple.src.raw(), tuple.dst.raw()];
        bytemuck::cast([a, b, c, d, pair(ports(tuple.src_port, tuple.dst_port), bytes(protocol, side))])
    }

    #[inline(always)]
    fn flow(tuple: &Tuple<Self>, last_used: u32, backend: BackendRef, owner: FlowOwner) -> Flow<Self> {
        let [[a, b], [c, d]] = [tuple.src.raw(), tuple.dst.raw()];
        bytemuck::cast([a, b, c, d, pair(ports(tuple.src_port, tuple.dst_port), last_used), pair(backend.0, owner.raw())])
    }
}
