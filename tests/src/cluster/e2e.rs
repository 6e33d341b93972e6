//! Upstream's own end-to-end tests (`[sig-network]`) against a cluster that is up.
//!
//! In: which of them. Out: what each came to, one a line, sorted, so that two runs can be compared.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{keeper::Place, programs::Programs};

/// All there are about networks.
const FOCUS: &str = r"\[sig-network\]";
/// What takes something that this cluster does not have: ssh to nodes, a cloud, network policies, the internet, SCTP in the kernel; what measures; and what
/// rewrites the cluster's DNS.
const SKIP: &str = r"\[Disruptive\]|Netpol|NetworkPolic|LoadBalancers|Ingress|Feature:Networking-|SCTPConnectivity|PerformanceDNS|KubeProxyDaemonSetMigration|KubeProxyNFAcct|Provider:GCE|DNS configMap";
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
    /// Where to put the results
    #[arg(long)]
    out: Option<PathBuf>,
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

/// Runs them. A success only when none failed.
pub fn run(place: &Place, selection: &Selection) -> Result<ExitCode> {
    let state = place.state()?;
    let programs = Programs::find()?;
    let folder = place.folder().join("e2e");
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
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
    ginkgo.env("KUBE_TEST_REPO_LIST", programs.registries()).env("HOME", &folder);
    ginkgo.stdout(log.try_clone().context("sharing a log")?).stderr(log);
    let status = ginkgo.status().context("running ginkgo")?;
    let results =
        Results::read(&folder.join("report.json")).with_context(|| format!("ginkgo ended with {status}: see {}", folder.display()))?;
    let out = selection.out.clone().unwrap_or_else(|| folder.join("results.txt"));
    fs::write(&out, results.text()).with_context(|| format!("writing {}", out.display()))?;
    println!("{}; all in {}, the log in {}", results.summary(), out.display(), folder.join("log").display());
    Ok(if results.failed() == 0 && status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of each test, by name.
struct Results(BTreeMap<String, Outcome>);

struct Outcome {
    state: &'static str,
    took: Duration,
    why: String,
}

impl Results {
    fn read(report: &Path) -> Result<Self> {
        let text = fs::read(report).with_context(|| format!("reading {}", report.display()))?;
        let suites: Vec<Suite> = serde_json::from_slice(&text).with_context(|| format!("reading {}", report.display()))?;
        let ran = suites.into_iter().flat_map(|suite| suite.specs).filter(|spec| spec.leaf_node_type == "It");
        Ok(Self(ran.filter_map(Spec::outcome).collect()))
    }

    fn count(&self, state: &str) -> usize {
        self.0.values().filter(|outcome| outcome.state == state).count()
    }

    fn failed(&self) -> usize {
        self.count("FAIL")
    }

    fn summary(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.count("PASS"), self.failed(), self.count("SKIP"))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, Outcome { state, took, why }) in &self.0 {
            // Writing to a string cannot fail.
            writeln!(text, "{state} {:6.1} {name}{why}", took.as_secs_f64()).ok();
        }
        text
    }
}

impl Spec {
    /// Nothing for one that was not to be run.
    fn outcome(self) -> Option<(String, Outcome)> {
        let message = self.failure.map(|failure| failure.message).unwrap_or_default();
        let why = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let (state, why) = match self.state.as_str() {
            "passed" => ("PASS", String::new()),
            // Those that the selection leaves out say nothing.
            "skipped" | "pending" if why.is_empty() => return None,
            "skipped" => ("SKIP", format!("   # {why:.200}")),
            _ => ("FAIL", format!("   # {why:.300}")),
        };
        let name = [self.container_hierarchy_texts.unwrap_or_default(), vec![self.leaf_node_text]].concat().join(" ");
        Some((name, Outcome { state, took: Duration::from_nanos(self.run_time), why }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_a_line_for_each_test_that_ran() {
        let report = r#"[{"SpecReports": [
            {"LeafNodeType": "BeforeSuite", "State": "passed"},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] Services"], "LeafNodeText": "should serve", "State": "passed", "RunTime": 1500000000},
            {"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-network] DNS"], "LeafNodeText": "should answer", "State": "failed", "Failure": {"Message": "no\nanswer"}},
            {"LeafNodeType": "It", "LeafNodeText": "of another focus", "State": "skipped"},
            {"LeafNodeType": "It", "LeafNodeText": "wants 6 nodes", "State": "skipped", "Failure": {"Message": "too few"}}]}]"#;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("report.json");
        fs::write(&file, report).unwrap();
        let results = Results::read(&file).unwrap();
        assert_eq!(results.summary(), "1 passed, 1 failed, 1 skipped");
        let expected = "FAIL    0.0 [sig-network] DNS should answer   # no answer\n\
                        PASS    1.5 [sig-network] Services should serve\n\
                        SKIP    0.0 wants 6 nodes   # too few\n";
        assert_eq!(results.text(), expected);
    }
}
