//! What pods, nodes and the client outside have in common: a namespace, addresses, and a way to talk.

use std::{io, net::SocketAddr};

use anyhow::Result;

use crate::{
    addr::Addrs,
    netns::Netns,
    traffic::{Answer, Connection, UdpClient},
};

/// A place that sends and receives traffic.
pub trait Host {
    fn name(&self) -> &str;
    fn netns(&self) -> &Netns;
    fn addrs(&self) -> Addrs;

    /// Opens a TCP connection to an echo server and reads its greeting.
    fn connect(&self, to: SocketAddr) -> io::Result<Connection> {
        self.netns().run(|| Connection::open(to))
    }

    /// Asks an echo server one question from a new unconnected UDP socket.
    fn ask(&self, to: SocketAddr) -> io::Result<Answer> {
        self.netns().run(|| UdpClient::unconnected(to)?.ask())
    }

    /// Asks an echo server one question from a new connected UDP socket, which hears of refusals.
    fn ask_connected(&self, to: SocketAddr) -> io::Result<Answer> {
        self.netns().run(|| UdpClient::connected(to)?.ask())
    }
}

impl<H: Host> Host for &H {
    fn name(&self) -> &str {
        (*self).name()
    }

    fn netns(&self) -> &Netns {
        (*self).netns()
    }

    fn addrs(&self) -> Addrs {
        (*self).addrs()
    }
}

/// Where this process is, as a host: inside a pod, on a node, or beside them.
#[derive(Debug)]
pub(crate) struct Here {
    name: String,
    netns: Netns,
    addrs: Addrs,
}

impl Here {
    /// `addrs`: what is served there, if anything is.
    pub(crate) fn named(name: &str, addrs: Addrs) -> Result<Self> {
        Ok(Self { name: name.to_owned(), netns: Netns::own()?, addrs })
    }
}

impl Host for Here {
    fn name(&self) -> &str {
        &self.name
    }

    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addrs(&self) -> Addrs {
        self.addrs
    }
}
