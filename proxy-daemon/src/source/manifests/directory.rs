//! The files of a directory, and what a change of them changes.
//!
//! Nothing is lost by a mistake: while a document of a file is malformed, or the file cannot be read, objects that were in it before and
//! are missing now stay as they were. Of two files that hold the same object the one with the smaller name counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    path::{Path, PathBuf},
};

use tracing::{debug, warn};

use super::document::{Key, Kind, Malformed, Object, Parsed, parse_json, parse_yaml};
use crate::{
    model::{Change, Event},
    source::Standing,
    source::problems::ProblemLog,
};

/// What a directory holds. One task owns it.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    node_name: String,
    files: BTreeMap<OsString, File>,
    /// Which files hold an object.
    holders: BTreeMap<Key, BTreeSet<OsString>>,
    problems: BTreeMap<Kind, ProblemLog>,
    /// How many documents of other kinds were met.
    other_kinds: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct File {
    /// Objects that are not to be served are left out.
    objects: BTreeMap<Key, Object>,
    /// What an operator was told is wrong.
    told: BTreeSet<Malformed>,
}

// === impl Directory ===

impl Directory {
    pub(super) fn new(path: &Path, node_name: &str, standing: &Standing) -> Self {
        let kinds =
            [(Kind::Node, "Node"), (Kind::ServiceCidr, "ServiceCIDR"), (Kind::EndpointSlice, "EndpointSlice"), (Kind::Service, "Service")];
        Self {
            path: path.to_owned(),
            node_name: node_name.to_owned(),
            files: BTreeMap::new(),
            holders: BTreeMap::new(),
            problems: kinds.into_iter().map(|(kind, name)| (kind, ProblemLog::new(name, standing.clone()))).collect(),
            other_kinds: BTreeMap::new(),
        }
    }

    /// Reads everything for the first time: one complete list of each kind.
    pub(super) fn read_all(&mut self) -> Vec<Change> {
        self.refresh_all();
        let (mut nodes, mut cidrs, mut slices, mut services) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for key in self.holders.keys() {
            match self.object(key) {
                Some(Object::Node(node)) => nodes.push(node.clone()),
                Some(Object::ServiceCidr(cidr)) => cidrs.push(cidr.clone()),
                Some(Object::Slice(slice)) => slices.push(slice.clone()),
                Some(Object::Service(service)) => services.push(service.clone()),
                None => {}
            }
        }
        vec![
            Change::Node(Event::Reset(nodes)),
            Change::ServiceCidr(Event::Reset(cidrs)),
            Change::Slice(Event::Reset(slices)),
            Change::Service(Event::Reset(services)),
        ]
    }

    /// Reads every file again, also to notice those that are gone.
    pub(super) fn refresh_all(&mut self) -> Vec<Change> {
        let mut names: BTreeSet<OsString> = self.files.keys().cloned().collect();
        match fs::read_dir(&self.path) {
            Ok(entries) => names.extend(entries.flatten().map(|entry| entry.file_name())),
            Err(error) => {
                warn!(directory = %self.path.display(), %error, "cannot list the directory of manifests");
                return Vec::new();
            }
        }
        self.refresh(&names)
    }

    /// Reads the named files again, and returns what that changed: first what is gone, then what is new, each in an order that leaves
    /// no Service without the endpoints it has.
    pub(super) fn refresh(&mut self, names: &BTreeSet<OsString>) -> Vec<Change> {
        let mut before: BTreeMap<Key, Option<Object>> = BTreeMap::new();
        for name in names.iter().filter(|name| is_manifest(name)) {
            let file = self.read(name);
            let touched = self.files.get(name).into_iter().chain(&file).flat_map(|file| file.objects.keys());
            for key in touched.cloned().collect::<BTreeSet<_>>() {
                let object = self.object(&key).cloned();
                before.entry(key).or_insert(object);
            }
            self.replace(name, file);
        }
        let changed: Vec<_> = before.into_iter().filter(|(key, before)| self.object(key) != before.as_ref()).collect();
        let gone = changed.iter().rev().filter(|(key, _)| self.object(key).is_none());
        let gone = gone.map(|(key, _)| deleted(key));
        let applied = changed.iter().filter_map(|(key, _)| self.object(key).cloned()).map(applied);
        gone.chain(applied).collect()
    }

    /// The version of an object that counts.
    fn object(&self, key: &Key) -> Option<&Object> {
        self.files.get(self.holders.get(key)?.first()?)?.objects.get(key)
    }

