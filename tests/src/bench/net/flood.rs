//! What an established stream keeps of its rate while SYNs from everywhere come to the port that it goes to.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Contender, Options, Row, acceptor::Acceptor, running::Running, summary::Summary};
use crate::{
    addr::{self, Family},
    cni::Cni,
    control_plane::ControlPlane,
    host::Host as _,
    netns::Netns,
    objects::{Endpoint, Service},
    pod::Pod,
    testbed::Testbed,
    traffic::{Flood, patience},
    wait,
};

const PORT: u16 = 7000;
const KIB: u64 = 1024;
/// What a stream and a flood take to come up to speed.
const LEAD: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_mins(1);

/// A contender's node with a server behind a node port.
struct Place {
    contender: Contender,
    to: SocketAddr,
    sink: Sink,
    _pod: Pod,
    _running: Running,
}

/// What was measured in a turn.
struct Taken {
    /// KiB a second of the stream before the flood.
    before: f64,
    /// The same during it.
    during: f64,
    /// SYNs a second.
    sent: f64,
}

/// Measures all contenders, with so many SYNs a second.
pub(super) fn measure(rate: NonZero<u32>, options: &Options) -> Result<Vec<Row>> {
    let contenders = Contender::ALL;
    let bed = Testbed::builder().style(Cni::Routed).nodes(u8::try_from(contenders.len())?).build()?;
    let control = ControlPlane::start(&bed)?;
    let places: Vec<_> =
        contenders.into_iter().enumerate().map(|(index, it)| Place::build(&bed, &control, index, it)).collect::<Result<_>>()?;
    let (mut kept, mut sent) = (Summary::new(&contenders), Summary::new(&contenders));
    for round in 0..options.rounds {
        for turn in 0..places.len() {
            let index = (round + turn) % places.len();
            let taken = places[index].take(&bed, rate.get(), options.turn).with_context(|| format!("a flood, {}", contenders[index]))?;
            kept.note(index, 100.0 * taken.during / taken.before);
            sent.note(index, taken.sent);
        }
    }
    let services = u32::try_from(contenders.len())?;
    let rows = |summary: &Summary, measure, unit| summary.rows(measure, "from outside", services, unit);
    Ok([rows(&kept, "stream in a SYN flood", "% kept"), rows(&sent, "SYNs of the flood", "1/s")].concat())
}

impl Place {
    fn build(bed: &Testbed, control: &ControlPlane, index: usize, contender: Contender) -> Result<Self> {
        let node = bed.node(index);
        let pod = node.pod(&format!("server{index}"))?;
        let sink = Sink::start(pod.netns())?;
        let n = 1 + u8::try_from(index)?;
        let service = Service::named(&format!("flooded{index}")).cluster_ips(addr::cluster_ips(n));
        let service = service.node_port(PORT, PORT, addr::node_port(n));
        control.api().create_all(&service.with_endpoints(&[Endpoint::pod(&pod)]))?;
        let running = Running::start(contender, bed, control, node)?;
        let to = match contender {
            Contender::Direct => pod.addrs().at(Family::V4, PORT),
            Contender::Shunt | Contender::Nftables | Contender::Iptables => node.addrs().at(Family::V4, addr::node_port(n)),
        };
        wait::until(&format!("{to} through {contender}"), LIMIT, || {
            bed.client().netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)))?;
            Ok(())
        })?;
        Ok(Self { contender, to, sink, _pod: pod, _running: running })
    }

    /// Measures one stream before a flood of so many SYNs a second and in it.
    fn take(&self, bed: &Testbed, rate: u32, turn: Duration) -> Result<Taken> {
        let SocketAddr::V4(to) = self.to else { bail!("floods are of IPv4") };
        let stream = bed.client().netns().run(|| TcpStream::connect_timeout(&self.to, patience())).context("connecting")?;
        let writing = stream.try_clone().context("sharing a socket")?;
        let writer = thread::spawn(move || write_all(&writing));
        thread::sleep(LEAD);
        let before = self.sink.rate(turn);
        let flood = Flood::from_outside(bed, to, rate)?;
        thread::sleep(LEAD);
        let during = self.sink.rate(turn);
        let sent = flood.finish();
        // The writer may have ended by itself, which shows in the figures.
        stream.shutdown(Shutdown::Both).ok();
        drop(writer.join());
        ensure!(before > 0.0, "no stream through {}", self.contender);
        Ok(Taken { before, during, sent })
    }
}

/// Writes until the stream ends.
fn write_all(mut stream: &TcpStream) {
    let buffer = vec![0; 128 << 10];
    while stream.write_all(&buffer).is_ok() {}
}

/// A server that reads from one connection at a time and counts.
struct Sink {
    received: Arc<AtomicU64>,
    _acceptor: Acceptor,
}

impl Sink {
    fn start(netns: &Netns) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let acceptor = Acceptor::start(netns, PORT, move |listener| {
            let mut buffer = vec![0; 128 << 10];
            while let Ok((mut stream, _)) = listener.accept() {
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    counted.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        })?;
        Ok(Self { received, _acceptor: acceptor })
    }

    /// KiB that come in a second, seen for `turn`.
    fn rate(&self, turn: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        thread::sleep(turn);
        let received = u32::try_from((self.received.load(Ordering::Relaxed) - before) / KIB).unwrap_or(u32::MAX);
        f64::from(received) / start.elapsed().as_secs_f64()
    }
}
