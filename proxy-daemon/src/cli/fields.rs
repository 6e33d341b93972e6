//! The types of the maps as JSON, for `shunt map dump`.
//!
//! Packed words are taken apart, addresses and ports are printed as people write them, padding is left out.

use proxy_common::{
    Addr4, Addr6, Address as _, Affinity, AffinityKey, Backend, BackendFlags, BackendRef, By, Family, Flow, FlowKey, FlowState,
    FragmentKey, FrontendKey, FrontendRef, FrontendRow, Network, Networks, NodeIps, NodeRow, Ports, Range, RangeWord, RowFlags,
    ServiceCounters, ServiceId, ServiceRow, SnatSource, SocketKey, SocketPeer, SourceKey, Undefined, filter::Marks,
};
use serde_json::{Value, json};

use super::views::{kind, protocol};

/// A type of a map.
pub(super) trait Fields {
    fn fields(&self) -> Value;
}

impl Fields for u32 {
    fn fields(&self) -> Value {
        json!(self)
    }
}

impl Fields for u64 {
    fn fields(&self) -> Value {
        json!(self)
    }
}

impl Fields for ServiceId {
    fn fields(&self) -> Value {
        json!(self.0)
    }
}

impl Fields for Marks {
    fn fields(&self) -> Value {
        json!(self.0)
    }
}

impl Fields for BackendRef {
    fn fields(&self) -> Value {
        json!({"index": self.index(), "generation": self.generation()})
    }
}

impl Fields for RangeWord {
    fn fields(&self) -> Value {
        let generation = self.generation();
        match self.range() {
            Range::Slots(slots) => json!({"base": slots.base(), "count": slots.count(), "generation": generation}),
            Range::Reject => json!({"reject": true, "generation": generation}),
            Range::Drop => json!({"drop": true, "generation": generation}),
        }
    }
}

impl<F: Family> Fields for FrontendKey<F> {
    fn fields(&self) -> Value {
        json!({"addr": self.addr.to_ip(), "port": self.port.to_host(), "protocol": protocol(self.protocol)})
    }
}

impl Fields for FrontendRef {
    fn fields(&self) -> Value {
        json!({"service": self.service.0, "row": self.row.0})
    }
}

impl Fields for FrontendRow {
    fn fields(&self) -> Value {
        json!({
            "internal": self.internal.fields(),
            "external": self.external.fields(),
            "flags": self.flags.0,
            "kind": kind(self.flags),
            "source_ranges": self.flags.has(RowFlags::SOURCE_RANGES),
            "masquerade_internal": self.flags.has(RowFlags::MASQUERADE_INTERNAL),
            "masquerade_external": self.flags.has(RowFlags::MASQUERADE_EXTERNAL),
            "affinity_secs": self.affinity_secs,
            "owner": self.owner.0,
        })
    }
}

impl<F: Family> Fields for Backend<F> {
    fn fields(&self) -> Value {
        json!({
            "addr": self.addr.to_ip(),
            "port": self.port.to_host(),
            "flags": self.flags.0,
            "elsewhere": self.flags.has(BackendFlags::ELSEWHERE),
            "reference": self.reference.fields(),
            "owner": self.owner.0,
        })
    }
}

impl<F: Family> Fields for FlowKey<F> {
    fn fields(&self) -> Value {
        json!({
            "src": self.src.to_ip(),
            "dst": self.dst.to_ip(),
            "src_port": self.src_port.to_host(),
            "dst_port": self.dst_port.to_host(),
            "protocol": protocol(self.protocol),
            "side": side(self.side),
        })
    }
}

impl<F: Family> Fields for Flow<F> {
    fn fields(&self) -> Value {
        json!({
            "src": self.src.to_ip(),
            "dst": self.dst.to_ip(),
            "src_port": self.src_port.to_host(),
            "dst_port": self.dst_port.to_host(),
            "last_used": self.last_used,
            "backend": self.backend.fields(),
            "owner": {"service": self.owner.service().0, "state": states(self.owner.state())},
        })
    }
}

impl Fields for Addr4 {
    fn fields(&self) -> Value {
        json!(self.to_ip())
    }
}

impl Fields for Addr6 {
    fn fields(&self) -> Value {
        json!(self.to_ip())
    }
}

impl Fields for Undefined {
    fn fields(&self) -> Value {
        match *self {
            Self::REFUSE => json!("refuse"),
            Self::LEAVE => json!("leave"),
            Self(other) => json!(other),
        }
    }
}

impl<F: Family> Fields for SourceKey<F> {
    fn fields(&self) -> Value {
        json!({"service": self.service.0, "addr": self.addr.to_ip(), "prefix_len": self.prefix_len.saturating_sub(ServiceId::BITS)})
    }
}

impl<F: Family> Fields for AffinityKey<F> {
    fn fields(&self) -> Value {
        json!({"client": self.client.to_ip(), "service": self.service.0})
    }
}

impl<F: Family> Fields for Affinity<F> {
    fn fields(&self) -> Value {
        json!({"addr": self.addr.to_ip(), "port": self.port.to_host(), "last_used": self.last_used})
    }
}

impl<F: Family> Fields for SocketKey<F> {
    fn fields(&self) -> Value {
        let by = match self.by {
            by if by == By::Socket as u8 => "socket",
            by if by == By::Dialled as u8 => "dialled",
            _ => "backend",
        };
        let (addr, port) = (self.addr.to_ip(), self.port.to_host());
        json!({"cookie": self.cookie, "addr": addr, "port": port, "protocol": protocol(self.protocol), "by": by})
    }
}

