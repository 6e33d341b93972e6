//! A flood of SYNs, each from an address and a port of its own, that nobody goes on with.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};

use crate::{addr, addr::Family, host::Host as _, testbed::Testbed};

/// The network that the SYNs claim to come from, which is for benchmarks (RFC 2544).
const NETWORK: &str = "198.18.0.0/15";
const FIRST_SOURCE: u32 = Ipv4Addr::new(198, 18, 0, 0).to_bits();
/// How many addresses it has.
const SOURCES: u32 = 1 << 17;
const FIRST_PORT: u16 = 1024;
/// How often a burst is sent.
const TICK: Duration = Duration::from_millis(1);

/// A running flood; it ends when it is dropped.
#[derive(Debug)]
pub struct Flood {
    start: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u32>>,
}

impl Flood {
    /// Sends so many SYNs a second from the client outside.
    pub fn from_outside(bed: &Testbed, to: SocketAddrV4, rate: u32) -> Result<Self> {
        let client = addr::client().of(Family::V4);
        bed.router().ip(&format!("route replace {NETWORK} via {client}\n"))?;
        let open = || socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw);
        let socket = bed.client().netns().run(open).context("opening a socket for packets of any kind")?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || send(&socket, to, rate, &stopped));
        Ok(Self { start: Instant::now(), stop, thread: Some(thread) })
    }

    /// Ends it, and says how many SYNs have left in a second.
    pub fn finish(mut self) -> f64 {
        let sent = self.end();
        f64::from(sent) / self.start.elapsed().as_secs_f64()
    }

    fn end(&mut self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return 0 };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends in bursts until it is told to stop, and says how many have left.
fn send(socket: &OwnedFd, to: SocketAddrV4, rate: u32, stop: &AtomicBool) -> u32 {
    let start = Instant::now();
    let (mut tried, mut sent) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let due = start.elapsed().as_secs_f64() * f64::from(rate);
        while f64::from(tried) < due {
            // What finds no room in a queue is lost, as in any flood.
            sent += u32::from(send_one(socket, to, tried).is_ok());
            tried += 1;
        }
        thread::sleep(TICK);
    }
    sent
}

/// Sends SYN number `n`: the numbers go through all sources before a source has another port.
fn send_one(socket: &OwnedFd, to: SocketAddrV4, n: u32) -> io::Result<()> {
    // An odd factor: neighbours are far apart, and none comes twice before all have come.
    let source = FIRST_SOURCE + n.wrapping_mul(0x9e37_79b1) % SOURCES;
    let port = FIRST_PORT + u16::try_from(n / SOURCES).map_err(io::Error::other)?;
    let mut packet = Vec::with_capacity(64);
    let builder = PacketBuilder::ipv4(source.to_be_bytes(), to.ip().octets(), 64).tcp(port, to.port(), n, 64_000).syn();
    builder.write(&mut packet, &[]).map_err(io::Error::other)?;
    sendto(socket.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty())?;
    Ok(())
}
