//! A listener with a thread that accepts.

use std::{
    net::{Ipv6Addr, TcpListener},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::sys::socket;

use crate::netns::Netns;

/// Listens until it is dropped and whoever is connected has gone.
pub(super) struct Acceptor {
    listener: TcpListener,
    worker: Option<JoinHandle<()>>,
}

impl Acceptor {
    /// Starts the work, to which accepting fails once it is to end.
    pub(super) fn start(netns: &Netns, port: u16, work: impl FnOnce(&TcpListener) + Send + 'static) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).context("listening")?;
        let clone = listener.try_clone().context("sharing a socket")?;
        let worker = thread::spawn(move || work(&clone));
        Ok(Self { listener, worker: Some(worker) })
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).ok();
        if let Some(worker) = self.worker.take() {
            drop(worker.join());
        }
    }
}
