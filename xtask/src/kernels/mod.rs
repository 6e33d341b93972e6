//! `cargo xtask kernels`: the tests that meet the kernel, on Debian's kernels in virtual machines.
//!
//! In: versions of kernels. Out: how the tests went on each, as tables and as JSON. Nothing of the machine is changed but the cache, the
//! target folder, and the packages of qemu, which are installed if they are missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Mutex,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use shunt_guest::{Job, MODULES, Program};
use xshell::cmd;

use self::{guest::Guest, machine::Tools, offer::Kernel, outcome::Run, record::Record};
use crate::{
    build,
    door::{Door, heading, missing},
    setup::{self, Part},
};

mod guest;
mod initramfs;
mod machine;
mod markdown;
mod offer;
mod outcome;
mod programs;
mod record;
mod report;

/// The oldest kernel Shunt runs on, those of Debian's releases since, and the newest there is.
const VERSIONS: [&str; 4] = ["5.10", "6.1", "6.12", offer::NEWEST];
/// What a guest needs before it sees the host's files.
const MODULES_TO_START: [&str; 3] = ["virtio_pci", "virtiofs", "overlay"];
/// The testbed's own: the kernel loads the rest when it is asked for.
const MODULES_TO_LOAD: [&str; 2] = ["veth", "bridge"];
/// Of the environment, what programs find their way with.
const ENVIRONMENT: [&str; 2] = ["PATH", "HOME"];

/// Which kernels, what to run on them, and where to write the results.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// Versions, or their beginnings, or `newest`.
    #[arg(value_name = "VERSION", default_values_t = VERSIONS.map(str::to_owned))]
    versions: Vec<String>,
    /// Only these test programs.
    #[arg(long = "test", value_name = "PROGRAM", value_parser = clap::builder::PossibleValuesParser::new(programs::TESTS))]
    tests: Vec<String>,
    /// Only the tests whose names contain this; such results are not part of the document.
    #[arg(long, value_name = "TEXT", conflicts_with = "docs")]
    filter: Option<String>,
    /// Write the results to a file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep what is to be said of each of these kernels in docs, once the newest run of every test program there went well.
    #[arg(long)]
    docs: bool,
}

/// Runs the tests on each kernel; a success only when all of them passed on all of them.
pub(crate) fn run(door: &Door, selection: &Selection) -> Result<ExitCode> {
    ensure!(env::consts::ARCH == "x86_64", "the kernels on offer are for x86-64 only");
    ensure!(nix::unistd::geteuid().is_root(), "only root can run tests on other kernels: guests see this machine's files");
    let _alone = lock(&folder(door))?;
    heading("virtual machines");
    let tools = Tools::find_or_install(door)?;
    let versions = selection.versions.iter();
    let kernels: Vec<Kernel> = versions.map(|version| offer::fetch(&door.sh, version)).collect::<Result<_>>()?;
    heading("programs");
    let shunt = programs::copy(door, &daemon(door)?, "shunt")?;
    let programs = programs::build(door, &shunt, &selection.tests, selection.filter.as_deref(), tools.slowness())?;
    let init = init(door)?;
    let results = if selection.filter.is_some() { folder(door).join("filtered") } else { folder(door) };
    let guests: Vec<Guest> = kernels.into_iter().map(|kernel| prepare(door, kernel, &init, &results)).collect::<Result<_>>()?;
    heading("kernels");
    let runs = run_all(&tools, &guests, &environment(&shunt, tools.slowness()), &programs)?;
    println!("{}", report::tables(&runs));
    if let Some(file) = &selection.json {
        fs::write(file, serde_json::to_vec_pretty(&runs)?).with_context(|| format!("writing {}", file.display()))?;
    }
    let documented = !selection.docs || document(door, &tools, &guests)?;
    let good = documented && runs.iter().all(Run::is_good);
    println!("{}", if good { "all kernels passed" } else { "FAILED on a kernel" });
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Keeps what is to be said of the kernels, of those on which all is well, and writes the tables of all kernels into the document.
fn document(door: &Door, tools: &Tools, guests: &[Guest]) -> Result<bool> {
    let folder = door.root.join("docs/kernels");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let date = cmd!(door.sh, "date --utc +%F").quiet().read()?;
    let about = format!("{date}, {}, in {tools}", env::consts::ARCH);
    let mut good = true;
    for Guest { kernel, folder: results, .. } in guests {
        let run = guest::newest(&kernel.release, results);
        for program in run.programs.iter().filter(|program| !program.is_good()) {
            missing(&format!("{}: {program}", run.kernel));
        }
        if run.is_good() {
            Record { about: about.clone(), run }.keep(&folder)?;
        } else {
            good = false;
        }
    }
    let (about, runs): (Vec<String>, Vec<Run>) = Record::all(&folder)?.into_iter().map(|Record { about, run }| (about, run)).unzip();
    // Tables of none would take away those of before.
    if !runs.is_empty() {
        let about: Vec<String> = runs.iter().zip(about).map(|(run, about)| format!("* {}: {about}", run.kernel)).collect();
        report::write(&door.root.join("docs/kernels.md"), &about.join("\n"), &runs)?;
    }
    Ok(good)
}

/// Where all that is made for the runs, and all that they leave, lies.
fn folder(door: &Door) -> PathBuf {
    door.target().join("kernels")
}

/// Two runs at once would take each other's files away. The lock lasts as long as its file is open.
fn lock(folder: &Path) -> Result<fs::File> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let lock = fs::File::create(folder.join("lock")).context("making a lock")?;
    lock.try_lock().with_context(|| format!("another run is under way in {}", folder.display()))?;
    Ok(lock)
}

