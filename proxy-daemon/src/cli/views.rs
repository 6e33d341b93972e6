//! What `shunt show services`, `frontends` and `backends` print, made of a [`State`].
//!
//! The names of the fields are an interface: docs/cli.md lists them. All lists are sorted, so that two of them can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proxy_common::{FrontendRef, Protocol, Range, RangeWord, RowFlags, ServiceId, ServiceRow, SlotRange};
use serde::Serialize;

use super::{
    output::Row,
    state::{Slot, State},
};
use crate::model::{FrontendAddr, IpFamily};

/// A service port.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct ServiceView {
    service: String,
    protocol: String,
    id: u32,
    affinity_seconds: u32,
    frontends: BTreeSet<SocketAddr>,
    /// Different addresses and ports, whoever may use them.
    backends: usize,
}

/// An address and port that clients dial.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct FrontendView {
    address: IpAddr,
    port: u16,
    protocol: String,
    kind: &'static str,
    service: String,
    service_id: u32,
    row: u32,
    affinity_seconds: u32,
    internal: RangeView,
    external: RangeView,
    /// Who may begin flows; nothing if everybody may.
    source_ranges: Option<Vec<String>>,
}

/// What becomes of a new flow.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct RangeView {
    action: &'static str,
    backends: u32,
    first_slot: Option<u32>,
    generation: u16,
    masquerade: bool,
}

/// A slot that a frontend uses.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct BackendView {
    service: String,
    protocol: String,
    address: IpAddr,
    port: u16,
    place: &'static str,
    service_id: u32,
    slot: u32,
    index: u32,
    generation: u32,
    live: bool,
    internal: bool,
    external: bool,
}

/// The name of a protocol's number.
pub(super) fn protocol(number: u8) -> String {
    Protocol::from_wire(number).map_or_else(|| number.to_string(), |protocol| protocol.name().to_owned())
}

pub(super) fn services(state: &State) -> Vec<ServiceView> {
    let mut used = in_use(state);
    let view = |(&id, row): (&ServiceId, &ServiceRow)| {
        let used = used.remove(&id).unwrap_or_default();
        ServiceView {
            service: row.name().to_owned(),
            protocol: protocol(row.protocol),
            id: id.0,
            affinity_seconds: used.affinity_seconds,
            frontends: used.frontends,
            backends: used.backends.len(),
        }
    };
    sorted(state.services.iter().map(view))
}

#[derive(Default)]
struct InUse {
    affinity_seconds: u32,
    frontends: BTreeSet<SocketAddr>,
    backends: BTreeSet<SocketAddr>,
}

fn in_use(state: &State) -> BTreeMap<ServiceId, InUse> {
    let mut services: BTreeMap<ServiceId, InUse> = BTreeMap::new();
    for (frontend, &refer) in &state.frontends {
        let Some(row) = state.row(refer) else { continue };
        let service = services.entry(refer.service).or_default();
        service.affinity_seconds = service.affinity_seconds.max(row.affinity_secs);
        service.frontends.insert(SocketAddr::new(frontend.addr, frontend.port));
        let slots = [row.internal, row.external].into_iter().flat_map(slots);
        service.backends.extend(slots.filter_map(|slot| state.slot(frontend.addr, slot, refer.service)).map(|slot| slot.backend));
    }
    services
}

pub(super) fn frontends(state: &State) -> Vec<FrontendView> {
    state.frontends.iter().filter_map(|(frontend, &refer)| FrontendView::new(state, *frontend, refer)).collect()
}

/// Which clients' traffic goes to a slot.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scopes {
    internal: bool,
    external: bool,
}

/// The slots that frontends use.
pub(super) fn used_slots(state: &State) -> BTreeMap<(IpFamily, u32, ServiceId), Scopes> {
    let mut used: BTreeMap<_, Scopes> = BTreeMap::new();
    for (frontend, &refer) in &state.frontends {
        let Some(row) = state.row(refer) else { continue };
        let key = |slot| (IpFamily::of(frontend.addr), slot, refer.service);
        slots(row.internal).for_each(|slot| used.entry(key(slot)).or_default().internal = true);
        slots(row.external).for_each(|slot| used.entry(key(slot)).or_default().external = true);
    }
    used
}

