//! The real daemon on a node: `shunt run` in the node's namespace, with its own pins and its own cgroup.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{addr::CLUSTER_CIDR, host::Host as _, node::Node, process, process::Process, testbed::Testbed, wait};

/// Loading and verifying the programs takes most of it, more so with several tests at once.
const START_LIMIT: Duration = Duration::from_mins(2);
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// Where the daemon learns of Services.
#[derive(Clone, Debug)]
enum Source {
    Manifests(PathBuf),
    Kubeconfig(PathBuf),
}

/// How a daemon will be started.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    binary: PathBuf,
    node: Node,
    source: Source,
    cgroup: PathBuf,
    sockets: &'static str,
    args: Vec<String>,
    log: PathBuf,
}

/// A daemon on a node, running or not. Dropping it ends the daemon and removes what it pinned.
#[derive(Debug)]
pub struct Daemon {
    how: Builder,
    process: Option<Process>,
}

/// The daemon's binary: `SHUNT_BIN`, else the workspace's release build.
pub fn find_binary() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/shunt");
    let binary = std::env::var_os("SHUNT_BIN").map_or(built, PathBuf::from);
    ensure!(binary.is_file(), "no daemon at {}: run `cargo xtask build`", binary.display());
    Ok(binary)
}

/// The daemon's binary, for tests.
///
/// # Panics
/// When there is none.
pub fn binary() -> PathBuf {
    find_binary().expect("the daemon is built")
}

// === impl Builder ===

impl Builder {
    /// Adds arguments to `shunt run`.
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Whose sockets are served where they call: the node's own, unless this says otherwise, so that pods' packets meet the programs.
    pub fn sockets(self, mode: &'static str) -> Self {
        Self { sockets: mode, ..self }
    }

    /// The cgroup whose processes' sockets are served: the node's, unless this says otherwise.
    pub fn cgroup(self, cgroup: &Path) -> Self {
        Self { cgroup: cgroup.to_owned(), ..self }
    }

    /// Takes Services from an API server.
    pub fn kubeconfig(mut self, file: &Path) -> Self {
        self.source = Source::Kubeconfig(file.to_owned());
        self
    }

    /// Starts the daemon and waits until it has applied all there is.
    pub fn start(self) -> Result<Daemon> {
        let mut daemon = Daemon { how: self, process: None };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Starts the daemon on a node that has one, and waits until it waits for that one to end.
    pub fn start_waiting(self) -> Result<Daemon> {
        let process = Process::spawn(&mut self.run()?)?;
        let daemon = Daemon { how: self, process: Some(process) };
        wait::until("a daemon that waits for another", START_LIMIT, || {
            let log = daemon.log();
            ensure!(log.contains("waiting for it to end"), "its log is {log:?}");
            Ok(())
        })?;
        Ok(daemon)
    }

    fn run(&self) -> Result<Command> {
        let mut command = self.shunt("run");
        match &self.source {
            Source::Manifests(path) => command.arg("--manifests").arg(path),
            Source::Kubeconfig(path) => command.arg("--kubeconfig").arg(path),
        };
        command.args(["--hostname-override", self.node.name(), "--cluster-cidr", CLUSTER_CIDR]);
        // How many connections are tracked is the whole machine's affair.
        command.args(["--conntrack-max-per-core", "0"]);
        command.arg("--cgroup").arg(&self.cgroup).args(["--socket-lb", self.sockets]).args(&self.args);
        let log = File::options().append(true).create(true).open(&self.log);
        command.stderr(log.context("opening the daemon's log")?).stdout(Stdio::null());
        Ok(command)
    }

    fn shunt(&self, subcommand: &str) -> Command {
        let mut command = self.node.netns().command(&self.binary);
        command.arg(subcommand).arg("--bpffs").arg(self.bpffs()).arg("--socket").arg(self.log.with_extension("sock"));
        command
    }

    /// Below the node's directory, so that the daemon makes and removes it as it does on a real node.
    fn bpffs(&self) -> PathBuf {
        self.node.bpffs().join("shunt")
    }
}

// === impl Daemon ===

impl Daemon {
    /// A daemon for a node that reads the testbed's manifest directory.
    pub fn on(node: &Node, bed: &Testbed) -> Builder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Builder {
            binary: binary(),
            node: node.clone(),
            source: Source::Manifests(bed.manifests().path().to_owned()),
            cgroup: node.cgroup().to_owned(),
            sockets: "host",
            args: Vec::new(),
            log: bed.files().join(format!("shunt-{}-{number}.log", node.name())),
        }
    }

