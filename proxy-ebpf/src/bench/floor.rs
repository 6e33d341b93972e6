//! The least that a program can cost which parses, or which translates what it finds in a table of flows.
//!
//! Nothing here is for real traffic: TCP without IP options and nothing else, and everybody is sent to one backend. Nothing here is the
//! packet path's either, for a floor must not sink with what stands on it.

use aya_ebpf::btf_maps::LruHashMap;

use crate::{
    frame::{Checked, Frame},
    layout::{FRAME_V4, FRAME_V6},
    maps::{BENCH_FLOWS_V4, BENCH_FLOWS_V6},
};

const TCP: u8 = 6;
/// The backend's address, in the last words of `BACKEND_V6`, and its port.
const BACKEND_V4: u32 = u32::from_ne_bytes([10, 244, 1, 5]);
const BACKEND_V6: [u64; 2] = [u64::from_ne_bytes([0xfd, 0, 2, 0x44, 0, 0, 0, 1]), u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 5])];
const BACKEND_PORT: u16 = u16::from_ne_bytes(8080_u16.to_be_bytes());

/// What a floor makes of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing that it knows of.
    Other,
    /// A packet that it would deal with, or has dealt with.
    Good,
}

/// The headers of one family.
pub(crate) trait Headers: Sized {
    type Key: Copy;

    /// The packet's key, if it is a TCP packet as these programs know it.
    fn parse(frame: Frame) -> Option<(Self, Self::Key)>;

    /// Whether a key says nothing. Asked by programs that parse only, so that the compiler must read what they have no use for.
    fn is_blank(key: &Self::Key) -> bool;

    /// Finds the flow, records it in both directions if there is none, and rewrites the destination.
    fn translate(self, key: &Self::Key) -> Option<()>;
}

/// Parses and does nothing.
#[inline(always)]
pub(crate) fn parse<H: Headers>(frame: Frame) -> Seen {
    match H::parse(frame) {
        Some((_, key)) if !H::is_blank(&key) => Seen::Good,
        _ => Seen::Other,
    }
}

/// Parses and translates.
#[inline(always)]
pub(crate) fn nat<H: Headers>(frame: Frame) -> Seen {
    let translated = H::parse(frame).and_then(|(headers, key)| headers.translate(&key));
    if translated.is_some() { Seen::Good } else { Seen::Other }
}

/// IPv4 and TCP.
pub(crate) struct V4(Checked<FRAME_V4>);

impl Headers for V4 {
    type Key = [u64; 2];

    #[inline(always)]
    fn parse(frame: Frame) -> Option<(Self, Self::Key)> {
        const ETHERTYPE: u16 = u16::from_ne_bytes([8, 0]);
        const FRAGMENT: u16 = u16::from_ne_bytes([0x3f, 0xff]);
        let frame = frame.checked()?;
        let is_plain = frame.read::<u16, 12>() == ETHERTYPE && frame.read::<u8, 14>() == 0x45;
        if !is_plain || frame.read::<u16, 20>() & FRAGMENT != 0 || frame.read::<u8, 23>() != TCP {
            return None;
        }
        let ports = u64::from(frame.read::<u32, 34>());
        Some((Self(frame), [frame.read::<u64, 26>(), ports | u64::from(TCP) << 32]))
    }

    #[inline(always)]
    fn is_blank(key: &Self::Key) -> bool {
        key[0] == key[1]
    }

    #[inline(always)]
    fn translate(self, key: &Self::Key) -> Option<()> {
        let to = match find(&BENCH_FLOWS_V4, key) {
            Some([dst, port, _]) => (dst as u32, port as u16),
            None => record_v4(key)?,
        };
        let (dst, port) = (self.0.read::<u32, 30>(), self.0.read::<u16, 36>());
        let addrs = u64::from(!dst) + u64::from(to.0);
        let ports = u64::from(!port) + u64::from(to.1);
        self.0.write::<u16, 24>(!fold16(u64::from(!self.0.read::<u16, 24>()) + addrs));
        self.0.write::<u16, 50>(!fold16(u64::from(!self.0.read::<u16, 50>()) + addrs + ports));
        self.0.write::<u32, 30>(to.0);
        self.0.write::<u16, 36>(to.1);
        Some(())
    }
}