pub(super) fn backends(state: &State) -> Vec<BackendView> {
    let view = |((family, number, owner), scopes): ((IpFamily, u32, ServiceId), Scopes)| {
        let slot = state.slots(family).get(&number).filter(|slot| slot.owner == owner)?;
        Some(BackendView::new(state, number, slot, scopes))
    };
    sorted(used_slots(state).into_iter().filter_map(view))
}

fn slots(word: RangeWord) -> std::ops::Range<u32> {
    match word.range() {
        Range::Slots(range) => range.base()..range.base().saturating_add(range.count()),
        Range::Reject | Range::Drop => 0..0,
    }
}

fn sorted<T: Ord>(views: impl Iterator<Item = T>) -> Vec<T> {
    let mut views: Vec<T> = views.collect();
    views.sort();
    views
}

// === impl FrontendView ===

impl FrontendView {
    fn new(state: &State, frontend: FrontendAddr, refer: FrontendRef) -> Option<Self> {
        let row = state.row(refer)?;
        Some(Self {
            address: frontend.addr,
            port: frontend.port,
            protocol: frontend.protocol.name().to_owned(),
            kind: kind(row.flags),
            service: state.service_name(refer.service),
            service_id: refer.service.0,
            row: refer.row.0,
            affinity_seconds: row.affinity_secs,
            internal: RangeView::new(row.internal, row.flags.has(RowFlags::MASQUERADE_INTERNAL)),
            external: RangeView::new(row.external, row.flags.has(RowFlags::MASQUERADE_EXTERNAL)),
            source_ranges: row.flags.has(RowFlags::SOURCE_RANGES).then(|| source_ranges(state, frontend, refer)),
        })
    }
}

/// The networks whose clients may use a frontend that is limited.
fn source_ranges(state: &State, frontend: FrontendAddr, refer: FrontendRef) -> Vec<String> {
    let networks = state.sources.get(&refer.service).into_iter().flatten();
    networks.filter(|network| network.network().is_ipv4() == frontend.addr.is_ipv4()).map(ToString::to_string).collect()
}

// === impl BackendView ===

impl BackendView {
    fn new(state: &State, number: u32, slot: &Slot, scopes: Scopes) -> Self {
        let service = state.services.get(&slot.owner);
        Self {
            service: state.service_name(slot.owner),
            protocol: service.map(|row| protocol(row.protocol)).unwrap_or_default(),
            address: slot.backend.ip(),
            port: slot.backend.port(),
            place: if slot.is_elsewhere { "elsewhere" } else { "here" },
            service_id: slot.owner.0,
            slot: number,
            index: slot.reference.index(),
            generation: slot.reference.generation(),
            live: state.is_live(slot.reference),
            internal: scopes.internal,
            external: scopes.external,
        }
    }
}

pub(super) fn kind(flags: RowFlags) -> &'static str {
    match flags.kind() {
        RowFlags::CLUSTER_IP => "cluster_ip",
        RowFlags::NODE_PORT => "node_port",
        RowFlags::EXTERNAL_IP => "external_ip",
        RowFlags::LOAD_BALANCER_IP => "load_balancer_ip",
        _ => "unknown",
    }
}

// === impl RangeView ===

impl RangeView {
    fn new(word: RangeWord, masquerade: bool) -> Self {
        let (action, slots) = match word.range() {
            Range::Slots(slots) => ("forward", Some(slots)),
            Range::Reject => ("reject", None),
            Range::Drop => ("drop", None),
        };
        let (backends, first_slot) = (slots.map_or(0, SlotRange::count), slots.map(SlotRange::base));
        Self { action, backends, first_slot, generation: word.generation(), masquerade }
    }

    fn cell(&self) -> String {
        if self.first_slot.is_some() { self.backends.to_string() } else { self.action.to_owned() }
    }
}

// === impl Row ===

/// A column of addresses stays readable: the first three, and how many more.
const LISTED: usize = 3;

