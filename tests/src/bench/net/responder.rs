//! A server that answers each byte with one, as cheaply as can be: what is measured is the way there.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::sys::socket;

use super::cpus;
use crate::netns::Netns;

/// A running server for one client at a time; it ends when it is dropped and the client has gone.
pub(super) struct Responder {
    listener: TcpListener,
    worker: Option<JoinHandle<()>>,
}

impl Responder {
    pub(super) fn start(netns: &Netns, port: u16) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).context("listening")?;
        let clone = listener.try_clone().context("sharing a socket")?;
        let worker = thread::spawn(move || {
            // On a machine that does not allow it the figures vary more.
            cpus::stay_on_the_first().ok();
            // Accepting fails once the socket is shut down.
            while let Ok((stream, _)) = clone.accept() {
                respond(&stream);
            }
        });
        Ok(Self { listener, worker: Some(worker) })
    }
}

/// Answers until the client has said all.
fn respond(mut stream: &TcpStream) {
    let mut byte = [0];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
    // A client that has gone needs no farewell.
    stream.shutdown(Shutdown::Both).ok();
}

impl Drop for Responder {
    fn drop(&mut self) {
        socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both).ok();
        if let Some(worker) = self.worker.take() {
            drop(worker.join());
        }
    }
}
