//! Upstream's own end-to-end tests (`[sig-network]`) against a cluster that is up.
//!
//! In: which of them. Out: what each came to, one a line, sorted, so that two runs can be compared.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{State, keeper::Place, programs::Programs};

/// All there are about networks.
const FOCUS: &str = r"\[sig-network\]";
/// What takes something that this cluster does not have: ssh to nodes, a cloud, network policies, the internet, SCTP in the kernel; what measures; and what
/// rewrites the cluster's DNS.
const SKIP: &str = r"\[Disruptive\]|Netpol|NetworkPolic|LoadBalancers|Ingress|Feature:Networking-|SCTPConnectivity|PerformanceDNS|KubeProxyDaemonSetMigration|KubeProxyNFAcct|Provider:GCE|DNS configMap";
/// What a test came to.
const PASS: &str = "PASS";
const FAILED: &str = "FAIL";
const FLAKY: &str = "FLAKY";
const SKIPPED: &str = "SKIP";
/// What comes after it in a line has no part in the name.
const COMMENT: &str = "   # ";

/// Which tests to run.
#[derive(clap::Args)]
pub struct Selection {
    /// Those whose names match this
    #[arg(long, default_value = FOCUS)]
    focus: String,
    /// But not those
    #[arg(long, default_value = SKIP)]
    skip: String,
    /// How many at a time
    #[arg(long, default_value_t = 6)]
    procs: u16,
    /// How often
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Where to put the results
    #[arg(long)]
    out: Option<PathBuf>,
    /// The results of another run: only tests that passed there have to pass here
    #[arg(long)]
    against: Option<PathBuf>,
}

/// The part of ginkgo's report that says what became of each test.
#[derive(Deserialize)]
struct Suite {
    #[serde(rename = "SpecReports", default)]
    specs: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_text: String,
    leaf_node_type: String,
    state: String,
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

/// Runs them. A success only when none failed, and none but those with `--against`.
pub fn run(place: &Place, selection: &Selection) -> Result<ExitCode> {
    let state = place.state()?;
    let folder = place.folder().join("e2e");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let before = selection.against.as_ref().map(|file| Results::read(file)).transpose()?;
    let mut results = Results::default();
    for number in 1..=selection.runs {
        let run = run_once(&state, selection, &folder)?;
        println!("run {number}: {}", run.summary());
        results.add(run);
    }
    let out = selection.out.clone().unwrap_or_else(|| folder.join("results.txt"));
    fs::write(&out, results.to_string()).with_context(|| format!("writing {}", out.display()))?;
    println!("{}; all in {}, the last run's log in {}", results.summary(), out.display(), folder.join("log").display());
    let Some(before) = before else {
        return Ok(if results.has_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    let lost = results.lost_since(&before);
    println!("{} of the tests that passed there did not pass here each time", lost.len());
    for name in &lost {
        println!("  {name}");
    }
    Ok(if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_once(state: &State, selection: &Selection, folder: &Path) -> Result<Results> {
    let programs = Programs::find()?;
    let log = File::create(folder.join("log")).context("opening the log of the tests")?;
    let mut ginkgo = state.beside_the_api_server(programs.path("ginkgo"));
    ginkgo
        .arg(format!("--procs={}", selection.procs))
        .arg(format!("--focus={}", selection.focus))
        .arg(format!("--skip={}", selection.skip));
    ginkgo.args(["--timeout=3h", "--no-color", "--json-report=report.json"]).arg(format!("--output-dir={}", folder.display()));
    ginkgo.arg(programs.path("e2e.test")).arg("--").arg(format!("--kubeconfig={}", state.kubeconfig.display()));
    ginkgo.arg(format!("--kubectl-path={}", state.kubectl.display())).args(["--provider=skeleton", "--disable-log-dump"]);
    ginkgo.arg(format!("--num-nodes={}", state.nodes.len())).arg("--dns-domain=cluster.local");
    ginkgo.env("KUBE_TEST_REPO_LIST", programs.registries()).env("HOME", folder);
    // They leave files there.
    let scratch = folder.join("tmp");
    fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    ginkgo.env("TMPDIR", &scratch);
    ginkgo.stdout(log.try_clone().context("sharing a log")?).stderr(log);
    let status = ginkgo.status().context("running ginkgo")?;
    let report = folder.join("report.json");
    let text = fs::read(&report).with_context(|| format!("ginkgo ended with {status} and left no report: see {}", folder.display()))?;
    Results::of_report(&text).with_context(|| format!("reading {}", report.display()))
}

/// What became of each test, by name.
#[derive(Default)]
struct Results(BTreeMap<String, Outcome>);

#[derive(Default)]
struct Outcome {
    passed: u32,
    failed: u32,
    /// The longest run.
    took: Duration,
    /// Why it failed the last time, or was skipped.
    why: String,
}

impl Results {
    fn of_report(report: &[u8]) -> Result<Self> {
        let suites: Vec<Suite> = serde_json::from_slice(report).context("parsing ginkgo's report")?;
        let ran = suites.into_iter().flat_map(|suite| suite.specs).filter(|spec| spec.leaf_node_type == "It");
        Ok(Self(ran.filter_map(Spec::outcome).collect()))
    }

    /// Reads what was written before: enough of it to tell which tests passed.
    fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let line = |line: &str| {
            let (state, rest) = line.split_once(' ')?;
            let (name, _) = rest.split_once(COMMENT)?;
            Some((name.to_owned(), Outcome { passed: u32::from(state == PASS), failed: u32::from(state != PASS), ..Outcome::default() }))
        };
        let outcomes: Option<_> = text.lines().filter(|line| !line.starts_with(SKIPPED)).map(line).collect();
        outcomes.map(Self).with_context(|| format!("{} is no list of results", file.display()))
    }

    /// Takes another run's results in.
    fn add(&mut self, run: Self) {
        for (name, new) in run.0 {
            let outcome = self.0.entry(name).or_default();
            outcome.passed += new.passed;
            outcome.failed += new.failed;
            outcome.took = outcome.took.max(new.took);
            if !new.why.is_empty() {
                outcome.why = new.why;
            }
        }
    }

    fn has_passed(&self) -> bool {
        self.0.values().all(|outcome| outcome.failed == 0)
    }

    /// Those that passed there and did not always pass here.
    fn lost_since<'a>(&self, before: &'a Self) -> Vec<&'a str> {
        let passes_here = |name: &str| self.0.get(name).is_some_and(|outcome| outcome.state() == PASS);
        let names = before.0.iter().filter(|(_, outcome)| outcome.state() == PASS).map(|(name, _)| name.as_str());
        names.filter(|name| !passes_here(name)).collect()
    }

    fn summary(&self) -> String {
        let count = |state| self.0.values().filter(|outcome| outcome.state() == state).count();
        format!("{} passed, {} failed, {} now and then, {} skipped", count(PASS), count(FAILED), count(FLAKY), count(SKIPPED))
    }
}

/// A line for each test.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.0 {
            let Outcome { passed, failed, took, why } = outcome;
            write!(f, "{} {name}{COMMENT}{passed} of {}, {:.0} s", outcome.state(), passed + failed, took.as_secs_f64())?;
            writeln!(f, "{}{why}", if why.is_empty() { "" } else { ": " })?;
        }
        Ok(())
    }
}

