//! `shunt map list` and `shunt map dump`: the maps as they are, with the names of the fields.
//!
//! Arrays have a row for every index; those that are all zeros are left out, since nothing was ever written there. Of per-CPU values
//! the CPUs that counted something are listed.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, bail};
use aya::{
    Pod as AyaPod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray},
};
use bytemuck::Pod;
use proxy_common::{
    Addr4, Addr6, Affinity, AffinityKey, Backend, BackendRef, Family, Flow, FlowKey, FragmentKey, FrontendKey, FrontendRef, FrontendRow,
    Networks, NodeIps, NodeRow, Ports, ServiceCounters, ServiceId, ServiceRow, SnatSource, SocketKey, SocketPeer, SourceKey, Undefined, V4,
    V6, filter::Marks, maps, reason::Reason,
};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use serde_json::{Value, json};

use super::{
    fields::Fields,
    output::{self, Show},
};
use crate::{
    args::Format,
    maps::{Pins, Row, SourceBits},
};

/// A map as the kernel describes it.
#[derive(Debug, Serialize)]
pub(super) struct MapView {
    name: &'static str,
    id: u32,
    r#type: String,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    pinned: String,
}

impl output::Row for MapView {
    const COLUMNS: &'static [&'static str] = &["NAME", "ID", "TYPE", "KEY", "VALUE", "MAX-ENTRIES", "FLAGS"];

    fn cells(&self) -> Vec<String> {
        let sizes = [self.key_size, self.value_size].map(|size| format!("{size}B"));
        let [key, value] = sizes;
        let flags = format!("{:#x}", self.flags);
        vec![self.name.to_owned(), self.id.to_string(), self.r#type.clone(), key, value, self.max_entries.to_string(), flags]
    }
}

pub(super) fn maps(pins: &Pins) -> Result<Vec<MapView>> {
    let view = |name: &'static str| {
        let path = pins.maps().join(name);
        let info = MapInfo::from_pin(&path).with_context(|| format!("opening the pinned map {}", path.display()))?;
        Ok(MapView {
            name,
            id: info.id(),
            r#type: info.map_type().map_or_else(|_| "unknown".to_owned(), |kind| snake(&format!("{kind:?}"))),
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
            pinned: path.display().to_string(),
        })
    };
    maps::ALL.into_iter().map(view).collect()
}

/// `LruHash` as bpftool has it: `lru_hash`.
pub(super) fn snake(camel: &str) -> String {
    let mut snake = String::new();
    for (index, letter) in camel.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    // The kernel spells it in one word.
    snake.replace("per_cpu", "percpu")
}

/// Prints all rows of a map.
pub(super) fn dump(pins: &Pins, name: &str, format: Format) -> Result<()> {
    let Some(name) = maps::ALL.into_iter().find(|known| known.eq_ignore_ascii_case(name)) else {
        bail!("there is no map {name}: it is one of {}", maps::ALL.join(", "));
    };
    let dir = &pins.maps();
    match name {
        maps::FRONTENDS_V4 => hash::<FrontendKey<V4>, FrontendRef>(dir, name, format),
        maps::FRONTENDS_V6 => hash::<FrontendKey<V6>, FrontendRef>(dir, name, format),
        maps::FRONTEND_ROWS => array::<FrontendRow>(dir, name, format),
        maps::BACKENDS_V4 => array::<Backend<V4>>(dir, name, format),
        maps::BACKENDS_V6 => array::<Backend<V6>>(dir, name, format),
        maps::BACKEND_LIVE => array::<BackendRef>(dir, name, format),
        maps::FILTER => array::<Marks>(dir, name, format),
        maps::FLOWS_V4 => hash::<FlowKey<V4>, Flow<V4>>(dir, name, format),
        maps::FLOWS_V6 => hash::<FlowKey<V6>, Flow<V6>>(dir, name, format),
        maps::SOCKETS_V4 => hash::<SocketKey<V4>, SocketPeer<V4>>(dir, name, format),
        maps::SOCKETS_V6 => hash::<SocketKey<V6>, SocketPeer<V6>>(dir, name, format),
        maps::CALLERS => hash::<u64, u64>(dir, name, format),
        maps::PODS => hash::<u64, u32>(dir, name, format),
        maps::SOURCES_V4 => trie::<V4>(dir, name, format),
        maps::SOURCES_V6 => trie::<V6>(dir, name, format),
        maps::AFFINITY_V4 => hash::<AffinityKey<V4>, Affinity<V4>>(dir, name, format),
        maps::AFFINITY_V6 => hash::<AffinityKey<V6>, Affinity<V6>>(dir, name, format),
        maps::FRAGMENTS_V4 => hash::<FragmentKey<V4>, Ports>(dir, name, format),
        maps::FRAGMENTS_V6 => hash::<FragmentKey<V6>, Ports>(dir, name, format),
        maps::CLUSTER_IPS_V4 => hash::<Addr4, Undefined>(dir, name, format),
        maps::CLUSTER_IPS_V6 => hash::<Addr6, Undefined>(dir, name, format),
        maps::NETWORKS_V4 => array::<Networks<V4>>(dir, name, format),
        maps::NETWORKS_V6 => array::<Networks<V6>>(dir, name, format),
        maps::SNAT_V4 => hash::<u32, SnatSource<V4>>(dir, name, format),
        maps::SNAT_V6 => hash::<u32, SnatSource<V6>>(dir, name, format),
        maps::SERVICES => hash::<ServiceId, ServiceRow>(dir, name, format),
        maps::SERVICE_STATS => per_cpu::<u32, ServiceCounters>(dir, name, format, |index| index),
        maps::REASONS => per_cpu::<ReasonIndex, u64>(dir, name, format, ReasonIndex),
        maps::NODE => array::<NodeRow>(dir, name, format),
        maps::NODE_IPS => array::<NodeIps>(dir, name, format),
        _ => bail!("{name} holds nothing but what a program is working on"),
    }
}

