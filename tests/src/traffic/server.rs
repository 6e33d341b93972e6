//! The echo server: TCP and UDP on a host's addresses, one thread for all connections.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{Backlog, listen},
};

use crate::host::Host;

/// A running server; dropping it closes its sockets and connections.
#[derive(Debug)]
pub struct EchoServer {
    name: String,
    port: u16,
    served: Arc<AtomicU64>,
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl EchoServer {
    /// Starts a server under the host's own name.
    pub fn start(host: &impl Host, port: u16) -> Result<Self> {
        Self::named(host, host.name(), port)
    }

    /// Starts a server on the host's addresses, not on the wildcard: so UDP answers come from the address that was
    /// asked, whatever other addresses the host has.
    pub fn named(host: &impl Host, name: &str, port: u16) -> Result<Self> {
        let addrs = host.addrs().both().map(|addr| SocketAddr::new(addr, port));
        let sockets = host.netns().run(|| Sockets::open(&addrs));
        let sockets = sockets.with_context(|| format!("starting server {name} on {addrs:?}"))?;
        let (stop, stopped) = UnixStream::pair().context("making a pair of sockets")?;
        let served = Arc::new(AtomicU64::new(0));
        let mut server = Loop { name: name.to_owned(), sockets, connections: Vec::new(), served: Arc::clone(&served) };
        let thread = thread::Builder::new().name(format!("server-{name}"));
        let thread = thread.spawn(move || server.run(&stopped)).context("starting a thread")?;
        Ok(Self { name: name.to_owned(), port, served, stop, thread: Some(thread) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections and datagrams it has answered.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        // An error says that the thread is gone already.
        drop(self.stop.write_all(b"x"));
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

#[derive(Debug)]
struct Sockets {
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
}

/// The state of the server's thread.
struct Loop {
    name: String,
    sockets: Sockets,
    connections: Vec<Echo>,
    served: Arc<AtomicU64>,
}

/// One connection with what still has to be sent on it; nothing is read meanwhile.
struct Echo {
    stream: TcpStream,
    pending: Vec<u8>,
}

// === impl Sockets ===

impl Sockets {
    fn open(addrs: &[SocketAddr]) -> io::Result<Self> {
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for addr in addrs {
            let listener = TcpListener::bind(addr)?;
            // As long a queue as the kernel allows: a machine that pauses must not lose connections here, where nobody looks for them.
            listen(&listener, Backlog::MAXALLOWABLE)?;
            listener.set_nonblocking(true)?;
            tcp.push(listener);
            let socket = UdpSocket::bind(addr)?;
            socket.set_nonblocking(true)?;
            udp.push(socket);
        }
        Ok(Self { tcp, udp })
    }
}

// === impl Loop ===

impl Loop {
    fn run(&mut self, stopped: &UnixStream) {
        loop {
            let ready = self.wait(stopped).expect("waiting for sockets");
            if ready[0] {
                return;
            }
            let listeners = self.sockets.tcp.len() + self.sockets.udp.len();
            let mut connections = ready[1 + listeners..].iter();
            self.connections.retain_mut(|echo| {
                let ready = connections.next().is_some_and(|ready| *ready);
                !ready || echo.serve().is_ok()
            });
            if ready[1..=listeners].contains(&true) {
                self.accept();
                self.answer();
            }
        }
    }

    /// Waits until something is ready: the stop signal, the listeners, the connections, in this order.
    fn wait(&self, stopped: &UnixStream) -> nix::Result<Vec<bool>> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![readable(stopped.as_fd())];
        fds.extend(self.sockets.tcp.iter().map(AsFd::as_fd).map(readable));
        fds.extend(self.sockets.udp.iter().map(AsFd::as_fd).map(readable));
        fds.extend(self.connections.iter().map(|echo| PollFd::new(echo.fd(), echo.interest())));
        while let Err(error) = poll(&mut fds, PollTimeout::NONE) {
            if error != nix::errno::Errno::EINTR {
                return Err(error);
            }
        }
        Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect())
    }

    fn accept(&mut self) {
        for listener in &self.sockets.tcp {
            while let Ok((stream, peer)) = listener.accept() {
                self.served.fetch_add(1, Ordering::Relaxed);
                let mut echo = Echo { stream, pending: format!("{} {peer}\n", self.name).into_bytes() };
                if echo.start().is_ok() {
                    self.connections.push(echo);
                }
            }
        }
    }

    fn answer(&self) {
        let mut datagram = vec![0; 1 << 16];
        for socket in &self.sockets.udp {
            while let Ok((n, peer)) = socket.recv_from(&mut datagram) {
                self.served.fetch_add(1, Ordering::Relaxed);
                let mut answer = format!("{} {peer}\n", self.name).into_bytes();
                answer.extend_from_slice(&datagram[..n]);
                // A client that cannot be reached will notice by itself.
                drop(socket.send_to(&answer, peer));
            }
        }
    }
}

// === impl Echo ===

impl Echo {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn interest(&self) -> PollFlags {
        if self.pending.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    fn start(&mut self) -> io::Result<()> {
        self.stream.set_nonblocking(true)?;
        self.stream.set_nodelay(true)?;
        self.send()
    }

    /// Sends what is pending, else echoes what there is to read. An error, or the client's end, closes it.
    fn serve(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            let mut buffer = vec![0; 256 << 10];
            let n = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            buffer.truncate(n);
            self.pending = buffer;
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        match self.stream.write(&self.pending) {
            Ok(n) => drop(self.pending.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