/// The daemon to test: the one that `SHUNT_BIN` names, else a fresh build.
fn daemon(door: &Door) -> Result<PathBuf> {
    if let Some(named) = env::var_os("SHUNT_BIN") {
        return fs::canonicalize(&named).with_context(|| format!("looking for {}", named.display()));
    }
    setup::run(door, &[Part::Packages, Part::Bpf, Part::Programs], false)?;
    build::shunt(door)?;
    Ok(door.shunt())
}

/// The guest's first process.
fn init(door: &Door) -> Result<Vec<u8>> {
    let built = build::guest(door, "shunt-guest")?;
    fs::read(&built).with_context(|| format!("reading {}", built.display()))
}

fn prepare(door: &Door, kernel: Kernel, init: &[u8], results: &Path) -> Result<Guest> {
    let modules = offer::modules(&door.sh, &kernel, &MODULES_TO_START)?;
    let folder = results.join(&kernel.release);
    Ok(Guest { image: kernel.image()?, initramfs: initramfs::build(init, MODULES, &modules), folder, kernel })
}

fn environment(shunt: &Path, slowness: u32) -> Vec<(String, String)> {
    let own = ENVIRONMENT.iter().filter_map(|&name| Some((name.to_owned(), env::var(name).ok()?)));
    let told = [("SHUNT_BIN", shunt.display().to_string()), ("SHUNT_SLOW", slowness.to_string())];
    own.chain(told.map(|(name, value)| (name.to_owned(), value))).collect()
}

/// Runs as many machines at once as there are processors, for each mostly uses one. The results are in the order of the kernels.
fn run_all(tools: &Tools, guests: &[Guest], environment: &[(String, String)], programs: &[Program]) -> Result<Vec<Run>> {
    let at_once = thread::available_parallelism().map_or(1, usize::from).min(guests.len());
    let waiting = Mutex::new(guests.iter());
    let work = || {
        let mut runs = Vec::new();
        loop {
            let next = waiting.lock().ok().and_then(|mut waiting| waiting.next());
            let Some(guest) = next else { return runs };
            let job = Job {
                modules: guest.kernel.modules(),
                load: MODULES_TO_LOAD.map(str::to_owned).into(),
                environment: environment.to_owned(),
                programs: programs.to_owned(),
            };
            runs.push((&guest.kernel.release, guest::run(tools, guest, &job)));
        }
    };
    let mut runs: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    });
    runs.sort_by_key(|(release, _)| guests.iter().position(|guest| guest.kernel.release == **release));
    runs.into_iter().map(|(release, run)| run.with_context(|| format!("running tests on {release}"))).collect()
}
