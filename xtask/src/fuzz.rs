//! `cargo xtask fuzz`: random frames, through the packet core over a byte buffer or through the real programs.
//!
//! The core is driven by libFuzzer. The compiler's coverage counters are all that it needs, so the stable compiler builds it. What is found
//! lies in target/fuzz/found-*; such a file is an argument that runs it again. Inputs that reached something new are kept in
//! target/fuzz/corpus, and the next run begins with them.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use xshell::cmd;

use crate::{
    bpf_toolchain::Compiler,
    door::{Door, done, heading},
    setup, test,
};

/// Those of cargo-fuzz for a program without a sanitizer.
const COVERAGE: [&str; 6] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// How many frames, and whither.
#[derive(clap::Args)]
pub(crate) struct Selection {
    /// How many inputs are tried: 20 million through the packet core, or 100,000 through the programs, unless said otherwise.
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Send the frames through the real programs, which needs root.
    #[arg(long, conflicts_with_all = ["jobs", "corpus", "inputs"])]
    programs: bool,
    /// So many fuzzers share the work; one for each processor unless said otherwise.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// A folder of more inputs to begin with.
    #[arg(long, value_name = "FOLDER")]
    corpus: Vec<PathBuf>,
    /// Inputs to run once, instead of looking for new ones.
    inputs: Vec<PathBuf>,
}

impl Selection {
    /// Enough to see that the fuzzer works.
    pub(crate) const SHORT: Self = Self { runs: Some(1_000_000), programs: false, jobs: None, corpus: Vec::new(), inputs: Vec::new() };
}

pub(crate) fn run(door: &Door, selection: &Selection) -> Result<ExitCode> {
    if selection.programs {
        return test::programs(door, selection.runs.unwrap_or(100_000));
    }
    setup::run(door, &[setup::Part::Packages], false)?;
    let fuzzer = Fuzzer::build(door)?;
    if selection.inputs.is_empty() {
        fuzzer.explore(selection)
    } else {
        let status = Command::new(&fuzzer.program).args(&selection.inputs).status().context("starting the fuzzer")?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The fuzzer, and where it keeps what it needs and finds.
struct Fuzzer {
    program: PathBuf,
    folder: PathBuf,
}

impl Fuzzer {
    fn build(door: &Door) -> Result<Self> {
        heading("build the fuzzer");
        let sh = &door.sh;
        let compiler = Compiler::candidates()?.swap_remove(0);
        let host = compiler.fact("host")?;
        let folder = door.target().join("fuzz");
        let flags = COVERAGE.map(|flag| format!("'{flag}'")).join(",");
        let flags = format!("target.{host}.rustflags=[{flags}]");
        let build = cmd!(sh, "cargo build --package proxy-ebpf-fuzz --features engine --bin packet --profile fuzz");
        build.args(["--target", host, "--config", &flags]).arg("--target-dir").arg(&folder).quiet().run()?;
        let seeds = folder.join("seeds");
        cmd!(sh, "cargo run --quiet --package proxy-ebpf-fuzz --bin seeds -- {seeds}").quiet().run().context("writing the seeds")?;
        Ok(Self { program: folder.join(host).join("fuzz/packet"), folder })
    }

    /// Tries new inputs, by several processes at once that find each other's in the corpus.
    fn explore(&self, selection: &Selection) -> Result<ExitCode> {
        heading("fuzz the packet core");
        fs::create_dir_all(self.folder.join("corpus")).context("making a folder for the corpus")?;
        let runs = selection.runs.unwrap_or(20_000_000);
        let jobs = selection.jobs.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get);
        let share = runs.div_ceil(jobs as u64);
        let started: Vec<Child> = (0..jobs).map(|job| self.start(job, share, &selection.corpus)).collect::<Result<_>>()?;
        let mut failed = 0;
        for mut child in started {
            failed += usize::from(!child.wait().context("waiting for a fuzzer")?.success());
        }
        for job in 0..jobs {
            println!("{}", summary(&self.log(job))?);
        }
        ensure!(failed == 0, "{failed} of {jobs} fuzzers found something: see {}", self.folder.join("found-*").display());
        done(&format!("{} inputs, and every law held", share * jobs as u64));
        Ok(ExitCode::SUCCESS)
    }

    fn start(&self, job: usize, runs: u64, corpus: &[PathBuf]) -> Result<Child> {
        let log = fs::File::create(self.log(job)).context("making a log file")?;
        let mut command = Command::new(&self.program);
        command.args([format!("-runs={runs}"), "-max_len=437".into(), "-print_final_stats=1".into(), "-reload=1".into()]);
        command.arg(format!("-artifact_prefix={}/found-", self.folder.display()));
        command.arg(self.folder.join("corpus")).arg(self.folder.join("seeds")).args(corpus);
        command.stderr(log).spawn().context("starting a fuzzer")
    }

    fn log(&self, job: usize) -> PathBuf {
        self.folder.join(format!("job-{job}.log"))
    }
}

/// What a fuzzer says at its end.
fn summary(log: &Path) -> Result<String> {
    let text = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    let interesting = |line: &&str| line.starts_with("stat::") || line.contains(" DONE ") || line.contains("panicked");
    let following = text.lines().skip_while(|line| !line.contains("panicked")).take(3);
    let lines: Vec<&str> = text.lines().filter(interesting).chain(following).collect();
    Ok(lines.join("\n"))
}
