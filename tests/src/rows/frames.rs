//! Frames that a [`Packet`] does not describe.

use crate::packet::Packet;

const ETHERNET: usize = 14;
const ETHERTYPE: usize = 12;
const IPV4: usize = 20;
const IPV6: usize = 40;
const IPV6_FRAGMENT: usize = 8;

/// The offset of the transport header of a frame that was built of this packet.
pub fn transport(packet: &Packet) -> usize {
    ETHERNET + if packet.src.is_ipv4() { IPV4 } else { IPV6 }
}

/// Another network protocol in the same frame.
pub fn with_ethertype(packet: &Packet, ethertype: u16) -> Vec<u8> {
    let mut frame = packet.build();
    frame[ETHERTYPE..ETHERNET].copy_from_slice(&ethertype.to_be_bytes());
    frame
}

/// The frame with a VLAN tag.
pub fn with_vlan(packet: &Packet) -> Vec<u8> {
    let mut frame = packet.build();
    frame.splice(ETHERTYPE..ETHERTYPE, [0x81, 0x00, 0x00, 0x2a]);
    frame
}

/// The IPv4 packet with so many words of options, all of them "no operation".
///
/// # Panics
/// When the packet is not IPv4, or the words are more than a header has room for.
pub fn with_ipv4_options(packet: &Packet, words: u8) -> Vec<u8> {
    assert!(packet.src.is_ipv4() && words <= 10);
    let mut frame = packet.build();
    let options = vec![1; usize::from(words) * 4];
    let end = ETHERNET + IPV4;
    frame.splice(end..end, options);
    frame[ETHERNET] += words;
    let len = u16::try_from(frame.len() - ETHERNET).expect("a short packet");
    frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
    correct_ipv4(&mut frame);
    frame
}

/// A fragment of the IPv4 packet: the flags and the offset in units of eight bytes.
///
/// # Panics
/// When the packet is not IPv4.
pub fn ipv4_fragment(packet: &Packet, more: bool, offset: u16) -> Vec<u8> {
    assert!(packet.src.is_ipv4());
    let mut frame = packet.build();
    let field = offset | if more { 0x2000 } else { 0 };
    frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field.to_be_bytes());
    correct_ipv4(&mut frame);
    frame
}

/// The packet in fragments of at most `piece` bytes behind the network header, a multiple of eight.
///
/// # Panics
/// When the packet is too long for a fragment's offset.
pub fn fragments(packet: &Packet, piece: usize, id: u16) -> Vec<Vec<u8>> {
    assert!(piece.is_multiple_of(8));
    let frame = packet.build();
    let (headers, payload) = frame.split_at(transport(packet));
    let last = payload.len().div_ceil(piece) - 1;
    let fragment = |(n, bytes): (usize, &[u8])| {
        let offset = u16::try_from(n * piece / 8).expect("an offset of 13 bits");
        fragment(packet, headers, bytes, (offset, n < last), id)
    };
    payload.chunks(piece).enumerate().map(fragment).collect()
}

fn fragment(packet: &Packet, headers: &[u8], bytes: &[u8], (offset, more): (u16, bool), id: u16) -> Vec<u8> {
    let mut frame = headers.to_vec();
    if packet.src.is_ipv4() {
        let len = u16::try_from(IPV4 + bytes.len()).expect("a short fragment");
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
        let field = offset | if more { 0x2000 } else { 0 };
        frame[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&field.to_be_bytes());
        correct_ipv4(&mut frame);
    } else {
        let len = u16::try_from(IPV6_FRAGMENT + bytes.len()).expect("a short fragment");
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
        let next = std::mem::replace(&mut frame[ETHERNET + 6], 44);
        frame.extend([next, 0]);
        frame.extend((offset << 3 | u16::from(more)).to_be_bytes());
        frame.extend(u32::from(id).to_be_bytes());
    }
    frame.extend(bytes);
    frame
}

/// The frame that fragments in their order make.
///
/// # Panics
/// When they are none.
pub fn joined(fragments: &[Vec<u8>]) -> Vec<u8> {
    let first = fragments.first().expect("a first fragment");
    let is_ipv4 = first[ETHERTYPE..ETHERNET] == [0x08, 0x00];
    let header = ETHERNET + if is_ipv4 { IPV4 } else { IPV6 };
    let behind = header + if is_ipv4 { 0 } else { IPV6_FRAGMENT };
    let mut frame = first[..header].to_vec();
    frame.extend(fragments.iter().flat_map(|fragment| &fragment[behind..]));
    let len = u16::try_from(frame.len() - if is_ipv4 { ETHERNET } else { header }).expect("a packet");
    if is_ipv4 {
        frame[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&len.to_be_bytes());
        frame[ETHERNET + 4..ETHERNET + 8].fill(0);
        frame[ETHERNET + 6] = 0x40;
        correct_ipv4(&mut frame);
    } else {
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
        frame[ETHERNET + 6] = first[header];
    }
    frame
}

/// The IPv6 packet with extension headers of these kinds and lengths.
///
/// # Panics
/// When the packet is not IPv6, or a length is none that such a header can have.
pub fn with_ipv6_extensions(packet: &Packet, headers: &[(u8, usize)]) -> Vec<u8> {
    const AUTHENTICATION: u8 = 51;
    assert!(packet.src.is_ipv6());
    let mut frame = packet.build();
    let (mut next_at, mut at) = (ETHERNET + 6, ETHERNET + IPV6);
    for (kind, len) in headers {
        let units = if *kind == AUTHENTICATION { len / 4 - 2 } else { len / 8 - 1 };
        let mut header = vec![0; *len];
        header[..2].copy_from_slice(&[frame[next_at], u8::try_from(units).expect("a short header")]);
        if matches!(kind, 0 | 60) && *len > 2 {
            // One option that fills the header up (RFC 8200, section 4.2).
            header[2..4].copy_from_slice(&[1, u8::try_from(len - 4).expect("a short header")]);
        }
        frame.splice(at..at, header);
        frame[next_at] = *kind;
        (next_at, at) = (at, at + len);
    }
    let len = u16::try_from(frame.len() - ETHERNET - IPV6).expect("a short packet");
    frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&len.to_be_bytes());
    frame
}

/// Computes the IPv4 header's checksum anew.
fn correct_ipv4(frame: &mut [u8]) {
    let end = ETHERNET + usize::from(frame[ETHERNET] & 0xf) * 4;
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&frame[ETHERNET..end]).ones_complement();
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_ne_bytes());
}
