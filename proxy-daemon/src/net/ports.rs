//! The source ports that the node uses where it stands in for a client.

use std::{fs, ops::RangeInclusive};

use proxy_common::PORT_STEP;

use super::Error;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What needs no privilege.
const FREE: RangeInclusive<u16> = 1024..=u16::MAX;
/// The API server's default for node ports. A packet to a node port would be taken for an answer to one of ours.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;
/// Where the kernel gives every port to sockets that ask for none.
const LAST_RESORT: RangeInclusive<u16> = 1024..=29_999;

/// The source ports of flows in which the node stands in for a client: those that the operator wants, or what the node's own sockets and node ports
/// leave over.
#[derive(Debug)]
pub struct SnatPorts {
    typed: Option<RangeInclusive<u16>>,
    /// What the node's own sockets are given.
    local: RangeInclusive<u16>,
}

impl SnatPorts {
    /// Those that follow from what the node's own sockets are given now.
    pub fn new(typed: Option<RangeInclusive<u16>>) -> Result<Self, Error> {
        let ports = Self { typed, local: local_ports()? };
        ports.warn();
        Ok(ports)
    }

    /// Takes in what the node's own sockets are given now, which can be changed at any time. Says whether it was.
    pub fn look(&mut self) -> Result<bool, Error> {
        let local = local_ports()?;
        let differs = local != self.local;
        if differs {
            tracing::info!(?local, "the node's own sockets are given other ports now");
            self.local = local;
            self.warn();
        }
        Ok(differs)
    }

    /// The ports.
    pub fn range(&self) -> RangeInclusive<u16> {
        reachable(self.wanted())
    }

    fn wanted(&self) -> RangeInclusive<u16> {
        let free = || largest_gap(&FREE, &[NODE_PORTS, self.local.clone()]);
        self.typed.clone().or_else(free).unwrap_or(LAST_RESORT)
    }

    fn warn(&self) {
        let (ports, local) = (self.wanted(), &self.local);
        if ports.start() <= local.end() && local.start() <= ports.end() {
            tracing::warn!(
                ?ports,
                ?local,
                "the node's own sockets may be given ports that the node uses for others: --snat-ports or the sysctl net.ipv4.ip_local_port_range can part them"
            );
        }
    }
}

/// The range of ports that the node's own sockets are given.
fn local_ports() -> Result<RangeInclusive<u16>, Error> {
    let text = fs::read_to_string(PORT_RANGE).map_err(|source| Error::Read { path: PORT_RANGE, source })?;
    parse_port_range(&text).ok_or(Error::PortRange { path: PORT_RANGE, text })
}

/// A range of which programs reach every port. They try one after another in steps of [`PORT_STEP`], a prime, modulo the number of ports; where
/// that is a multiple of the step they would meet the same few again and again. Such a range loses its last port.
fn reachable(ports: RangeInclusive<u16>) -> RangeInclusive<u16> {
    let (first, last) = (*ports.start(), *ports.end());
    let is_multiple = u32::try_from(ports.len()).is_ok_and(|count| count % PORT_STEP == 0);
    if is_multiple { first..=last.saturating_sub(1) } else { ports }
}

/// The largest part of a range that others leave over, the first of several.
fn largest_gap(ports: &RangeInclusive<u16>, taken: &[RangeInclusive<u16>]) -> Option<RangeInclusive<u16>> {
    let mut taken: Vec<(u32, u32)> = taken.iter().map(|range| (u32::from(*range.start()), u32::from(*range.end()))).collect();
    let end = u32::from(*ports.end()) + 1;
    // What comes behind the last port is taken, too.
    taken.push((end, end));
    taken.sort_unstable();
    let mut next = u32::from(*ports.start());
    let mut best: Option<(u32, u32)> = None;
    for (first, last) in taken {
        let (gap_start, gap_end) = (next, first.min(end));
        if gap_end > gap_start && best.is_none_or(|(start, end)| gap_end - gap_start > end - start) {
            best = Some((gap_start, gap_end));
        }
        next = next.max(last + 1);
    }
    let (start, end) = best?;
    Some(u16::try_from(start).ok()?..=u16::try_from(end - 1).ok()?)
}

fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next()?, ports.next()?, ports.next()) {
        (Ok(first), Ok(last), None) if first <= last => Some(first..=last),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_nodes_own_sockets_and_node_ports_are_left_to_them() {
        for (local, expected) in [
            (32_768..=60_999, Some(1024..=29_999)),
            (20_000..=60_999, Some(1024..=19_999)),
            (1024..=9999, Some(32_768..=65_535)),
            (10_000..=61_000, Some(1024..=9999)),
            (1..=1, Some(32_768..=65_535)),
            (1024..=65_535, None),
            (0..=u16::MAX, None),
        ] {
            assert_eq!(largest_gap(&FREE, &[NODE_PORTS, local.clone()]), expected, "{local:?}");
        }
    }

    #[test]
    fn every_port_of_a_range_is_reached_by_the_step() {
        assert_eq!(reachable(1024..=29_999), 1024..=29_999);
        for ports in [1024..=29_999, 1024..=8942, 1024..=16_861, 1..=u16::MAX, 5..=5] {
            let ports = reachable(ports);
            let count = u32::try_from(ports.len()).unwrap();
            let mut met = vec![false; ports.len()];
            for step in 0..count {
                let port = u64::from(step) * u64::from(PORT_STEP) % u64::from(count);
                met[usize::try_from(port).unwrap()] = true;
            }
            assert!(met.iter().all(|met| *met), "{ports:?}");
        }
    }

    #[test]
    fn port_ranges_are_two_numbers_in_order() {
        assert_eq!(parse_port_range("32768\t60999\n"), Some(32768..=60999));
        for text in ["", "32768", "60999 32768", "1 2 3", "1 70000"] {
            assert_eq!(parse_port_range(text), None, "{text:?}");
        }
    }
}
