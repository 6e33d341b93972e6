//! Associations of SCTP through a Service, with real sockets, where the kernel has them: on the node, across nodes, from outside, and to oneself.

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        thread,
        time::Duration,
    };

    use anyhow::{Context as _, Result, ensure};
    use nix::sys::socket::{self, Backlog, SockaddrStorage, setsockopt, sockopt};
    use shunt_tests::{
        Addrs, Cases, Cni, Daemon, Family, Host, Testbed, addr, gate,
        gate::Need,
        objects::{Endpoint, Service},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    /// An INIT that is lost is repeated after three seconds.
    const PATIENCE: Duration = Duration::from_secs(10);
    const HERE: u8 = 1;
    const ELSEWHERE: u8 = 2;
    const ITSELF: u8 = 3;
    const LARGE: usize = 100_000;
    /// A few packets. One of all that is sent would take more than the receiver has room for, which breaks the association off.
    const MESSAGE: usize = 5000;

    #[test]
    fn associations_go_through_services() {
        if gate::skip(gate::DAEMON) || gate::skip(&[Need::Sctp]) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
        let c = bed.node(1).pod("c").unwrap();
        for pod in [&a, &b, &c] {
            serve(pod).unwrap();
        }
        for (n, pod) in [(HERE, &b), (ELSEWHERE, &c), (ITSELF, &a)] {
            let service = Service::named(&format!("service-{n}")).cluster_ips(addr::cluster_ips(n)).external_ips(addr::external_ips(n));
            let service = service.sctp(PORT, TARGET);
            bed.manifests().write(service.name(), &service.with_endpoints(&[Endpoint::pod(pod)])).unwrap();
        }
        let mut cases = Cases::new();
        check(&mut cases, "without Shunt", &a, (b.addrs(), TARGET), ("b", true));
        let daemons = [0, 1].map(|node| Daemon::on(bed.node(node), &bed).start().unwrap());
        check(&mut cases, "without a Service", &a, (b.addrs(), TARGET), ("b", true));
        let to = |n| (addr::cluster_ips(n), PORT);
        check(&mut cases, "backend on the node", &a, to(HERE), ("b", true));
        check(&mut cases, "backend on another node", &a, to(ELSEWHERE), ("c", true));
        check(&mut cases, "itself", &a, to(ITSELF), ("a", false));
        let to = |n| (addr::external_ips(n), PORT);
        check(&mut cases, "from outside, backend on the node", bed.client(), to(HERE), ("b", true));
        check(&mut cases, "from outside, backend on another node", bed.client(), to(ELSEWHERE), ("c", false));
        cases.finish();
        drop(daemons);
    }

    /// The server answers, echoes messages of several packets, and sees the client, or the node in its place.
    fn check(cases: &mut Cases, name: &str, from: &impl Host, (to, port): (Addrs, u16), (server, as_client): (&str, bool)) {
        for family in Family::ALL {
            cases.run(format!("{name}, {family}"), || {
                let mut association = from.netns().run(|| open(to.at(family, port))).context("opening")?;
                let greeting = line(&mut association).context("waiting for the greeting")?;
                let (name, seen) = greeting.split_once(' ').unwrap_or_default();
                ensure!(name == server, "greeted with {greeting:?}");
                let seen: SocketAddr = seen.parse()?;
                ensure!(from.addrs().contains(seen.ip()) == as_client, "the server sees {seen}");
                let sent: Vec<u8> = (0..LARGE).map(|n| n.to_le_bytes()[0]).collect();
                for message in sent.chunks(MESSAGE) {
                    association.write_all(message).context("sending")?;
                    let mut echoed = vec![0; message.len()];
                    association.read_exact(&mut echoed).context("waiting for the echo")?;
                    ensure!(echoed == message, "what was echoed is something else");
                }
                Ok(())
            });
        }
    }

    /// Greets each client with the pod's name and whom it sees, and echoes what he sends, until the process ends.
    fn serve(pod: &impl Host) -> Result<()> {
        for family in Family::ALL {
            let at = pod.addrs().at(family, TARGET);
            let listener = pod.netns().run(|| -> io::Result<TcpListener> {
                let socket = socket(at)?;
                socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
                socket::listen(&socket, Backlog::new(8)?)?;
                Ok(socket.into())
            })?;
            let name = pod.name().to_owned();
            thread::spawn(move || {
                for client in listener.incoming().flatten() {
                    // One that breaks off is none of the others' business.
                    if let Err(error) = echo(&name, client) {
                        println!("{name}: {error}");
                    }
                }
            });
        }
        Ok(())
    }

    fn echo(name: &str, mut client: TcpStream) -> io::Result<()> {
        let greeting = format!("{name} {}\n", client.peer_addr()?);
        client.write_all(greeting.as_bytes())?;
        let mut buffer = vec![0; MESSAGE];
        loop {
            match client.read(&mut buffer)? {
                0 => return Ok(()),
                n => client.write_all(&buffer[..n])?,
            }
        }
    }

    fn open(to: SocketAddr) -> io::Result<TcpStream> {
        let socket = socket(to)?;
        let patience = wait::at_most(PATIENCE);
        let limit = nix::sys::time::TimeVal::new(patience.as_secs().try_into().unwrap_or(i64::MAX), 0);
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(socket.into())
    }

    /// A socket whose association is used like a connection of TCP (RFC 6458 section 4).
    fn socket(addr: SocketAddr) -> io::Result<OwnedFd> {
        let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        // SAFETY: takes numbers only.
        let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { OwnedFd::from_raw_fd(socket) })
    }

    fn line(from: &mut TcpStream) -> io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        loop {
            from.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
    }
}
