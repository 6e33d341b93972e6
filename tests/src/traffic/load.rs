//! New connections, or questions from new sockets, at a steady rate, every one counted: the proof that none was dropped.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Connection, UdpClient};
use crate::{host::Host, wait};

/// Enough to keep the rate while some wait for a repeated SYN.
const WORKERS: u64 = 16;
/// For any number of connections that a test waits for.
const LIMIT: Duration = Duration::from_mins(2);

/// A running load generator; it ends when asked for its report, or when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// What became of the connections, or questions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LoadReport {
    pub ok: u64,
    pub failed: u64,
    /// Those connections of `ok` that lost a packet on the way.
    pub lossy: u64,
    pub first_error: Option<String>,
    pub by_server: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Shared {
    opens: Opens,
    to: Vec<SocketAddr>,
    interval: Duration,
    start: Instant,
    next: AtomicU64,
    stop: AtomicBool,
    report: Mutex<LoadReport>,
}

impl Load {
    /// Starts opening `rate` connections a second from a host, to the destinations in turn; fewer where everything takes longer.
    pub fn start(from: &impl Host, to: &[SocketAddr], rate: u32) -> Self {
        Self::of(Opens::Connection, from, to, rate)
    }

    /// The same with questions in datagrams, each from a socket of its own, connected or not by turns.
    pub fn of_questions(from: &impl Host, to: &[SocketAddr], rate: u32) -> Self {
        Self::of(Opens::Question, from, to, rate)
    }

    fn of(opens: Opens, from: &impl Host, to: &[SocketAddr], rate: u32) -> Self {
        let shared = Arc::new(Shared {
            opens,
            to: to.to_vec(),
            interval: wait::at_most(Duration::from_secs(1)) / rate,
            start: Instant::now(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            report: Mutex::default(),
        });
        let worker = |_| {
            let (netns, shared) = (from.netns().clone(), Arc::clone(&shared));
            thread::spawn(move || netns.run(|| shared.work()))
        };
        Self { workers: (0..WORKERS).map(worker).collect(), shared }
    }

    /// What was counted so far.
    pub fn so_far(&self) -> LoadReport {
        self.shared.report.lock().expect("no worker panics").clone()
    }

    /// Waits until there are as many more connections.
    pub fn wait_for(&self, n: u64) -> Result<()> {
        let goal = self.so_far().ok + n;
        wait::until("more connections", LIMIT, || {
            let report = self.so_far();
            ensure!(report.ok >= goal, "{goal} were to be opened: {report:?}");
            Ok(())
        })
    }

    /// Ends the load, the connections under way included, and reports.
    pub fn finish(mut self) -> LoadReport {
        self.stop();
        self.so_far()
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

impl LoadReport {
    /// Fails when a connection failed or lost a packet, or hardly any was opened.
    ///
    /// A packet that was lost is seen by the one that is sent in its stead, after a second. Where everything takes longer, so may an answer, and
    /// that is no loss. One that went untranslated to a node port would still be seen there: the connection is refused.
    pub fn check(&self, at_least: u64) -> Result<()> {
        ensure!(self.failed == 0, "connections failed: {self:?}");
        ensure!(self.lossy == 0 || wait::slowness() > 1, "connections lost packets: {self:?}");
        ensure!(self.ok >= at_least, "fewer than {at_least} connections were opened: {self:?}");
        Ok(())
    }

    /// Adds another load's counts.
    pub fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.lossy += other.lossy;
        self.first_error = self.first_error.take().or(other.first_error);
        for (server, n) in other.by_server {
            *self.by_server.entry(server).or_default() += n;
        }
    }
}

impl Shared {
    /// Takes the next connection's number, waits for its time, opens it, until told to stop.
    fn work(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let turn = u32::try_from(number).expect("a test opens fewer connections");
            let due = self.start + self.interval * turn;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let (round, index) = (turn as usize / self.to.len(), turn as usize % self.to.len());
            let to = self.to[index];
            let result = self.opens.open(to, round.is_multiple_of(2));
            self.report.lock().expect("no worker panics").count(to, result);
        }
    }
}

/// What is opened each time.
#[derive(Clone, Copy, Debug)]
enum Opens {
    Connection,
    Question,
}

/// Who answered, and whether that took a packet more than once.
struct Answered {
    server: String,
    lossy: bool,
}

impl Opens {
    fn open(self, to: SocketAddr, connected: bool) -> io::Result<Answered> {
        match self {
            Self::Connection => {
                let Connection { server, retransmits, .. } = Connection::open(to)?;
                Ok(Answered { server, lossy: retransmits > 0 })
            }
            Self::Question => {
                let open = if connected { UdpClient::connected } else { UdpClient::unconnected };
                Ok(Answered { server: open(to)?.ask()?.server, lossy: false })
            }
        }
    }
}

impl LoadReport {
    fn count(&mut self, to: SocketAddr, result: io::Result<Answered>) {
        match result {
            Ok(Answered { server, lossy }) => {
                self.ok += 1;
                self.lossy += u64::from(lossy);
                *self.by_server.entry(server).or_default() += 1;
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(format!("{to}: {error}"));
            }
        }
    }
}