impl<F: Family> Fields for SocketPeer<F> {
    fn fields(&self) -> Value {
        json!({
            "dialled": self.dialled.to_ip(), "dialled_port": self.dialled_port.to_host(), "addr": self.addr.to_ip(),
            "port": self.port.to_host(), "connected": self.connected != 0,
            "backend": self.backend.fields(), "service": self.service.0, "last_used": self.last_used,
        })
    }
}

impl<F: Family> Fields for FragmentKey<F> {
    fn fields(&self) -> Value {
        let protocol = u8::try_from(self.protocol).map_or_else(|_| self.protocol.to_string(), protocol);
        json!({"src": self.src.to_ip(), "dst": self.dst.to_ip(), "id": self.id, "protocol": protocol})
    }
}

impl Fields for Ports {
    fn fields(&self) -> Value {
        json!({"src_port": self.src.to_host(), "dst_port": self.dst.to_host(), "seen": self.seen})
    }
}

impl<F: Family> Fields for Network<F> {
    fn fields(&self) -> Value {
        json!({"base": self.base.to_ip(), "mask": self.mask.to_ip()})
    }
}

impl<F: Family> Fields for Networks<F> {
    fn fields(&self) -> Value {
        json!({"all": self.all.fields(), "each": self.each.map(|network| network.fields())})
    }
}

impl<F: Family> Fields for SnatSource<F> {
    fn fields(&self) -> Value {
        json!({
            "addr": self.addr.to_ip(),
            "first_port": self.first_port.to_host(),
            "last_port": self.last_port.to_host(),
            "mtu": self.mtu,
            "ethernet": self.bare == 0,
        })
    }
}

impl Fields for ServiceRow {
    fn fields(&self) -> Value {
        json!({"name": self.name(), "protocol": protocol(self.protocol)})
    }
}

impl Fields for ServiceCounters {
    fn fields(&self) -> Value {
        json!({"flows": self.flows, "packets": self.packets, "bytes": self.bytes})
    }
}

impl Fields for NodeRow {
    fn fields(&self) -> Value {
        json!({
            "seed": self.seed,
            "layout_version": self.layout_version,
            "synced": self.synced,
            "pid": self.pid,
            "hz": self.hz,
            "name": text(&self.name),
        })
    }
}

impl Fields for NodeIps {
    fn fields(&self) -> Value {
        json!({"ips": self.iter().collect::<Vec<_>>()})
    }
}

/// Text filled up with zeros.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

pub(super) fn side(number: u8) -> &'static str {
    match number {
        0 => "ingress",
        1 => "egress",
        _ => "unknown",
    }
}

/// The flags of a flow's state by name; none for a new one.
pub(super) fn states(state: FlowState) -> Vec<&'static str> {
    let names = [
        (FlowState::ESTABLISHED, "established"),
        (FlowState::FIN, "fin"),
        (FlowState::RST, "rst"),
        (FlowState::REPLY, "reply"),
        (FlowState::MASQUERADED, "masqueraded"),
        (FlowState::FOREIGN, "foreign"),
    ];
    names.into_iter().filter(|(flag, _)| state.has(*flag)).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use proxy_common::{Port, Protocol, Side, SlotRange, Tuple, V4};

    use super::*;

    fn v4(bytes: [u8; 4]) -> Addr4 {
        Addr4::from_wire(bytes)
    }

    #[test]
    fn packed_words_are_taken_apart() {
        let row = FrontendRow {
            internal: RangeWord::new(Range::Slots(SlotRange::new(5, 2).unwrap()), 3),
            external: RangeWord::new(Range::Drop, 4),
            flags: RowFlags::NODE_PORT.with(RowFlags::MASQUERADE_EXTERNAL),
            affinity_secs: 10,
            owner: ServiceId(9),
            pad: 0,
        };
        let expected = json!({
            "internal": {"base": 5, "count": 2, "generation": 3},
            "external": {"drop": true, "generation": 4},
            "flags": 0x402, "kind": "node_port", "affinity_secs": 10, "owner": 9,
            "source_ranges": false, "masquerade_internal": false, "masquerade_external": true,
        });
        assert_eq!(row.fields(), expected);
        assert_eq!(BackendRef::new(7, 2).fields(), json!({"index": 7, "generation": 2}));
    }

    #[test]
    fn flows_are_told_in_both_tuples() {
        let tuple = Tuple::<V4> {
            src: v4([10, 244, 1, 5]),
            dst: v4([10, 96, 0, 10]),
            src_port: Port::from_host(40000),
            dst_port: Port::from_host(80),
        };
        let flow_key = FlowKey::new(tuple, Protocol::Tcp, Side::Ingress);
        let expected =
            json!({"src": "10.244.1.5", "dst": "10.96.0.10", "src_port": 40000, "dst_port": 80, "protocol": "TCP", "side": "ingress"});
        assert_eq!(flow_key.fields(), expected);
        let state = FlowState::ESTABLISHED.with(FlowState::REPLY);
        let flow = Flow::new(tuple, 77, BackendRef::new(1, 1), ServiceId(3), state);
        assert_eq!(flow.fields()["owner"], json!({"service": 3, "state": ["established", "reply"]}));
    }
}