impl Outcome {
    const fn state(&self) -> &'static str {
        match (self.passed, self.failed) {
            (0, 0) => SKIPPED,
            (_, 0) => PASS,
            (0, _) => FAILED,
            (_, _) => FLAKY,
        }
    }
}

impl Spec {
    /// Nothing for one that was not to be run.
    fn outcome(self) -> Option<(String, Outcome)> {
        let message = self.failure.map(|failure| failure.message).unwrap_or_default();
        let why = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let (passed, failed) = match self.state.as_str() {
            "passed" => (1, 0),
            // Those that the selection leaves out say nothing.
            "skipped" | "pending" if why.is_empty() => return None,
            "skipped" => (0, 0),
            _ => (0, 1),
        };
        let name = [self.container_hierarchy_texts.unwrap_or_default(), vec![self.leaf_node_text]].concat().join(" ");
        Some((name, Outcome { passed, failed, took: Duration::from_nanos(self.run_time), why: format!("{why:.200}") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"[{"SpecReports": [
        {"LeafNodeType": "BeforeSuite", "State": "passed"},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeText": "should serve", "State": "passed", "RunTime": 1500000000},
        {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "should answer", "State": "failed", "Failure": {"Message": "no\nanswer"}},
        {"LeafNodeType": "It", "LeafNodeText": "of another focus", "State": "skipped"},
        {"LeafNodeType": "It", "LeafNodeText": "wants 6 nodes", "State": "skipped", "Failure": {"Message": "too few"}}]}]"#;

    fn results(report: &str) -> Results {
        Results::of_report(report.as_bytes()).unwrap()
    }

    #[test]
    fn a_report_becomes_a_line_for_each_test_that_ran() {
        let results = results(REPORT);
        assert_eq!(results.summary(), "1 passed, 1 failed, 0 now and then, 1 skipped");
        let expected = "FAIL [sig-network] DNS should answer   # 0 of 1, 0 s: no answer\n\
                        PASS [sig-network] Services should serve   # 1 of 1, 2 s\n\
                        SKIP wants 6 nodes   # 0 of 0, 0 s: too few\n";
        assert_eq!(results.to_string(), expected);
    }

    #[test]
    fn what_passed_once_and_failed_once_is_named_so() {
        let mut both = results(REPORT);
        both.add(results(&REPORT.replace("failed", "passed")));
        assert_eq!(both.summary(), "1 passed, 0 failed, 1 now and then, 1 skipped");
        assert!(both.to_string().contains("FLAKY [sig-network] DNS should answer   # 1 of 2"), "{both}");
        assert!(!both.has_passed());
    }

    #[test]
    fn a_list_of_before_is_what_must_not_be_lost() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, results(&REPORT.replace("failed", "passed")).to_string()).unwrap();
        let before = Results::read(file.path()).unwrap();
        assert_eq!(results(REPORT).lost_since(&before), ["[sig-network] DNS should answer"]);
        // What was not run has not passed.
        assert_eq!(Results::default().lost_since(&before).len(), 2);
        assert!(before.lost_since(&before).is_empty());
        fs::write(&file, "something else\n").unwrap();
        assert!(Results::read(file.path()).is_err());
    }
}
