//! The three servers as processes: how each is started, and where it says what it does.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{binaries::Binaries, certificates::Certificates};
use crate::{addr::Addrs, netns::Netns, process::Process};

pub(super) const PORT: u16 = 6443;
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";
/// As the testbed's address plan has them.
const SERVICE_CIDRS: &str = "10.96.0.0/16,fd00:10:96::/112";
/// Only what the tests are about: others would judge the testbed's nodes and pods, which no kubelet speaks for.
const CONTROLLERS: &str = "endpointslice-controller";

/// Every controller but the one that gives nodes their pods' networks: these are known.
const ALL_CONTROLLERS: &str = "*,-node-ipam-controller";

/// Who speaks for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kubelets {
    /// The test does.
    None,
    /// Kubelets do.
    Real,
}

/// What it takes to start any of them.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) binaries: Binaries,
    pub(super) netns: Netns,
    pub(super) certificates: Certificates,
    pub(super) addrs: Addrs,
    /// Holds data and logs.
    pub(super) folder: PathBuf,
    pub(super) kubelets: Kubelets,
}

impl Servers {
    pub(super) fn etcd(&self) -> Result<Process> {
        let data = self.folder.join("etcd");
        let mut command = self.command("etcd")?;
        // What it forgets in a crash of the machine is of no interest: the testbed is gone as well.
        command.arg("--data-dir").arg(data).arg("--unsafe-no-fsync");
        command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD, "--listen-peer-urls", ETCD_PEERS]);
        Process::spawn(&mut command)
    }

    pub(super) fn api_server(&self) -> Result<Process> {
        let certificates = &self.certificates;
        let address = self.addrs.v4.to_string();
        let mut command = self.command("kube-apiserver")?;
        command.args(["--etcd-servers", ETCD, "--service-cluster-ip-range", SERVICE_CIDRS, "--authorization-mode", "Node,RBAC"]);
        command.args(["--secure-port", &PORT.to_string(), "--bind-address", &address, "--advertise-address", &address]);
        command.arg("--cert-dir").arg(&self.folder).arg("--client-ca-file").arg(certificates.authority_file());
        command.arg("--tls-cert-file").arg(certificates.certificate("server"));
        command.arg("--tls-private-key-file").arg(certificates.key("server"));
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.arg("--service-account-key-file").arg(certificates.public_key("tokens"));
        command.arg("--service-account-signing-key-file").arg(certificates.key("tokens"));
        command.arg("--allow-privileged");
        match self.kubelets {
            // The testbed's pods have no service accounts.
            Kubelets::None => command.args(["--disable-admission-plugins", "ServiceAccount"]),
            Kubelets::Real => {
                command.arg("--kubelet-client-certificate").arg(certificates.certificate("admin"));
                command.arg("--kubelet-client-key").arg(certificates.key("admin"));
                command.args(["--kubelet-preferred-address-types", "InternalIP"])
            }
        };
        Process::spawn(&mut command)
    }

    pub(super) fn controller_manager(&self, kubeconfig: &Path) -> Result<Process> {
        let mut command = self.command("kube-controller-manager")?;
        command.arg("--kubeconfig").arg(kubeconfig).arg("--leader-elect=false");
        match self.kubelets {
            Kubelets::None => command.args(["--controllers", CONTROLLERS]),
            Kubelets::Real => {
                command.arg("--root-ca-file").arg(self.certificates.authority_file());
                command.arg("--service-account-private-key-file").arg(self.certificates.key("tokens"));
                command.args(["--controllers", ALL_CONTROLLERS, "--use-service-account-credentials"])
            }
        };
        command.args(["--secure-port", "0", "--authentication-skip-lookup", "--kube-api-qps", "500", "--kube-api-burst", "500"]);
        Process::spawn(&mut command)
    }

    /// The end of what a server wrote.
    pub(super) fn log_tail(&self, program: &str) -> String {
        const LINES: usize = 8;
        let log = fs::read_to_string(self.log_file(program)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn command(&self, name: &str) -> Result<Command> {
        self.program(&self.binaries.path(name), name)
    }

    /// A program on the control plane's host, with a log of its own.
    pub(super) fn program(&self, program: &Path, name: &str) -> Result<Command> {
        let file = self.log_file(name);
        let log = File::options().append(true).create(true).open(&file).with_context(|| format!("opening {}", file.display()))?;
        let mut command = self.netns.command(program);
        command.stdout(log.try_clone().context("sharing a log file")?).stderr(log);
        Ok(command)
    }

    fn log_file(&self, program: &str) -> PathBuf {
        self.folder.join(format!("{program}.log"))
    }
}
