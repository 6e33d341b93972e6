//! What `shunt show flows` prints: both directions of each flow, an entry a line.

use std::net::{IpAddr, SocketAddr};

use proxy_common::{Address as _, Family, Flow, FlowKey, FlowState, ServiceId};
use serde::Serialize;

use super::{fields, output::Row, state::State, views};

/// An entry of the flow table.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct FlowView {
    service: String,
    protocol: String,
    source: IpAddr,
    source_port: u16,
    destination: IpAddr,
    destination_port: u16,
    hook: &'static str,
    direction: &'static str,
    translated_source: IpAddr,
    translated_source_port: u16,
    translated_destination: IpAddr,
    translated_destination_port: u16,
    state: Vec<&'static str>,
    /// To the second; nothing where the kernel's clock is not known.
    idle_seconds: Option<u32>,
    backend_live: bool,
    service_id: u32,
}

/// The kernel's jiffies, to tell how long an entry was not used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The low half, as the entries have it.
    pub(super) now: u32,
    pub(super) hz: u32,
}

impl Clock {
    fn seconds_since(self, then: u32) -> Option<u32> {
        let passed = self.now.wrapping_sub(then);
        // What was used while the table was being read lies in the future.
        let passed = if passed > u32::MAX / 2 { 0 } else { passed };
        passed.checked_div(self.hz)
    }
}

impl FlowView {
    pub(super) fn new<F: Family>(state: &State, clock: Option<Clock>, key: &FlowKey<F>, flow: &Flow<F>) -> Self {
        let flow_state = flow.owner.state();
        let service = flow.owner.service();
        Self {
            service: if service == ServiceId::NONE { String::new() } else { state.service_name(service) },
            protocol: views::protocol(key.protocol),
            source: key.src.to_ip(),
            source_port: key.src_port.to_host(),
            destination: key.dst.to_ip(),
            destination_port: key.dst_port.to_host(),
            hook: fields::side(key.side),
            direction: if flow_state.has(FlowState::REPLY) { "reply" } else { "original" },
            translated_source: flow.src.to_ip(),
            translated_source_port: flow.src_port.to_host(),
            translated_destination: flow.dst.to_ip(),
            translated_destination_port: flow.dst_port.to_host(),
            state: fields::states(flow_state.without(FlowState::REPLY)),
            idle_seconds: clock.and_then(|clock| clock.seconds_since(flow.last_used)),
            backend_live: service == ServiceId::NONE || state.is_live(flow.backend),
            service_id: service.0,
        }
    }
}

impl Row for FlowView {
    const COLUMNS: &'static [&'static str] =
        &["PROTOCOL", "DIRECTION", "SOURCE", "DESTINATION", "TRANSLATED-SOURCE", "TRANSLATED-DESTINATION", "STATE", "IDLE", "SERVICE"];

    fn cells(&self) -> Vec<String> {
        let state = if self.state.is_empty() { "new".to_owned() } else { self.state.join(",") };
        vec![
            self.protocol.clone(),
            self.direction.to_owned(),
            SocketAddr::new(self.source, self.source_port).to_string(),
            SocketAddr::new(self.destination, self.destination_port).to_string(),
            SocketAddr::new(self.translated_source, self.translated_source_port).to_string(),
            SocketAddr::new(self.translated_destination, self.translated_destination_port).to_string(),
            if self.backend_live { state } else { state + ",backend-gone" },
            self.idle_seconds.map(|seconds| format!("{seconds}s")).unwrap_or_default(),
            self.service.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::{Addr4, BackendRef, Port, Protocol, ServiceId, ServiceRow, Side, Tuple};

    use super::*;
    use crate::{args::Format, cli::output::render};

    fn tuple(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Tuple<proxy_common::V4> {
        Tuple {
            src: Addr4::from_wire(src.0),
            dst: Addr4::from_wire(dst.0),
            src_port: Port::from_host(src.1),
            dst_port: Port::from_host(dst.1),
        }
    }

    fn view(clock: Option<Clock>, live: bool) -> FlowView {
        let backend = BackendRef::new(1, 1);
        let mut state = State { live: [(1, backend)].into(), ..State::default() };
        if !live {
            state.live.clear();
        }
        state.services.insert(ServiceId(3), ServiceRow::new("default/web", Protocol::Udp).unwrap());
        let (client, frontend, pod) = (([10, 244, 1, 5], 40000), ([10, 96, 0, 10], 53), ([10, 244, 1, 9], 5353));
        let key = FlowKey::new(tuple(client, frontend), Protocol::Udp, Side::Ingress);
        let flow = Flow::new(tuple(client, pod), 1000, backend, ServiceId(3), FlowState::ESTABLISHED);
        FlowView::new(&state, clock, &key, &flow)
    }

    #[test]
    fn a_flow_is_a_line() {
        let table = render(&vec![view(Some(Clock { now: 3600, hz: 250 }), true)], Format::Table);
        let expected = "\
PROTOCOL   DIRECTION   SOURCE             DESTINATION     TRANSLATED-SOURCE   TRANSLATED-DESTINATION   STATE         IDLE   SERVICE
UDP        original    10.244.1.5:40000   10.96.0.10:53   10.244.1.5:40000    10.244.1.9:5353          established   10s    default/web
";
        assert_eq!(table, expected);
    }

    #[test]
    fn idle_time_survives_the_clocks_turn() {
        for (now, hz, expected) in [(1000, 250, Some(0)), (1250, 250, Some(1)), (999, 250, Some(0)), (1000_u32.wrapping_sub(1), 0, None)] {
            assert_eq!(view(Some(Clock { now, hz }), true).idle_seconds, expected, "{now} at {hz} Hz");
        }
        assert_eq!(Clock { now: 500, hz: 100 }.seconds_since(u32::MAX - 499), Some(10));
        assert_eq!(view(None, true).idle_seconds, None);
    }

    #[test]
    fn a_foreign_flow_has_no_service_and_no_backend_that_could_be_gone() {
        let tuple = tuple(([192, 0, 2, 1], 443), ([198, 18, 0, 11], 30_080));
        let key = FlowKey::new(tuple, Protocol::Tcp, Side::Ingress);
        let view = FlowView::new(&State::default(), None, &key, &Flow::foreign(tuple, 0));
        assert_eq!((view.service.as_str(), view.state.as_slice(), view.backend_live), ("", &["foreign"][..], true));
    }

    #[test]
    fn a_flow_without_a_service_has_a_backend_that_cannot_be_gone() {
        let key = FlowKey::new(tuple(([10, 244, 1, 5], 40_000), ([10, 244, 1, 9], 8080)), Protocol::Tcp, Side::Ingress);
        let to = tuple(([10, 244, 1, 5], 50_000), ([10, 244, 1, 9], 8080));
        let view = FlowView::new(&State::default(), None, &key, &Flow::new(to, 0, BackendRef::NONE, ServiceId::NONE, FlowState::NEW));
        assert_eq!((view.service.as_str(), view.translated_source_port, view.backend_live), ("", 50_000, true));
    }

    #[test]
    fn a_backend_that_has_gone_is_said() {
        assert!(view(None, false).cells().contains(&"established,backend-gone".to_owned()));
    }
}
