//! What is promised, one check each. A check sends real packets and says what it measured.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    report::Report,
    scene::{CHANGING, EMPTY, EMPTY_NODE_PORT, ITSELF, LOCAL, REMOTE, Scene, WEB, WEB_NODE_PORT, cluster_ip, service},
    time,
};
use crate::{
    addr::Family,
    gate,
    host::Host as _,
    pod::Pod,
    traffic::{Connection, Load},
    wait,
};

const REFUSAL_LIMIT: Duration = Duration::from_millis(100);
const CHANGE_LIMIT: Duration = Duration::from_millis(100);
const CONNECTIONS: u32 = 10_000;
/// Clients of the even spread, each with connections of its own.
const CLIENTS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn run(scene: &mut Scene, report: &mut Report) {
    println!("== checks ==");
    for family in Family::ALL {
        from_pods(scene, report, family);
    }
    for family in Family::ALL {
        from_outside(scene, report, family);
    }
    // Older kernels do not tell which namespace a node's processes are in.
    if gate::Need::Kernel(5, 14).is_met() {
        for family in Family::ALL {
            from_processes(scene, report, family);
        }
    }
    for family in Family::ALL {
        without_endpoints(scene, report, family);
    }
    if scene.cluster().server().is_some() {
        report.check("pod -> the API server at its ClusterIP", || api_server(scene));
    }
    report.check("backends are chosen evenly", || spread(scene));
    report.check("an endpoint change is in effect at once", || change(scene));
    report.check("the daemon is killed and started again", || killed(scene));
}

fn from_pods(scene: &Scene, report: &mut Report, family: Family) {
    for (way, service, server) in [("same node", LOCAL, "b"), ("other node", REMOTE, "c"), ("itself (hairpin)", ITSELF, "a")] {
        let to = cluster_ip(service, family);
        let a = || scene.pod("a");
        report.check(&format!("pod -> ClusterIP, {way}, {family} TCP"), || tcp(a()?, to, server));
        report.check(&format!("pod -> ClusterIP, {way}, {family} UDP"), || udp(a()?, to, server));
    }
}

/// A shell on the node, whose socket gets its backend when it connects.
fn from_processes(scene: &Scene, report: &mut Report, family: Family) {
    let node = scene.bed().node(0);
    let loopback = match family {
        Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let ways = [
        ("ClusterIP, same node", cluster_ip(LOCAL, family), &["b"][..]),
        ("ClusterIP, other node", cluster_ip(REMOTE, family), &["c"]),
        ("NodePort at localhost", SocketAddr::new(loopback, WEB_NODE_PORT), &["b", "c", "d"]),
    ];
    for (way, to, servers) in ways {
        report.check(&format!("process of the node -> {way}, {family} TCP"), || {
            let greeting = node.netns().exec(&format!(
                "bash -c 'exec 3<>/dev/tcp/{}/{} && read -r line <&3 && echo \"$line\"'",
                to.ip(),
                to.port()
            ))?;
            let server = greeting.split_whitespace().next().unwrap_or_default();
            ensure!(servers.contains(&server), "answered by {server}");
            Ok(format!("{to} answered by {server}"))
        });
    }
}

/// A backend on the node that was dialled sees the client itself; one elsewhere sees the node, to which it answers.
fn from_outside(scene: &Scene, report: &mut Report, family: Family) {
    let client = scene.bed().client();
    for (node, here) in scene.bed().nodes().iter().zip([&["b"][..], &["c", "d"]]) {
        let to = node.addrs().at(family, WEB_NODE_PORT);
        for (place, is_here) in [("here", true), ("elsewhere", false)] {
            let wanted = |server: &str| here.contains(&server) == is_here;
            let seen_as = if is_here { client.addrs() } else { node.addrs() };
            let way = format!("outside -> NodePort of {}, {place}, {family}", node.name());
            report.check(&format!("{way} TCP"), || {
                until_answered_by(to, wanted, seen_as.of(family), || {
                    let mut connection = client.connect(to)?;
                    connection.ping()?;
                    let Connection { server, seen, local, .. } = connection;
                    ensure!(seen == local || !here.contains(&server.as_str()), "the client is {local}, {server} sees {seen}");
                    Ok((server, seen))
                })
            });
            report.check(&format!("{way} UDP"), || {
                until_answered_by(to, wanted, seen_as.of(family), || {
                    let answer = client.ask(to)?;
                    Ok((answer.server, answer.seen))
                })
            });
        }
    }
}

/// Dials until a wanted backend answers, which has to see this address.
fn until_answered_by(
    to: SocketAddr,
    wanted: impl Fn(&str) -> bool,
    seen_as: IpAddr,
    dial: impl Fn() -> Result<(String, SocketAddr)>,
) -> Result<String> {
    /// Each backend has a third of them.
    const ATTEMPTS: usize = 100;
    for _ in 0..ATTEMPTS {
        let (server, seen) = dial()?;
        if wanted(&server) {
            ensure!(seen.ip() == seen_as, "{server} sees {seen}, and not {seen_as}");
            return Ok(format!("{to} answered by {server}, which sees {seen}"));
        }
    }
    bail!("never answered by such a backend in {ATTEMPTS} attempts")
}

fn without_endpoints(scene: &Scene, report: &mut Report, family: Family) {
    let (inside, outside) = (cluster_ip(EMPTY, family), scene.bed().node(0).addrs().at(family, EMPTY_NODE_PORT));
    let (a, client) = (|| scene.pod("a"), scene.bed().client());
    report.check(&format!("no endpoints, pod -> ClusterIP, {family} TCP"), || {
        a().and_then(|a| refused(inside, || a.connect(inside).map(drop)))
    });
    report.check(&format!("no endpoints, pod -> ClusterIP, {family} UDP"), || {
        a().and_then(|a| refused(inside, || a.ask_connected(inside).map(drop)))
    });
    report.check(&format!("no endpoints, outside -> NodePort, {family} TCP"), || refused(outside, || client.connect(outside).map(drop)));
}

fn tcp(from: &Pod, to: SocketAddr, server: &str) -> Result<String> {
    let mut connection = from.connect(to)?;
    connection.expect_server(server)?;
    connection.ping()?;
    Ok(format!("{to} answered by {server} in {}, which sees {}", time(connection.took), connection.seen))
}

fn udp(from: &Pod, to: SocketAddr, server: &str) -> Result<String> {
    let answer = from.ask(to)?;
    ensure!(answer.server == server, "answered by {}", answer.server);
    Ok(format!("{to} answered by {server} in {}, which sees {}", time(answer.took), answer.seen))
}

fn refused(to: SocketAddr, attempt: impl FnOnce() -> io::Result<()>) -> Result<String> {
    let start = Instant::now();
    let Err(error) = attempt() else { bail!("{to} answers") };
    let took = start.elapsed();
    ensure!(error.kind() == io::ErrorKind::ConnectionRefused, "{to}: {error} after {}", time(took));
    ensure!(took < REFUSAL_LIMIT, "{to} is refused, but only after {}", time(took));
    Ok(format!("{to} is refused after {}", time(took)))
}

/// The one Service that the control plane makes by itself; its endpoint is no pod.
fn api_server(scene: &Scene) -> Result<String> {
    let to = SocketAddr::from(([10, 96, 0, 1], 443));
    let start = Instant::now();
    let connect = || TcpStream::connect_timeout(&to, LIMIT).map(drop);
    scene.pod("a")?.netns().run(connect).with_context(|| format!("connecting to {to}"))?;
    Ok(format!("{to} accepts after {}", time(start.elapsed())))
}

/// The chi-square test; with three backends there are two degrees of freedom, for which the distribution is a plain exponential.
fn spread(scene: &Scene) -> Result<String> {
    const BACKENDS: [&str; 3] = ["b", "c", "d"];
    let (netns, to) = (scene.pod("a")?.netns(), cluster_ip(WEB, Family::V4));
    let start = Instant::now();
    let client = || (0..CONNECTIONS / CLIENTS).map(|_| Ok(Connection::open(to)?.server)).collect::<io::Result<Vec<_>>>();
    let servers = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| netns.run(client))).collect();
        let servers = clients.into_iter().map(|client| client.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        servers.collect::<io::Result<Vec<_>>>()
    })?;
    let took = start.elapsed();
    let mut counts = BTreeMap::from(BACKENDS.map(|name| (name, 0_u32)));
    for server in servers.iter().flatten() {
        *counts.get_mut(server.as_str()).with_context(|| format!("answered by {server}"))? += 1;
    }
    let expected = f64::from(CONNECTIONS) / 3.0;
    let chi_square: f64 = counts.values().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    let p = (-chi_square / 2.0).exp();
    let facts = format!("{CONNECTIONS} connections in {}: {counts:?}, chi-square {chi_square:.2}, p = {p:.3}", time(took));
    ensure!(p > 0.001, "{facts}");
    Ok(facts)
}

