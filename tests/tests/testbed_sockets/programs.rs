//! Programs that know nothing of any of this, as they come from the distribution: of the node's own, and in a pod.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use shunt_tests::{
    Cases, Cni, Daemon, Family, Host, Pod, Process, Testbed, addr,
    gate::{self, Need},
    objects::{Endpoint, Service},
    traffic::EchoServer,
    wait,
};

use crate::scene::{LIMIT, NEEDS, PORT, TARGET};

const PROGRAMS: &[Need] = &[
    Need::Tool("curl"),
    Need::Tool("dig"),
    Need::Tool("dnsmasq"),
    Need::Tool("getent"),
    Need::Tool("iperf3"),
    Need::Tool("musl-gcc"),
    Need::Tool("nc"),
    Need::Tool("openssl"),
];

/// The services by their numbers, the ports that they have, and those of their backend.
const ECHO: (u8, u16, u16) = (1, PORT, TARGET);
const WEB: (u8, u16, u16) = (2, 443, 8443);
const NAMES: (u8, u16, u16) = (3, 53, 5353);
const IPERF: (u8, u16, u16) = (4, 5201, 5202);

/// What the server of names knows.
const NAME: &str = "shunt.test";
const ADDRESSES: [&str; 2] = ["192.0.2.77", "2001:db8::77"];

/// Asks the C library that it is linked with for a name's addresses.
const RESOLVE: &str = r"
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (argc < 2 || getaddrinfo(argv[1], 0, &hints, &found)) return 1;
    for (; found; found = found->ai_next) {
        char text[INET6_ADDRSTRLEN];
        void *addr = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                 : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
        puts(inet_ntop(found->ai_family, addr, text, sizeof text));
    }
}
";

#[test]
fn programs_of_the_distribution_reach_services() {
    if gate::skip(gate::DAEMON) || gate::skip(NEEDS) || gate::skip(PROGRAMS) {
        return;
    }
    let bed = Testbed::builder().style(Cni::Bridge).build().unwrap();
    let node = bed.node(0);
    let (a, b) = (node.pod("a").unwrap(), bed.node(1).pod("b").unwrap());
    let echo = EchoServer::start(&b, TARGET).unwrap();
    let servers = servers(&b, bed.files()).unwrap();
    for (name, (n, port, target)) in [("echo", ECHO), ("web", WEB), ("names", NAMES), ("iperf", IPERF)] {
        bed.manifests().write(name, &Service::plain(name, n, port, target).with_endpoints(&[Endpoint::pod(&b)])).unwrap();
    }
    let resolve = compile(bed.files()).unwrap();
    let daemon = Daemon::on(node, &bed).sockets("all").start().unwrap();
    let mut cases = Cases::new();
    for (who, caller) in [("a process of the node", node as &dyn Host), ("a pod", &a)] {
        for family in Family::ALL {
            let mut case = |name: &str, program: &dyn Fn() -> Result<()>| cases.run(format!("{who}: {name}, {family}"), program);
            case("curl", &|| curl(caller, family));
            case("dig", &|| dig(caller, family, ""));
            case("dig by TCP", &|| dig(caller, family, "+tcp"));
            case("a name by the GNU C library", &|| lookup(caller, family, bed.files(), "getent ahosts"));
            case("a name by musl", &|| lookup(caller, family, bed.files(), &resolve.display().to_string()));
            case("iperf3", &|| iperf(caller, family, ""));
            case("iperf3 by UDP", &|| iperf(caller, family, "--udp"));
            case("nc by UDP", &|| nc(caller, family));
        }
    }
    cases.run("each was given its backend when it called", || {
        let dialled = daemon.counted("socket_dialled")?;
        ensure!(dialled >= 32, "only {dialled}");
        Ok(())
    });
    cases.finish();
    drop((daemon, servers, echo));
}

