//! A TCP client of the echo server.

use std::{
    io::{self, Read as _, Write as _},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use super::{parse_greeting, patience};

/// An established connection whose server has greeted.
#[derive(Debug)]
pub struct Connection {
    /// The name the server gave.
    pub server: String,
    /// The client's address as the server sees it.
    pub seen: SocketAddr,
    /// The client's own address.
    pub local: SocketAddr,
    /// From the first SYN to the whole greeting.
    pub took: Duration,
    /// Segments that were sent again up to the greeting: lost packets, in practice.
    pub retransmits: u32,
    pub(super) stream: TcpStream,
    pings: u64,
}

impl Connection {
    /// Connects from the current thread's namespace.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let start = Instant::now();
        Self::greeted(TcpStream::connect_timeout(&to, patience())?, start)
    }

    /// The same from a port of the client's that other connections may have, too, if they go elsewhere.
    pub fn open_from(port: u16, to: SocketAddr) -> io::Result<Self> {
        let start = Instant::now();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.connect_timeout(&to.into(), patience())?;
        Self::greeted(socket.into(), start)
    }

    fn greeted(stream: TcpStream, start: Instant) -> io::Result<Self> {
        stream.set_read_timeout(Some(patience()))?;
        stream.set_write_timeout(Some(patience()))?;
        stream.set_nodelay(true)?;
        let (server, seen) = parse_greeting(&read_line(&stream)?)?;
        let (local, took) = (stream.local_addr()?, start.elapsed());
        let retransmits = retransmits(&stream)?;
        Ok(Self { server, seen, local, took, retransmits, stream, pings: 0 })
    }

    /// Connects again and again until a server of this name answers, and says when it did.
    pub fn first_to(to: SocketAddr, server: &str, limit: Duration) -> Result<Instant> {
        const PAUSE: Duration = Duration::from_millis(1);
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if Self::open(to)?.server == server {
                return Ok(Instant::now());
            }
            thread::sleep(PAUSE);
        }
        bail!("{server} did not answer at {to} within {limit:?}")
    }

    /// Fails unless the server gave this name.
    pub fn expect_server(&self, name: &str) -> Result<()> {
        ensure!(self.server == name, "answered by {} instead of {name}", self.server);
        Ok(())
    }

    /// The other end as the kernel says it, which need not be what was dialled.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Sends a line and waits for its echo.
    pub fn ping(&mut self) -> io::Result<()> {
        self.pings += 1;
        let sent = format!("ping {} from {}", self.pings, self.local);
        (&self.stream).write_all(format!("{sent}\n").as_bytes())?;
        let got = read_line(&self.stream)?;
        if got == sent {
            return Ok(());
        }
        let text = format!("sent {sent:?}, got {got:?}");
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

/// How many segments of ours the kernel had to repeat, SYNs included.
fn retransmits(stream: &TcpStream) -> io::Result<u32> {
    // SAFETY: the structure consists of integers, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    let (fd, at) = (stream.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the kernel writes at most `len` bytes to `info`, and both outlive the call.
    match unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) } {
        0 => Ok(info.tcpi_total_retrans),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads up to a line's end. The server sends nothing behind it unasked.
fn read_line(mut stream: &TcpStream) -> io::Result<String> {
    let (mut line, mut piece) = (Vec::new(), [0; 256]);
    loop {
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the server"));
        }
        line.extend_from_slice(&piece[..n]);
        if let Some(text) = line.strip_suffix(b"\n") {
            let text = str::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            return Ok(text.to_owned());
        }
    }
}
