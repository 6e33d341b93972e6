//! Removes flows that have been silent for too long, both entries together.
//!
//! In: the flow tables and the kernel's clock. How long is too long depends on what was seen of both directions. The times are those that
//! the kernel's connection tracking has behind kube-proxy, which sets two of them (`--conntrack-tcp-timeout-established` and
//! `-close-wait`); only a connection that was picked up in mid-stream and not answered goes after two minutes instead of five. Those of SCTP are
//! the kernel's since 6.2 (`sctp_timeouts` in `nf_conntrack_proto_sctp.c`). The walk is cheap to miss: an entry that is not removed in time is
//! evicted when its room is needed.
//!
//! Datagrams of a frontend that is gone, or is another service's now, lose their flow at once: nothing else would ever end it while
//! they keep coming. kube-proxy clears the kernel's connection tracking for the same reason. Connections stay until they end.

use std::{collections::BTreeMap, time::Duration};

use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey, FlowState, FrontendKey, Protocol, ServiceId};

use crate::maps::{Error, FlowTable, FrontendTable};

const TCP_UNANSWERED: Duration = Duration::from_mins(2);
const TCP_ESTABLISHED: Duration = Duration::from_hours(24);
const TCP_HALF_CLOSED: Duration = Duration::from_hours(1);
const TCP_CLOSED: Duration = Duration::from_mins(2);
const TCP_RESET: Duration = Duration::from_secs(10);
/// Also of one question and its answer, as of most resolvers.
const UDP_SHORT: Duration = Duration::from_secs(30);
/// Answers came for longer than a second. The kernel waits for two.
const UDP_STREAM: Duration = Duration::from_mins(2);
/// `SCTP_CONNTRACK_COOKIE_WAIT` and `COOKIE_ECHOED`: the association is not there yet.
const SCTP_OPENING: Duration = Duration::from_secs(3);
/// `SCTP_CONNTRACK_ESTABLISHED`: each path has a heartbeat every 30 seconds.
const SCTP_ESTABLISHED: Duration = Duration::from_secs(210);
/// `SCTP_CONNTRACK_SHUTDOWN_SENT`, `SHUTDOWN_RECD` and `SHUTDOWN_ACK_SENT`.
const SCTP_CLOSING: Duration = Duration::from_secs(3);
/// `SCTP_CONNTRACK_CLOSED`: it was aborted.
const SCTP_CLOSED: Duration = Duration::from_secs(10);

/// One family's tables, and the time.
pub struct Expiry<'a, F: Family> {
    /// The flows.
    pub flows: &'a mut FlowTable<F>,
    /// The frontends that they may go to.
    pub frontends: &'a FrontendTable<F>,
    /// The kernel's clock, in jiffies.
    pub now: u32,
    /// How many jiffies a second has.
    pub hz: u32,
}

/// What one walk through a table has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk<F: Family> {
    /// Entries that were there.
    pub entries: u64,
    /// Keys of flows that have expired: of one entry, or of both.
    pub expired: Vec<FlowKey<F>>,
}

