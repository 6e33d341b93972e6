//! Where the fuzzer starts from: good frames of every shape that matters, made with etherparse, and a few that are not quite good.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use etherparse::{
    IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header,
    Ipv6RawExtHeader, Ipv6RoutingExtensions, PacketBuilder, TcpHeader, TcpOptionElement, UdpHeader,
};

use crate::input::{self, Repairs, Transport};

const V4: [[u8; 4]; 2] = [[10, 244, 1, 5], [10, 96, 0, 1]];
const V6: [[u8; 16]; 2] = [address6(0x0244, 5), address6(0x0096, 1)];

/// `fd00:NET::HOST`
const fn address6(net: u16, host: u8) -> [u8; 16] {
    let [a, b] = net.to_be_bytes();
    [0xfd, 0, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}

/// Writes the seeds to a folder, one file each.
pub fn write_to(folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let seeds = inputs();
    for (n, seed) in seeds.iter().enumerate() {
        let file = folder.join(format!("seed-{n:04}"));
        fs::write(&file, seed).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(seeds.len())
}

/// Every frame, to another backend and back to its sender, with its checksum right, begun and absent.
pub fn inputs() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for frame in frames() {
        for transport in [Transport::Kept, Transport::Begun, Transport::Zero] {
            let repairs = Repairs { transport, ..Repairs::default() };
            let (v4, v6) = (padded([10, 244, 2, 7]), address6(0x0244, 7));
            let is_v4 = frame.get(input::L3).is_some_and(|byte| byte >> 4 == 4);
            let (client, backend) = if is_v4 { (padded(V4[0]), v4) } else { (V6[0], v6) };
            let node = if is_v4 { padded([172, 30, 0, 11]) } else { address6(0x0030, 11) };
            inputs.push(input::write(repairs, false, client, backend, [40_000, 8080], &frame));
            inputs.push(input::write(repairs, true, node, backend, [2000, 8080], &frame));
        }
    }
    inputs
}

/// The frames of all seeds.
pub fn frames() -> Vec<Vec<u8>> {
    let headers = headers4().into_iter().chain(headers6());
    let mut frames: Vec<_> = headers.flat_map(|headers| transports().map(move |write| write(headers.clone()))).collect();
    let plain: Vec<_> = frames.iter().step_by(5).cloned().collect();
    for frame in plain {
        frames.push([&frame[..], &[0xa5; 7]].concat());
        frames.push(frame[..frame.len() - 3].to_vec());
        frames.push(frame[..frame.len() / 2].to_vec());
    }
    frames
}

fn padded(addr: [u8; 4]) -> [u8; 16] {
    let mut all = [0; 16];
    all[..4].copy_from_slice(&addr);
    all
}

fn headers4() -> Vec<IpHeaders> {
    let plain = Ipv4Header::new(0, 64, IpNumber::TCP, V4[0], V4[1]).expect("no payload is short enough");
    let options = [1, 3, 10].map(|words| {
        let options = vec![1; words * 4].as_slice().try_into().expect("whole words");
        Ipv4Header { options, ..plain.clone() }
    });
    let offset = IpFragOffset::try_new(185).expect("a small offset");
    let first = Ipv4Header { more_fragments: true, ..plain.clone() };
    let last = Ipv4Header { fragment_offset: offset, ..plain.clone() };
    let all = [plain].into_iter().chain(options).chain([first, last]);
    all.map(|header| IpHeaders::Ipv4(header, Ipv4Extensions::default())).collect()
}

fn headers6() -> Vec<IpHeaders> {
    let plain = Ipv6Header { hop_limit: 64, source: V6[0], destination: V6[1], ..Ipv6Header::default() };
    let raw = |len: usize| Some(Ipv6RawExtHeader::new_raw(IpNumber::TCP, &vec![0; len - 2]).expect("a multiple of eight"));
    let routing =
        |len, last: Option<usize>| raw(len).map(|routing| Ipv6RoutingExtensions { routing, final_destination_options: last.and_then(raw) });
    let auth = Some(IpAuthHeader::new(IpNumber::TCP, 1, 2, &[0; 12]).expect("whole words"));
    // Offset and flags as one number. etherparse 0.18 has them at other bits than RFC 8200 section 4.5, and takes such a number for an offset.
    let fragment = |field| Some(Ipv6FragmentHeader::new(IpNumber::TCP, IpFragOffset::try_new(field).expect("below 32"), false, 7));
    let none = Ipv6Extensions::default;
    let extensions = vec![
        none(),
        Ipv6Extensions { hop_by_hop_options: raw(8), ..none() },
        Ipv6Extensions { destination_options: raw(40), ..none() },
        Ipv6Extensions { auth: auth.clone(), ..none() },
        Ipv6Extensions { hop_by_hop_options: raw(8), destination_options: raw(16), routing: routing(24, None), ..none() },
        Ipv6Extensions { hop_by_hop_options: raw(8), destination_options: raw(8), routing: routing(8, Some(8)), auth, ..none() },
        Ipv6Extensions { hop_by_hop_options: raw(96), ..none() },
        Ipv6Extensions { hop_by_hop_options: raw(104), ..none() },
        Ipv6Extensions { fragment: fragment(1), ..none() },
        Ipv6Extensions { hop_by_hop_options: raw(8), fragment: fragment(8), ..none() },
    ];
    extensions.into_iter().map(|extensions| IpHeaders::Ipv6(plain.clone(), extensions)).collect()
}

/// What writes a frame with a network header like this.
type Write = Box<dyn Fn(IpHeaders) -> Vec<u8>>;

/// Types of an SCTP packet's first chunk.
const INIT: u8 = 1;
const DATA: u8 = 0;

/// An SCTP packet of so many bytes, with a checksum that is wrong.
fn sctp<const N: usize>(chunk: u8) -> [u8; N] {
    let mut packet = [0x5a; N];
    packet[..4].copy_from_slice(&[40_000_u16, 80].map(u16::to_be_bytes).concat());
    packet[12] = chunk;
    packet
}

fn transports() -> impl Iterator<Item = Write> {
    let raw = |protocol, payload: &[u8]| -> Write {
        let payload = payload.to_vec();
        Box::new(move |ip| {
            let mut frame = Vec::new();
            builder(ip).write(&mut frame, protocol, &payload).expect("a short payload");
            frame
        })
    };
    let tcp = |change: fn(&mut TcpHeader), payload: &'static [u8]| -> Write {
        Box::new(move |ip| {
            let mut header = TcpHeader::new(40_000, 80, 1000, 64_000);
            change(&mut header);
            let mut frame = Vec::new();
            builder(ip).tcp_header(header).write(&mut frame, payload).expect("a short payload");
            frame
        })
    };
    let udp = |payload: &'static [u8]| -> Write {
        Box::new(move |ip| {
            let UdpHeader { source_port, destination_port, .. } =
                UdpHeader { source_port: 40_000, destination_port: 53, ..UdpHeader::default() };
            let mut frame = Vec::new();
            builder(ip).udp(source_port, destination_port).write(&mut frame, payload).expect("a short payload");
            frame
        })
    };
    [
        tcp(|tcp| tcp.syn = true, b""),
        tcp(with_options, b""),
        tcp(|tcp| tcp.syn = true, b"early data"),
        tcp(|tcp| (tcp.syn, tcp.ack) = (true, true), b""),
        tcp(|tcp| (tcp.ack, tcp.psh) = (true, true), b"not even"),
        tcp(|tcp| (tcp.ack, tcp.fin) = (true, true), b""),
        tcp(|tcp| tcp.rst = true, b""),
        udp(b""),
        udp(b"odd"),
        udp(b"a question of some length"),
        raw(IpNumber::GRE, &[0; 24]),
        raw(IpNumber::SCTP, &sctp::<20>(INIT)),
        raw(IpNumber::SCTP, &sctp::<33>(DATA)),
    ]
    .into_iter()
}

