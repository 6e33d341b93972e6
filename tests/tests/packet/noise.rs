//! Frames of no sense, the same ones in every run.

use packet_laws::{sums, wire};
use proxy_common::Protocol;
use shunt_tests::{
    packet::{L4, Packet},
    rows::frames,
};

/// The smallest frame that the kernel's test run takes has a header and something behind it.
pub(crate) const SHORTEST: usize = 15;

/// Random frames, half of them made of good ones. The same number gives the same frames.
pub(crate) struct Garbage {
    state: u64,
    good: Vec<Vec<u8>>,
}

impl Garbage {
    pub(crate) fn new(seed: u64, good: Vec<Vec<u8>>) -> Self {
        Self { state: seed, good }
    }

    /// The next number (`SplitMix64`).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }

    /// The next frame.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        match self.below(5) {
            0 => self.noise(),
            1 => self.noise_with_addresses(),
            2 => self.good_with_other_header(),
            _ => self.damaged(),
        }
    }

    /// Bytes behind an ethertype.
    fn noise(&mut self) -> Vec<u8> {
        let len = SHORTEST + self.below(200);
        let mut frame = self.bytes(len);
        let ethertype: [u8; 2] = [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06], [self.byte(), self.byte()]][self.below(4)];
        frame[12..14].copy_from_slice(&ethertype);
        if len > 15 && self.below(2) == 0 {
            frame[14] = if ethertype == [0x08, 0x00] { 0x40 | self.byte() & 0xf } else { 0x60 };
        }
        frame
    }

    /// The headers of a good frame, and noise from the transport header on.
    fn noise_with_addresses(&mut self) -> Vec<u8> {
        let mut frame = self.any_good();
        let start = if frame[12] == 0x08 { 34 } else { 54 };
        for byte in frame.iter_mut().skip(start + 4) {
            *byte = self.state.to_le_bytes()[0];
            self.next();
        }
        frame
    }

    /// A good packet with other flags, ports or contents, and right checksums.
    fn good_with_other_header(&mut self) -> Vec<u8> {
        let frame = self.any_good();
        let Ok(mut packet) = Packet::decode(&frame) else { return frame };
        packet.src.set_port(u16::try_from(self.below(65_536)).expect("below 2^16"));
        if self.below(8) == 0 {
            packet.src = packet.dst;
        }
        let protocol = if self.below(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
        let len = self.below(64);
        let mut changed = match protocol {
            Protocol::Tcp => Packet::tcp(packet.src, packet.dst, self.byte() & 0x1f),
            Protocol::Udp | Protocol::Sctp => Packet::udp(packet.src, packet.dst),
        };
        if self.below(3) > 0 {
            changed.payload = self.bytes(len);
        }
        changed.ttl = self.byte();
        self.shaped(changed)
    }

    /// The frame of a packet, in one of the shapes that good packets have.
    fn shaped(&mut self, mut packet: Packet) -> Vec<u8> {
        match self.below(8) {
            0 if packet.src.is_ipv4() => {
                let words = 1 + self.byte() % 10;
                frames::with_ipv4_options(&packet, words)
            }
            0 => {
                let n = 1 + self.below(5);
                let headers: Vec<_> = (0..n).map(|_| [(0, 8), (60, 16), (43, 24), (51, 12)][self.below(4)]).collect();
                frames::with_ipv6_extensions(&packet, &headers)
            }
            1 if matches!(packet.l4, L4::Udp { .. }) => {
                packet.l4 = L4::Udp { checksum: false };
                packet.build()
            }
            2 => with_begun_checksum(&packet),
            3 => {
                // A length that is not the frame's.
                let mut frame = packet.build();
                let at = if packet.src.is_ipv4() { 16 } else { 18 };
                let length = 20 + self.below(120);
                frame[at..at + 2].copy_from_slice(&u16::try_from(length).expect("a short packet").to_be_bytes());
                frame
            }
            _ => packet.build(),
        }
    }

    /// A good frame with some bytes changed, perhaps cut or padded.
    fn damaged(&mut self) -> Vec<u8> {
        let mut frame = self.any_good();
        for _ in 0..self.below(4) {
            let at = 12 + self.below(frame.len() - 12);
            frame[at] = self.byte();
        }
        match self.below(4) {
            0 => frame.truncate(SHORTEST + self.below(frame.len() - SHORTEST)),
            1 => {
                let padding = self.below(40);
                frame.resize(frame.len() + padding, 0);
            }
            _ => {}
        }
        frame
    }

    fn any_good(&mut self) -> Vec<u8> {
        let index = self.below(self.good.len());
        self.good[index].clone()
    }
}

/// The frame with the sum of its pseudo header only, as a sender has it that leaves the rest to its device.
fn with_begun_checksum(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.build();
    if let Some(wire) = wire::read(&frame, 14) {
        let begun = sums::folded(sums::pseudo(&frame, &wire)).to_be_bytes();
        frame[wire.checksum()].copy_from_slice(&begun);
    }
    frame
}