impl Row for ServiceView {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "PROTOCOL", "ID", "BACKENDS", "AFFINITY", "FRONTENDS"];

    fn cells(&self) -> Vec<String> {
        let mut frontends: Vec<String> = self.frontends.iter().take(LISTED).map(SocketAddr::to_string).collect();
        if self.frontends.len() > LISTED {
            frontends.push(format!("+{}", self.frontends.len() - LISTED));
        }
        vec![
            self.service.clone(),
            self.protocol.clone(),
            self.id.to_string(),
            self.backends.to_string(),
            affinity(self.affinity_seconds),
            frontends.join(","),
        ]
    }
}

impl Row for FrontendView {
    const COLUMNS: &'static [&'static str] = &["FRONTEND", "PROTOCOL", "KIND", "SERVICE", "INTERNAL", "EXTERNAL", "AFFINITY"];

    fn cells(&self) -> Vec<String> {
        vec![
            SocketAddr::new(self.address, self.port).to_string(),
            self.protocol.clone(),
            self.kind.to_owned(),
            self.service.clone(),
            self.internal.cell(),
            self.external.cell(),
            affinity(self.affinity_seconds),
        ]
    }
}

impl Row for BackendView {
    const COLUMNS: &'static [&'static str] = &["SERVICE", "PROTOCOL", "BACKEND", "PLACE", "SLOT", "LIVE", "USED-BY"];

    fn cells(&self) -> Vec<String> {
        let used = [("internal", self.internal), ("external", self.external)];
        let used: Vec<&str> = used.into_iter().filter(|(_, used)| *used).map(|(scope, _)| scope).collect();
        vec![
            self.service.clone(),
            self.protocol.clone(),
            SocketAddr::new(self.address, self.port).to_string(),
            self.place.to_owned(),
            self.slot.to_string(),
            self.live.to_string(),
            used.join(","),
        ]
    }
}

fn affinity(seconds: u32) -> String {
    if seconds == 0 { String::new() } else { format!("{seconds}s") }
}

#[cfg(test)]
mod tests {
    use proxy_common::{BackendRef, FrontendRow, RowIndex};
    use serde_json::json;

    use super::*;
    use crate::{args::Format, cli::output::render};

    fn row(owner: u32, flags: RowFlags, internal: Range, external: Range) -> FrontendRow {
        let (internal, external) = (RangeWord::new(internal, 7), RangeWord::new(external, 8));
        FrontendRow { internal, external, flags, affinity_secs: 0, owner: ServiceId(owner), pad: 0 }
    }

    fn slots(base: u32, count: u32) -> Range {
        Range::Slots(SlotRange::new(base, count).unwrap())
    }

    fn slot(backend: &str, reference: BackendRef) -> Slot {
        Slot { backend: backend.parse().unwrap(), is_elsewhere: backend.starts_with("10.244.2."), reference, owner: ServiceId(1) }
    }

    /// A service of both families with two IPv4 backends, one of them on this node, and one without endpoints.
    fn state() -> State {
        let name = |name| ServiceRow::new(name, Protocol::Tcp).unwrap();
        let cluster_ip = row(1, RowFlags::CLUSTER_IP, slots(1, 2), slots(1, 2));
        let rows = [
            FrontendRow { affinity_secs: 30, ..cluster_ip },
            row(1, RowFlags::NODE_PORT, slots(1, 2), slots(3, 1)),
            row(2, RowFlags::CLUSTER_IP, Range::Reject, Range::Drop),
            row(1, RowFlags::CLUSTER_IP, slots(0, 1), slots(0, 1)),
        ];
        let frontend = |text: &str, service, row| {
            let dialled: SocketAddr = text.parse().unwrap();
            let addr = FrontendAddr { addr: dialled.ip(), port: dialled.port(), protocol: Protocol::Tcp };
            (addr, FrontendRef { service: ServiceId(service), row: RowIndex(row) })
        };
        let (near, far) = (BackendRef::new(1, 5), BackendRef::new(2, 6));
        let other = Slot { owner: ServiceId(9), ..slot("10.244.9.9:1", near) };
        let slots4 = [slot("10.244.1.2:8080", near), slot("10.244.2.2:8080", far), slot("10.244.1.2:8080", near), other];
        State {
            services: [(ServiceId(1), name("default/web:http")), (ServiceId(2), name("default/empty"))].into(),
            frontends: [
                frontend("192.0.2.10:30080", 1, 2),
                frontend("10.96.0.10:80", 1, 1),
                frontend("10.96.0.11:80", 2, 3),
                frontend("10.96.0.12:80", 2, 1),
                frontend("[fd00:96::10]:80", 1, 4),
            ]
            .into(),
            rows: (1..).zip(rows).collect(),
            slots4: (1..).zip(slots4).collect(),
            slots6: [(0, slot("[fd00:244::2]:8080", BackendRef::NONE))].into(),
            live: [(1, near), (2, BackendRef::new(2, 7))].into(),
            ..State::default()
        }
    }

