//! Bad input: one warning for each piece of it, and nothing else disturbed.

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Result, ensure};
    use serde_json::{Value, json};
    use shunt_tests::{
        Addrs, Cases, Cni, Daemon, Family, Host as _, Testbed, addr, gate,
        objects::{Endpoint, Service},
        traffic::EchoServer,
        wait,
    };

    const PORT: u16 = 80;
    const TARGET: u16 = 8080;
    const LIMIT: Duration = Duration::from_secs(5);

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

    fn yaml(object: &Value) -> String {
        serde_yaml_ng::to_string(object).unwrap()
    }
}
