//! The hash that chooses a backend: the same on every CPU and after every restart of a node, for the same flow and seed.

use crate::{Addr4, Addr6, Port, Protocol, Tuple, V4, V6};

/// The tuples of a family that can be hashed.
pub trait HashTuple {
    /// A 32-bit hash of the tuple and protocol; all bits are equally good.
    fn hash(&self, protocol: Protocol, seed: u64) -> u32;
}

/// Spreads every input bit over the whole word (the finaliser of SplitMix64).
#[inline(always)]
const fn mix(mut word: u64) -> u64 {
    word ^= word >> 30;
    word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^= word >> 27;
    word = word.wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[inline(always)]
const fn ports(src: Port, dst: Port, protocol: Protocol) -> u64 {
    src.raw() as u64 | (dst.raw() as u64) << 16 | (protocol.to_wire() as u64) << 32
}

#[inline(always)]
const fn addrs4(src: Addr4, dst: Addr4) -> u64 {
    src.raw() as u64 | (dst.raw() as u64) << 32
}

#[inline(always)]
const fn absorb6(state: u64, addr: Addr6) -> u64 {
    let [high, low] = addr.raw();
    mix(mix(state ^ high) ^ low)
}

impl HashTuple for Tuple<V4> {
    #[inline(always)]
    fn hash(&self, protocol: Protocol, seed: u64) -> u32 {
        let state = mix(seed ^ addrs4(self.src, self.dst));
        (mix(state ^ ports(self.src_port, self.dst_port, protocol)) >> 32) as u32
    }
}

impl HashTuple for Tuple<V6> {
    #[inline(always)]
    fn hash(&self, protocol: Protocol, seed: u64) -> u32 {
        let state = absorb6(absorb6(seed, self.src), self.dst);
        (mix(state ^ ports(self.src_port, self.dst_port, protocol)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SlotRange;

    #[test]
    fn consecutive_ports_spread_evenly() {
        let range = SlotRange::new(0, 10).unwrap();
        let mut counts = [0_u32; 10];
        for port in 20_000..30_000 {
            let tuple = Tuple::<V4> {
                src: Addr4::from_wire([10, 244, 1, 5]),
                dst: Addr4::from_wire([10, 96, 0, 1]),
                src_port: Port::from_host(port),
                dst_port: Port::from_host(80),
            };
            counts[range.pick(tuple.hash(Protocol::Tcp, 42)) as usize] += 1;
        }
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 27.88, "p < 0.001 with nine degrees of freedom: {counts:?}");
    }

    #[test]
    fn the_hash_is_fixed_because_restarts_must_not_move_flows() {
        let tuple = Tuple::<V4> {
            src: Addr4::from_wire([1, 2, 3, 4]),
            dst: Addr4::from_wire([5, 6, 7, 8]),
            src_port: Port::from_host(1),
            dst_port: Port::from_host(2),
        };
        assert_ne!(tuple.hash(Protocol::Tcp, 0), tuple.hash(Protocol::Udp, 0));
        assert_ne!(tuple.hash(Protocol::Tcp, 0), tuple.hash(Protocol::Tcp, 1));
    }
}
