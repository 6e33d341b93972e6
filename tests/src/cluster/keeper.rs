//! The process that holds a cluster while its user does other things: `cluster up` starts it and waits until it is ready, others ask what it has left in
//! the folder, `cluster down` ends it, and the cluster with it.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

use super::{Cluster, Plan, state::State};
use crate::{leftovers, name, wait};

const START_LIMIT: Duration = Duration::from_mins(15);
const STOP_LIMIT: Duration = Duration::from_mins(2);

/// Where a cluster keeps what is its own.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    pub fn at(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn pid_file(&self) -> PathBuf {
        self.0.join("keeper.pid")
    }

    fn ready_file(&self) -> PathBuf {
        self.0.join("ready")
    }

    fn state_file(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// What others need to know of the cluster that is up.
    pub fn state(&self) -> Result<State> {
        ensure!(self.keeper().is_some(), "no cluster is up in {}: `up` starts one", self.0.display());
        self.last_state()
    }

    /// The same of the last one, whether or not it is up.
    fn last_state(&self) -> Result<State> {
        let state = fs::read(self.state_file()).context("the cluster is not ready yet")?;
        serde_json::from_slice(&state).context("reading what is known of the cluster")
    }

    fn log_file(&self) -> PathBuf {
        self.0.join("keeper.log")
    }

    /// The keeper, if one lives.
    fn keeper(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        name::is_alive(pid).then_some(pid)
    }

    /// Starts a keeper and waits until its cluster is ready.
    pub fn start(&self, plan: Plan) -> Result<()> {
        ensure!(self.keeper().is_none(), "a cluster is up in {}: `down` ends it", self.0.display());
        self.clear()?;
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        let log = File::create(self.log_file()).context("opening the keeper's log")?;
        let mut keeper = Command::new(std::env::current_exe().context("finding this program")?);
        keeper
            .arg("keep")
            .arg("--dir")
            .arg(&self.0)
            .args(plan.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing a log")?)
            .stderr(log)
            .process_group(0);
        let mut child = keeper.spawn().context("starting the keeper")?;
        let said = || fs::read_to_string(self.log_file()).unwrap_or_default();
        let started = wait::until("the cluster", START_LIMIT, || {
            if let Some(status) = child.try_wait().context("waiting for the keeper")? {
                return Ok(Err(status));
            }
            ensure!(self.ready_file().is_file(), "it is not ready");
            Ok(Ok(()))
        });
        match started {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("the keeper ended with {status}: {}", said()),
            Err(error) => {
                self.stop()?;
                Err(error).with_context(said)
            }
        }
    }

    /// Holds a cluster until this process is told to end.
    pub fn keep(&self, plan: Plan) -> Result<()> {
        let mut ends = SigSet::empty();
        ends.add(Signal::SIGTERM);
        ends.add(Signal::SIGINT);
        ends.thread_block().context("listening to signals")?;
        fs::write(self.pid_file(), std::process::id().to_string()).context("saying who keeps the cluster")?;
        let cluster = Cluster::start(plan, &self.0)?;
        let state = serde_json::to_vec_pretty(&cluster.state()?).context("writing what others need to know")?;
        fs::write(self.state_file(), state).context("writing what others need to know")?;
        fs::write(self.ready_file(), "").context("saying that the cluster is ready")?;
        ends.wait().context("waiting for a signal")?;
        drop(cluster);
        Ok(())
    }

    /// Ends the keeper and its cluster.
    pub fn stop(&self) -> Result<()> {
        if let Some(pid) = self.keeper() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM).context("ending the keeper")?;
            wait::until("the cluster's end", STOP_LIMIT, || {
                ensure!(!name::is_alive(pid), "its keeper, process {pid}, still runs");
                Ok(())
            })?;
        }
        self.clear()
    }

    /// Removes what is left: of a keeper that was killed all that bears its name, which ends its nodes, and their cgroups.
    fn clear(&self) -> Result<()> {
        leftovers::sweep();
        if let Ok(state) = self.last_state() {
            state.remove_cgroups();
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}
