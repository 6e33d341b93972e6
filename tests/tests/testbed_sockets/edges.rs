//! What programs do with sockets that few do: all of it has to be as if nobody had exchanged anything.

use std::{
    io::{self, Read as _},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use proxy_common::reason::Reason;
use shunt_tests::{
    Addrs, Cases, Family, Host, addr, gate,
    objects::{Endpoint, Service},
    wait,
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::{
    rules::Rules,
    scene::{Dialled, LIMIT, NEEDS, PORT, Socket as How, TARGET, entries, is_refused, shows},
};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn sockets_are_used_in_every_way() {
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) {
        return;
    }
    let rules = Rules::start("all");
    let a = rules.node().pod("a").unwrap();
    rules.two_services().unwrap();
    let backend = rules.pods[0].addrs();
    let mut cases = Cases::new();
    for (who, caller) in [("a process of the node", rules.node() as &dyn Host), ("a pod", &a)] {
        for family in Family::ALL {
            let mut case = |name: &str, way: &(dyn Fn(Family) -> Result<()> + Sync)| {
                cases.run(format!("{who}: {name}, {family}"), || caller.netns().run(|| way(family)));
            };
            case("a call that does not wait", &without_waiting);
            case("a socket with a port of its own", &bound);
            case("a mark", &marked);
            case("data with the first packet", &fast_open);
            case("several paths", &multipath);
            case("a socket that is disconnected", &disconnected);
            case("a socket that is connected again", &|family| connected_again(family, backend));
            case("a socket that sends to two services", &two_services);
            case("many datagrams in one call", &many_datagrams);
        }
    }
    cases.run("a storm of sockets leaves nothing behind", || rules.storm(&a));
    cases.run("calls that a backend refuses leave nothing behind", || rules.refused_by_the_backend());
    cases.run("a socket that is connected elsewhere leaves nothing behind", || rules.goes_elsewhere());
    cases.run("a late answer of the backend before", || rules.late_answer());
    cases.finish();
}

fn web(family: Family) -> SocketAddr {
    addr::cluster_ips(9).at(family, PORT)
}

/// Another service, whose backend is c.
fn other(family: Family) -> SocketAddr {
    addr::cluster_ips(10).at(family, PORT)
}

fn stream(family: Family, protocol: Option<Protocol>) -> io::Result<Socket> {
    let socket = Socket::new(domain(family), Type::STREAM, protocol)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn datagrams(family: Family) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain(family), Type::DGRAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

/// Reads who greets, and whom he sees.
fn greeted(stream: &mut TcpStream) -> Result<(String, SocketAddr)> {
    let mut greeting = Vec::new();
    while greeting.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).context("reading the greeting")?;
        greeting.push(byte[0]);
    }
    let greeting = String::from_utf8(greeting)?;
    let (server, seen) = greeting.trim().split_once(' ').with_context(|| format!("greeted by {greeting:?}"))?;
    Ok((server.to_owned(), seen.parse()?))
}

/// Sends a question and reads the answer, which has to come from there.
fn asks(socket: &UdpSocket, to: SocketAddr) -> Result<String> {
    socket.send_to(b"question", to)?;
    answered(socket, to)
}

fn answered(socket: &UdpSocket, by: SocketAddr) -> Result<String> {
    let mut answer = [0; 256];
    let (len, from) = socket.recv_from(&mut answer).context("waiting for an answer")?;
    ensure!(from == by, "asked {by}, answered by {from}");
    let answer = String::from_utf8_lossy(&answer[..len]);
    Ok(answer.split(' ').next().unwrap_or_default().to_owned())
}

fn without_waiting(family: Family) -> Result<()> {
    let (socket, to) = (stream(family, None)?, web(family));
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        other => bail!("{other:?}"),
    }
    wait::until("the connection", LIMIT, || {
        ensure!(socket.take_error()?.is_none(), "it has failed");
        shows(socket.peer_addr()?.as_socket().context("a peer")?, to)
    })?;
    socket.set_nonblocking(false)?;
    greeted(&mut socket.into()).map(drop)
}

/// The port is that which was bound, and the address is the one by which packets leave.
fn bound(family: Family) -> Result<()> {
    let any: SocketAddr = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = stream(family, None)?;
    socket.bind(&any.into())?;
    let port = socket.local_addr()?.as_socket().context("an address")?.port();
    socket.connect(&web(family).into())?;
    let local = socket.local_addr()?.as_socket().context("an address")?;
    let (_, seen) = greeted(&mut socket.into())?;
    ensure!(local.port() == port && seen == local, "bound to {port}, then {local}, seen as {seen}");
    Ok(())
}

fn marked(family: Family) -> Result<()> {
    const MARK: u32 = 0x4d2;
    let socket = stream(family, None)?;
    socket.set_mark(MARK)?;
    socket.connect(&web(family).into())?;
    ensure!(socket.mark()? == MARK, "the mark is {:#x}", socket.mark()?);
    greeted(&mut socket.into()).map(drop)
}