/// From what the API server says to the first packet that goes by it, several times.
fn change(scene: &Scene) -> Result<String> {
    /// A machine that has other things to do as well may be late now and then; not always.
    const ROUNDS: u32 = 3;
    let mut last = String::new();
    for _ in 0..ROUNDS {
        let times = joins(scene)?;
        let worst = times.iter().max().copied().unwrap_or_default();
        last = times.iter().map(|it| time(*it)).collect::<Vec<_>>().join(", ");
        if worst < CHANGE_LIMIT {
            return Ok(format!("the new backend serves {last} after the change could be seen"));
        }
    }
    bail!("the new backend served {last} after the change could be seen")
}

/// Two backends take turns: one joins, and when it has been used the other leaves.
fn joins(scene: &Scene) -> Result<Vec<Duration>> {
    let [blue, green] = [scene.pod("blue")?, scene.pod("green")?];
    let service = service(CHANGING);
    let mut endpoints = scene.cluster().endpoints(scene.bed(), &service);
    let (netns, to) = (scene.pod("a")?.netns(), cluster_ip(CHANGING, Family::V4));
    endpoints.set(&[blue], &[green])?;
    let mut times = Vec::new();
    for (old, new) in [(blue, green), (green, blue), (blue, green), (green, blue)] {
        wait::until("the old backend alone", LIMIT, || {
            netns.run(|| (0..20).try_for_each(|_| Connection::open(to)?.expect_server(old.name())))
        })?;
        times.push(thread::scope(|scope| {
            let used = scope.spawn(|| netns.run(|| Connection::first_to(to, new.name(), LIMIT)));
            let changed = endpoints.set(&[old, new], &[])?;
            let used = used.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, anyhow::Error>(used.saturating_duration_since(changed))
        })?);
        endpoints.set(&[new], &[old])?;
    }
    endpoints.set(&[blue, green], &[])?;
    Ok(times)
}

/// Load on the first node while its daemon is killed, gone, and started again.
fn killed(scene: &mut Scene) -> Result<String> {
    const RATE: u32 = 300;
    const GONE: Duration = Duration::from_millis(500);
    let inside = Family::ALL.map(|family| cluster_ip(WEB, family));
    let load = Load::start(scene.pod("a")?, &inside, RATE);
    let daemon = scene.daemon_mut();
    daemon.kill9()?;
    thread::sleep(GONE);
    daemon.restart()?;
    thread::sleep(GONE);
    let report = load.finish();
    report.check(u64::from(RATE) / 2)?;
    Ok(format!("{} connections meanwhile, {} failed", report.ok, report.failed))
}