    pub fn node(&self) -> &Node {
        &self.how.node
    }

    /// What [`Builder::sockets`] says, from the next start on.
    pub fn set_sockets(&mut self, mode: &'static str) {
        self.how.sockets = mode;
    }

    /// Where it pins its programs and maps.
    pub fn bpffs(&self) -> PathBuf {
        self.how.bpffs()
    }

    /// What it wrote to standard error, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.how.log).unwrap_or_default()
    }

    /// The pid of the running daemon.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Ends the daemon if it runs, starts it, and waits until it has applied all there is.
    pub fn restart(&mut self) -> Result<()> {
        self.terminate()?;
        self.process = Some(Process::spawn(&mut self.how.run()?)?);
        self.wait_until_synced()
    }

    /// Waits until it has applied all there is.
    pub fn wait_until_synced(&mut self) -> Result<()> {
        let synced = self.try_until_synced();
        synced.with_context(|| format!("on {}; its log:\n{}", self.how.node.name(), self.log()))
    }

    fn try_until_synced(&mut self) -> Result<()> {
        let ended = wait::until("a synced daemon", START_LIMIT, || {
            // Its end is final: there is nothing more to wait for.
            if let Some(status) = self.process.as_mut().map(Process::poll).transpose()?.flatten() {
                return Ok(Some(status));
            }
            let status = self.show("status")?;
            ensure!(status["synced"] == Value::Bool(true), "its status is {status}");
            // Not what the run before it has left.
            let pid = self.process.as_ref().map(Process::pid);
            ensure!(status["daemon"]["pid"].as_u64() == pid.map(u64::from), "its status is another daemon's: {status}");
            Ok(None)
        })?;
        ended.map_or(Ok(()), |status| Err(anyhow!("the daemon ended with {status}")))
    }

    /// Kills it the hard way and waits for its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL)
    }

    /// Asks it to end, if it runs, and waits until it has.
    pub fn terminate(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        process.signal(signal)?;
        let status = process.wait(STOP_LIMIT)?;
        ensure!(signal == Signal::SIGKILL || status.success(), "the daemon ended with {status}");
        Ok(())
    }

    /// What `shunt show <what> -o json` says; works while the daemon is down.
    pub fn show(&self, what: &str) -> Result<Value> {
        let shown = process::output(self.how.shunt("show").args([what, "-o", "json"]))?;
        serde_json::from_str(&shown).with_context(|| format!("reading what `show {what}` says"))
    }

    /// How often the programs have counted a reason.
    pub fn counted(&self, reason: &str) -> Result<u64> {
        let shown = self.show("counters")?;
        let row = shown["reasons"].as_array().into_iter().flatten().find(|row| row["reason"] == reason);
        row.and_then(|row| row["count"].as_u64()).with_context(|| format!("no counter {reason}"))
    }

    /// Asks for programs that log, or that do not, and yields what the daemon says.
    pub fn debug_log(&self, on: bool) -> Result<String> {
        let said = process::output(self.how.shunt("debug").args(["log", if on { "on" } else { "off" }]))?;
        Ok(said.trim_end().to_owned())
    }

    /// Removes all that is the daemon's from the node.
    pub fn cleanup(&self) -> Result<()> {
        process::output(&mut self.how.shunt("cleanup")).map(drop)
    }

    /// What every `show` says, for a failed test's output.
    fn state(&self) -> String {
        let all = ["status", "devices", "services", "frontends", "backends", "counters"];
        let say = |what| match process::output(self.how.shunt("show").arg(what)) {
            Ok(shown) => format!("--- show {what}\n{shown}"),
            Err(error) => format!("--- show {what}\n{error:#}\n"),
        };
        all.map(say).concat()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}--- log of {}\n{}", self.state(), self.how.node.name(), self.log());
        }
        drop(self.process.take());
        // The pins go with the node in any case.
        drop(self.cleanup());
    }
}
