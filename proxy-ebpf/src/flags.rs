//! How a connection or an association stands, by the flags of its packets.

/// Flags of a TCP header (RFC 9293); those that say the same of an SCTP association (RFC 9260); all clear for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    const FIN: u8 = 1;
    const SYN: u8 = 2;
    const RST: u8 = 4;
    const ACK: u8 = 16;

    /// The flags of a header's fourteenth byte.
    pub const fn new(byte: u8) -> Self {
        Self(byte)
    }

    /// What the type of an SCTP packet's first chunk says. Looked up and not decided: the verifier would follow each answer by itself.
    #[inline(always)]
    pub fn of_chunk(kind: u8) -> Self {
        CHUNKS.get(usize::from(kind)).copied().unwrap_or(Self(Self::ACK))
    }

    /// Whether the sender has nothing more to send.
    #[inline(always)]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// Whether the connection is broken off.
    #[inline(always)]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// Whether this is the first packet of a connection: a SYN that acknowledges nothing.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// Whether this is the answer to such a packet.
    #[inline(always)]
    pub const fn accepts(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN | Self::ACK
    }

    /// Whether this is neither of a connection's beginning nor breaks it off.
    #[inline(always)]
    pub const fn goes_on(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::ACK
    }
}

/// Types of SCTP's chunks; all others say nothing.
pub const DATA: u8 = 0;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const SHUTDOWN: u8 = 7;
const SHUTDOWN_ACK: u8 = 8;
const SHUTDOWN_COMPLETE: u8 = 14;

/// The flags that each type of chunk stands for.
static CHUNKS: [TcpFlags; 256] = chunks();

#[expect(clippy::indexing_slicing, reason = "done by the compiler, which finds out")]
const fn chunks() -> [TcpFlags; 256] {
    let mut chunks = [TcpFlags(TcpFlags::ACK); 256];
    chunks[INIT as usize] = TcpFlags(TcpFlags::SYN);
    chunks[INIT_ACK as usize] = TcpFlags(TcpFlags::SYN | TcpFlags::ACK);
    chunks[ABORT as usize] = TcpFlags(TcpFlags::RST);
    chunks[SHUTDOWN as usize] = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
    chunks[SHUTDOWN_ACK as usize] = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
    chunks[SHUTDOWN_COMPLETE as usize] = TcpFlags(TcpFlags::FIN | TcpFlags::ACK);
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_how_a_connection_stands() {
        let (fin, syn, rst, psh, ack) = (1, 2, 4, 8, 16);
        let opening: Vec<u8> = (0..=u8::MAX).filter(|byte| TcpFlags::new(*byte).opens()).collect();
        assert!(opening.contains(&syn) && opening.iter().all(|byte| byte & (syn | ack | rst) == syn));
        assert!(TcpFlags::new(syn | ack).accepts());
        assert!(![syn, ack, syn | ack | rst, psh | ack].into_iter().any(|byte| TcpFlags::new(byte).accepts()));
        assert!(TcpFlags::new(fin | ack).fin() && TcpFlags::new(rst).rst() && !TcpFlags::new(psh | ack).fin());
    }

    #[test]
    fn the_first_chunk_of_sctp_says_how_an_association_stands() {
        let of = |kind| {
            let flags = TcpFlags::of_chunk(kind);
            (flags.opens(), flags.accepts(), flags.fin(), flags.rst())
        };
        assert_eq!(of(INIT), (true, false, false, false));
        assert_eq!(of(INIT_ACK), (false, true, false, false));
        assert_eq!(of(ABORT), (false, false, false, true));
        assert_eq!(of(SHUTDOWN_COMPLETE), (false, false, true, false));
        assert_eq!(of(DATA), (false, false, false, false));
    }
}
