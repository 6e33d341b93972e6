//! Who serves the cluster's Services: nobody, Shunt as its users deploy it, or the real kube-proxy, to compare with.

use std::{env, fmt, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    addr::{Addrs, CLUSTER_CIDR},
    control_plane::{self, ProxyMode},
    manifests, project,
};

/// Shunt's objects are in this namespace and have this name.
const NAMESPACE: &str = "kube-system";
const SHUNT: &str = "shunt";
const KUBE_PROXY: &str = "kube-proxy";
/// `API_SERVER`, `MODE`, `CLUSTER_CIDR` and `PROGRAMS` stand for what is known later.
const KUBE_PROXY_OBJECTS: &str = include_str!("kube-proxy.yaml");

/// What a cluster has as its service proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Proxy {
    /// Whatever its user brings.
    None,
    /// The `DaemonSet` of deploy/kustomize/base with the image of target/image.
    Shunt,
    /// The real one, with rules of nftables.
    KubeProxyNftables,
    /// The real one, with rules of iptables.
    KubeProxyIptables,
}

impl Proxy {
    /// The name of its `DaemonSet`.
    pub(super) const fn daemon_set(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Shunt => Some(SHUNT),
            Self::KubeProxyNftables | Self::KubeProxyIptables => Some(KUBE_PROXY),
        }
    }

    /// An archive of images that its pods need, beside what nodes have anyway.
    pub(crate) fn image(self) -> Result<Option<PathBuf>> {
        if self != Self::Shunt {
            return Ok(None);
        }
        let image = env::var_os("SHUNT_IMAGE").map_or_else(|| project::place("target/image/shunt-amd64.tar"), PathBuf::from);
        ensure!(image.is_file(), "there is no image of Shunt at {}: `cargo xtask image` makes it", image.display());
        Ok(Some(image))
    }

    /// What its users apply.
    pub(super) fn objects(self, api_server: Addrs) -> Result<Vec<Value>> {
        let kube_proxy = |mode: ProxyMode| {
            let program = control_plane::find_kube_proxy()?;
            let programs = program.parent().context("kube-proxy lies in no folder")?.display().to_string();
            let text = KUBE_PROXY_OBJECTS.replace("API_SERVER", &api_server.v4.to_string()).replace("MODE", mode.name());
            manifests::parse(&text.replace("CLUSTER_CIDR", CLUSTER_CIDR).replace("PROGRAMS", &programs))
                .context("reading the objects of kube-proxy")
        };
        match self {
            Self::None => Ok(Vec::new()),
            Self::Shunt => {
                let servers = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": SHUNT, "namespace": NAMESPACE},
                    "data": {"api-servers": format!("https://{}:6443", api_server.v4)},
                });
                Ok([vec![servers], control_plane::deployment()?].concat())
            }
            Self::KubeProxyNftables => kube_proxy(ProxyMode::Nftables),
            Self::KubeProxyIptables => kube_proxy(ProxyMode::Iptables),
        }
    }
}

/// As one asks for it.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}