fn open<T: TryFrom<Map, Error = MapError>>(dir: &Path, name: &'static str) -> Result<T> {
    let data: MapData = crate::maps::open(dir, name)?;
    Map::from_map_data(data).and_then(T::try_from).with_context(|| format!("{name} is not of the type it should be"))
}

fn hash<K: Pod + Fields, V: Pod + Fields>(dir: &Path, name: &'static str, format: Format) -> Result<()> {
    let map: HashMap<MapData, Row<K>, Row<V>> = open(dir, name)?;
    let entries = map.iter().map(|entry| entry.map(|(key, value)| Entry { key: key.0, value: value.0 }));
    print(name, entries, format)
}

/// What counts of an entry of a trie is that it is there.
fn trie<F: Family>(dir: &Path, name: &'static str, format: Format) -> Result<()>
where
    SourceKey<F>: Fields,
{
    let map: LpmTrie<MapData, SourceBits<F>, u8> = open(dir, name)?;
    let entries = map.keys().map(|key| key.map(|key| Entry { key: SourceBits::from_key(&key), value: 1_u32 }));
    print(name, entries, format)
}

fn array<V: Pod + Fields>(dir: &Path, name: &'static str, format: Format) -> Result<()> {
    let map: Array<MapData, Row<V>> = open(dir, name)?;
    let entries = (0..map.len()).map(|key| map.get(&key, 0).map(|value| Entry { key, value: value.0 }));
    print(name, entries.filter(|entry| entry.as_ref().map_or(true, |entry| !is_zero(&entry.value))), format)
}

fn per_cpu<K: Fields, V: Pod + Fields>(dir: &Path, name: &'static str, format: Format, key: impl Fn(u32) -> K) -> Result<()>
where
    Row<V>: AyaPod,
{
    let map: PerCpuArray<MapData, Row<V>> = open(dir, name)?;
    let entries = (0..map.len()).map(|index| {
        let values = map.get(&index, 0)?;
        Ok(Entry { key: key(index), value: PerCpu(values.iter().map(|value| value.0).collect()) })
    });
    let counted = |entry: &Entry<K, PerCpu<V>>| !entry.value.0.iter().all(is_zero);
    print(name, entries.filter(|entry| entry.as_ref().map_or(true, counted)), format)
}

fn print<K: Fields, V: Fields>(
    name: &'static str,
    entries: impl Iterator<Item = Result<Entry<K, V>, MapError>>,
    format: Format,
) -> Result<()> {
    // A key that goes away while the map is read is skipped.
    let entries = entries.filter(|entry| !matches!(entry, Err(MapError::KeyNotFound)));
    let entries: Vec<Entry<K, V>> = entries.collect::<Result<_, _>>().with_context(|| format!("reading {name}"))?;
    output::print(&Entries(entries), format)
}

fn is_zero(value: &impl Pod) -> bool {
    bytemuck::bytes_of(value).iter().all(|&byte| byte == 0)
}

/// A row; its JSON is made when it is written, since there may be very many.
struct Entry<K, V> {
    key: K,
    value: V,
}

struct Entries<K, V>(Vec<Entry<K, V>>);

/// One value for each CPU.
struct PerCpu<V>(Vec<V>);

/// A key of `REASONS`.
struct ReasonIndex(u32);

impl<V: Pod + Fields> Fields for PerCpu<V> {
    fn fields(&self) -> Value {
        let counted = self.0.iter().enumerate().filter(|(_, value)| !is_zero(*value));
        counted.map(|(cpu, value)| json!({"cpu": cpu, "value": value.fields()})).collect()
    }
}

impl Fields for ReasonIndex {
    fn fields(&self) -> Value {
        let reason = Reason::ALL.iter().find(|reason| reason.index() == self.0);
        json!({"index": self.0, "name": reason.map(|reason| reason.name())})
    }
}

impl<K: Fields, V: Fields> Serialize for Entry<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut entry = serializer.serialize_struct("Entry", 2)?;
        entry.serialize_field("key", &self.key.fields())?;
        entry.serialize_field("value", &self.value.fields())?;
        entry.end()
    }
}

