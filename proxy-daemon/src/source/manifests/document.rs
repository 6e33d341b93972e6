//! From the text of a file to objects: documents are told apart first, so that a malformed one spoils nothing but itself.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Node as ApiNode, Service as ApiService},
        discovery::v1::EndpointSlice as ApiSlice,
        networking::v1::ServiceCIDR as ApiServiceCidr,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, de::DeserializeOwned};

use crate::model::{
    NodeInfo, ObjectName, Service, ServiceCidr, Slice,
    convert::{self, Converted, Problem},
};

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    /// Every object of a kind that is read, what is left of it, and what is wrong with it.
    pub(super) objects: BTreeMap<Key, (Option<Object>, Vec<Problem>)>,
    /// Documents that are none.
    pub(super) malformed: Vec<Malformed>,
    /// The kinds of the documents that mean nothing here.
    pub(super) other_kinds: Vec<String>,
}

/// Names an object among all objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
}

/// The kinds that are read, in the order in which they are best learnt of: a Service whose endpoints are not known yet would refuse
/// its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Node,
    ServiceCidr,
    EndpointSlice,
    Service,
}

/// An object of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Node(NodeInfo),
    ServiceCidr(ServiceCidr),
    Slice(Slice),
    Service(Service),
}

/// A document that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Malformed {
    /// Counted from 1.
    pub(super) document: usize,
    /// The line of the file where the document begins; positions in the error count from there.
    pub(super) line: usize,
    pub(super) error: String,
}

/// A document whose kind is not known yet.
enum Document<'a> {
    Yaml(&'a str),
    YamlItem(serde_yaml_ng::Value),
    Json(serde_json::Value),
}

#[derive(Deserialize)]
struct Header {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

/// Reads a file of YAML documents.
pub(super) fn parse_yaml(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, (line, document)) in split(text).into_iter().enumerate() {
        parsed.document(index + 1, line, &Document::Yaml(document));
    }
    parsed
}

/// Reads a file of JSON documents. Nothing after a syntax error can be read.
pub(super) fn parse_json(text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, document) in serde_json::Deserializer::from_str(text).into_iter().enumerate() {
        match document {
            Ok(document) => parsed.document(index + 1, 1, &Document::Json(document)),
            Err(error) => parsed.malformed.push(Malformed { document: index + 1, line: 1, error: error.to_string() }),
        }
    }
    parsed
}

/// The documents of a YAML file and the lines where they begin. A line that starts with `---` can be nothing but a separator.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if offset > start && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            documents.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push((start_line, &text[start..]));
    let says_something = |(_, document): &(usize, &str)| {
        document.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with('#') && line != "---")
    };
    documents.retain(says_something);
    documents
}

// === impl Parsed ===

impl Parsed {
    fn document(&mut self, number: usize, line: usize, document: &Document<'_>) {
        if let Err(error) = self.read(document) {
            self.malformed.push(Malformed { document: number, line, error });
        }
    }

    fn read(&mut self, document: &Document<'_>) -> Result<(), String> {
        let Some(Header { kind }) = document.to::<Option<Header>>()? else { return Ok(()) };
        let kind = kind.ok_or("it has no kind")?;
        match kind.as_str() {
            "Service" => self.service(document.to()?),
            "EndpointSlice" => self.slice(document.to()?),
            "Node" => self.node(document.to()?),
            "ServiceCIDR" => self.service_cidr(document.to()?),
            "List" => self.items(document),
            "ServiceList" => document.to::<List<_>>()?.items.into_iter().try_for_each(|item| self.service(item)),
            "EndpointSliceList" => document.to::<List<_>>()?.items.into_iter().try_for_each(|item| self.slice(item)),
            "ServiceCIDRList" => document.to::<List<_>>()?.items.into_iter().try_for_each(|item| self.service_cidr(item)),
            "NodeList" => document.to::<List<_>>()?.items.into_iter().try_for_each(|item| self.node(item)),
            _ => {
                self.other_kinds.push(kind);
                Ok(())
            }
        }
    }

