//! A real control plane on the testbed: etcd, kube-apiserver and the controller that makes `EndpointSlices`.
//!
//! It stands on a host of its own beside the nodes, knows them as Node objects, and has the manifest that users deploy
//! applied: the daemon gets a token of that manifest's service account, so it may do what the manifest allows and no
//! more. [`ControlPlane::run_pod`] speaks for the kubelets. All of it ends when it is dropped.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use self::{
    binaries::Binaries,
    certificates::Certificates,
    servers::{Kubelets, Servers},
};
use crate::{
    addr::Addrs, manifests, netns::Netns, node::Node, objects::Service, pod::Pod, process::Process, project, testbed::Testbed, wait,
};

mod api;
mod binaries;
mod certificates;
mod kube_proxy;
mod kubeconfig;
mod kubelet;
mod servers;
mod slices;

pub use self::{api::Api, kube_proxy::ProxyMode, slices::SliceWatch};

/// The first start writes a few hundred objects; a machine may run several tests at once.
const START_LIMIT: Duration = Duration::from_mins(5);
const STOP_LIMIT: Duration = Duration::from_mins(1);
const DEPLOYMENT: &str = "deploy/kustomize/base/shunt.yaml";
/// The service account that the deployment runs the daemon as.
const ACCOUNT: (&str, &str) = ("kube-system", "shunt");

/// The kubectl that came with the control plane, else the one on the path.
pub fn find_kubectl() -> Result<PathBuf> {
    Binaries::find()?.kubectl()
}

/// The kube-proxy that came with it.
pub(crate) fn find_kube_proxy() -> Result<PathBuf> {
    Ok(Binaries::find()?.path(kube_proxy::PROGRAM))
}

/// The running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    api_server: Option<Process>,
    _others: [Process; 2],
    api: Api,
    version: String,
    admin: PathBuf,
    account: PathBuf,
    servers: Servers,
}

