//! Making the next packet: the headers of the flow 0 with another client in them.
//!
//! The checksums stay those of the flow 0: what a program adds to them does not depend on what they were, and the runner knows.

use crate::{
    frame::{Checked, Frame},
    layout::{FRAME_V4, FRAME_V6, PORT_BITS, PORT_SHIFT, STEP, STORES},
    maps::BENCH_WALK,
};

/// Whether frames are of IPv6. Set by the runner before it loads a driver.
#[unsafe(no_mangle)]
static BENCH_IPV6: u32 = 0;

/// Whether the client is the destination of the packets. Set by the runner before it loads a driver.
#[unsafe(no_mangle)]
static BENCH_TO_CLIENT: u32 = 0;

/// The length of a frame.
#[inline(always)]
pub(crate) fn length() -> usize {
    if is_ipv6() { FRAME_V6 } else { FRAME_V4 }
}

/// Overwrites a frame with the next packet; `None` where it is too short for that.
#[inline(always)]
pub(crate) fn restore(frame: Frame) -> Option<()> {
    let walk = BENCH_WALK.get_ptr_mut(0)?;
    // SAFETY: the map's only row, which nobody else writes during a run.
    let walk = unsafe { &mut *walk };
    let client = Client::of(walk.next.wrapping_mul(STEP) & walk.mask);
    walk.next = walk.next.wrapping_add(1);
    if is_ipv6() {
        write_v6(frame.checked()?, &walk.words, client);
    } else {
        write_v4(frame.checked()?, &walk.words, client);
    }
    Some(())
}

/// What a flow's client differs in from that of the flow 0, in network byte order: bits for the source and for the destination.
#[derive(Clone, Copy)]
struct Client {
    src: u64,
    dst: u64,
    ports: u32,
}

impl Client {
    #[inline(always)]
    fn of(flow: u32) -> Self {
        let port = u32::from(u16::from_ne_bytes(((flow & PORT_BITS) as u16).to_be_bytes()));
        let addr = u64::from(u32::from_ne_bytes((flow >> PORT_SHIFT).to_be_bytes()));
        if is_to_client() { Self { src: 0, dst: addr, ports: port << 16 } } else { Self { src: addr, dst: 0, ports: port } }
    }
}

#[inline(always)]
fn write_v4(frame: Checked<FRAME_V4>, words: &[u64; STORES], client: Client) {
    write_ethernet(frame, words);
    frame.write::<u64, 14>(words[5]);
    frame.write::<u32, 22>(words[6] as u32);
    frame.write::<u64, 26>(words[7] | client.src | client.dst << 32);
    frame.write::<u32, 34>(words[8] as u32 | client.ports);
    frame.write::<u64, 38>(words[9]);
    frame.write::<u64, 46>(words[10]);
    frame.write::<u64, 54>(words[11]);
    frame.write::<u16, 62>(words[12] as u16);
}

#[inline(always)]
fn write_v6(frame: Checked<FRAME_V6>, words: &[u64; STORES], client: Client) {
    write_ethernet(frame, words);
    frame.write::<u64, 14>(words[5]);
    frame.write::<u64, 22>(words[6]);
    frame.write::<u64, 30>(words[7] | client.src << 32);
    frame.write::<u64, 38>(words[8]);
    frame.write::<u64, 46>(words[9] | client.dst << 32);
    frame.write::<u32, 54>(words[10] as u32 | client.ports);
    frame.write::<u64, 58>(words[11]);
    frame.write::<u64, 66>(words[12]);
    frame.write::<u32, 74>(words[13] as u32);
    frame.write::<u16, 78>(words[14] as u16);
}

#[inline(always)]
fn write_ethernet<const LEN: usize>(frame: Checked<LEN>, words: &[u64; STORES]) {
    frame.write::<u32, 0>(words[0] as u32);
    frame.write::<u16, 4>(words[1] as u16);
    frame.write::<u32, 6>(words[2] as u32);
    frame.write::<u16, 10>(words[3] as u16);
    frame.write::<u16, 12>(words[4] as u16);
}

#[inline(always)]
fn is_ipv6() -> bool {
    // SAFETY: a valid static; volatile, because the loader writes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const BENCH_IPV6) != 0 }
}

#[inline(always)]
fn is_to_client() -> bool {
    // SAFETY: as in `is_ipv6`.
    unsafe { core::ptr::read_volatile(&raw const BENCH_TO_CLIENT) != 0 }
}
