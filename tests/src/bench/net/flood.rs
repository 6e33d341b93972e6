//! What an established stream keeps of its rate while SYNs from everywhere come to the port that it goes to.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    num::NonZero,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket;

use super::{Contender, Options, Row, summary::Summary};
use crate::{
    addr::{self, Family},
    cni::Cni,
    control_plane::{ControlPlane, ProxyMode},
    daemon::Daemon,
    host::Host as _,
    netns::Netns,
    objects::{Endpoint, Service},
    pod::Pod,
    process::Process,
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
    _running: Option<Running>,
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

enum Running {
    Shunt { _daemon: Daemon },
    KubeProxy { _process: Process },
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
        let running = match contender {
            Contender::Direct => None,
            Contender::Shunt => Some(Running::Shunt { _daemon: Daemon::on(node, bed).kubeconfig(control.kubeconfig()).start()? }),
            Contender::Nftables => Some(Running::KubeProxy { _process: control.kube_proxy(node, ProxyMode::Nftables)? }),
            Contender::Iptables => Some(Running::KubeProxy { _process: control.kube_proxy(node, ProxyMode::Iptables)? }),
        };
        let to = if running.is_some() { node.addrs().at(Family::V4, addr::node_port(n)) } else { pod.addrs().at(Family::V4, PORT) };
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
    listener: TcpListener,
    received: Arc<AtomicU64>,
    worker: Option<JoinHandle<()>>,
}

impl Sink {
    fn start(netns: &Netns) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))).context("listening")?;
        let clone = listener.try_clone().context("sharing a socket")?;
        let received = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&received);
        let worker = thread::spawn(move || {
            let mut buffer = vec![0; 128 << 10];
            // Accepting fails once the socket is shut down.
            while let Ok((mut stream, _)) = clone.accept() {
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    counted.fetch_add(n as u64, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { listener, received, worker: Some(worker) })
    }

    /// KiB that come in a second, seen for `turn`.
    fn rate(&self, turn: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        thread::sleep(turn);
        let received = u32::try_from((self.received.load(Ordering::Relaxed) - before) / KIB).unwrap_or(u32::MAX);
        f64::from(received) / start.elapsed().as_secs_f64()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).ok();
        if let Some(worker) = self.worker.take() {
            drop(worker.join());
        }
    }
}
