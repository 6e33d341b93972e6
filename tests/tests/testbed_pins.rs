//! What is pinned, while pins and the daemon come and go.

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use anyhow::{Context as _, Result};
    use proxy_common::maps;
    use proxy_daemon::maps::Pins;
    use serde_json::Value;
    use shunt_tests::{
        Cni, Daemon, Testbed, addr, gate,
        objects::{Endpoint, Service},
    };

    /// What a run leaves that was killed between one map and the next.
    #[test]
    fn a_start_that_ended_half_way_is_made_up_for() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        let mut daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
        daemon.terminate().unwrap();
        let pins = Pins::new(daemon.bpffs());
        for dir in [pins.links(), pins.programs()] {
            remove_all_but(&dir, &[]).unwrap();
        }
        remove_all_but(&pins.maps(), &[maps::NODE]).unwrap();
        daemon.restart().unwrap();
        daemon.terminate().unwrap();

        // The maps that are missing are made by a run that was told other sizes: the smaller ones count.
        for map in [maps::FRONTENDS_V6, maps::SERVICES] {
            fs::remove_file(pins.maps().join(map)).unwrap();
        }
        let services: Vec<Value> = (1..=40).flat_map(service).collect();
        bed.manifests().write("services", &services).unwrap();
        let small = Daemon::on(bed.node(0), &bed).args(&["--frontends", "16", "--services", "16"]).start().unwrap();
        let log = small.log();
        assert!(log.contains("there is room for"), "{log}");
        assert!(!log.contains("the kernel refused"), "{log}");
    }

    /// A dual-stack service with one backend, where nobody need be.
    fn service(n: u8) -> Vec<Value> {
        let service = Service::named(&format!("s{n}")).cluster_ips(addr::cluster_ips(n)).port(80, 8080);
        service.with_endpoints(&[Endpoint::at(addr::pod(1, n), "n1")])
    }

    fn remove_all_but(dir: &Path, kept: &[&str]) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !kept.iter().any(|kept| entry.file_name() == *kept) {
                fs::remove_file(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
            }
        }
        Ok(())
    }
}
