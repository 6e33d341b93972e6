//! A real directory, followed through everything that is done to files.

use std::collections::BTreeMap;

use tokio::time::timeout as within;

use super::*;
use crate::model::{Event, Service};

const LIMIT: Duration = Duration::from_secs(10);

/// A directory that is followed, and the Services it has given.
struct Followed {
    directory: PathBuf,
    changes: mpsc::Receiver<Change>,
    services: BTreeMap<String, Service>,
    _temporary: tempfile::TempDir,
}

impl Followed {
    async fn start(files: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("manifests");
        fs::create_dir(&directory).unwrap();
        for (name, text) in files {
            fs::write(directory.join(name), text).unwrap();
        }
        let (sender, changes) = mpsc::channel(64);
        start(&directory, "n1", &Standing::default(), sender).unwrap();
        let mut followed = Self { directory, changes, services: BTreeMap::new(), _temporary: temporary };
        for _ in 0..4 {
            followed.take().await;
        }
        followed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn take(&mut self) {
        let change = within(LIMIT, self.changes.recv()).await.expect("a change").unwrap();
        let Change::Service(event) = change else { return };
        match event {
            Event::Reset(all) => self.services = all.into_iter().map(|service| (service.name.to_string(), service)).collect(),
            Event::Applied(service) => drop(self.services.insert(service.name.to_string(), service)),
            Event::Deleted(name) => drop(self.services.remove(&name.to_string())),
        }
    }

    /// Waits until these are the Services, each with its port.
    async fn expect(&mut self, services: &[(&str, u16)]) {
        let expected: Vec<_> = services.iter().map(|(name, port)| (format!("default/{name}"), *port)).collect();
        while self.services.iter().map(|(name, service)| (name.clone(), service.ports[0].port)).collect::<Vec<_>>() != expected {
            self.take().await;
        }
    }
}

fn service(name: &str, port: u16) -> String {
    format!("---\nkind: Service\napiVersion: v1\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: {port}}}]}}\n")
}

#[tokio::test]
async fn files_come_change_move_and_go() {
    let mut followed = Followed::start(&[("a.yaml", &service("a", 1)), ("README.md", "not a manifest")]).await;
    followed.expect(&[("a", 1)]).await;
    followed.write("b.yml", &service("b", 1));
    followed.expect(&[("a", 1), ("b", 1)]).await;
    followed.write("a.yaml", &service("a", 2));
    followed.expect(&[("a", 2), ("b", 1)]).await;
    fs::rename(followed.path("b.yml"), followed.path("b.off")).unwrap();
    followed.expect(&[("a", 2)]).await;
    fs::rename(followed.path("b.off"), followed.path("b.yaml")).unwrap();
    followed.expect(&[("a", 2), ("b", 1)]).await;
    fs::remove_file(followed.path("a.yaml")).unwrap();
    followed.expect(&[("b", 1)]).await;
    let outside = followed.directory.with_extension("outside");
    fs::write(&outside, service("c", 1)).unwrap();
    fs::hard_link(&outside, followed.path("c.yaml")).unwrap();
    followed.expect(&[("b", 1), ("c", 1)]).await;
}

#[tokio::test]
async fn a_mistake_in_a_file_loses_nothing() {
    let mut followed = Followed::start(&[("a.yaml", &(service("a", 1) + &service("b", 1)))]).await;
    followed.expect(&[("a", 1), ("b", 1)]).await;
    followed.write("a.yaml", &("---\nkind: [\n".to_owned() + &service("b", 2)));
    followed.expect(&[("a", 1), ("b", 2)]).await;
    followed.write("a.yaml", &service("b", 3));
    followed.expect(&[("b", 3)]).await;
}

#[tokio::test]
async fn the_file_with_the_smaller_name_counts() {
    let mut followed = Followed::start(&[("2.yaml", &service("a", 2)), ("3.yaml", &service("a", 3))]).await;
    followed.expect(&[("a", 2)]).await;
    followed.write("1.yaml", &service("a", 1));
    followed.expect(&[("a", 1)]).await;
    fs::remove_file(followed.path("2.yaml")).unwrap();
    fs::remove_file(followed.path("1.yaml")).unwrap();
    followed.expect(&[("a", 3)]).await;
}

#[tokio::test]
async fn a_directory_that_goes_keeps_its_services_until_it_is_back() {
    let mut followed = Followed::start(&[("a.yaml", &service("a", 1)), ("b.yaml", &service("b", 1))]).await;
    followed.expect(&[("a", 1), ("b", 1)]).await;
    let aside = followed.directory.with_extension("aside");
    fs::rename(&followed.directory, &aside).unwrap();
    fs::create_dir(aside.join("new")).unwrap();
    fs::write(aside.join("new/b.yaml"), service("b", 2)).unwrap();
    fs::rename(aside.join("new"), &followed.directory).unwrap();
    followed.expect(&[("b", 2)]).await;
    followed.write("c.yaml", &service("c", 1));
    followed.expect(&[("b", 2), ("c", 1)]).await;
}

#[tokio::test]
async fn a_mounted_volume_is_replaced_as_a_whole() {
    let mut followed = Followed::start(&[]).await;
    let version = |number: u16| {
        let directory = followed.path(&format!("..{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("a.yaml"), service("a", number)).unwrap();
        let link = followed.path("..new");
        std::os::unix::fs::symlink(directory, &link).unwrap();
        fs::rename(link, followed.path("..data")).unwrap();
    };
    version(1);
    std::os::unix::fs::symlink("..data/a.yaml", followed.path("a.yaml")).unwrap();
    version(2);
    followed.expect(&[("a", 2)]).await;
}

#[test]
fn a_directory_that_does_not_exist_is_an_error() {
    let (sender, _changes) = mpsc::channel(1);
    let error = start(Path::new("/nonexistent"), "n1", &Standing::default(), sender).unwrap_err();
    assert!(error.to_string().contains("/nonexistent"), "{error}");
}
