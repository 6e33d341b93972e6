//! One kernel's run: its machine is started, watched until it has done its job, and what it left is read.
//!
//! In: a kernel and the programs. Out: what became of each program; what they wrote stays in `target/kernels/<release>`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use shunt_guest::{DONE, Ended, JOB, Job};

use super::{
    machine::{self, Machine, Parts, Tools},
    offer::Kernel,
    outcome::{Run, RunOf},
    programs::{FEATURES, TESTS},
};
use crate::{
    door::{done, missing},
    test::Count,
};

/// Until the guest has done the first thing; the files of the host have to be there by then.
const BOOT_LIMIT: Duration = Duration::from_mins(5);
const INTERVAL: Duration = Duration::from_millis(200);
/// So much of what failed is shown; all of it is in the folder.
const LINES: usize = 60;

/// A kernel with what its guest starts from.
pub(super) struct Guest {
    pub(super) kernel: Kernel,
    pub(super) image: PathBuf,
    pub(super) initramfs: Vec<u8>,
    pub(super) folder: PathBuf,
}

/// Runs the job's programs on a kernel.
pub(super) fn run(tools: &Tools, guest: &Guest, job: &Job) -> Result<Run> {
    let folder = &guest.folder;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    forget(folder, job)?;
    fs::write(folder.join(JOB), serde_json::to_vec(job)?).context("writing the job")?;
    let mut machine = Machine::start(tools, &Parts { image: &guest.image, initramfs: &guest.initramfs, folder })?;
    let problem = watch(&mut machine, guest, job)?;
    drop(machine);
    let release = &guest.kernel.release;
    let programs: Vec<RunOf> = job.programs.iter().map(|program| result(folder, &program.name, problem)).collect();
    if let Some(problem) = problem {
        missing(&format!("{release}: {problem}; the end of its console:\n{}", end_of(&machine::console(folder))));
    }
    for failed in programs.iter().filter(|program| !program.is_good()) {
        let shown = ["out", "err"].map(|kind| end_of(&folder.join(format!("{}.{kind}", failed.name))));
        missing(&format!(
            "{release}: {} {}; its output, all of it in {}:\n{}",
            failed.name,
            failed.problem,
            folder.display(),
            shown.concat()
        ));
    }
    Ok(Run::new(release, programs, folder))
}

/// What the newest run of each program has left for a kernel, whichever of them the last run was of.
pub(super) fn newest(release: &str, folder: &Path) -> Run {
    let names = [FEATURES].into_iter().chain(TESTS);
    Run::new(release, names.map(|name| result(folder, name, Some("it was not run"))).collect(), folder)
}

/// Removes what an earlier run of the same programs has left. What is left of others stays.
fn forget(folder: &Path, job: &Job) -> Result<()> {
    let of_programs = job.programs.iter().flat_map(|program| ["out", "err", "status"].map(|kind| format!("{}.{kind}", program.name)));
    for file in of_programs.chain([DONE.to_owned()]) {
        match fs::remove_file(folder.join(&file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(|| format!("removing {file}")),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until the machine has turned itself off, and says what kept it from doing its job.
fn watch(machine: &mut Machine, guest: &Guest, job: &Job) -> Result<Option<&'static str>> {
    let start = Instant::now();
    let limit = BOOT_LIMIT + Duration::from_secs(job.programs.iter().map(|program| program.limit_secs).sum());
    let mut waiting = job.programs.iter().peekable();
    loop {
        let has_ended = machine.has_ended()?;
        while let Some(program) = waiting.next_if(|program| ended(&guest.folder, &program.name).is_some()) {
            done(&format!("{}: {}", guest.kernel.release, result(&guest.folder, &program.name, None)));
        }
        let is_done = guest.folder.join(DONE).exists();
        if has_ended || is_done {
            return Ok((!is_done).then_some("it ended before its work was done"));
        }
        if start.elapsed() > BOOT_LIMIT && waiting.len() == job.programs.len() {
            return Ok(Some("it did not start"));
        }
        if start.elapsed() > limit {
            return Ok(Some("it takes too long"));
        }
        thread::sleep(INTERVAL);
    }
}

fn ended(folder: &Path, program: &str) -> Option<Ended> {
    let status = fs::read(folder.join(format!("{program}.status"))).ok()?;
    serde_json::from_slice(&status).ok()
}

fn result(folder: &Path, program: &str, machine: Option<&str>) -> RunOf {
    let Ended { problem, secs } = ended(folder, program).unwrap_or_else(|| {
        let problem = machine.unwrap_or("it is not known how it ended");
        Ended { problem: problem.to_owned(), secs: 0 }
    });
    let written = |kind: &str| fs::read(folder.join(format!("{program}.{kind}"))).unwrap_or_default();
    let count = (program != FEATURES).then(|| Count::of(&written("out"), &written("err")));
    RunOf { name: program.to_owned(), count, problem, secs }
}

/// The last lines of a file.
fn end_of(file: &Path) -> String {
    let text = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text.lines().map(|line| format!("     | {}\n", line.trim_end())).collect();
    lines[lines.len().saturating_sub(LINES)..].concat()
}