/// RFC 7413: the first call that sends is the one that connects.
fn fast_open(family: Family) -> Result<()> {
    let (socket, to) = (stream(family, None)?, web(family));
    let sent = socket.send_to_with_flags(b"ping\n", &SockAddr::from(to), libc::MSG_FASTOPEN).context("sending")?;
    ensure!(sent == 5, "{sent} bytes");
    shows(socket.peer_addr()?.as_socket().context("a peer")?, to)?;
    greeted(&mut socket.into()).map(drop)
}

/// RFC 8684, where the kernel has it: falls back to TCP, for the server knows nothing of it.
fn multipath(family: Family) -> Result<()> {
    const MPTCP: i32 = 262;
    let socket = match stream(family, Some(Protocol::from(MPTCP))) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(()),
        socket => socket?,
    };
    let to = web(family);
    socket.connect_timeout(&to.into(), PATIENCE)?;
    greeted(&mut socket.into()).map(drop)
}

/// Connected, and then to nobody any more: it hears whoever answers, by the address that was asked.
fn disconnected(family: Family) -> Result<()> {
    let (socket, to) = (datagrams(family)?, web(family));
    socket.connect(to)?;
    shows(socket.peer_addr()?, to)?;
    // SAFETY: all zero is an address of no family.
    let nobody: libc::sockaddr = unsafe { MaybeUninit::zeroed().assume_init() };
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: an address of this length, of a socket that is open.
    let result = unsafe { libc::connect(fd, &raw const nobody, 16) };
    ensure!(result == 0, "{}", io::Error::last_os_error());
    ensure!(socket.peer_addr().is_err(), "it still has a peer");
    asks(&socket, to).context("the one that it was connected to")?;
    // Of IPv6, the kernel goes on to hear nobody but whom it was connected to.
    if family == Family::V4 {
        asks(&socket, other(family)).context("another one")?;
    }
    asks(&socket, to).context("the first one again").map(drop)
}

fn connected_again(family: Family, backend: Addrs) -> Result<()> {
    let socket = datagrams(family)?;
    for to in [web(family), other(family), web(family)] {
        socket.connect(to)?;
        shows(socket.peer_addr()?, to)?;
        socket.send(b"question")?;
        let server = answered(&socket, to)?;
        ensure!(to == web(family) || server == "c", "{to} is answered by {server}");
    }
    // What it dials now is the backend itself.
    let to = backend.at(family, TARGET);
    socket.connect(to)?;
    shows(socket.peer_addr()?, to)
}

fn two_services(family: Family) -> Result<()> {
    let socket = datagrams(family)?;
    for _ in 0..3 {
        for to in [web(family), other(family)] {
            let server = asks(&socket, to)?;
            let expected = if to == web(family) { "b" } else { "c" };
            ensure!(server == expected, "{to} is answered by {server}");
        }
    }
    Ok(())
}

fn many_datagrams(family: Family) -> Result<()> {
    let socket = datagrams(family)?;
    let to = [web(family), other(family), web(family)];
    let addrs = to.map(SockAddr::from);
    let mut data = *b"question";
    let mut parts = [libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() }];
    let mut messages = addrs.each_ref().map(|addr| {
        // SAFETY: all zero is a message without anything.
        let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        message.msg_hdr.msg_name = addr.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = addr.len();
        message.msg_hdr.msg_iov = parts.as_mut_ptr();
        message.msg_hdr.msg_iovlen = parts.len();
        message
    });
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: as many messages, whose parts live on.
    let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), u32::try_from(messages.len())?, 0) };
    ensure!(usize::try_from(sent) == Ok(messages.len()), "{sent}: {}", io::Error::last_os_error());
    let mut left = to.to_vec();
    for _ in to {
        let mut answer = [0; 256];
        let (_, from) = socket.recv_from(&mut answer).context("waiting for an answer")?;
        let at = left.iter().position(|addr| *addr == from).with_context(|| format!("answered by {from}"))?;
        left.remove(at);
    }
    Ok(())
}

impl Rules {
    fn two_services(&self) -> Result<()> {
        let [b, c] = &self.pods;
        let service = Service::plain("other", 10, PORT, TARGET);
        self.bed.manifests().write("other", &service.with_endpoints(&[Endpoint::pod(c)]))?;
        let backends =
            |pods: [&_; 2]| self.publish(&[], &pods, || self.called_by(self.node(), Dialled::ClusterIp, How::Tcp, Family::V4).map(drop));
        backends([b, c])?;
        wait::until("the other service", LIMIT, || self.node().connect(other(Family::V6))?.expect_server("c"))?;
        self.bed.manifests().write("web", &Service::open("web", 9, PORT, TARGET).with_endpoints(&[Endpoint::pod(b)]))?;
        wait::until("one backend", LIMIT, || (0..20).try_for_each(|_| self.node().connect(web(Family::V4))?.expect_server("b")))
    }