/// A server of each kind in the backend.
fn servers(b: &Pod, files: &Path) -> Result<[Process; 3]> {
    let [v4, v6] = ADDRESSES;
    let certificate = files.join("web.pem").display().to_string();
    b.netns().exec(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=web -out {certificate} -keyout {certificate}.key \
         2>/dev/null"
    ))?;
    let web = format!("exec openssl s_server -quiet -www -accept {} -cert {certificate} -key {certificate}.key", WEB.2);
    let names = format!(
        "exec dnsmasq --keep-in-foreground --no-resolv --no-hosts --conf-file=/dev/null --pid-file= --user=root --port={} \
         --host-record={NAME},{v4},{v6} --log-facility=/dev/null",
        NAMES.2
    );
    let iperf = format!("exec iperf3 --server --port {} >/dev/null", IPERF.2);
    Ok([b.netns().spawn(&web)?, b.netns().spawn(&names)?, b.netns().spawn(&iperf)?])
}

/// A program that is linked with musl.
fn compile(files: &Path) -> Result<PathBuf> {
    let program = files.join("resolve");
    let mut compiler = Command::new("musl-gcc").args(["-static", "-x", "c", "-o"]).arg(&program).arg("-").stdin(Stdio::piped()).spawn()?;
    compiler.stdin.take().context("the compiler has an input")?.write_all(RESOLVE.as_bytes())?;
    ensure!(compiler.wait()?.success(), "musl-gcc has failed");
    Ok(program)
}

fn cluster_ip(family: Family, (n, ..): (u8, u16, u16)) -> String {
    addr::cluster_ips(n).of(family).to_string()
}

fn curl(caller: &dyn Host, family: Family) -> Result<()> {
    let to = addr::cluster_ips(WEB.0).at(family, WEB.1);
    // The servers need a moment to begin, here and below.
    wait::until("curl's answer", LIMIT, || {
        let page = caller.netns().exec(&format!("curl --silent --show-error --insecure --max-time 10 https://{to}/"))?;
        ensure!(page.contains("s_server"), "the page is {page}");
        Ok(())
    })
}

fn dig(caller: &dyn Host, family: Family, how: &str) -> Result<()> {
    let server = cluster_ip(family, NAMES);
    wait::until("dig's answer", LIMIT, || {
        let answer = caller.netns().exec(&format!("dig {how} +short +tries=1 +time=3 @{server} {NAME} A"))?;
        ensure!(answer.trim() == ADDRESSES[0], "the answer is {answer:?}");
        Ok(())
    })
}

/// Has a program look a name up at the service, as all programs do it: by what `/etc/resolv.conf` says.
fn lookup(caller: &dyn Host, family: Family, files: &Path, program: &str) -> Result<()> {
    let config = files.join(format!("resolv-{}-{family}.conf", caller.name()));
    fs::write(&config, format!("nameserver {}\noptions timeout:3 attempts:1\n", cluster_ip(family, NAMES)))?;
    let mounts = format!("mount --bind {} /etc/resolv.conf", config.display());
    wait::until("the name's addresses", LIMIT, || {
        let found = caller.netns().exec(&format!("unshare --mount sh -c '{mounts} && exec {program} {NAME}'"))?;
        let missing = ADDRESSES.iter().find(|addr| !found.contains(**addr));
        ensure!(missing.is_none(), "{missing:?} is not among {found:?}");
        Ok(())
    })
}

fn iperf(caller: &dyn Host, family: Family, how: &str) -> Result<()> {
    let (to, port) = (cluster_ip(family, IPERF), IPERF.1);
    wait::until("iperf's report", LIMIT, || {
        let report = caller.netns().exec(&format!("iperf3 --client {to} --port {port} --time 1 --json {how}"))?;
        let report: serde_json::Value = serde_json::from_str(&report)?;
        ensure!(report["error"].is_null(), "{}", report["error"]);
        let received = &report["end"][if how.is_empty() { "sum_received" } else { "sum" }]["bytes"];
        ensure!(received.as_u64().is_some_and(|bytes| bytes > 10_000), "{received} bytes came through");
        Ok(())
    })
}

fn nc(caller: &dyn Host, family: Family) -> Result<()> {
    let to = cluster_ip(family, ECHO);
    let answer = caller.netns().exec(&format!("printf question | nc -u -w 1 {to} {}", ECHO.1))?;
    ensure!(answer.starts_with("b ") && answer.ends_with("question"), "the answer is {answer:?}");
    Ok(())
}
