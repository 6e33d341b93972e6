//! Removes flows that have been silent for too long, both entries together.
//!
//! In: the flow tables and the kernel's clock. How long is too long depends on what was seen of both directions; the times are those of
//! the kernel's own connection tracking, so that nothing that lived behind kube-proxy dies behind Shunt. The walk is cheap to miss: an
//! entry that is not removed in time is evicted when its room is needed.

use std::time::Duration;

use bytemuck::Pod;
use proxy_common::{Family, Flow, FlowKey, FlowState, Protocol};

use crate::maps::{Error, FlowTable};

const TCP_UNANSWERED: Duration = Duration::from_mins(1);
const TCP_ESTABLISHED: Duration = Duration::from_hours(24);
const TCP_HALF_CLOSED: Duration = Duration::from_hours(1);
const TCP_CLOSED: Duration = Duration::from_mins(2);
const TCP_RESET: Duration = Duration::from_secs(10);
const UDP_UNANSWERED: Duration = Duration::from_secs(30);
const UDP_ANSWERED: Duration = Duration::from_mins(2);

/// What one walk through a table has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Entries that were there.
    pub entries: u64,
    /// Entries that were removed.
    pub expired: u64,
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
        Protocol::Tcp if either(FlowState::FIN) => TCP_HALF_CLOSED,
        Protocol::Tcp if either(FlowState::ESTABLISHED) => TCP_ESTABLISHED,
        Protocol::Tcp => TCP_UNANSWERED,
        Protocol::Udp | Protocol::Sctp if answered => UDP_ANSWERED,
        Protocol::Udp | Protocol::Sctp => UDP_UNANSWERED,
    }
}

/// Walks through one family's flows once and removes what has expired by `now`, in jiffies of which a second has `hz`.
pub fn walk<F: Family>(flows: &mut FlowTable<F>, now: u32, hz: u32) -> Result<Walk, Error>
where
    FlowKey<F>: Pod,
    Flow<F>: Pod,
{
    let mut walk = Walk::default();
    let mut expired = Vec::new();
    for (key, flow) in flows.entries() {
        walk.entries += 1;
        let partner_key = key.partner(&flow);
        // Most flows are young: only of those that are not is the partner asked for.
        if age(&flow, now, hz) < TCP_RESET {
            continue;
        }
        let partner = flows.get(&partner_key);
        let idle = partner.map_or_else(|| age(&flow, now, hz), |partner| age(&flow, now, hz).min(age(&partner, now, hz)));
        let protocol = Protocol::from_wire(key.protocol).unwrap_or(Protocol::Udp);
        if idle >= patience(protocol, flow.owner.state(), partner.map(|partner| partner.owner.state())) {
            expired.push((key, partner_key));
        }
    }
    for (key, partner) in expired {
        flows.remove(&key)?;
        flows.remove(&partner)?;
        walk.expired += 1;
    }
    Ok(walk)
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

    const REPLY: FlowState = FlowState::REPLY;
    const ESTABLISHED: FlowState = FlowState::ESTABLISHED;
    const FIN: FlowState = FlowState::FIN;

    #[test]
    fn patience_follows_what_both_directions_have_seen() {
        let cases = [
            (Protocol::Tcp, FlowState::NEW, REPLY, TCP_UNANSWERED),
            (Protocol::Tcp, ESTABLISHED, REPLY, TCP_ESTABLISHED),
            (Protocol::Tcp, ESTABLISHED.with(FIN), REPLY.with(ESTABLISHED), TCP_HALF_CLOSED),
            (Protocol::Tcp, ESTABLISHED.with(FIN), REPLY.with(ESTABLISHED).with(FIN), TCP_CLOSED),
            (Protocol::Tcp, ESTABLISHED, REPLY.with(FlowState::RST), TCP_RESET),
            (Protocol::Udp, ESTABLISHED, REPLY, UDP_UNANSWERED),
            (Protocol::Udp, FlowState::NEW, REPLY.with(ESTABLISHED), UDP_ANSWERED),
        ];
        for (protocol, one, other, expected) in cases {
            assert_eq!(patience(protocol, one, Some(other)), expected, "{protocol} {one:?} {other:?}");
            assert_eq!(patience(protocol, other, Some(one)), expected, "{protocol} {other:?} {one:?}");
        }
        assert_eq!(patience(Protocol::Udp, FlowState::NEW, None), UDP_UNANSWERED);
    }

    #[test]
    fn age_survives_the_wrap_of_the_clock() {
        let mut flow = Flow::<proxy_common::V4> { last_used: u32::MAX - 499, ..bytemuck::Zeroable::zeroed() };
        assert_eq!(age(&flow, 500, 250), Duration::from_secs(4));
        flow.last_used = 501;
        assert_eq!(age(&flow, 500, 250), Duration::ZERO);
    }
}