/// Whether this machine has what a control plane takes.
pub fn is_available() -> bool {
    Binaries::find().is_ok()
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts everything and waits until it is ready, with the testbed's nodes known and the deployment applied.
    pub fn start(bed: &Testbed) -> Result<Self> {
        let addrs = Addrs::new("172.30.0.2", "fd30::2");
        let folder = bed.files().join("control-plane");
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        let this = Self::launch(Servers::create(bed.host("control-plane", addrs)?, addrs, &folder, Kubelets::None)?)?;
        // Not applied: the server cannot merge a Node's two addresses of one type.
        bed.nodes().iter().map(Node::manifest).try_for_each(|node| this.api.create(&node).map(drop))?;
        this.deploy()?;
        Ok(this)
    }

    /// Starts everything on a host, for nodes with kubelets, and waits until it is ready.
    pub(crate) fn start_for_kubelets(netns: Netns, addrs: Addrs, folder: &Path) -> Result<Self> {
        Self::launch(Servers::create(netns, addrs, folder, Kubelets::Real)?)
    }

    /// Where the API server can be reached.
    pub(crate) fn netns(&self) -> &Netns {
        &self.servers.netns
    }

    /// A kubeconfig with all rights.
    pub(crate) fn admin(&self) -> &Path {
        &self.admin
    }

    /// Who has signed for the API server.
    pub(crate) fn authority_file(&self) -> PathBuf {
        self.servers.certificates.authority_file()
    }

    /// A program beside the servers, with all rights and a log like theirs.
    pub(crate) fn command(&self, program: &Path, name: &str) -> Result<Command> {
        let mut command = self.servers.program(program, name)?;
        command.arg("--kubeconfig").arg(&self.admin);
        Ok(command)
    }

    /// Writes the kubeconfig of a node's kubelet.
    pub(crate) fn write_node_kubeconfig(&self, node: &str, file: &Path) -> Result<()> {
        self.servers.certificates.issue_for_node(node)?;
        kubeconfig::write_node(file, &self.servers.url(), &self.servers.certificates, node)
    }

    fn launch(servers: Servers) -> Result<Self> {
        let [admin, account] = ["admin.yaml", "shunt.yaml"].map(|file| servers.folder.join(file));
        let url = servers.url();
        kubeconfig::write_admin(&admin, &url, &servers.certificates)?;
        let etcd = servers.etcd()?;
        let mut api_server = servers.api_server()?;
        let api = Api::open(&servers.netns, &admin)?;
        let version = servers.wait_until_ready(&mut api_server, &api)?;
        let others = [servers.controller_manager(&admin)?, etcd];
        Ok(Self { api_server: Some(api_server), _others: others, api, version, admin, account, servers })
    }

    /// Applies the deployment as its user would, and writes the kubeconfig of its service account.
    fn deploy(&self) -> Result<()> {
        for object in deployment()? {
            self.api.apply(&object)?;
        }
        let token = self.api.token(ACCOUNT.0, ACCOUNT.1)?;
        kubeconfig::write_account(&self.account, &self.servers.url(), &self.servers.certificates, &token)
    }

    /// A client with all rights.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// What the API server says it is.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn addrs(&self) -> Addrs {
        self.servers.addrs
    }

    /// A kubeconfig with the rights of the deployment, and no others.
    pub fn kubeconfig(&self) -> &Path {
        &self.account
    }

    /// Runs kubectl with all rights.
    pub fn kubectl(&self) -> Result<Command> {
        self.kubectl_in(&self.servers.netns)
    }

    /// The same elsewhere.
    pub fn kubectl_in(&self, netns: &Netns) -> Result<Command> {
        let mut command = netns.command(self.servers.binaries.kubectl()?);
        command.arg("--kubeconfig").arg(&self.admin).env("HOME", &self.servers.folder);
        Ok(command)
    }

    /// Makes a Service known. Its endpoints will be the pods that say they serve it.
    pub fn publish(&self, service: &Service) -> Result<()> {
        let object = kubelet::selecting(service);
        self.api.apply(&object)?;
        if object["status"]["loadBalancer"]["ingress"].as_array().is_some_and(|ingress| !ingress.is_empty()) {
            self.api.apply_status(&object)?;
        }
        Ok(())
    }

    /// Makes a pod of the testbed known: running, ready, and serving these Services.
    pub fn run_pod(&self, pod: &Pod, serves: &[&str]) -> Result<()> {
        self.api.apply(&kubelet::pod(pod, serves))?;
        self.set_ready(pod, true)
    }

    /// Says that a pod passes its readiness probe, or that it does not.
    pub fn set_ready(&self, pod: &Pod, is_ready: bool) -> Result<()> {
        self.api.apply_status(&kubelet::pod_status(pod, is_ready)).map(drop)
    }

    /// Opens a watch on the slices of a Service.
    pub fn watch_slices(&self, service: &str) -> SliceWatch {
        SliceWatch::open(&self.servers.netns, &self.admin, service)
    }

    /// Kills the API server the hard way; etcd and the controllers stay.
    pub fn kill_api_server(&mut self) -> Result<()> {
        let Some(mut server) = self.api_server.take() else { bail!("the API server does not run") };
        server.signal(Signal::SIGKILL)?;
        server.wait(STOP_LIMIT).map(drop)
    }

    /// Starts the API server again, with what etcd holds, and waits until it is ready.
    pub fn start_api_server(&mut self) -> Result<()> {
        let mut server = self.servers.api_server()?;
        // Connections to the old one are of no use.
        self.api = Api::open(&self.servers.netns, &self.admin)?;
        self.version = self.servers.wait_until_ready(&mut server, &self.api)?;
        self.api_server = Some(server);
        Ok(())
    }
}

// === impl Servers ===

impl Servers {
    fn create(netns: Netns, addrs: Addrs, folder: &Path, kubelets: Kubelets) -> Result<Self> {
        let mut names = addrs.both().to_vec();
        names.push([127, 0, 0, 1].into());
        // The first address of the Services' range is the API server's own.
        names.push([10, 96, 0, 1].into());
        let certificates = Certificates::create(folder, &names)?;
        Ok(Self { binaries: Binaries::find()?, netns, certificates, addrs, folder: folder.to_owned(), kubelets })
    }

    fn url(&self) -> String {
        format!("https://{}:{}", self.addrs.v4, servers::PORT)
    }

    /// Waits until the API server takes objects, and gives its version.
    fn wait_until_ready(&self, server: &mut Process, api: &Api) -> Result<String> {
        let program = "kube-apiserver";
        let version = wait::until("a ready API server", START_LIMIT, || match server.poll()? {
            // Its end is final: there is nothing more to wait for.
            Some(status) => Ok(Err(status)),
            None => api.ready().map(Ok),
        });
        match version {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(status)) => bail!("{program} ended with {status}:\n{}", self.log_tail(program)),
            Err(error) => Err(error).with_context(|| format!("{program} says:\n{}", self.log_tail(program))),
        }
    }
}

/// The objects that users deploy.
pub fn deployment() -> Result<Vec<Value>> {
    let file = project::file(DEPLOYMENT)?;
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    manifests::parse(&text).with_context(|| format!("parsing {}", file.display()))
}