    /// The items of a list of several kinds. One that is malformed does not keep the others from being read.
    fn items(&mut self, document: &Document<'_>) -> Result<(), String> {
        let items: Vec<Document<'_>> = if let Document::Json(_) = document {
            document.to::<List<_>>()?.items.into_iter().map(Document::Json).collect()
        } else {
            document.to::<List<_>>()?.items.into_iter().map(Document::YamlItem).collect()
        };
        let mut errors = Vec::new();
        for (index, item) in items.iter().enumerate() {
            if let Err(error) = self.read(item) {
                errors.push(format!("items[{index}]: {error}"));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    fn service(&mut self, mut service: ApiService) -> Result<(), String> {
        complete(&mut service.metadata)?;
        self.add(Kind::Service, convert::service(&service), Object::Service);
        Ok(())
    }

    fn slice(&mut self, mut slice: ApiSlice) -> Result<(), String> {
        complete(&mut slice.metadata)?;
        self.add(Kind::EndpointSlice, convert::endpoint_slice(&slice), Object::Slice);
        Ok(())
    }

    fn node(&mut self, mut node: ApiNode) -> Result<(), String> {
        complete(&mut node.metadata)?;
        node.metadata.namespace = None;
        self.add(Kind::Node, convert::node(&node), Object::Node);
        Ok(())
    }

    fn service_cidr(&mut self, mut cidr: ApiServiceCidr) -> Result<(), String> {
        complete(&mut cidr.metadata)?;
        cidr.metadata.namespace = None;
        self.add(Kind::ServiceCidr, convert::service_cidr(&cidr), Object::ServiceCidr);
        Ok(())
    }

    /// Adds an object. Of two of one name in a file the later one counts.
    fn add<T>(&mut self, kind: Kind, converted: Converted<T>, object: fn(T) -> Object) {
        let key = Key { kind, name: converted.name };
        self.objects.insert(key, (converted.object.map(object), converted.problems));
    }
}

/// Gives an object the namespace that it has without one.
fn complete(metadata: &mut ObjectMeta) -> Result<(), String> {
    if metadata.name.as_deref().is_none_or(str::is_empty) {
        return Err("metadata.name is missing".to_owned());
    }
    metadata.namespace.get_or_insert_with(|| "default".to_owned());
    Ok(())
}

// === impl Document ===

impl Document<'_> {
    fn to<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Yaml(text) => serde_yaml_ng::from_str(text).map_err(|error| error.to_string()),
            Self::YamlItem(value) => T::deserialize(value).map_err(|error| error.to_string()),
            Self::Json(value) => T::deserialize(value).map_err(|error| error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n";

    fn names(parsed: &Parsed) -> Vec<String> {
        parsed.objects.keys().map(|key| format!("{:?} {}", key.kind, key.name)).collect()
    }

    #[test]
    fn documents_are_told_apart_and_counted() {
        let documents = split("# nothing\n---\na: 1\n--- # two\nb: |\n  --- no\n---\n---\n---x\n");
        assert_eq!(documents, [(2, "---\na: 1\n"), (4, "--- # two\nb: |\n  --- no\n"), (8, "---\n---x\n")]);
    }

    #[test]
    fn a_malformed_document_spoils_nothing_but_itself() {
        let parsed = parse_yaml(&format!("{SERVICE}---\nkind: [\n---\n{}", SERVICE.replace("web", "dns")));
        assert_eq!(names(&parsed), ["Service default/dns", "Service default/web"]);
        assert_eq!(parsed.malformed.len(), 1);
        assert_eq!((parsed.malformed[0].document, parsed.malformed[0].line), (2, 5));
    }

    #[test]
    fn kinds_that_mean_nothing_here_are_named() {
        let parsed = parse_yaml("kind: Deployment\napiVersion: apps/v1\nspec: {replicas: nonsense}\n");
        assert_eq!(parsed.other_kinds, ["Deployment"]);
        assert!(parsed.malformed.is_empty());
    }

    #[test]
    fn networks_of_services_are_read() {
        let parsed = parse_yaml(
            "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/12]}\n",
        );
        assert_eq!(names(&parsed), ["ServiceCidr kubernetes"]);
    }

    #[test]
    fn a_document_without_kind_or_name_is_malformed() {
        let errors: Vec<_> = parse_yaml("a: 1\n---\nkind: Service\n---\n- 1\n").malformed.into_iter().map(|found| found.error).collect();
        assert_eq!(errors[..2], ["it has no kind", "metadata.name is missing"]);
        assert_eq!(errors.len(), 3);
    }

    #[test]
    fn lists_are_unpacked_in_yaml_and_json() {
        let list = r#"{"kind": "List", "apiVersion": "v1", "items": [
            {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n1"}},
            {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "shop"}},
            {"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1beta1", "metadata": {"name": "old"}}]}"#;
        for parsed in [parse_yaml(list), parse_json(list)] {
            assert_eq!(names(&parsed), ["Node n1", "Service shop/web"]);
            assert!(parsed.malformed[0].error.contains("items[2]"), "{:?}", parsed.malformed);
        }
    }
}
