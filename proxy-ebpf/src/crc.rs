//! The checksum of SCTP (CRC-32C, RFC 9260 appendix A), changed without reading the packet again.
//!
//! A CRC is linear: the checksums of two packets of one length differ by the remainder of what the packets differ in, zeros otherwise. The
//! ports are the first four bytes of an SCTP packet, so that remainder is theirs, moved on by as many bytes as the packet has. To move a
//! remainder on by 2^n bytes is to multiply it by x^(8 * 2^n), which is linear too: the product is the sum of those of its half-bytes, and they
//! are in a table.

/// The polynomial, its bits in reverse order.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^8, likewise: the highest bit is that of x^0.
const A_BYTE: u32 = 1 << 23;
/// A packet has less than 2^16 bytes.
const LENGTH_BITS: usize = 16;
/// What each value of each half-byte of a remainder becomes.
type Moves = [[u32; 16]; 8];
/// The same for each number of bytes that is a power of two: eight kilobytes.
static MOVES: [Moves; LENGTH_BITS] = moves();

/// The remainder of the product of two remainders.
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut sum, mut bit) = (0, 0);
    while bit < u32::BITS {
        if a << bit >> 31 == 1 {
            sum ^= b;
        }
        b = if b & 1 == 1 { b >> 1 ^ POLYNOMIAL } else { b >> 1 };
        bit += 1;
    }
    sum
}

#[expect(clippy::indexing_slicing, reason = "done by the compiler, which finds out")]
const fn moves() -> [Moves; LENGTH_BITS] {
    let mut moves = [[[0; 16]; 8]; LENGTH_BITS];
    let (mut power, mut n) = (A_BYTE, 0);
    while n < LENGTH_BITS {
        let mut half_byte = 0;
        while half_byte < 8 {
            let mut value = 0;
            while value < 16 {
                moves[n][half_byte][value] = product((value as u32) << (half_byte * 4), power);
                value += 1;
            }
            half_byte += 1;
        }
        power = product(power, power);
        n += 1;
    }
    moves
}

/// How the checksum of a packet of `length` bytes changes when its first four bytes, as they lie in memory, change by `difference`.
#[inline(always)]
fn change(difference: u32, length: u32) -> u32 {
    let mut remainder = difference;
    for (n, moves) in MOVES.iter().enumerate() {
        let mut moved = 0;
        for (half_byte, values) in moves.iter().enumerate() {
            moved ^= values.get((remainder >> (half_byte * 4) & 15) as usize).copied().unwrap_or(0);
        }
        // Both are computed, so that the verifier has one way to follow.
        let wanted = (length >> n & 1).wrapping_neg();
        remainder = moved & wanted | remainder & !wanted;
    }
    remainder
}

/// The same as a function by itself, which the verifier looks at once: it is long, and only a few packets come here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crc_change(difference: u32, length: u32) -> u32 {
    change(difference, length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit, as the definition has it.
    fn crc(bytes: &[u8]) -> u32 {
        let step =
            |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 });
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn the_definition_gives_the_published_value() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_changed_checksum_is_the_one_of_the_changed_packet(mut bytes in proptest::collection::vec(any::<u8>(), 4..3000), new in any::<[u8; 4]>()) {
            let before = crc(&bytes);
            let old: [u8; 4] = bytes[..4].try_into().unwrap();
            bytes[..4].copy_from_slice(&new);
            let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            prop_assert_eq!(before ^ crc_change(difference, u32::try_from(bytes.len()).unwrap()), crc(&bytes));
        }
    }
}
