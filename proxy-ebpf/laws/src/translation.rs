//! What a translation may do to a packet: give it other addresses and ports, and keep both checksums as right or wrong as they were.

use crate::{
    Law, require, sums,
    wire::{self, Wire},
};

/// What became of the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ethernet {
    /// The packet goes on.
    Kept,
    /// The packet goes back to who sent it.
    Turned,
}

/// Compares a packet before and after a translation; yields how it reads then.
pub fn check(before: &[u8], after: &[u8], l3: usize, ethernet: Ethernet) -> Law<Wire> {
    let old = wire::read(before, l3).ok_or("what has no ports was translated")?;
    let new = wire::read(after, l3).ok_or("the packet cannot be read any more")?;
    let same_shape = (old.protocol, old.l4, old.end, before.len()) == (new.protocol, new.l4, new.end, after.len());
    require(same_shape && old.src.is_ipv4() == new.src.is_ipv4(), "the packet has another shape")?;
    require(is_ethernet(&before[..l3], &after[..l3], ethernet), "the Ethernet header is not what it has to be")?;
    require(untouched_but(before, after, &old), "something else than addresses, ports and checksums was changed")?;
    require(sums::network(before, &old) == sums::network(after, &new), "the network header's checksum is not as right as it was")?;
    check_transport(before, after, &old, &new)?;
    Ok(new)
}

fn check_transport(before: &[u8], after: &[u8], old: &Wire, new: &Wire) -> Law<()> {
    if old.is_sctp() {
        // Zeros say that it is left to the device.
        let is_absent = before[old.checksum()] == [0; 4];
        let holds = if is_absent { after[new.checksum()] == [0; 4] } else { sums::sctp(before, old) == sums::sctp(after, new) };
        return require(holds, "the SCTP checksum is not as right as it was");
    }
    let field = |frame: &[u8], wire: &Wire| frame[wire.checksum()] == [0, 0];
    match (old.is_udp() && field(before, old), new.is_udp() && field(after, new)) {
        (true, true) => Ok(()),
        (true, false) => Err("a UDP packet without a checksum got one"),
        (false, true) => Err("a UDP packet lost its checksum"),
        (false, false) => {
            let holds = sums::transport(before, old) == sums::transport(after, new);
            require(holds, "the transport checksum is not as right as it was")
        }
    }
}

/// Says whether two frames are the same packet apart from addresses, ports and checksums.
fn untouched_but(before: &[u8], after: &[u8], wire: &Wire) -> bool {
    let network_checksum = if wire.checked_header > 0 { wire.l3 + 10..wire.l3 + 12 } else { wire.l3..wire.l3 };
    let mut from = wire.l3;
    for range in [network_checksum, wire.addrs.clone(), wire.ports(), wire.checksum()] {
        if before[from..range.start] != after[from..range.start] {
            return false;
        }
        from = range.end;
    }
    before[from..] == after[from..]
}

/// Says whether the Ethernet header, if there is one, was kept or turned around.
pub(crate) fn is_ethernet(before: &[u8], after: &[u8], ethernet: Ethernet) -> bool {
    let turned = match (ethernet, before) {
        (Ethernet::Turned, [dst_and_src @ .., kind, of_network]) => {
            let (dst, src) = dst_and_src.split_at(dst_and_src.len() / 2);
            [src, dst, &[*kind, *of_network]].concat()
        }
        _ => before.to_vec(),
    };
    turned == after
}

/// Two frames that differ at most in how a checksum writes zero.
pub fn is_same(one: &[u8], other: &[u8], wire: &Wire) -> bool {
    let mut one = one.to_vec();
    let network = wire.l3 + 10..wire.l3 + 12;
    for field in [network, wire.checksum()].into_iter().skip(usize::from(wire.checked_header == 0)) {
        let both = [&one[field.clone()], &other[field.clone()]];
        if both == [[0, 0], [0xff, 0xff]] || both == [[0xff, 0xff], [0, 0]] {
            one[field.clone()].copy_from_slice(&other[field]);
        }
    }
    one == other
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const L3: usize = 14;

    /// A datagram as it was sent, and as somebody else would have sent it to another destination.
    fn before_and_after() -> [Vec<u8>; 2] {
        [([10, 96, 0, 1], 53), ([10, 244, 2, 7], 5353)].map(|(dst, port)| {
            let mut frame = Vec::new();
            let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
            ethernet.ipv4([10, 244, 1, 5], dst, 64).udp(40_000, port).write(&mut frame, b"question").unwrap();
            frame
        })
    }

    #[test]
    fn a_right_translation_keeps_the_laws() {
        let [before, after] = before_and_after();
        assert_eq!(check(&before, &after, L3, Ethernet::Kept).map(|wire| wire.dst), Ok("10.244.2.7:5353".parse().unwrap()));
    }

    /// Whatever bit is wrong afterwards, in a packet that is else translated as it should be.
    #[test]
    fn any_wrong_bit_breaks_a_law() {
        let [before, after] = before_and_after();
        for bit in 0..after.len() * 8 {
            let mut wrong = after.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&before, &wrong, L3, Ethernet::Kept).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_udp_checksum_neither_comes_nor_goes() {
        let [mut before, mut after] = before_and_after();
        before[40..42].fill(0);
        assert_eq!(check(&before, &after, L3, Ethernet::Kept), Err("a UDP packet without a checksum got one"));
        after[40..42].fill(0);
        assert!(check(&before, &after, L3, Ethernet::Kept).is_ok());
        let [before, _] = before_and_after();
        assert_eq!(check(&before, &after, L3, Ethernet::Kept), Err("a UDP packet lost its checksum"));
    }

    #[test]
    fn the_ethernet_header_is_turned_only_where_the_packet_goes_back() {
        let [before, mut after] = before_and_after();
        assert!(check(&before, &after, L3, Ethernet::Turned).is_err());
        after[..12].rotate_left(6);
        assert!(check(&before, &after, L3, Ethernet::Turned).is_ok());
        assert!(check(&before, &after, L3, Ethernet::Kept).is_err());
    }
}
