//! Processes of a test: run to the end with a useful error, or killed when their guard goes.

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use crate::wait;

/// Runs a command to its end and gives its standard output; the error says what it wrote to standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let (said, error) = (&output.stdout, String::from_utf8_lossy(&output.stderr));
    let status = output.status;
    ensure!(status.success(), "{command:?}: {status}: {}", error.trim());
    Ok(String::from_utf8_lossy(said).into_owned())
}

/// Runs a command to its end and reads the JSON that it prints.
pub(crate) fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    let said = output(command)?;
    serde_json::from_str(&said).with_context(|| format!("reading what {command:?} prints"))
}

/// Runs a command with `input` as its standard input; what it says is an error's text or of no interest.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<()> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = piped.spawn().with_context(|| format!("starting {command:?}"))?;
    let mut stdin = child.stdin.take().context("the command has a standard input")?;
    stdin.write_all(input.as_bytes()).context("writing the command's input")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for the command")?;
    let (status, said) = (output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(status.success(), "{command:?}: {status}: {}", said.trim());
    Ok(())
}

/// A running process that leads a group of its own; dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a command in a process group of its own. Its input is empty unless the command says otherwise.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives the exit status if the process has ended.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("waiting for a process")
    }

    /// Sends a signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.group(), signal).with_context(|| format!("sending {signal}"))
    }

    /// Waits for the process to end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until("the process's end", limit, || match self.poll()? {
            Some(status) => Ok(status),
            None => bail!("still running"),
        })
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that all of it has ended, which is what we want.
        killpg(self.group(), Signal::SIGKILL).ok();
        drop(self.child.wait());
    }
}

/// Kills every process whose network namespace is the one mounted at `netns`, this one excepted.
pub(crate) fn kill_in_namespace(netns: &Path) {
    let (Ok(netns), Ok(processes)) = (fs::metadata(netns), fs::read_dir("/proc")) else {
        return;
    };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let inside = fs::metadata(entry.path().join("ns/net")).is_ok_and(|of| of.ino() == netns.ino() && of.dev() == netns.dev());
        if inside && pid != std::process::id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).ok();
        }
    }
}
