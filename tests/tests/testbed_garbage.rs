//! Bad input: one warning for each piece of it, and nothing else disturbed.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Context as _, Result, ensure};
    use serde_json::{Value, json};
    use shunt_tests::{
        Addrs, Cases, Cni, Daemon, Family, Host as _, Testbed, addr, gate,
        objects::{Endpoint, Service},
        traffic::{EchoServer, Load},
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LIMIT: Duration = Duration::from_mins(1);
    const HUGE_LIMIT: Duration = Duration::from_mins(5);

    #[test]
    fn bad_objects_are_warned_of_once_and_disturb_nothing() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
        let _server = EchoServer::start(&b, TARGET).unwrap();
        let good = service("good", 1).with_endpoints(&[Endpoint::pod(&b)]);
        bed.manifests().write("good", &good).unwrap();
        let daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
        let mut cases = Cases::new();
        let still_works = || -> Result<()> {
            for family in Family::ALL {
                a.connect(addr::cluster_ips(1).at(family, PORT))?.expect_server("b")?;
            }
            Ok(())
        };
        for (name, text) in garbage() {
            cases.run(name, || {
                bed.manifests().write_text(name, &text)?;
                let warned = || warnings(&daemon, name, 1);
                wait::until("a warning", LIMIT, warned)?;
                still_works()
            });
        }
        // The same again is nothing new: a change that is seen afterwards proves that it was read.
        for (name, text) in garbage() {
            bed.manifests().write_text(name, &text).unwrap();
        }
        let later = service("later", 2).with_endpoints(&[Endpoint::pod(&b)]);
        bed.manifests().write("later", &later).unwrap();
        let to = addr::cluster_ips(2).at(Family::V4, PORT);
        wait::until("the later service", LIMIT, || a.connect(to)?.expect_server("b")).unwrap();
        for (name, _) in garbage() {
            cases.run(format!("{name}, again"), || warnings(&daemon, name, 1));
        }
        cases.run("all is well at last", still_works);
        cases.finish();
    }

    /// Most of the endpoints do not exist: what counts is that all are served and nothing else suffers.
    #[test]
    fn fifty_thousand_endpoints_of_one_service_disturb_nothing() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        let [a, b] = ["a", "b"].map(|name| bed.node(0).pod(name).unwrap());
        let _server = EchoServer::start(&b, TARGET).unwrap();
        let good = service("good", 1).with_endpoints(&[Endpoint::pod(&b)]);
        bed.manifests().write("good", &good).unwrap();
        let daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
        let load = Load::start(&a, &[addr::cluster_ips(1).at(Family::V4, PORT)], 50);
        bed.manifests().write("huge", &huge()).unwrap();
        wait::until("50,000 backends", HUGE_LIMIT, || {
            let services = daemon.show("services")?;
            let services = services.as_array().context("a list of services")?;
            let huge = services.iter().find(|it| it["service"] == "default/huge:tcp-80");
            ensure!(huge.is_some_and(|huge| huge["backends"] == 50_000), "{huge:?}");
            Ok(())
        })
        .unwrap();
        bed.manifests().remove("huge").unwrap();
        wait::until("its end", HUGE_LIMIT, || {
            let services = daemon.show("services")?.to_string();
            ensure!(!services.contains("default/huge"), "it is still there");
            Ok(())
        })
        .unwrap();
        load.finish().check(10).unwrap();
    }

    /// One Service with fifty slices of a thousand endpoints each, as the slice controller cuts them.
    fn huge() -> Vec<Value> {
        let service = service("huge", 3);
        let slice = |high: u8| {
            let endpoints: Vec<_> = (0..1_000_u16)
                .map(|n| {
                    let [c, d] = n.to_be_bytes();
                    let v4 = format!("10.{}.{c}.{d}", 128 + high);
                    Endpoint::at(Addrs::new(&v4, "fd00:244:0:99::1"), "n1")
                })
                .collect();
            let [mut slice, _] = service.slices(&endpoints);
            slice["metadata"]["name"] = json!(format!("huge-{high}"));
            slice
        };
        std::iter::once(service.object()).chain((0..50).map(slice)).collect()
    }

    fn service(name: &str, n: u8) -> Service {
        Service::named(name).cluster_ips(addr::cluster_ips(n)).port(PORT, TARGET)
    }

    /// Fails unless the daemon has warned of this just as often.
    fn warnings(daemon: &Daemon, name: &str, n: usize) -> Result<()> {
        let log = daemon.log();
        let warnings = log.lines().filter(|line| line.contains("WARN") && line.contains(name));
        let warnings: Vec<_> = warnings.collect();
        ensure!(warnings.len() == n, "{} warnings of {name}: {warnings:#?}", warnings.len());
        Ok(())
    }

    /// Files of bad manifests; each is named like the object in it.
    fn garbage() -> Vec<(&'static str, String)> {
        let bytes: String = ('\u{1}'..'\u{80}').collect();
        vec![
            ("not-yaml", "kind: Service\n  metadata: [".to_owned()),
            ("control-bytes", bytes),
            ("a-list", "- 1\n- 2\n".to_owned()),
            ("no-kind", yaml(&json!({"metadata": {"name": "no-kind"}}))),
            ("odd-kind", yaml(&with(&["kind"], json!("Sarvice"), "odd-kind"))),
            ("port-zero", yaml(&with(&["spec", "ports", "0", "port"], json!(0), "port-zero"))),
            ("port-huge", yaml(&with(&["spec", "ports", "0", "port"], json!(70_000), "port-huge"))),
            ("bad-ip", yaml(&with(&["spec", "clusterIPs", "0"], json!("10.96.0.300"), "bad-ip"))),
            ("bad-type", yaml(&with(&["spec", "ports"], json!("many"), "bad-type"))),
            ("wrong-family", yaml(&wrong_family())),
            ("no-service", yaml(&without_a_service())),
        ]
    }

    /// A good Service with one field made bad.
    fn with(path: &[&str], bad: Value, name: &str) -> Value {
        // Each has addresses of its own: two that claim the same would be warned of for that.
        let number = 100 + name.bytes().fold(0, |sum: u8, byte| (sum + byte) % 100);
        let mut object = service(name, number).object();
        *object.pointer_mut(&format!("/{}", path.join("/"))).unwrap() = bad;
        object
    }

    /// A slice of IPv4 addresses that holds an IPv6 address.
    fn wrong_family() -> Value {
        let endpoint = Endpoint::at(Addrs::new("10.244.1.99", "fd00:244:0:1::99"), "n1");
        let [mut slice, _] = service("wrong-family", 8).slices(&[endpoint]);
        slice["endpoints"][0]["addresses"][0] = json!("fd00:244:0:1::99");
        slice
    }

    /// A slice of a Service that is not there.
    fn without_a_service() -> Value {
        let [slice, _] = service("no-service", 9).slices(&[Endpoint::at(Addrs::new("10.244.1.99", "fd00:244:0:1::99"), "n1")]);
        slice
    }

    fn yaml(object: &Value) -> String {
        serde_yaml_ng::to_string(object).unwrap()
    }
}
