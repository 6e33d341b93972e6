//! A UDP client of the echo server, on a connected or an unconnected socket.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use super::{parse_greeting, patience};

/// A socket that asks one server.
#[derive(Debug)]
pub struct UdpClient {
    socket: UdpSocket,
    to: SocketAddr,
    connected: bool,
    questions: u64,
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The name the server gave.
    pub server: String,
    /// The client's address as the server sees it.
    pub seen: SocketAddr,
    pub took: Duration,
}

impl UdpClient {
    /// Opens a connected socket, which takes answers from `to` only and hears of ICMP errors.
    pub fn connected(to: SocketAddr) -> io::Result<Self> {
        let client = Self::unconnected(to)?;
        client.socket.connect(to)?;
        Ok(Self { connected: true, ..client })
    }

    /// Opens an unconnected socket in the current thread's namespace, as most resolvers do.
    pub fn unconnected(to: SocketAddr) -> io::Result<Self> {
        Self::unconnected_from(0, to)
    }

    /// The same from a port.
    pub fn unconnected_from(port: u16, to: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
        };
        let socket = UdpSocket::bind(any)?;
        Ok(Self { socket, to, connected: false, questions: 0 })
    }

    /// Whom it asks.
    pub fn to(&self) -> SocketAddr {
        self.to
    }

    /// Asks another server from now on, by the same socket, which is not connected.
    pub fn ask_other(&mut self, to: SocketAddr) {
        self.to = to;
    }

    /// Connects the same socket to another server.
    pub fn reconnect(&mut self, to: SocketAddr) -> io::Result<()> {
        self.socket.connect(to)?;
        (self.to, self.connected) = (to, true);
        Ok(())
    }

    /// The other end of a connected socket as the kernel says it.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Waits for anything that nobody has asked for: an error, in practice.
    pub fn wait(&self, limit: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(limit))?;
        self.socket.recv(&mut [0; 16]).map(drop)
    }

    /// Asks once and waits for the answer to this question. An answer from any other address is an error.
    pub fn ask(&mut self) -> io::Result<Answer> {
        self.ask_within(patience())
    }

    /// Asks once and waits no longer than that.
    pub fn ask_within(&mut self, limit: Duration) -> io::Result<Answer> {
        self.ask_at_length(0, limit)
    }

    /// Asks a question of at least so many bytes, which the answer repeats, and waits no longer than that.
    pub fn ask_at_length(&mut self, bytes: usize, limit: Duration) -> io::Result<Answer> {
        self.socket.set_read_timeout(Some(limit))?;
        self.questions += 1;
        let question = format!("question {}{:?<bytes$}", self.questions, "");
        let start = Instant::now();
        if self.connected {
            self.socket.send(question.as_bytes())?;
        } else {
            self.socket.send_to(question.as_bytes(), self.to)?;
        }
        let mut buffer = vec![0; 1 << 16];
        let (n, from) = self.socket.recv_from(&mut buffer)?;
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&buffer[..n]);
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if from != self.to {
            return Err(bad(format!("asked {}, answered by {from}", self.to)));
        }
        match text.split_once('\n') {
            Some((greeting, echo)) if echo == question => {
                let (server, seen) = parse_greeting(greeting)?;
                Ok(Answer { server, seen, took })
            }
            _ => Err(bad(format!("asked {question:?}, answered {text:?}"))),
        }
    }
}
