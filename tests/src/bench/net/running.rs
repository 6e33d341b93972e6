//! What serves the Services on a contender's node.

use anyhow::Result;

use crate::{
    bench::figures::Contender,
    control_plane::{ControlPlane, ProxyMode},
    daemon::Daemon,
    node::Node,
    process::Process,
    testbed::Testbed,
};

/// It ends when it is dropped.
pub(super) enum Running {
    Nothing,
    Shunt { _daemon: Daemon },
    KubeProxy { _process: Process },
}

impl Running {
    pub(super) fn start(contender: Contender, bed: &Testbed, control: &ControlPlane, node: &Node) -> Result<Self> {
        let kube_proxy = |mode| Ok(Self::KubeProxy { _process: control.kube_proxy(node, mode)? });
        let shunt = |sockets| {
            let daemon = Daemon::on(node, bed).kubeconfig(control.kubeconfig()).sockets(sockets);
            Ok(Self::Shunt { _daemon: daemon.start()? })
        };
        match contender {
            Contender::Direct => Ok(Self::Nothing),
            Contender::Beside | Contender::Shunt => shunt("auto"),
            Contender::ByPackets => shunt("host"),
            Contender::Nftables => kube_proxy(ProxyMode::Nftables),
            Contender::Iptables => kube_proxy(ProxyMode::Iptables),
        }
    }
}
