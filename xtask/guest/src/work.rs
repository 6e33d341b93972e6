//! Runs the programs of a job one after another, each with a limit, and writes down how it ended.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use shunt_guest::{DONE, Ended, Job, Program};

/// How often a running program is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs all programs, whatever becomes of each.
pub(crate) fn run(folder: &Path, job: &Job) -> Result<()> {
    for program in &job.programs {
        let start = Instant::now();
        let problem = match run_one(folder, job, program) {
            Ok(None) => format!("killed after {} s", program.limit_secs),
            Ok(Some(status)) if status.success() => String::new(),
            Ok(Some(status)) => status.to_string(),
            Err(error) => format!("{error:#}"),
        };
        note(folder, &program.name, &Ended { problem, secs: start.elapsed().as_secs() })?;
    }
    fs::write(folder.join(DONE), "").context("writing that all is done")
}

/// Gives the exit status, or none of a program that took too long.
fn run_one(folder: &Path, job: &Job, program: &Program) -> Result<Option<ExitStatus>> {
    let into = |kind: &str| File::create(folder.join(format!("{}.{kind}", program.name))).context("making the files of the output");
    let mut command = Command::new(&program.path);
    command.args(&program.arguments).current_dir(&program.directory).process_group(0);
    command.env_clear().envs(job.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(into("out")?).stderr(into("err")?);
    let mut child = command.spawn().with_context(|| format!("starting {}", program.path.display()))?;
    let ended = wait(&mut child, Duration::from_secs(program.limit_secs))?;
    if ended.is_none() {
        killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL).context("killing it")?;
        child.wait().context("waiting for its end")?;
    }
    Ok(ended)
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().context("waiting for it")? {
            return Ok(Some(status));
        }
        thread::sleep(INTERVAL);
    }
    Ok(None)
}

/// The file appears as a whole, for the host watches for it.
fn note(folder: &Path, name: &str, ended: &Ended) -> Result<()> {
    let unfinished = folder.join(format!("{name}.status.new"));
    fs::write(&unfinished, serde_json::to_vec(ended)?).context("writing how it ended")?;
    fs::rename(&unfinished, folder.join(format!("{name}.status"))).context("writing how it ended")
}
