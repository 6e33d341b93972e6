//! From manifests to plans and back to nothing: one YAML file a behaviour, beside it the plans it must lead to.
//!
//! Each goes the whole way: a file appears in a directory that is followed, changes reach the model, everything is planned; then the
//! file is deleted and nothing must be left. `UPDATE_GOLDEN=1` writes the expected plans anew.

#[cfg(test)]
mod tests {
    use std::{
        env, fs,
        net::IpAddr,
        path::{Path, PathBuf},
        sync::Arc,
        time::Duration,
    };

    use proxy_daemon::{
        config::Source,
        model::{Change, Model},
        plan::{self, Machine, NodeFacts},
        source::{self, Standing},
    };
    use tokio::{sync::mpsc, time::timeout};

    const NODE: &str = "n1";
    const LIMIT: Duration = Duration::from_secs(10);

    /// The planner's side of the way.
    struct Planner {
        changes: mpsc::Receiver<Change>,
        model: Model,
    }

    impl Planner {
        async fn follow(directory: &Path) -> Self {
            let changes = source::start(&Source::Manifests(directory.to_owned()), &[], NODE, &Standing::default()).await.unwrap();
            let mut planner = Self { changes, model: Model::default() };
            while !planner.model.has_synced() {
                planner.wait().await;
            }
            planner
        }

        /// Takes in what comes, and what has come with it.
        async fn wait(&mut self) {
            let change = timeout(LIMIT, self.changes.recv()).await.expect("a change").expect("the source goes on");
            self.model.apply(change);
            while let Ok(change) = self.changes.try_recv() {
                self.model.apply(change);
            }
        }

        fn plans(&self) -> String {
            let machine: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
            let facts = NodeFacts::new(&Arc::default(), NODE, self.model.node(), &Machine::with(&machine));
            plan::dump(&plan::plan_all(&self.model, &facts))
        }
    }

    fn golden_files() -> Vec<PathBuf> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/golden");
        let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
        files.sort();
        assert!(!files.is_empty());
        files
    }

    #[tokio::test]
    async fn manifests_lead_to_the_expected_plans_and_back_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let mut planner = Planner::follow(directory.path()).await;
        for file in golden_files() {
            let copy = directory.path().join(file.file_name().unwrap());
            fs::copy(&file, &copy).unwrap();
            planner.wait().await;
            let plans = planner.plans();
            let expected = file.with_extension("txt");
            if env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&expected, &plans).unwrap();
            }
            let expected = fs::read_to_string(&expected).unwrap_or_default();
            assert_eq!(plans, expected, "{}", file.display());

            fs::remove_file(copy).unwrap();
            planner.wait().await;
            assert_eq!(planner.plans(), "", "{}", file.display());
        }
    }
}
