//! A server that answers each byte with one, as cheaply as can be: what is measured is the way there.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use anyhow::Result;

use super::{acceptor::Acceptor, cpus};
use crate::netns::Netns;

/// Starts one for one client at a time.
pub(super) fn start(netns: &Netns, port: u16) -> Result<Acceptor> {
    Acceptor::start(netns, port, |listener| {
        // On a machine that does not allow it the figures vary more.
        cpus::stay_on_the_first().ok();
        while let Ok((stream, _)) = listener.accept() {
            respond(&stream);
        }
    })
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
