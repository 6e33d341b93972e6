//! What those need to know of a cluster who do not hold it: how to reach its API server, and how to enter its nodes.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{Proxy, node};
use crate::process;

/// A cluster that is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The namespace in which the API server can be reached.
    pub(super) control_plane: String,
    pub(super) kubectl: PathBuf,
    pub(super) kubeconfig: PathBuf,
    pub(super) programs: PathBuf,
    pub(super) nodes: Vec<NodeState>,
    pub(super) proxy: Proxy,
}

/// One of its nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NodeState {
    pub(super) name: String,
    /// Its first process.
    pub(super) pid: u32,
    pub(super) cgroups: node::Cgroups,
}

impl State {
    /// Runs kubectl with all rights.
    pub fn kubectl(&self) -> Command {
        let mut command = self.beside_the_api_server(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// A command where the API server can be reached.
    pub fn beside_the_api_server(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.control_plane]).arg(program);
        command
    }

    /// Waits until a workload is as it should be, everywhere.
    pub fn roll_out(&self, namespace: &str, workload: &str) -> Result<()> {
        let mut kubectl = self.kubectl();
        process::output(kubectl.args(["-n", namespace, "rollout", "status", workload, "--timeout=5m"])).map(drop)
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.name.as_str())
    }

    /// Removes the groups of nodes that have ended.
    pub(super) fn remove_cgroups(&self) {
        self.nodes.iter().for_each(|node| node.cgroups.remove());
    }

    /// A command inside a node.
    pub fn enter(&self, name: &str) -> Result<Command> {
        let node = self.nodes.iter().find(|node| node.name == name).with_context(|| format!("there is no node {name}"))?;
        node::enter(&node.cgroups, node.pid)
    }

    /// Imports an archive of images into every node.
    pub fn load(&self, archive: &std::path::Path) -> Result<()> {
        let archive = archive.canonicalize().with_context(|| format!("finding {}", archive.display()))?;
        for node in self.nodes() {
            let mut ctr = self.enter(node)?;
            ctr.arg(self.programs.join("ctr")).args(["--address", super::init::SOCKET, "--namespace", "k8s.io", "images", "import"]);
            process::output(ctr.arg(&archive)).with_context(|| format!("loading images into {node}"))?;
        }
        Ok(())
    }
}
