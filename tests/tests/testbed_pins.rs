//! What is attached to devices and what is pinned, while devices, pins and the daemon come and go.

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, thread, time::Duration};

    use anyhow::{Context as _, Result, ensure};
    use proxy_common::maps;
    use proxy_daemon::maps::{Direction, Pins};
    use serde_json::{Value, json};
    use shunt_tests::{
        Cases, Cni, Daemon, Host as _, Node, Testbed, addr, gate,
        objects::{Endpoint, Service},
        tcx, wait,
    };

    const TCX: &[gate::Need] = &[gate::Need::Kernel(6, 6)];
    const TC: &[gate::Need] = &[gate::Need::Tool("tc"), gate::Need::Kernel(6, 6)];
    /// A pod's device that is made by hand, so that it has the same index whenever it is made.
    const DEVICE: &str = "pod0";
    const INDEX: u32 = 500;
    /// Far more than a change of a device takes to be served, and than is waited until one is tried again.
    const SOON: Duration = Duration::from_mins(1);
    /// In which a device that cannot be served is tried again.
    const SEVERAL_TRIES: Duration = Duration::from_secs(3);

    #[test]
    fn programs_follow_devices() {
        if gate::skip(gate::DAEMON) || gate::skip(TCX) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        add_device(&bed).unwrap();
        let mut daemon = Daemon::on(bed.node(0), &bed).args(&["--workload-devices", "pod*"]).start().unwrap();
        let mut cases = Cases::new();
        cases.run("a device is ours no longer, and is again", || ours_no_longer(&mut daemon));
        cases.run("another device has the index", || replaced(&mut daemon, &bed));
        cases.run("a device cannot be served", || unserved(&mut daemon));
        cases.run("another version of the layout was there", || other_version(&mut daemon));
        cases.finish();
    }

    /// A name that no pattern fits takes a device away from us. The daemon is one that found the programs attached.
    fn ours_no_longer(daemon: &mut Daemon) -> Result<()> {
        daemon.restart()?;
        let node = daemon.node().clone();
        has(&node, DEVICE, [1, 1])?;
        node.netns().ip(&format!("link set {DEVICE} name other\n"))?;
        wait::until("no program", SOON, || has(&node, "other", [0, 0]))?;
        node.netns().ip(&format!("link set other name {DEVICE}\n"))?;
        wait::until("the programs", SOON, || has(&node, DEVICE, [1, 1]))
    }

    fn replaced(daemon: &mut Daemon, bed: &Testbed) -> Result<()> {
        daemon.terminate()?;
        daemon.node().netns().ip(&format!("link del {DEVICE}\n"))?;
        add_device(bed)?;
        daemon.restart()?;
        has(daemon.node(), DEVICE, [1, 1])
    }

    /// A folder lies where the link should be pinned. The programs of the run before go on, and are exchanged when it has gone.
    fn unserved(daemon: &mut Daemon) -> Result<()> {
        daemon.terminate()?;
        let pins = Pins::new(daemon.bpffs());
        let (pin, aside) = (pins.link(INDEX, Direction::Egress), pins.links().join("aside"));
        fs::rename(&pin, &aside).context("putting the link aside")?;
        fs::create_dir(&pin).context("putting a folder there")?;
        daemon.restart()?;
        let complained_once = || {
            let complaints = daemon.log().matches("cannot be served").count();
            ensure!(complaints == 1, "{complaints} complaints:\n{}", daemon.log());
            Ok(())
        };
        wait::until("the complaint", SOON, complained_once)?;
        thread::sleep(SEVERAL_TRIES);
        complained_once()?;
        has(daemon.node(), DEVICE, [1, 1])?;
        fs::remove_dir(&pin).context("removing the folder")?;
        fs::rename(&aside, &pin).context("putting the link back")?;
        wait::until("this run's programs", SOON, || {
            let shown = daemon.show("devices")?;
            let device = shown.as_array().into_iter().flatten().find(|device| device["name"] == DEVICE).cloned().unwrap_or_default();
            // The name of another run's program is cut off after 15 characters: it is not pinned any more.
            let programs = ["ingress", "egress"].map(|hook| device[hook]["program"].clone());
            ensure!(programs == ["workload_ingress", "workload_egress"].map(Value::from), "there are {programs:?}");
            Ok(())
        })
    }

    /// What another version has left goes on until this one has taken over.
    fn other_version(daemon: &mut Daemon) -> Result<()> {
        daemon.terminate()?;
        let pins = Pins::new(daemon.bpffs());
        let other = pins.root().join("v0");
        fs::rename(pins.version(), &other).context("making it another version's")?;
        has(daemon.node(), DEVICE, [1, 1])?;
        daemon.restart()?;
        wait::until("the other version's end", SOON, || {
            ensure!(!other.exists(), "{} is still there:\n{}", other.display(), daemon.log());
            has(daemon.node(), DEVICE, [1, 1])
        })?;
        let said = daemon.log().matches("other versions of shunt").count();
        ensure!(said == 1, "said {said} times:\n{}", daemon.log());
        Ok(())
    }

    /// A device that is the node's by the Node object alone is served before that is heard of again: the API server may be away.
    #[test]
    fn a_device_of_the_nodes_address_keeps_its_programs_while_the_daemon_starts() {
        if gate::skip(gate::DAEMON) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        let node = bed.node(0);
        node.netns().ip("link add inner type bridge\naddr add 198.51.100.9/24 dev inner\nlink set inner up\n").unwrap();
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name()},
            "status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.9"}]},
        });
        bed.manifests().write("node", &[object]).unwrap();
        let mut daemon = Daemon::on(node, &bed).start().unwrap();
        let attached = |log: &str| log.find("attached iface=\"inner\"");
        wait::until("the device's programs", SOON, || attached(&daemon.log()).context("it is not served")).unwrap();
        daemon.terminate().unwrap();
        let before = daemon.log().len();
        daemon.restart().unwrap();
        let log = daemon.log().split_off(before);
        let started = log.find("started bpffs=").expect("the daemon says when it has started");
        assert!(attached(&log).is_some_and(|at| at < started), "{log}");
        assert!(!log.contains("detached iface=\"inner\""), "{log}");
    }

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

    #[test]
    fn filters_go_without_pins_too() {
        if gate::skip(gate::DAEMON) || gate::skip(TC) {
            return;
        }
        let bed = Testbed::builder().style(Cni::Bridge).nodes(1).build().unwrap();
        add_device(&bed).unwrap();
        let mut daemon = Daemon::on(bed.node(0), &bed).start().unwrap();
        daemon.terminate().unwrap();
        let pins = Pins::new(daemon.bpffs());
        let program = pins.programs().join("uplink_ingress");
        // What there is on a kernel without tcx, and the same of somebody else's.
        let ours = format!("direct-action object-pinned {}", program.display());
        for (device, program) in [("eth0", ours.as_str()), (DEVICE, "bytecode '1,6 0 0 4294967295'")] {
            let line = format!(
                "tc qdisc add dev {device} clsact && \
                 tc filter add dev {device} ingress protocol all pref 50 handle 0x5348554e bpf {program}"
            );
            bed.node(0).netns().exec(&line).unwrap();
        }
        for dir in [pins.links(), pins.programs(), pins.maps()] {
            remove_all_but(&dir, &[]).unwrap();
            fs::remove_dir(dir).unwrap();
        }
        fs::remove_dir(pins.version()).unwrap();
        daemon.cleanup().unwrap();
        let filters = |device| bed.node(0).netns().exec(&format!("tc filter show dev {device} ingress")).unwrap();
        assert_eq!(filters("eth0"), "");
        assert!(!pins.root().exists(), "an empty folder is left");
        assert!(filters(DEVICE).contains("handle 0x5348554e"), "{}", filters(DEVICE));
    }

    fn add_device(bed: &Testbed) -> Result<()> {
        let elsewhere = bed.client().netns().name();
        bed.node(0)
            .netns()
            .ip(&format!("link add {DEVICE} index {INDEX} type veth peer name peer0 netns {elsewhere}\nlink set {DEVICE} up\n"))
    }

    /// Whether a device has as many programs at ingress and at egress.
    fn has(node: &Node, device: &str, expected: [u32; 2]) -> Result<()> {
        let programs = tcx::count(node.netns(), device)?;
        ensure!(programs == expected, "{device} has {programs:?} programs");
        Ok(())
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
