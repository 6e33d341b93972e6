//! Long-lived connections that are used all the time: the proof that none was cut or moved.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::Connection;
use crate::host::Host;

/// Between two rounds over all connections.
const PAUSE: Duration = Duration::from_millis(5);

/// Connections in use until the report is asked for.
#[derive(Debug)]
pub struct Pinger {
    servers: Vec<String>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<PingReport>,
}

/// What became of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PingReport {
    pub pings: u64,
    /// What broke, at most once per connection.
    pub errors: Vec<String>,
}

impl Pinger {
    /// Opens connections, to the destinations in turn, and starts using them.
    pub fn start(from: &impl Host, to: &[SocketAddr], n_connections: usize) -> io::Result<Self> {
        let targets = to.iter().cycle().take(n_connections);
        let connections: Vec<_> = targets.map(|to| from.connect(*to)).collect::<io::Result<_>>()?;
        let servers = connections.iter().map(|connection| connection.server.clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || ping(connections, &stopped));
        Ok(Self { servers, stop, thread })
    }

    /// The servers the connections were made to.
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// Ends the connections and reports.
    pub fn finish(self) -> PingReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl PingReport {
    /// Fails when a connection broke, or none was used.
    pub fn check(&self) -> Result<()> {
        ensure!(self.errors.is_empty() && self.pings > 0, "established connections broke: {self:?}");
        Ok(())
    }
}

fn ping(mut connections: Vec<Connection>, stop: &AtomicBool) -> PingReport {
    let mut report = PingReport::default();
    while !stop.load(Ordering::Relaxed) {
        connections.retain_mut(|connection| match connection.ping() {
            Ok(()) => {
                report.pings += 1;
                true
            }
            Err(error) => {
                report.errors.push(format!("{} at {}: {error}", connection.local, connection.server));
                false
            }
        });
        thread::sleep(PAUSE);
    }
    report
}