impl<F: Family> Expiry<'_, F>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
    FrontendKey<F>: Pod,
{
    /// Walks through the entries once, and shows them.
    pub fn walk(&self, mut see: impl FnMut(&FlowKey<F>, &Flow<F>) -> Result<(), Error>) -> Result<Walk<F>, Error> {
        let mut walk = Walk { entries: 0, expired: Vec::new() };
        let mut served = Served::new();
        self.flows.walk(|key, flow| {
            walk.entries += 1;
            if self.has_expired(key, flow, &mut served) {
                walk.expired.push(*key);
            }
            see(key, flow)
        })?;
        Ok(walk)
    }

    /// Removes what a walk has found, and says how many flows that were. One that has been used since stays.
    pub fn remove(&mut self, expired: &[FlowKey<F>]) -> Result<u64, Error> {
        let mut removed = 0;
        for key in expired {
            let Some(flow) = self.flows.get(key).filter(|flow| self.has_expired(key, flow, &mut Served::new())) else { continue };
            if self.partner(key, &flow).is_some() {
                self.flows.remove(&key.partner(&flow))?;
            }
            self.flows.remove(key)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn has_expired(&self, key: &FlowKey<F>, flow: &Flow<F>, served: &mut Served<F>) -> bool {
        let protocol = Protocol::from_wire(key.protocol).unwrap_or(Protocol::Udp);
        let state = flow.owner.state();
        let is_reply = state.has(FlowState::REPLY);
        if protocol == Protocol::Udp && !is_reply && !self.is_served(key, flow, served) {
            return true;
        }
        // The partner costs a system call. It is not asked for where it could change nothing; and the entry for replies leaves the judgement to that
        // for the client's packets, unless it would be too old also by itself: the other one may be lost.
        let least = if is_reply { patience(protocol, state, None) } else { least_patience(protocol) };
        let own_age = self.age(flow);
        if own_age < least {
            return false;
        }
        let partner = self.partner(key, flow);
        let idle = partner.map_or(own_age, |partner| own_age.min(self.age(&partner)));
        idle >= patience(protocol, state, partner.map(|partner| partner.owner.state()))
    }

    /// Whether the frontend that a client's datagrams go to is still that of the flow's service, or still none if they go there without one.
    fn is_served(&self, key: &FlowKey<F>, flow: &Flow<F>, served: &mut Served<F>) -> bool {
        let frontend = FrontendKey::new(key.dst, key.dst_port, Protocol::Udp);
        let service =
            *served.entry(frontend).or_insert_with(|| self.frontends.get(&frontend).map_or(ServiceId::NONE, |found| found.service));
        service == flow.owner.service()
    }

    /// The entry of the other direction, if it is there and its own: the same key may be another flow's by now.
    fn partner(&self, key: &FlowKey<F>, flow: &Flow<F>) -> Option<Flow<F>> {
        self.flows.get(&key.partner(flow)).filter(|partner| partner.tuple() == key.tuple().reversed())
    }

    fn age(&self, flow: &Flow<F>) -> Duration {
        age(flow, self.now, self.hz)
    }
}

/// Whose the frontends for datagrams are that were asked about, if they are any: many flows go to few.
type Served<F> = BTreeMap<FrontendKey<F>, ServiceId>;

/// No flow is removed for its silence before this, whatever was seen of it.
fn least_patience(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Tcp => TCP_RESET,
        Protocol::Udp => UDP_SHORT,
        Protocol::Sctp => SCTP_OPENING,
    }
}

/// How long a flow may be silent, by what was seen of both its directions.
fn patience(protocol: Protocol, one: FlowState, other: Option<FlowState>) -> Duration {
    let either = |flag| one.has(flag) || other.is_some_and(|other| other.has(flag));
    let both = |flag| one.has(flag) && other.is_none_or(|other| other.has(flag));
    let reply = if one.has(FlowState::REPLY) { Some(one) } else { other };
    let answered = reply.is_some_and(|reply| reply.has(FlowState::ESTABLISHED));
    match protocol {
        Protocol::Tcp if either(FlowState::RST) => TCP_RESET,
        Protocol::Tcp if both(FlowState::FIN) => TCP_CLOSED,
        // Whatever else was seen of it: a lone FIN is answered by nobody, and would hold a port of the node's for an hour.
        Protocol::Tcp if !both(FlowState::ESTABLISHED) => TCP_UNANSWERED,
        Protocol::Tcp if either(FlowState::FIN) => TCP_HALF_CLOSED,
        Protocol::Tcp => TCP_ESTABLISHED,
        Protocol::Udp if answered => UDP_STREAM,
        Protocol::Udp => UDP_SHORT,
        Protocol::Sctp if either(FlowState::RST) => SCTP_CLOSED,
        Protocol::Sctp if either(FlowState::FIN) => SCTP_CLOSING,
        Protocol::Sctp if both(FlowState::ESTABLISHED) => SCTP_ESTABLISHED,
        Protocol::Sctp => SCTP_OPENING,
    }
}

/// How long ago a flow was used. The clock wraps; an entry that seems to be of the future was used just now.
pub fn age<F: Family>(flow: &Flow<F>, now: u32, hz: u32) -> Duration {
    let jiffies = now.wrapping_sub(flow.last_used);
    let jiffies = if jiffies > u32::MAX / 2 { 0 } else { jiffies };
    Duration::from_millis(u64::from(jiffies) * 1000 / u64::from(hz.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: FlowState = FlowState::NEW;
    const REPLY: FlowState = FlowState::REPLY;
    const ESTABLISHED: FlowState = FlowState::ESTABLISHED;
    const FIN: FlowState = FlowState::FIN;

    #[test]
    fn patience_follows_what_both_directions_have_seen() {
        let cases = [
            (Protocol::Tcp, NEW, REPLY, TCP_UNANSWERED),
            (Protocol::Tcp, NEW, REPLY.with(ESTABLISHED), TCP_UNANSWERED),
            (Protocol::Tcp, ESTABLISHED, REPLY, TCP_UNANSWERED),
            (Protocol::Tcp, ESTABLISHED.with(FIN), REPLY, TCP_UNANSWERED),
            (Protocol::Tcp, NEW, REPLY.with(ESTABLISHED).with(FIN), TCP_UNANSWERED),
            (Protocol::Tcp, ESTABLISHED, REPLY.with(ESTABLISHED), TCP_ESTABLISHED),
            (Protocol::Tcp, ESTABLISHED.with(FIN), REPLY.with(ESTABLISHED), TCP_HALF_CLOSED),
            (Protocol::Tcp, ESTABLISHED.with(FIN), REPLY.with(ESTABLISHED).with(FIN), TCP_CLOSED),
            (Protocol::Tcp, ESTABLISHED, REPLY.with(FlowState::RST), TCP_RESET),
            (Protocol::Udp, ESTABLISHED, REPLY, UDP_SHORT),
            (Protocol::Udp, NEW, REPLY.with(ESTABLISHED), UDP_STREAM),
            (Protocol::Sctp, NEW, REPLY, SCTP_OPENING),
            (Protocol::Sctp, NEW, REPLY.with(ESTABLISHED), SCTP_OPENING),
            (Protocol::Sctp, ESTABLISHED, REPLY.with(ESTABLISHED), SCTP_ESTABLISHED),
            (Protocol::Sctp, ESTABLISHED.with(FIN), REPLY.with(ESTABLISHED), SCTP_CLOSING),
            (Protocol::Sctp, ESTABLISHED, REPLY.with(ESTABLISHED).with(FlowState::RST), SCTP_CLOSED),
        ];
        for (protocol, one, other, expected) in cases {
            assert_eq!(patience(protocol, one, Some(other)), expected, "{protocol} {one:?} {other:?}");
            assert_eq!(patience(protocol, other, Some(one)), expected, "{protocol} {other:?} {one:?}");
            assert!(least_patience(protocol) <= expected);
        }
        assert_eq!(patience(Protocol::Udp, NEW, None), UDP_SHORT);
    }

    #[test]
    fn age_survives_the_wrap_of_the_clock() {
        let mut flow = Flow::<proxy_common::V4> { last_used: u32::MAX - 499, ..bytemuck::Zeroable::zeroed() };
        assert_eq!(age(&flow, 500, 250), Duration::from_secs(4));
        flow.last_used = 501;
        assert_eq!(age(&flow, 500, 250), Duration::ZERO);
    }
}
