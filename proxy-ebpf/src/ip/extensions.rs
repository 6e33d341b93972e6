//! The extension headers of IPv6 (RFC 8200 section 4), which may stand before the transport header.

use aya_ebpf::bindings::__sk_buff;
use bytemuck::{Pod, Zeroable};
use proxy_common::{Port, V6, reason::Reason};

use super::{Ip as _, Piece};
use crate::{
    ctx::{PacketCtx, TcCtx},
    verdict::{End, Step},
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
/// The kind of a fragment header.
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// RFC 8200 section 4.1 recommends at most one each of hop-by-hop, routing and authentication headers, and two with destination options.
const MAX_HEADERS: usize = 5;
/// Together they must not be longer than this, so that the transport header is within what was made reachable.
const MAX_LEN: usize = 96;

/// The fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FragmentHeader {
    /// The kind of the header that follows.
    pub(super) next: u8,
    reserved: u8,
    offset: Port,
    id: u32,
}

/// The offset in a fragment header, and the flag that says that there are more.
const FRAGMENT_OFFSET: u16 = 0xfff8;
const MORE_FRAGMENTS: u16 = 1;

impl FragmentHeader {
    /// Which piece of its datagram a packet with this header is.
    #[inline(always)]
    pub(super) fn piece(self) -> Piece {
        let field = self.offset.to_host();
        match (field & FRAGMENT_OFFSET, field & MORE_FRAGMENTS) {
            (0, 0) => Piece::Whole,
            (0, _) => Piece::First(self.id),
            _ => Piece::Later(self.id),
        }
    }
}

/// Whether a header of this kind is an extension header that is stepped over.
#[inline(always)]
pub(super) const fn is_extension(header: u8) -> bool {
    matches!(header, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// What the extension headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extensions {
    /// The kind of the first header that is none.
    pub(super) next: u8,
    /// How many bytes they have.
    pub(super) len: u8,
    /// Which piece of its datagram a fragment header makes of the packet.
    pub(super) piece: Piece,
}

/// The same as one number, or that there is no sense in them: all that one function of a program may tell another.
///
/// From the lowest byte on: the kind of the next header, their length, the number of the piece; in the upper half the datagram's identification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionsWord(u64);

const MALFORMED: u64 = 0;
const WHOLE: u64 = 1;
const FIRST: u64 = 2;
const LATER: u64 = 3;

impl ExtensionsWord {
    #[inline(always)]
    fn new(read: Step<Extensions>) -> Self {
        let Ok(Extensions { next, len, piece }) = read else { return Self(MALFORMED) };
        let (piece, id) = match piece {
            Piece::Whole => (WHOLE, 0),
            Piece::First(id) => (FIRST, id),
            Piece::Later(id) => (LATER, id),
        };
        Self(u64::from(next) | u64::from(len) << 8 | piece << 16 | u64::from(id) << 32)
    }

    #[inline(always)]
    pub(super) fn extensions(self) -> Step<Extensions> {
        let id = (self.0 >> 32) as u32;
        let piece = match self.0 >> 16 & 0xff {
            WHOLE => Piece::Whole,
            FIRST => Piece::First(id),
            LATER => Piece::Later(id),
            _ => return Err(End::pass(Reason::Malformed)),
        };
        Ok(Extensions { next: self.0 as u8, len: (self.0 >> 8) as u8, piece })
    }
}

/// Walks the extension headers, of which the first is of kind `first`. What follows a later fragment's is in the middle of something.
#[inline(always)]
pub(crate) fn walk<C: PacketCtx>(ctx: &C, first: u8) -> ExtensionsWord {
    ExtensionsWord::new(read(ctx, first))
}

#[inline(always)]
fn read<C: PacketCtx>(ctx: &C, first: u8) -> Step<Extensions> {
    let start = ctx.l3() + V6::HEADER;
    let (mut next, mut piece) = (first, Piece::Whole);
    let mut len = 0;
    for _ in 0..=MAX_HEADERS {
        let unit = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => 8,
            AUTHENTICATION => 4,
            FRAGMENT => {
                let header = ctx.read::<FragmentHeader>(start + len)?;
                len += size_of::<FragmentHeader>();
                if len > MAX_LEN {
                    break;
                }
                next = header.next;
                match header.piece() {
                    Piece::Later(id) => return Ok(Extensions { next, len: len as u8, piece: Piece::Later(id) }),
                    Piece::First(id) => piece = Piece::First(id),
                    Piece::Whole => {}
                }
                continue;
            }
            _ => return Ok(Extensions { next, len: len as u8, piece }),
        };
        let [following, length] = ctx.read::<[u8; 2]>(start + len)?;
        // In units of eight bytes beyond the first (RFC 8200), but of four bytes beyond the first two for authentication (RFC 4302).
        len += if unit == 8 { usize::from(length) * 8 + 8 } else { usize::from(length) * 4 + 8 };
        if len > MAX_LEN {
            break;
        }
        next = following;
    }
    Err(End::pass(Reason::Malformed))
}

// Functions by themselves, which the verifier looks at once.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions(skb: *mut __sk_buff, first: u32) -> u64 {
    // SAFETY: the context that the kernel gave to the program.
    walk(&unsafe { TcCtx::<true>::pulled(skb) }, first as u8).0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn walk_extensions_l3(skb: *mut __sk_buff, first: u32) -> u64 {
    // SAFETY: as above.
    walk(&unsafe { TcCtx::<false>::pulled(skb) }, first as u8).0
}

/// The same for a socket buffer on a device with (`L2`) or without an Ethernet header.
#[inline(always)]
pub(crate) fn walk_skb<const L2: bool>(skb: *mut __sk_buff, first: u8) -> ExtensionsWord {
    ExtensionsWord(if L2 { walk_extensions(skb, u32::from(first)) } else { walk_extensions_l3(skb, u32::from(first)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_it_was_made_of() {
        for piece in [Piece::Whole, Piece::First(0), Piece::First(u32::MAX), Piece::Later(0), Piece::Later(7)] {
            for (next, len) in [(0, 0), (17, 96), (255, 8)] {
                let extensions = Extensions { next, len, piece };
                assert_eq!(ExtensionsWord::new(Ok(extensions)).extensions(), Ok(extensions));
            }
        }
        assert_eq!(ExtensionsWord::new(Err(End::ASIDE)).extensions(), Err(End::pass(Reason::Malformed)));
    }
}
