//! What the programs say of packets when the daemon was started with `--bpf-log`.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::ensure;
    use shunt_tests::{
        Cni, Daemon, Family, Host as _, Testbed, addr, gate,
        objects::{Endpoint, Service},
        traffic::EchoServer,
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;

    #[test]
    fn every_packet_of_a_service_is_logged() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).build().unwrap();
        let [client, backend] = ["client", "backend"].map(|name| bed.node(0).pod(name).unwrap());
        let _server = EchoServer::start(&backend, TARGET).unwrap();
        for (name, number, endpoints) in [("web", 1, vec![Endpoint::pod(&backend)]), ("empty", 2, Vec::new())] {
            let service = Service::named(name).cluster_ips(addr::cluster_ips(number)).port(PORT, TARGET);
            bed.manifests().write(name, &service.with_endpoints(&endpoints)).unwrap();
        }
        let daemon = Daemon::on(bed.node(0), &bed).args(&["--bpf-log"]).start().unwrap();
        for family in Family::ALL {
            let [web, empty] = [1, 2].map(|number| addr::cluster_ips(number).at(family, PORT));
            let local = client.connect(web).unwrap().local;
            client.ask(web).unwrap();
            client.connect(empty).unwrap_err();
            let target = backend.addrs().at(family, TARGET);
            let lines = [
                ("goes on translated", format!("TCP {local} > {target}")),
                ("goes on translated", format!("TCP {web} > {local}")),
                ("goes on translated", format!("UDP {web} > ")),
                ("goes back", format!("TCP {empty} > ")),
            ];
            for (end, packet) in lines {
                wait::until("the line in the log", Duration::from_mins(1), || {
                    let log = daemon.log();
                    let is_there =
                        log.lines().any(|line| line.split_once(end).is_some_and(|(_, rest)| rest.trim_start().starts_with(&packet)));
                    ensure!(is_there, "no {end:?} with {packet:?} in\n{log}");
                    Ok(())
                })
                .unwrap();
            }
        }
    }
}
