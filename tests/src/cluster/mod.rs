//! A real cluster on this machine: nodes as namespaces, each with a kubelet and a containerd of its own, pods through CNI plugins, a scheduler, and
//! the cluster's DNS. No service proxy: that is for who uses it.
//!
//! In: how many nodes, and which CNI plugin. Out: the cluster, for as long as the process lives that holds it (`keeper`).

pub mod e2e;
pub mod init;
pub mod keeper;

mod dns;
mod node;
mod programs;
mod settings;
mod state;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

pub use self::state::State;
use self::{node::Node, programs::Programs};
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
}

/// The running cluster. Dropping it ends all of it.
#[derive(Debug)]
pub struct Cluster {
    // In this order: pods' containers end with their nodes, before what they ask.
    nodes: Vec<Node>,
    _scheduler: Process,
    programs: Programs,
    control_plane: ControlPlane,
    _underlay: Underlay,
}

impl Cluster {
    /// Starts it in a folder that is there, and waits until DNS serves.
    pub fn start(plan: Plan, folder: &Path) -> Result<Self> {
        ensure!((1..=20).contains(&plan.nodes), "a cluster has 1 to 20 nodes");
        let programs = Programs::find()?;
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
        let mut cluster = Self { nodes, _scheduler: scheduler, programs, control_plane, _underlay: underlay };
        for node in &mut cluster.nodes {
            cluster.control_plane.api().create(&node.object())?;
            node.start(&cluster.control_plane, plan.plugin, &cluster.programs)?;
        }
        cluster.nodes.iter_mut().try_for_each(Node::wait_until_up)?;
        for object in dns::objects(addrs)? {
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
        wait::until("the cluster's DNS", READY_LIMIT, || {
            ask(&["-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=10s"])
        })
    }

    /// What those need to know who do not hold it.
    pub(crate) fn state(&self) -> Result<State> {
        Ok(State {
            control_plane: self.control_plane.netns().name().to_owned(),
            kubectl: control_plane::find_kubectl()?,
            kubeconfig: self.control_plane.admin().to_owned(),
            programs: self.programs.folder().to_owned(),
            nodes: self.nodes.iter().map(Node::state).collect::<Result<_>>()?,
        })
    }
}