#[inline(always)]
fn record_v4(key: &[u64; 2]) -> Option<(u32, u16)> {
    let [addrs, ports] = *key;
    let reply = [u64::from(BACKEND_V4) | addrs << 32, u64::from(BACKEND_PORT) | (ports & 0xffff) << 16 | ports & !0xffff_ffff];
    BENCH_FLOWS_V4.insert(&reply, &[addrs >> 32, ports >> 16 & 0xffff, 0], 0).ok()?;
    BENCH_FLOWS_V4.insert(key, &[u64::from(BACKEND_V4), u64::from(BACKEND_PORT), 0], 0).ok()?;
    Some((BACKEND_V4, BACKEND_PORT))
}

/// IPv6 and TCP.
pub(crate) struct V6(Checked<FRAME_V6>);

impl Headers for V6 {
    type Key = [u64; 5];

    #[inline(always)]
    fn parse(frame: Frame) -> Option<(Self, Self::Key)> {
        const ETHERTYPE: u16 = u16::from_ne_bytes([0x86, 0xdd]);
        let frame = frame.checked()?;
        let is_plain = frame.read::<u16, 12>() == ETHERTYPE && frame.read::<u8, 14>() >> 4 == 6;
        if !is_plain || frame.read::<u8, 20>() != TCP {
            return None;
        }
        let ports = u64::from(frame.read::<u32, 54>()) | u64::from(TCP) << 32;
        let key = [frame.read::<u64, 22>(), frame.read::<u64, 30>(), frame.read::<u64, 38>(), frame.read::<u64, 46>(), ports];
        Some((Self(frame), key))
    }

    #[inline(always)]
    fn is_blank(key: &Self::Key) -> bool {
        let [src0, src8, dst0, dst8, ports] = *key;
        src0 == dst0 && src8 == dst8 && ports == src0
    }

    #[inline(always)]
    fn translate(self, key: &Self::Key) -> Option<()> {
        let (to, to_port) = match find(&BENCH_FLOWS_V6, key) {
            Some([dst0, dst8, port, ..]) => ([dst0, dst8], port as u16),
            None => record_v6(key)?,
        };
        let (dst, port) = ([self.0.read::<u64, 38>(), self.0.read::<u64, 46>()], self.0.read::<u16, 56>());
        let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        let addrs = halves(!dst[0]) + halves(!dst[1]) + halves(to[0]) + halves(to[1]);
        let ports = u64::from(!port) + u64::from(to_port);
        self.0.write::<u16, 70>(!fold16(u64::from(!self.0.read::<u16, 70>()) + addrs + ports));
        self.0.write::<u64, 38>(to[0]);
        self.0.write::<u64, 46>(to[1]);
        self.0.write::<u16, 56>(to_port);
        Some(())
    }
}

#[inline(always)]
fn record_v6(key: &[u64; 5]) -> Option<([u64; 2], u16)> {
    let [src0, src8, dst0, dst8, ports] = *key;
    let reply_ports = u64::from(BACKEND_PORT) | (ports & 0xffff) << 16 | ports & !0xffff_ffff;
    let reply = [BACKEND_V6[0], BACKEND_V6[1], src0, src8, reply_ports];
    BENCH_FLOWS_V6.insert(&reply, &[dst0, dst8, ports >> 16 & 0xffff, 0, 0, 0], 0).ok()?;
    BENCH_FLOWS_V6.insert(key, &[BACKEND_V6[0], BACKEND_V6[1], u64::from(BACKEND_PORT), 0, 0, 0], 0).ok()?;
    Some((BACKEND_V6, BACKEND_PORT))
}

/// The entry of a flow.
#[inline(always)]
fn find<K, V: Copy, const N: usize>(flows: &LruHashMap<K, V, N>, key: &K) -> Option<V> {
    // SAFETY: the entry stays readable while the program runs, and nobody writes to it.
    flows.get_ptr(key).map(|entry| unsafe { *entry })
}

/// Folds a sum of few 16- and 32-bit words into 16 bits.
#[inline(always)]
const fn fold16(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