    fn replace(&mut self, name: &OsStr, file: Option<File>) {
        for key in self.files.get(name).into_iter().flat_map(|file| file.objects.keys()) {
            let Some(holders) = self.holders.get_mut(key) else { continue };
            holders.remove(name);
            if holders.is_empty() {
                self.holders.remove(key);
            }
        }
        let Some(file) = file else {
            self.files.remove(name);
            return;
        };
        for key in file.objects.keys() {
            self.holders.entry(key.clone()).or_default().insert(name.to_owned());
        }
        self.files.insert(name.to_owned(), file);
    }

    /// The file as it is now; nothing if it is gone.
    fn read(&mut self, name: &OsStr) -> Option<File> {
        let text = match fs::read_to_string(self.path.join(name)) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
                self.forget(name);
                return None;
            }
            Err(error) => {
                let unreadable = Malformed { document: 0, line: 0, error: error.to_string() };
                return Some(self.digest(name, Parsed { malformed: vec![unreadable], ..Parsed::default() }));
            }
        };
        let is_json = Path::new(name).extension().is_some_and(|extension| extension == "json");
        Some(self.digest(name, if is_json { parse_json(&text) } else { parse_yaml(&text) }))
    }

    /// Makes what was parsed the new version of a file, and says what is wrong with it.
    fn digest(&mut self, name: &OsStr, parsed: Parsed) -> File {
        let Parsed { objects, malformed, other_kinds } = parsed;
        self.tell_malformed(name, &malformed);
        self.tell_other_kinds(name, other_kinds);
        let mut file = File { objects: BTreeMap::new(), told: malformed.into_iter().collect() };
        let mut seen = BTreeSet::new();
        for (key, (object, problems)) in objects {
            if key.kind == Kind::Node && *key.name.name != *self.node_name {
                continue;
            }
            if let Some(log) = self.problems.get_mut(&key.kind) {
                log.observe(&key.name, &problems);
            }
            seen.insert(key.clone());
            file.objects.extend(object.map(|object| (key, object)));
        }
        if let Some(old) = self.files.get(name).filter(|_| !file.told.is_empty()) {
            let missing = old.objects.iter().filter(|(key, _)| !seen.contains(*key));
            file.objects.extend(missing.map(|(key, object)| (key.clone(), object.clone())));
        }
        file
    }

    fn tell_malformed(&self, name: &OsStr, malformed: &[Malformed]) {
        let path = self.path.join(name);
        let told = self.files.get(name).map(|file| &file.told);
        for found in malformed.iter().filter(|found| told.is_none_or(|told| !told.contains(found))) {
            let Malformed { document, line, error } = found;
            let file = path.display();
            let outcome = if told.is_some() { "what was in it stays in use" } else { "what is in it is not served until it can be read" };
            if *document == 0 {
                warn!(%file, error, "cannot read a manifest; {outcome}");
            } else {
                warn!(%file, document, line, error, "cannot read a document; {outcome}");
            }
        }
    }

    fn tell_other_kinds(&mut self, name: &OsStr, kinds: Vec<String>) {
        for kind in kinds {
            let file = self.path.join(name);
            let count = self.other_kinds.entry(kind.clone()).or_default();
            *count += 1;
            if *count == 1 {
                warn!(kind, file = %file.display(), "documents of this kind mean nothing here and are skipped");
            } else {
                debug!(kind, file = %file.display(), count, "skipped another document");
            }
        }
    }

    fn forget(&mut self, name: &OsStr) {
        for key in self.files.get(name).into_iter().flat_map(|file| file.objects.keys()) {
            if let Some(log) = self.problems.get_mut(&key.kind) {
                log.forget(&key.name);
            }
        }
    }
}

/// Whether a file is one of ours by its name. Hidden ones are an editor's.
fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !name.as_encoded_bytes().starts_with(b".") && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn deleted(key: &Key) -> Change {
    let name = key.name.clone();
    match key.kind {
        Kind::Node => Change::Node(Event::Deleted(name)),
        Kind::ServiceCidr => Change::ServiceCidr(Event::Deleted(name)),
        Kind::EndpointSlice => Change::Slice(Event::Deleted(name)),
        Kind::Service => Change::Service(Event::Deleted(name)),
    }
}

fn applied(object: Object) -> Change {
    match object {
        Object::Node(node) => Change::Node(Event::Applied(node)),
        Object::ServiceCidr(cidr) => Change::ServiceCidr(Event::Applied(cidr)),
        Object::Slice(slice) => Change::Slice(Event::Applied(slice)),
        Object::Service(service) => Change::Service(Event::Applied(service)),
    }
}