impl<K: Fields, V: Fields> Serialize for Entries<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<K: Fields, V: Fields> output::Row for Entry<K, V> {
    const COLUMNS: &'static [&'static str] = &["KEY", "VALUE"];

    fn cells(&self) -> Vec<String> {
        vec![line(&self.key.fields()), line(&self.value.fields())]
    }
}

impl<K: Fields, V: Fields> Show for Entries<K, V> {
    fn table(&self) -> String {
        output::table(&self.0)
    }
}

/// JSON on one line, as `field=value`; names of inner fields are joined by dots.
fn line(value: &Value) -> String {
    fn add(text: &mut String, path: &str, value: &Value) {
        let joined = |name: &dyn std::fmt::Display| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let leaf = match value {
            Value::Object(fields) => return fields.iter().for_each(|(name, inner)| add(text, &joined(name), inner)),
            Value::Array(items) if items.iter().any(|item| !item.is_string()) => {
                return items.iter().enumerate().for_each(|(index, inner)| add(text, &joined(&index), inner));
            }
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::String(leaf) => leaf.clone(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        };
        let separator = if text.is_empty() { "" } else { " " };
        let written = if path.is_empty() { write!(text, "{separator}{leaf}") } else { write!(text, "{separator}{path}={leaf}") };
        written.expect("a String takes everything");
    }
    let mut text = String::new();
    add(&mut text, "", value);
    text
}

#[cfg(test)]
mod tests {
    use proxy_common::{Port, Protocol};

    use super::*;
    use crate::cli::output::{Row as _, render};

    fn entries() -> Entries<FrontendKey<V4>, FrontendRef> {
        let key = FrontendKey::new(Addr4::from_wire([10, 96, 0, 10]), Port::from_host(53), Protocol::Udp);
        let value = FrontendRef { service: ServiceId(3), row: proxy_common::RowIndex(9) };
        Entries(vec![Entry { key, value }])
    }

    #[test]
    fn rows_are_lines_of_named_fields() {
        let expected = "\
KEY                                    VALUE
addr=10.96.0.10 port=53 protocol=UDP   row=9 service=3
";
        assert_eq!(render(&entries(), Format::Table), expected);
    }

    #[test]
    fn rows_are_objects_of_key_and_value() {
        let json: Value = serde_json::from_str(&render(&entries(), Format::Json)).unwrap();
        assert_eq!(
            json,
            json!([{
                "key": {"addr": "10.96.0.10", "port": 53, "protocol": "UDP"},
                "value": {"service": 3, "row": 9},
            }])
        );
    }

    #[test]
    fn cpus_that_counted_nothing_are_left_out() {
        let entry = Entry { key: ReasonIndex(4), value: PerCpu(vec![0_u64, 7]) };
        assert_eq!(entry.cells(), ["index=4 name=no_service", "0.cpu=1 0.value=7"]);
    }

    #[test]
    fn every_map_has_a_way_to_be_printed_or_nothing_to_print() {
        let pins = Pins::new("/nowhere".into());
        for name in maps::ALL {
            let error = dump(&pins, name, Format::Json).unwrap_err().to_string();
            let expected = if name.starts_with("SCRATCH") || name == maps::LIMITS || name == maps::SNAT_CURSOR {
                "holds nothing but"
            } else {
                "opening the pinned map"
            };
            assert!(error.contains(expected), "{name}: {error}");
        }
        assert!(dump(&pins, "NONE", Format::Json).unwrap_err().to_string().starts_with("there is no map NONE"));
    }

    #[test]
    fn types_are_spelled_as_bpftool_does() {
        for (debug, expected) in [("LruHash", "lru_hash"), ("PerCpuArray", "percpu_array"), ("Array", "array")] {
            assert_eq!(snake(debug), expected);
        }
    }
}
