//! What the fuzzer's bytes mean: the tuple that a packet is to get, what to put right in the frame, and the frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use packet_laws::{
    sums,
    wire::{self, Wire},
};

/// Where the frame begins.
pub const HEAD: usize = 37;
/// The longest frame that is looked at: all headers, and more.
pub const LONGEST: usize = 400;
/// Every frame has an Ethernet header.
pub const L3: usize = 14;

/// What is put right before the packet goes its way: mutations alone would hardly ever find a right checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// The network header has the length that the frame has.
    pub length: bool,
    /// The network header's checksum is right.
    pub network: bool,
    /// What is made of the transport checksum.
    pub transport: Transport,
}

/// A transport checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// As it was found.
    #[default]
    Kept,
    /// Right.
    Right,
    /// Only begun: the sum of the pseudo header.
    Begun,
    /// Zero, which in UDP means that there is none.
    Zero,
}

/// One case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The frame, with what was to be put right in it.
    pub frame: Vec<u8>,
    addrs: [[u8; 16]; 2],
    ports: [u16; 2],
    /// The packet is to go back to who sent it.
    back: bool,
}

impl Input {
    /// Reads an input. Nothing if it has no frame.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (head, frame) = bytes.split_first_chunk::<HEAD>()?;
        let [options, src @ .., a, b, c, d] = head;
        let (src, dst) = src.split_first_chunk::<16>()?;
        let addrs = [*src, *dst.first_chunk::<16>()?];
        let ports = [[*a, *b], [*c, *d]].map(u16::from_be_bytes);
        let frame = repaired(frame.iter().copied().take(LONGEST).collect(), Repairs::from_bits(*options));
        Some(Self { frame, addrs, ports, back: options & BACK != 0 })
    }

    /// The tuple that a packet of this source is to get.
    pub fn target(&self, from: SocketAddr) -> [SocketAddr; 2] {
        let addr = |bytes: [u8; 16]| match from.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(bytes)),
        };
        let [src, dst] = self.addrs.map(addr);
        let dst = if self.back { from.ip() } else { dst };
        [SocketAddr::new(src, self.ports[0]), SocketAddr::new(dst, self.ports[1])]
    }
}

/// The bytes that [`Input::read`] makes an input of.
pub fn write(repairs: Repairs, back: bool, src: [u8; 16], dst: [u8; 16], ports: [u16; 2], frame: &[u8]) -> Vec<u8> {
    let options = repairs.to_bits() | if back { BACK } else { 0 };
    let ports = ports.map(u16::to_be_bytes).concat();
    [&[options], &src[..], &dst, &ports, frame].concat()
}

const LENGTH: u8 = 1;
const NETWORK: u8 = 2;
const TRANSPORT: [(u8, Transport); 4] =
    [(0, Transport::Kept), (0b0100, Transport::Right), (0b1000, Transport::Begun), (0b1100, Transport::Zero)];
const BACK: u8 = 16;

// === impl Repairs ===

impl Repairs {
    fn from_bits(bits: u8) -> Self {
        let transport = TRANSPORT.iter().find(|(value, _)| *value == bits & 0b1100).map(|(_, transport)| *transport);
        Self { length: bits & LENGTH != 0, network: bits & NETWORK != 0, transport: transport.unwrap_or_default() }
    }

    fn to_bits(self) -> u8 {
        let transport = TRANSPORT.iter().find(|(_, transport)| *transport == self.transport).map_or(0, |(value, _)| *value);
        transport | if self.length { LENGTH } else { 0 } | if self.network { NETWORK } else { 0 }
    }
}

fn repaired(mut frame: Vec<u8>, repairs: Repairs) -> Vec<u8> {
    if repairs.length {
        write_length(&mut frame);
    }
    let Some(wire) = wire::read(&frame, L3) else { return frame };
    if wire.is_sctp() {
        if repairs.transport != Transport::Kept {
            frame[wire.checksum()].fill(0);
        }
        if repairs.transport == Transport::Right
            && let Some(crc) = sums::sctp(&frame, &wire)
        {
            frame[wire.checksum()].copy_from_slice(&crc.to_le_bytes());
        }
    } else if let Some(checksum) = checksum(&mut frame, &wire, repairs.transport) {
        frame[wire.checksum()].copy_from_slice(&checksum);
    }
    if repairs.network && wire.checked_header > 0 {
        frame[L3 + 10..L3 + 12].fill(0);
        let sum = sums::words(&frame[L3..L3 + wire.checked_header]);
        frame[L3 + 10..L3 + 12].copy_from_slice(&sums::checksum(sum));
    }
    frame
}

fn checksum(frame: &mut [u8], wire: &Wire, transport: Transport) -> Option<[u8; 2]> {
    match transport {
        Transport::Kept => None,
        Transport::Right => Some(right(frame, wire)),
        Transport::Begun => Some(sums::folded(sums::pseudo(frame, wire)).to_be_bytes()),
        Transport::Zero => Some([0, 0]),
    }
}

fn right(frame: &mut [u8], wire: &Wire) -> [u8; 2] {
    frame[wire.checksum()].fill(0);
    let sum = sums::pseudo(frame, wire) + sums::words(&frame[wire.l4..wire.summed_end(frame)]);
    match sums::checksum(sum) {
        [0, 0] if wire.is_udp() => [0xff, 0xff],
        checksum => checksum,
    }
}

fn write_length(frame: &mut [u8]) {
    let Some(len) = frame.len().checked_sub(L3).and_then(|len| u16::try_from(len).ok()) else { return };
    let (at, len) = match frame.get(L3).map(|byte| byte >> 4) {
        Some(4) => (L3 + 2, len),
        Some(6) => (L3 + 4, len.saturating_sub(40)),
        _ => return,
    };
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&len.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeds;

    #[test]
    fn what_is_written_is_read() {
        let repairs = Repairs { length: true, network: true, transport: Transport::Right };
        for frame in seeds::frames() {
            let wanted = Input { frame: repaired(frame.clone(), repairs), addrs: [[1; 16], [2; 16]], ports: [3, 4], back: true };
            assert_eq!(Input::read(&write(repairs, true, [1; 16], [2; 16], [3, 4], &frame)), Some(wanted));
        }
    }

    #[test]
    fn what_is_put_right_is_right() {
        let repairs = Repairs { length: true, network: true, transport: Transport::Right };
        for mut frame in seeds::frames() {
            let Some(wire) = wire::read(&frame, L3) else { continue };
            for at in [wire.checksum().start, L3 + 10] {
                frame[at] ^= 0x55;
            }
            let frame = repaired(frame, repairs);
            let Some(wire) = wire::read(&frame, L3) else { continue };
            assert_eq!(sums::network(&frame, &wire), 0);
            if wire.is_sctp() {
                assert_eq!(sums::sctp(&frame, &wire), Some(0));
            } else {
                assert_eq!(sums::transport(&frame, &wire), 0);
            }
        }
    }
}
