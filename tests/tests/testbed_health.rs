//! What a node answers over HTTP: whether it is well, whether it has endpoints of a Service, and what Prometheus gathers.

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        time::Duration,
    };

    use anyhow::{Context as _, Result, ensure};
    use serde_json::{Value, json};
    use shunt_tests::{
        Cases, Cni, Daemon, Family, Host as _, Netns, Node, Testbed, addr, gate,
        objects::{Endpoint, Service},
        traffic::{EchoServer, UdpClient},
        wait,
    };

    /// Far more than a change takes to be in effect, and than a taken port is tried after.
    const SOON: Duration = Duration::from_mins(1);
    const HEALTHZ: u16 = 10_256;
    const METRICS: u16 = 10_249;
    const CHECK: u16 = 31_999;

    struct Answer {
        status: u16,
        head: String,
        body: String,
    }

    impl Answer {
        fn json(&self) -> Result<Value> {
            serde_json::from_str(&self.body).with_context(|| self.body.clone())
        }
    }

    /// Asks from a network namespace.
    fn ask(from: &Netns, at: SocketAddr, path: &str) -> Result<Answer> {
        from.run(|| {
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(5)).with_context(|| format!("connecting to {at}"))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).with_context(|| format!("reading what {at} answers"))?;
            let (head, body) = text.split_once("\r\n\r\n").context("no end of the head")?;
            let status = head.split(' ').nth(1).context("no status")?.parse().context("the status")?;
            Ok(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
        })
    }

    fn healthz(bed: &Testbed, path: &str) -> Result<Answer> {
        ask(bed.client().netns(), bed.node(0).addrs().at(Family::V4, HEALTHZ), path)
    }

    fn metrics(node: &Node) -> Result<String> {
        Ok(ask(node.netns(), SocketAddr::from(([127, 0, 0, 1], METRICS)), "/metrics")?.body)
    }

    /// The value of a sample, none if there is no such one.
    fn sample(text: &str, start: &str) -> Option<f64> {
        text.lines().find_map(|line| line.strip_prefix(start)?.trim().parse().ok())
    }

    fn service() -> Service {
        Service::open("web", 1, 80, 8080).with("externalTrafficPolicy", json!("Local")).with("healthCheckNodePort", json!(CHECK))
    }

    #[test]
    fn load_balancers_and_the_kubelet_hear_how_the_node_is() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Routed).nodes(1).build().unwrap();
        bed.manifests().write("node", &[bed.node(0).manifest()]).unwrap();
        let mut daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
        let mut cases = Cases::new();
        cases.run("a node that is well", || is_well(&bed));
        cases.run("a node that leaves", || leaves(&bed));
        cases.run("a Service's endpoints", || endpoints(&bed));
        cases.run("what is counted", || counted(&bed));
        cases.run("a port that is taken", || taken(&bed, &mut daemon));
        cases.finish();
    }

    fn is_well(bed: &Testbed) -> Result<()> {
        for path in ["/healthz", "/livez"] {
            let answer = healthz(bed, path)?;
            let report = answer.json()?;
            ensure!(answer.status == 200 && report["healthy"] == true && report["status"]["IPv6"]["healthy"] == true, "{}", answer.body);
            ensure!(answer.head.contains("content-type: application/json") && answer.head.contains("nosniff"), "{}", answer.head);
            let eligible = report.get("nodeEligible");
            ensure!(eligible == (path == "/healthz").then_some(&json!(true)), "{path}: {eligible:?}");
        }
        let v6 = ask(bed.client().netns(), bed.node(0).addrs().at(Family::V6, HEALTHZ), "/livez")?;
        ensure!(v6.status == 200, "by IPv6: {}", v6.status);
        Ok(())
    }

    /// An autoscaler's taint is for load balancers, and none of the kubelet's business.
    fn leaves(bed: &Testbed) -> Result<()> {
        let mut leaving = bed.node(0).manifest();
        leaving["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
        bed.manifests().write("node", &[leaving])?;
        wait::until("the node to leave", SOON, || {
            let answer = healthz(bed, "/healthz")?;
            ensure!(answer.status == 503 && answer.json()?["nodeEligible"] == false, "{} {}", answer.status, answer.body);
            Ok(())
        })?;
        ensure!(healthz(bed, "/livez")?.status == 200, "the kubelet is told, too");
        let mut cordoned = bed.node(0).manifest();
        cordoned["spec"]["unschedulable"] = json!(true);
        bed.manifests().write("node", &[cordoned])?;
        wait::until("the node to stay", SOON, || {
            let answer = healthz(bed, "/healthz")?;
            ensure!(answer.status == 200, "{}", answer.body);
            Ok(())
        })
    }

    fn endpoints(bed: &Testbed) -> Result<()> {
        let node = bed.node(0);
        let here = |host| Endpoint::at(addr::pod(0, host), node.name());
        let elsewhere = Endpoint::at(addr::pod(1, 5), "another");
        let hears = |endpoints: &[Endpoint], status: u16, count: usize| {
            bed.manifests().write("web", &service().with_endpoints(endpoints))?;
            wait::until("the answer", SOON, || {
                for family in Family::ALL {
                    let answer = ask(bed.client().netns(), node.addrs().at(family, CHECK), "/")?;
                    let expected = json!({
                        "service": {"namespace": "default", "name": "web"}, "localEndpoints": count, "serviceProxyHealthy": true,
                    });
                    ensure!(answer.status == status && answer.json()? == expected, "{} {}", answer.status, answer.body);
                    let weight = format!("x-load-balancing-endpoint-weight: {count}");
                    ensure!(answer.head.contains(&weight), "{}", answer.head);
                }
                Ok(())
            })
        };
        hears(&[here(5), here(6), elsewhere.clone()], 200, 2)?;
        hears(&[here(5), here(6).not_ready(), elsewhere.clone()], 200, 1)?;
        hears(&[here(5).terminating(), elsewhere], 503, 0)?;
        hears(&[], 503, 0)?;
        let other = Service::open("web", 1, 80, 8080);
        bed.manifests().write("web", &other.with_endpoints(&[here(5)]))?;
        wait::until("the end of the check", SOON, || {
            let refused = ask(bed.client().netns(), node.addrs().at(Family::V4, CHECK), "/").is_err();
            ensure!(refused, "somebody still answers");
            Ok(())
        })
    }

    fn counted(bed: &Testbed) -> Result<()> {
        let node = bed.node(0);
        let (backend, asker) = (node.pod("backend")?, node.pod("asker")?);
        bed.manifests().write("web", &service().with_endpoints(&[Endpoint::pod(&backend)]))?;
        let _server = EchoServer::start(&backend, 8080)?;
        let dialled = addr::cluster_ips(1).at(Family::V4, 80);
        wait::until("an answer", SOON, || Ok(asker.netns().run(|| UdpClient::unconnected(dialled)?.ask()).map(drop)?))?;
        let text = metrics(node)?;
        let of_service = "{namespace=\"default\",service=\"web\",port=\"udp-80\",protocol=\"UDP\"}";
        for (name, least) in [
            (format!("shunt_service_packets_total{of_service}"), 2.0),
            (format!("shunt_service_flows_total{of_service}"), 1.0),
            ("shunt_events_total{reason=\"new_flow\",class=\"note\"}".to_owned(), 1.0),
            ("shunt_map_entries{map=\"FRONTENDS_V4\"}".to_owned(), 6.0),
            ("shunt_synced".to_owned(), 1.0),
            ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}".to_owned(), 1.0),
            ("kubeproxy_sync_proxy_rules_endpoint_changes_total".to_owned(), 2.0),
            ("process_resident_memory_bytes".to_owned(), 1e6),
        ] {
            let value = sample(&text, &format!("{name} "));
            ensure!(value.is_some_and(|value| value >= least), "{name} is {value:?}, in\n{text}");
        }
        ensure!(sample(&text, "shunt_api_server_up ").is_none(), "there is no API server to be up");
        let mode = ask(node.netns(), SocketAddr::from(([127, 0, 0, 1], METRICS)), "/proxyMode")?;
        ensure!(mode.status == 200 && mode.body == "ebpf", "{}", mode.body);
        let outside = ask(bed.client().netns(), node.addrs().at(Family::V4, METRICS), "/metrics");
        ensure!(outside.is_err(), "metrics are not for everybody");
        Ok(())
    }

    /// Somebody else, a kube-proxy that still runs, has the port: it is no reason not to serve, and the port is taken when it is free.
    fn taken(bed: &Testbed, daemon: &mut Daemon) -> Result<()> {
        daemon.terminate()?;
        let other = bed.node(0).netns().run(|| TcpListener::bind(("::", HEALTHZ))).context("taking the port")?;
        daemon.restart()?;
        wait::until("the complaint", SOON, || {
            let complaints = daemon.log().matches("cannot serve health").count();
            ensure!(complaints == 1, "{complaints} complaints:\n{}", daemon.log());
            Ok(())
        })?;
        drop(other);
        wait::until("the port", SOON, || {
            let status = healthz(bed, "/healthz")?.status;
            ensure!(status == 200, "{status}");
            Ok(())
        })
    }
}
