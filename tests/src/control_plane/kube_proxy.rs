//! The real kube-proxy on a node of the testbed, to compare with.

use std::{fs::File, process::Stdio};

use anyhow::{Context as _, Result};

use super::ControlPlane;
use crate::{addr::CLUSTER_CIDR, host::Host as _, node::Node, process::Process};

pub(super) const PROGRAM: &str = "kube-proxy";

/// What it programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    Iptables,
    Nftables,
}

impl ProxyMode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

impl ControlPlane {
    /// Starts kube-proxy on a node. What it has made there goes with the node.
    pub fn kube_proxy(&self, node: &Node, mode: ProxyMode) -> Result<Process> {
        let binary = self.servers.binaries.path(PROGRAM);
        let log = self.servers.folder.join(format!("{PROGRAM}-{}.log", node.name()));
        let log = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = node.netns().command(&binary);
        command.arg("--kubeconfig").arg(&self.admin).args(["--hostname-override", node.name(), "--cluster-cidr", CLUSTER_CIDR]);
        command.args(["--proxy-mode", mode.name()]);
        // These are settings of the machine, which the nodes share.
        command.args([
            "--conntrack-max-per-core",
            "0",
            "--conntrack-tcp-timeout-established",
            "0s",
            "--conntrack-tcp-timeout-close-wait",
            "0s",
        ]);
        command.stdout(Stdio::null()).stderr(log);
        Process::spawn(&mut command).with_context(|| format!("starting {}", binary.display()))
    }
}
