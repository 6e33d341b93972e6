//! What an established stream keeps of its rate while SYNs from everywhere come to the port that it goes to.
//!
//! The traffic policy is `Local`. With `Cluster` kube-proxy masquerades outside clients, which takes 64,512 client ports and no more: within seconds a
//! flood has all of them, and what is measured then is the search for another.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::{Options, acceptor::Acceptor, running::Running};
use crate::{
    addr::{self, Family},
    bench::figures::{Contender, Row, Summary},
    cni::Cni,
    control_plane::ControlPlane,
    host::Host as _,
    netns::Netns,
    objects::{Endpoint, Service},
    pod::Pod,
    testbed::Testbed,
    traffic::Flood,
    wait,
};

const PORT: u16 = 7000;
/// The Service of the first contender's node: the API server has the first of all itself.
const FIRST: u8 = 10;
const KIB: u64 = 1024;
/// What a stream and a flood take to come up to speed.
const LEAD: Duration = Duration::from_millis(300);
/// How long a stream is watched.
const WATCHED: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_mins(1);
/// Between two looks of a writer that has nothing to do.
const PAUSE: Duration = Duration::from_millis(5);

/// A contender's node with a server behind a node port.
struct Place {
    contender: Contender,
    to: SocketAddr,
    stream: Stream,
    sink: Sink,
    pod: Pod,
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
    let contenders = Contender::OUTSIDE;
    let bed = Testbed::builder().style(Cni::Routed).nodes(u8::try_from(contenders.len())?).build()?;
    let control = ControlPlane::start(&bed)?;
    let places: Vec<_> =
        contenders.into_iter().enumerate().map(|(index, it)| Place::build(&bed, &control, index, it)).collect::<Result<_>>()?;
    let (mut kept, mut sent) = (Summary::new(&contenders), Summary::new(&contenders));
    for round in 0..options.rounds {
        for turn in 0..places.len() {
            let index = (round + turn) % places.len();
            let taken = places[index].take(&bed, rate.get()).with_context(|| format!("a flood, {}", contenders[index]))?;
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
        let n = FIRST + u8::try_from(index)?;
        let service = Service::named(&format!("flooded{index}")).cluster_ips(addr::cluster_ips(n));
        let service = service.node_port(PORT, PORT, addr::node_port(n)).with("externalTrafficPolicy", json!("Local"));
        let service = service.with("ipFamilyPolicy", json!("RequireDualStack"));
        control.api().create_all(&service.with_endpoints(&[Endpoint::pod(&pod)]))?;
        let running = Running::start(contender, bed, control, node)?;
        let to = if contender.is_direct() { pod.addrs().at(Family::V4, PORT) } else { node.addrs().at(Family::V4, addr::node_port(n)) };
        let connect = || bed.client().netns().run(|| TcpStream::connect_timeout(&to, Duration::from_secs(1)));
        let stream = Stream::over(wait::until(&format!("{to} through {contender}"), LIMIT, || Ok(connect()?))?)?;
        Ok(Self { contender, to, stream, sink, pod, _running: running })
    }

    /// Measures one stream before a flood of so many SYNs a second and in it.
    fn take(&self, bed: &Testbed, rate: u32) -> Result<Taken> {
        let SocketAddr::V4(to) = self.to else { bail!("floods are of IPv4") };
        self.forget_half_open()?;
        let writing = self.stream.write();
        thread::sleep(LEAD);
        let before = self.sink.rate();
        let flood = Flood::from_outside(bed, to, rate)?;
        thread::sleep(LEAD);
        let during = self.sink.rate();
        let sent = flood.finish();
        drop(writing);
        ensure!(before > 0.0, "no stream through {}", self.contender);
        Ok(Taken { before, during, sent })
    }

    /// Has connection tracking forget what the last flood has left, so that each one meets a table with room.
    fn forget_half_open(&self) -> Result<()> {
        for state in ["SYN_SENT", "SYN_RECV"] {
            // Where there is none it says so, and fails.
            let delete = format!("conntrack -D -p tcp --state {state} 2>&1 >/dev/null | grep 'flow entries have been deleted'");
            self.pod.node().netns().exec(&delete)?;
        }
        Ok(())
    }
}

/// A connection that is there from the start, with a thread that writes to it at times: new ones may not come through after a flood.
struct Stream {
    connection: TcpStream,
    is_on: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

/// As long as it is there, the stream is written to.
struct Writing<'a>(&'a AtomicBool);

impl Stream {
    fn over(connection: TcpStream) -> Result<Self> {
        let (mut to, is_on) = (connection.try_clone().context("sharing a socket")?, Arc::new(AtomicBool::new(false)));
        let on = Arc::clone(&is_on);
        let writer = thread::spawn(move || {
            let buffer = vec![0; 128 << 10];
            loop {
                if !on.load(Ordering::Relaxed) {
                    thread::sleep(PAUSE);
                }
                // A byte tells whether the connection is still there.
                let bytes = if on.load(Ordering::Relaxed) { buffer.len() } else { 1 };
                if to.write_all(&buffer[..bytes]).is_err() {
                    break;
                }
            }
        });
        Ok(Self { connection, is_on, writer: Some(writer) })
    }

    fn write(&self) -> Writing<'_> {
        self.is_on.store(true, Ordering::Relaxed);
        Writing(&self.is_on)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The other end may have gone.
        self.connection.shutdown(Shutdown::Both).ok();
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
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

    /// KiB that come in a second.
    fn rate(&self) -> f64 {
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        thread::sleep(WATCHED);
        let received = u32::try_from((self.received.load(Ordering::Relaxed) - before) / KIB).unwrap_or(u32::MAX);
        f64::from(received) / start.elapsed().as_secs_f64()
    }
}