fn with_options(tcp: &mut TcpHeader) {
    use TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale};
    let options = [MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted, Timestamp(7, 0), Noop, WindowScale(7)];
    tcp.syn = true;
    tcp.set_options(&options).expect("options that fit");
}

fn builder(ip: IpHeaders) -> etherparse::PacketBuilderStep<IpHeaders> {
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ip(ip)
}

#[cfg(test)]
mod tests {
    use packet_laws::{sums, wire};

    use super::*;
    use crate::run;

    #[test]
    fn the_laws_hold_of_every_seed() {
        for seed in inputs() {
            run(&seed);
        }
    }

    #[test]
    fn many_seeds_are_good_packets_of_both_families() {
        let frames = frames();
        let good: Vec<_> = frames.iter().filter_map(|frame| Some((frame, wire::read(frame, input::L3)?))).collect();
        let right = |(frame, wire): &&(&Vec<u8>, wire::Wire)| {
            wire.end == frame.len() && sums::network(frame, wire) == 0 && sums::transport(frame, wire) == 0
        };
        let right: Vec<_> = good.iter().filter(right).collect();
        for is_v4 in [false, true] {
            let n = right.iter().filter(|(_, wire)| wire.src.is_ipv4() == is_v4).count();
            assert!(n >= 40, "{n} of {} frames", frames.len());
        }
    }

    /// A seed with some of its bytes changed, the same ones in every run.
    #[test]
    fn the_laws_hold_of_damaged_seeds() {
        let mut state = 1_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap()
        };
        for seed in inputs() {
            for _ in 0..10 {
                let mut damaged = seed.clone();
                for _ in 0..=next() % 3 {
                    let at = next() % damaged.len();
                    damaged[at] = next().to_le_bytes()[0];
                }
                damaged[0] = next().to_le_bytes()[0];
                run(&damaged);
            }
        }
    }
}