    /// Far more sockets than there is room for, most of which are closed at once.
    fn storm(&self, a: &dyn Host) -> Result<()> {
        const SOCKETS: usize = 100_000;
        let before = entries(&self.daemon)?;
        let kept = self.node().netns().run(|| datagrams(Family::V4))?;
        asks(&kept, web(Family::V4))?;
        for caller in [self.node() as &dyn Host, a] {
            caller.netns().run(|| {
                for n in 0..SOCKETS / 2 {
                    let family = Family::ALL[n % 2];
                    let socket = datagrams(family)?;
                    // As resolvers do, and as connected ones.
                    if n % 4 < 2 {
                        socket.send_to(b"question", web(family))?;
                    } else {
                        socket.connect(web(family))?;
                    }
                }
                anyhow::Ok(())
            })?;
        }
        asks(&kept, web(Family::V4))?;
        drop(kept);
        let after = entries(&self.daemon)?;
        ensure!(after <= before, "{before} entries became {after}");
        Ok(())
    }

    /// A socket that has waited for such a call has no peer any more when it is closed.
    fn refused_by_the_backend(&self) -> Result<()> {
        const CALLS: usize = 50;
        let [b, _] = &self.pods;
        let deaf = Service::plain("deaf", 12, PORT, TARGET + 2);
        self.bed.manifests().write("deaf", &deaf.with_endpoints(&[Endpoint::pod(b)]))?;
        let before = entries(&self.daemon)?;
        let given = || self.daemon.counted(Reason::SocketDialled.name());
        for family in Family::ALL {
            let to = addr::cluster_ips(12).at(family, PORT);
            let call = || is_refused(self.node().netns().run(|| TcpStream::connect(to)).map_err(Into::into));
            wait::until("a call that gets as far as the backend", LIMIT, || {
                let calls = given()?;
                call()?;
                ensure!(given()? > calls, "refused by nobody");
                Ok(())
            })?;
            (0..CALLS).try_for_each(|_| call())?;
            self.refused_and_taken(family, to)?;
            self.refused_and_taken_elsewhere(family, to)?;
        }
        let after = entries(&self.daemon)?;
        ensure!(after <= before, "{before} entries became {after}");
        Ok(())
    }

    /// A socket that the backend has refused, as it was dialled by a Service, and then takes, dialled by itself.
    fn refused_and_taken(&self, family: Family, service: SocketAddr) -> Result<()> {
        let [b, _] = &self.pods;
        let backend = b.addrs().at(family, TARGET + 2);
        let socket = self.node().netns().run(|| stream(family, None))?;
        is_refused(socket.connect(&service.into()).map_err(Into::into))?;
        let _listener = b.netns().run(|| TcpListener::bind(backend))?;
        socket.connect(&backend.into())?;
        shows(socket.peer_addr()?.as_socket().context("a peer")?, backend)
    }

    /// The same that then dials a third one.
    fn refused_and_taken_elsewhere(&self, family: Family, service: SocketAddr) -> Result<()> {
        let [_, c] = &self.pods;
        let other = c.addrs().at(family, TARGET + 3);
        let _listener = c.netns().run(|| TcpListener::bind(other))?;
        let before = entries(&self.daemon)?;
        let socket = self.node().netns().run(|| stream(family, None))?;
        is_refused(socket.connect(&service.into()).map_err(Into::into))?;
        socket.connect(&other.into())?;
        let after = entries(&self.daemon)?;
        ensure!(after == before, "{before} entries became {after}");
        Ok(())
    }

    /// Of datagrams: what it was given before is no reason any more to close it.
    fn goes_elsewhere(&self) -> Result<()> {
        let [_, c] = &self.pods;
        for family in Family::ALL {
            let before = entries(&self.daemon)?;
            let socket = self.node().netns().run(|| datagrams(family))?;
            socket.connect(web(family))?;
            let given = entries(&self.daemon)?;
            ensure!(given == before + 1, "{before} entries became {given} for a backend");
            socket.connect(c.addrs().at(family, TARGET + 3))?;
            let after = entries(&self.daemon)?;
            ensure!(after == before, "{before} entries became {after}");
        }
        Ok(())
    }

    /// What was asked before the backend went is answered by it, under the name that was asked.
    fn late_answer(&self) -> Result<()> {
        let [b, c] = &self.pods;
        let slow = b.netns().run(|| UdpSocket::bind(b.addrs().at(Family::V4, TARGET + 1)))?;
        let service = |pod| Service::plain("slow", 11, PORT, TARGET + 1).with_endpoints(&[Endpoint::pod(pod)]);
        let to = addr::cluster_ips(11).at(Family::V4, PORT);
        self.bed.manifests().write("slow", &service(b))?;
        let socket = self.node().netns().run(|| datagrams(Family::V4))?;
        slow.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut question = [0; 16];
        let asker = wait::until("a question", LIMIT, || {
            socket.send_to(b"first", to)?;
            Ok(slow.recv_from(&mut question)?.1)
        })?;
        self.bed.manifests().write("slow", &service(c))?;
        wait::until("the other backend", LIMIT, || {
            socket.send_to(b"second", to)?;
            ensure!(slow.recv_from(&mut question).is_err(), "it still gets questions");
            Ok(())
        })?;
        slow.send_to(b"late answer", asker)?;
        answered(&socket, to).map(drop)
    }
}
