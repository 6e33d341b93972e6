//! A real cluster on this machine: nodes as namespaces, each with a kubelet and a containerd of its own, pods through CNI plugins, a scheduler, and
//! the cluster's DNS. Who serves the Services is for its user to say, or to bring.
//!
//! In: how many nodes, which CNI plugin, which service proxy. Out: the cluster, for as long as the process lives that holds it (`keeper`).

pub mod dial;
pub mod e2e;
pub mod init;
pub mod keeper;
pub mod renew;

mod dns;
mod node;
mod programs;
mod proxy;
mod settings;
mod state;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;

use self::{node::Node, programs::Programs};
pub use self::{proxy::Proxy, state::State};
use crate::{
    addr::Addrs,
    control_plane::{self, ControlPlane},
    name::BedName,
    netns::Netns,
    process::Process,
    underlay::Underlay,
    wait,
};

/// Pods that come up: images are there, but a machine may do other things.
const READY_LIMIT: Duration = Duration::from_mins(5);

/// Which CNI plugin pods get their network from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plugin {
    /// Ports of one bridge.
    Bridge,
    /// A routed device for each pod, as in kind.
    Ptp,
}

/// What a cluster will look like.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub nodes: u8,
    pub plugin: Plugin,
    pub proxy: Proxy,
}

impl Plan {
    /// As the program `cluster` is told it.
    fn arguments(self) -> [String; 6] {
        let Self { nodes, plugin, proxy } = self;
        ["--nodes", &nodes.to_string(), "--cni", &plugin.to_string(), "--proxy", &proxy.to_string()].map(str::to_owned)
    }
}

/// As one asks for it.
impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// An archive of the images that the pods of every cluster are made of.
pub(crate) fn images() -> Result<PathBuf> {
    Ok(Programs::find()?.images())
}

/// The running cluster. Dropping it ends all of it.
#[derive(Debug)]
pub struct Cluster {
    // In this order: pods' containers end with their nodes, before what they ask.
    nodes: Vec<Node>,
    _scheduler: Process,
    programs: Programs,
    proxy: Proxy,
    control_plane: ControlPlane,
    _underlay: Underlay,
}

impl Cluster {
    /// Starts it in a folder that is there, and waits until its proxy and DNS serve.
    pub fn start(plan: Plan, folder: &Path) -> Result<Self> {
        ensure!((1..=20).contains(&plan.nodes), "a cluster has 1 to 20 nodes");
        let (programs, image) = (Programs::find()?, plan.proxy.image()?);
        let bed = BedName::next();
        let underlay = Underlay::create(&bed)?;
        let nodes = (1..=plan.nodes).map(|index| Node::create(&bed, index, &underlay, folder)).collect::<Result<Vec<_>>>()?;
        let host = Netns::create(&bed.part("control-plane"))?;
        let addrs = Addrs::new("172.30.0.2", "fd30::2");
        underlay.attach("control-plane", &host, addrs)?;
        for node in &nodes {
            let others = nodes.iter().filter(|other| other.name() != node.name()).map(Node::netns);
            others.chain([&host, underlay.router()]).try_for_each(|netns| netns.ip(&node.routes()))?;
        }
        let at = folder.join("control-plane");
        fs::create_dir_all(&at).with_context(|| format!("making {}", at.display()))?;
        let control_plane = ControlPlane::start_for_kubelets(host, addrs, &at)?;
        let mut scheduler = control_plane.command(&programs.path("kube-scheduler"), "kube-scheduler")?;
        scheduler.args(["--leader-elect=false", "--authentication-skip-lookup"]);
        let scheduler = Process::spawn(&mut scheduler)?;
        let mut cluster = Self { nodes, _scheduler: scheduler, programs, proxy: plan.proxy, control_plane, _underlay: underlay };
        for node in &mut cluster.nodes {
            cluster.control_plane.api().create(&node.object())?;
            node.start(&cluster.control_plane, plan.plugin, &cluster.programs)?;
        }
        cluster.nodes.iter_mut().try_for_each(Node::wait_until_up)?;
        if let Some(image) = image {
            cluster.state()?.load(&image)?;
        }
        for object in [plan.proxy.objects(addrs)?, dns::objects(addrs)?].concat() {
            cluster.control_plane.api().apply(&object)?;
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let ask = |arguments: &[&str]| {
            let mut kubectl = self.control_plane.kubectl()?;
            crate::process::output(kubectl.args(arguments)).map(drop)
        };
        wait::until("ready nodes", READY_LIMIT, || ask(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=10s"]))?;
        let workloads =
            self.proxy.daemon_set().map(|name| format!("daemonset/{name}")).into_iter().chain(["deployment/coredns".to_owned()]);
        for workload in workloads {
            wait::until(&workload, READY_LIMIT, || ask(&["-n", "kube-system", "rollout", "status", &workload, "--timeout=10s"]))?;
        }
        Ok(())
    }

    /// What those need to know who do not hold it.
    pub(crate) fn state(&self) -> Result<State> {
        Ok(State {
            control_plane: self.control_plane.netns().name().to_owned(),
            kubectl: control_plane::find_kubectl()?,
            kubeconfig: self.control_plane.admin().to_owned(),
            programs: self.programs.folder().to_owned(),
            nodes: self.nodes.iter().map(Node::state).collect::<Result<_>>()?,
            proxy: self.proxy,
        })
    }
}
