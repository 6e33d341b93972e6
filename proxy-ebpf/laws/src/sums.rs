//! Checksums the slow way: the sum of all words (RFC 1071), with nothing remembered of what they were before.

use crate::wire::Wire;

/// Words of a sum are numbers modulo this; zero and all ones are the same number.
const MODULUS: u64 = 0xffff;

/// The sum of bytes as big-endian words, an odd one at the end padded with zero.
pub fn words(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let whole: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    whole + rest.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// What is left of a sum that is zero where a checksum holds.
pub fn residue(sum: u64) -> u16 {
    u16::try_from(sum % MODULUS).unwrap_or_default()
}

/// The checksum that makes up for a sum.
pub fn checksum(sum: u64) -> [u8; 2] {
    (!folded(sum)).to_be_bytes()
}

/// A sum in 16 bits, zero only if every word was.
pub fn folded(sum: u64) -> u16 {
    if sum == 0 {
        return 0;
    }
    match residue(sum) {
        0 => u16::MAX,
        rest => rest,
    }
}

/// By how much the checksum of an IPv4 header is wrong; IPv6 has none.
pub fn network(frame: &[u8], wire: &Wire) -> u16 {
    residue(words(&frame[wire.l3..wire.l3 + wire.checked_header]))
}

/// By how much the checksum of a TCP or UDP header is wrong.
///
/// The sum goes as far as the network header says, but over the whole transport header and not beyond the frame.
pub fn transport(frame: &[u8], wire: &Wire) -> u16 {
    residue(pseudo(frame, wire) + words(&frame[wire.l4..wire.summed_end(frame)]))
}

/// By how much the checksum of an SCTP packet is wrong. Nothing where the packet is not whole.
pub fn sctp(frame: &[u8], wire: &Wire) -> Option<u32> {
    let packet = frame.get(wire.l4..wire.end).filter(|packet| packet.len() >= wire.l4_header())?;
    let field = &frame[wire.checksum()];
    let (before, after) = (&packet[..8], &packet[wire.l4_header()..]);
    Some(crc32c(&[before, &[0; 4], after].concat()) ^ field.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// The checksum of SCTP, bit by bit (RFC 9260 appendix A).
pub fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
}

/// The sum of the pseudo header: also what a checksum field holds that is only begun.
pub fn pseudo(frame: &[u8], wire: &Wire) -> u64 {
    words(&frame[wire.addrs.clone()]) + u64::from(wire.protocol) + wire.length()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_and_its_checksum_leave_nothing() {
        for bytes in [&b"\x45\x00\x00"[..], b"\xff\xff", b"odd number", b"even number!"] {
            let sum = words(bytes);
            assert_eq!(residue(sum + words(&checksum(sum))), 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_published_value_of_the_crc_comes_out() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// RFC 1071, section 3.
    #[test]
    fn the_example_of_the_standard_adds_up() {
        assert_eq!(folded(words(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }
}
