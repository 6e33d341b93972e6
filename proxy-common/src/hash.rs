//! The hash that chooses a backend: the same on every CPU and after every restart of a node, for the same flow and seed.

use crate::{Addr4, Addr6, Port, Protocol, Tuple, V4, V6};

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

/// The hash of an IPv4 tuple.
#[inline(always)]
pub(crate) const fn tuple4(tuple: &Tuple<V4>, protocol: Protocol, seed: u64) -> u32 {
    let state = mix(seed ^ addrs4(tuple.src, tuple.dst));
    (mix(state ^ ports(tuple.src_port, tuple.dst_port, protocol)) >> 32) as u32
}

/// The hash of an IPv6 tuple.
#[inline(always)]
pub(crate) const fn tuple6(tuple: &Tuple<V6>, protocol: Protocol, seed: u64) -> u32 {
    let state = absorb6(absorb6(seed, tuple.src), tuple.dst);
    (mix(state ^ ports(tuple.src_port, tuple.dst_port, protocol)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Family as _, SlotRange};

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
            counts[(range.pick(V4::hash(&tuple, Protocol::Tcp, 42))) as usize] += 1;
        }
        let chi_square: f64 = counts.iter().map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 27.88, "p < 0.001 with nine degrees of freedom: {counts:?}");
    }

    #[test]
    fn protocol_and_seed_take_part() {
        let tuple = Tuple::<V4> {
            src: Addr4::from_wire([1, 2, 3, 4]),
            dst: Addr4::from_wire([5, 6, 7, 8]),
            src_port: Port::from_host(1),
            dst_port: Port::from_host(2),
        };
        assert_ne!(V4::hash(&tuple, Protocol::Tcp, 0), V4::hash(&tuple, Protocol::Udp, 0));
        assert_ne!(V4::hash(&tuple, Protocol::Tcp, 0), V4::hash(&tuple, Protocol::Tcp, 1));
    }
}
