//! The checksum of SCTP (CRC-32C, RFC 9260 appendix A), changed without reading the packet again.
//!
//! A CRC is linear: the checksums of two packets of one length differ by the remainder of what the packets differ in, zeros otherwise. The
//! ports are the first four bytes of an SCTP packet, so that remainder is theirs, moved on by as many bytes as the packet has. To move a
//! remainder on by n bytes is to multiply it by x^(8 * n), which is linear too: the product is the sum of those of its half-bytes, and they are in
//! a table, for each half-byte of the packet's length.

/// The polynomial, its bits in reverse order.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0: the highest bit.
const ONE: u32 = 1 << 31;
/// x^8.
const A_BYTE: u32 = 1 << 23;
/// What each value of each half-byte of a remainder becomes.
type Moves = [[u32; 16]; 8];
/// The same for each value of each half-byte of a length, which is below 2^16: 32 kilobytes.
static MOVES: [[Moves; 16]; 4] = {
    let steps = [A_BYTE, sixteenth(A_BYTE), sixteenth(sixteenth(A_BYTE)), sixteenth(sixteenth(sixteenth(A_BYTE)))];
    [moves(steps[0]), moves(steps[1]), moves(steps[2]), moves(steps[3])]
};

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

/// The sixteenth power of a remainder.
const fn sixteenth(power: u32) -> u32 {
    let square = product(power, power);
    let fourth = product(square, square);
    let eighth = product(fourth, fourth);
    product(eighth, eighth)
}

/// What each value of each half-byte of a remainder becomes in none to fifteen of these steps.
#[expect(clippy::indexing_slicing, reason = "done by the compiler, which finds out")]
const fn moves(step: u32) -> [Moves; 16] {
    let mut moves = [[[0; 16]; 8]; 16];
    let (mut power, mut length) = (ONE, 0);
    while length < 16 {
        let mut half_byte = 0;
        while half_byte < 8 {
            let mut value = 0;
            while value < 16 {
                moves[length][half_byte][value] = product((value as u32) << (half_byte * 4), power);
                value += 1;
            }
            half_byte += 1;
        }
        power = product(power, step);
        length += 1;
    }
    moves
}

/// How the checksum of a packet of `length` bytes changes when its first four bytes, as they lie in memory, change by `difference`.
#[inline(always)]
fn change(difference: u32, length: u32) -> u32 {
    let mut remainder = difference;
    for (place, moves) in MOVES.iter().enumerate() {
        let Some(moves) = moves.get((length >> (place * 4) & 15) as usize) else { return remainder };
        let mut moved = 0;
        for (half_byte, values) in moves.iter().enumerate() {
            moved ^= values.get((remainder >> (half_byte * 4) & 15) as usize).copied().unwrap_or(0);
        }
        remainder = moved;
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
        fn a_changed_checksum_is_the_one_of_the_changed_packet(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..100), len in 4..65_536_usize, new in any::<[u8; 4]>(),
        ) {
            bytes.resize(len, 0x5a);
            let before = crc(&bytes);
            let old: [u8; 4] = bytes[..4].try_into().unwrap();
            bytes[..4].copy_from_slice(&new);
            let difference = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            prop_assert_eq!(before ^ crc_change(difference, u32::try_from(bytes.len()).unwrap()), crc(&bytes));
        }
    }
}
