//! The first process of a virtual machine: makes a Linux system out of the host's files, runs programs in it, and turns it off.
//!
//! In: the folder that the kernel's command line names, with the job. Out: in the same folder, what each program wrote and how it ended.
//! Everything else that is written stays in the guest's memory and goes with it.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, ExitCode, exit},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::{
        reboot::{RebootMode, reboot},
        wait::wait,
    },
    unistd::Pid,
};
use shunt_guest::{FOLDER, JOB, Job};

mod root;
mod work;

/// What the second process is told, the one that does the job.
const WORK: &str = "work";

fn main() -> ExitCode {
    if Pid::this() == Pid::from_raw(1) {
        first();
    }
    if env::args().nth(1).as_deref() != Some(WORK) {
        complain("this is the first process of a virtual machine, and nothing else");
        return ExitCode::FAILURE;
    }
    match job().and_then(|(folder, job)| work::run(&folder, &job)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn first() -> ! {
    if let Err(error) = root::change().and_then(|()| start_work()) {
        complain(&format!("{error:#}"));
    }
    nix::unistd::sync();
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    complain(&format!("turning off: {errno}"));
    exit(1)
}

/// Starts the second process, and does until it ends what the first one must: bury those whom nobody waits for.
fn start_work() -> Result<()> {
    // The file is in no folder of this root, but still this one.
    let worker = Command::new("/proc/self/exe").arg(WORK).spawn().context("starting to work")?;
    let worker = Pid::from_raw(worker.id().cast_signed());
    loop {
        match wait() {
            Ok(status) if status.pid() == Some(worker) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("waiting for processes"),
        }
    }
}

/// The folder and the job that lies in it.
fn job() -> Result<(PathBuf, Job)> {
    let folder = PathBuf::from(env::var_os(FOLDER).with_context(|| format!("the kernel was not told {FOLDER}"))?);
    let text = fs::read(folder.join(JOB)).context("reading the job")?;
    Ok((folder, serde_json::from_slice(&text).context("reading the job")?))
}

#[expect(clippy::print_stderr, reason = "this is the machine's console")]
fn complain(problem: &str) {
    eprintln!("shunt-guest: {problem}");
}
