//! Where the measurements take place: clusters of kind where there is Docker, else clusters of this project's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    cluster::{self, Plan, Plugin, Proxy, State, keeper::Place},
    process, project,
};

const NODES: u8 = 3;
const KIND_CLUSTER: &str = "shunt-bench";
/// What the overlay for kind calls the machine of the API server.
const KIND_API_SERVER: &str = "kind-control-plane";

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Ground {
    /// A kind cluster: nodes are containers of Docker.
    Kind,
    /// A cluster of `cargo xtask cluster`: nodes are namespaces.
    Own,
}

/// A cluster with one proxy. Dropping it ends it.
pub(super) enum Cluster {
    Kind { folder: PathBuf },
    Own { place: Place, state: State },
}

impl Ground {
    /// Kind where it and Docker are there.
    pub(super) fn best() -> Self {
        let works = |program: &str, argument| process::output(Command::new(program).arg(argument)).is_ok();
        if works("kind", "version") && works("docker", "info") { Self::Kind } else { Self::Own }
    }

    /// For whoever reads the figures.
    pub(super) const fn describe(self) -> &'static str {
        match self {
            Self::Kind => "clusters of kind: nodes are containers of Docker, pods have kindnet's network",
            Self::Own => {
                "clusters of `cargo xtask cluster`, not of kind: nodes are namespaces with a kubelet and a containerd each, pods have the CNI plugin ptp's network"
            }
        }
    }

    /// Starts a cluster. A folder of this name will be its own.
    pub(super) fn start(self, proxy: Proxy, folder: &Path) -> Result<Cluster> {
        match self {
            Self::Kind => start_kind(proxy, folder),
            Self::Own => {
                let place = Place::at(folder);
                let started = place.start(Plan { nodes: NODES, plugin: Plugin::Ptp, proxy }).and_then(|()| place.state());
                match started {
                    Ok(state) => Ok(Cluster::Own { place, state }),
                    Err(error) => {
                        place.stop()?;
                        Err(error)
                    }
                }
            }
        }
    }
}

impl Cluster {
    pub(super) fn kubectl(&self) -> Command {
        match self {
            Self::Kind { folder } => {
                let mut kubectl = Command::new("kubectl");
                kubectl.arg("--kubeconfig").arg(kubeconfig(folder));
                kubectl
            }
            Self::Own { state, .. } => state.kubectl(),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let ended = match self {
            Self::Kind { folder } => kind(&["delete", "cluster"]).and_then(|()| fs::remove_dir_all(folder).context("removing a folder")),
            Self::Own { place, .. } => place.stop(),
        };
        if let Err(error) = ended {
            eprintln!("bench: {error:#}");
        }
    }
}

/// As deploy/README.md says, but for the names.
fn start_kind(proxy: Proxy, folder: &Path) -> Result<Cluster> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mode = match proxy {
        Proxy::None | Proxy::Shunt => "none",
        Proxy::KubeProxyNftables => "nftables",
        Proxy::KubeProxyIptables => "iptables",
    };
    let config = fs::read_to_string(project::file("deploy/kind.yaml")?).context("reading kind's configuration")?;
    let config = config.replace("kubeProxyMode: none", &format!("kubeProxyMode: {mode}"));
    let file = folder.join("kind.yaml");
    fs::write(&file, config).context("writing kind's configuration")?;
    let cluster = Cluster::Kind { folder: folder.to_owned() };
    kind(&["create", "cluster", "--config", &shown(&file), "--kubeconfig", &shown(&kubeconfig(folder))])?;
    kind(&["load", "image-archive", &shown(&cluster::images()?)])?;
    if let Some(image) = proxy.image()? {
        kind(&["load", "image-archive", &shown(&image)])?;
        let objects = process::output(cluster.kubectl().arg("kustomize").arg(project::file("deploy/kustomize/kind")?))?;
        let objects = objects.replace(KIND_API_SERVER, &format!("{KIND_CLUSTER}-control-plane"));
        process::feed(cluster.kubectl().args(["apply", "-f", "-"]), &objects)?;
        process::output(cluster.kubectl().args(["-n", "kube-system", "rollout", "status", "daemonset/shunt", "--timeout=5m"]))?;
    }
    Ok(cluster)
}

fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("kubeconfig")
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn kind(arguments: &[&str]) -> Result<()> {
    process::output(Command::new("kind").args(arguments).args(["--name", KIND_CLUSTER])).map(drop)
}