    #[test]
    fn services_gather_their_frontends_and_distinct_backends() {
        let views = services(&state());
        assert_eq!(
            serde_json::to_value(&views).unwrap(),
            json!([
                {"service": "default/empty", "protocol": "TCP", "id": 2, "affinity_seconds": 0,
                 "frontends": ["10.96.0.11:80"], "backends": 0},
                {"service": "default/web:http", "protocol": "TCP", "id": 1, "affinity_seconds": 30,
                 "frontends": ["10.96.0.10:80", "192.0.2.10:30080", "[fd00:96::10]:80"], "backends": 3},
            ])
        );
        let table = render(&views, Format::Table);
        assert!(table.contains("default/web:http   TCP        1    3          30s        10.96.0.10:80,192.0.2.10:30080,"), "{table}");
    }

    #[test]
    fn frontends_say_what_becomes_of_a_new_flow() {
        let views = frontends(&state());
        // 10.96.0.12 has a row that belongs to another service by now.
        let table = render(&views, Format::Table);
        let expected = "\
FRONTEND           PROTOCOL   KIND         SERVICE            INTERNAL   EXTERNAL   AFFINITY
10.96.0.10:80      TCP        cluster_ip   default/web:http   2          2          30s
10.96.0.11:80      TCP        cluster_ip   default/empty      reject     drop       -
192.0.2.10:30080   TCP        node_port    default/web:http   2          1          -
[fd00:96::10]:80   TCP        cluster_ip   default/web:http   1          1          -
";
        assert_eq!(table, expected);
        assert_eq!(
            serde_json::to_value(&views[1].external).unwrap(),
            json!({"action": "drop", "backends": 0, "first_slot": null, "generation": 8, "masquerade": false})
        );
    }

    #[test]
    fn a_limited_frontend_says_who_may_use_it() {
        let mut state = state();
        let networks = ["192.0.2.0/24", "fd00::/8"].map(|text| text.parse().unwrap());
        state.sources = [(ServiceId(1), networks.into())].into();
        let flags = RowFlags::LOAD_BALANCER_IP.with(RowFlags::SOURCE_RANGES).with(RowFlags::MASQUERADE_EXTERNAL);
        state.rows.get_mut(&2).unwrap().flags = flags;
        let views = serde_json::to_value(frontends(&state)).unwrap();
        assert_eq!((&views[2]["kind"], &views[2]["source_ranges"]), (&json!("load_balancer_ip"), &json!(["192.0.2.0/24"])));
        assert_eq!((&views[2]["internal"]["masquerade"], &views[2]["external"]["masquerade"]), (&json!(false), &json!(true)));
        assert_eq!(views[0]["source_ranges"], json!(null));
    }

    #[test]
    fn backends_are_the_slots_in_use() {
        let table = render(&backends(&state()), Format::Table);
        let expected = "\
SERVICE            PROTOCOL   BACKEND              PLACE       SLOT   LIVE    USED-BY
default/web:http   TCP        10.244.1.2:8080      here        1      true    internal,external
default/web:http   TCP        10.244.1.2:8080      here        3      true    external
default/web:http   TCP        10.244.2.2:8080      elsewhere   2      false   internal,external
default/web:http   TCP        [fd00:244::2]:8080   here        0      false   internal,external
";
        assert_eq!(table, expected);
    }

    #[test]
    fn a_service_without_a_name_is_shown_by_its_id() {
        let mut state = state();
        state.services.clear();
        assert_eq!(frontends(&state)[0].service, "#1");
    }
}
