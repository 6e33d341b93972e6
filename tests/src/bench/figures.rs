//! From the rounds of all contenders to rows, and to a table for people. A figure is the median of its rounds; its ratio is to direct traffic.

use std::fmt;

use serde::Serialize;

/// The head of a table of [`Row`]s, which print as its lines.
pub(super) const HEAD: &str =
    "| measure | route | services | through | median | unit | ratio | of the rounds |\n|---|---|---|---|---|---|---|---|";

/// Who brings packets to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Contender {
    /// Nobody: the client dials the pod.
    #[serde(rename = "direct")]
    Direct,
    /// The same on a node where Shunt runs, whose programs each packet meets and each call.
    #[serde(rename = "direct, beside shunt")]
    Beside,
    /// As it runs by default: sockets of pods get the backend when they connect, datagrams and what comes from outside are translated.
    #[serde(rename = "shunt")]
    Shunt,
    /// With sockets of pods left alone, so that all packets are translated.
    #[serde(rename = "shunt, by packets")]
    ByPackets,
    #[serde(rename = "kube-proxy nftables")]
    Nftables,
    #[serde(rename = "kube-proxy iptables")]
    Iptables,
}

/// Where a client's backend is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route {
    SameNode,
    AcrossNodes,
}

/// A figure.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub measure: &'static str,
    /// Where the backend is, as seen from the client.
    pub route: &'static str,
    /// How many Services there were.
    pub services: u32,
    pub contender: Contender,
    pub unit: &'static str,
    /// The median of the rounds, the smallest and the largest.
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// The median's ratio to that of direct traffic.
    pub ratio: f64,
    /// The ratios to direct traffic in the same round: their median, the smallest and the largest.
    pub ratio_median: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    /// What was measured in each round.
    pub rounds: Vec<f64>,
}

impl Route {
    pub(super) const ALL: [Self; 2] = [Self::SameNode, Self::AcrossNodes];

    /// The name, as in a [`Row`].
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same node",
            Self::AcrossNodes => "across nodes",
        }
    }
}

impl Contender {
    pub const ALL: [Self; 6] = [Self::Direct, Self::Beside, Self::Shunt, Self::ByPackets, Self::Nftables, Self::Iptables];
    /// Those that differ for clients outside.
    pub(super) const OUTSIDE: [Self; 4] = [Self::Direct, Self::Shunt, Self::Nftables, Self::Iptables];

    /// Whether the client dials the pod.
    pub(super) const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Beside)
    }

    /// The name, as in a [`Row`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Beside => "direct, beside shunt",
            Self::Shunt => "shunt",
            Self::ByPackets => "shunt, by packets",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What was measured of each contender, round by round.
pub(super) struct Summary {
    contenders: Vec<(Contender, Vec<f64>)>,
}

impl Summary {
    /// With nothing yet. The first contender is what the others are compared with.
    pub(super) fn new(contenders: &[Contender]) -> Self {
        Self { contenders: contenders.iter().map(|contender| (*contender, Vec::new())).collect() }
    }

    /// Adds a round of the contender with this index.
    pub(super) fn note(&mut self, contender: usize, measured: f64) {
        self.contenders[contender].1.push(measured);
    }

    pub(super) fn rows(&self, measure: &'static str, route: &'static str, services: u32, unit: &'static str) -> Vec<Row> {
        let (_, base) = &self.contenders[0];
        let row = |(contender, rounds): &(Contender, Vec<f64>)| {
            let ratios: Vec<f64> = rounds.iter().zip(base).map(|(measured, direct)| measured / direct).collect();
            let [median, min, max] = spread(rounds);
            let [ratio_median, ratio_min, ratio_max] = spread(&ratios);
            let ratio = median / spread(base)[0];
            let (contender, rounds) = (*contender, rounds.clone());
            Row { measure, route, services, contender, unit, median, min, max, ratio, ratio_median, ratio_min, ratio_max, rounds }
        };
        self.contenders.iter().map(row).collect()
    }
}

/// The median, the smallest and the largest of some figures.
pub(super) fn spread(figures: &[f64]) -> [f64; 3] {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some((min, max)) = sorted.first().zip(sorted.last()) else { return [f64::NAN; 3] };
    let middle = sorted.len() / 2;
    let median = if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] };
    [median, *min, *max]
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { measure, route, services, contender, median, unit, ratio, ratio_median, ratio_min, ratio_max, .. } = self;
        let digits = usize::from(*median < 1000.0);
        write!(f, "| {measure} | {route} | {services} | {contender} | {median:.digits$} | {unit} ")?;
        write!(f, "| {ratio:.2} | {ratio_median:.2} ({ratio_min:.2} to {ratio_max:.2}) |")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians_and_their_spread_is_of_rounds() {
        let mut summary = Summary::new(&[Contender::Direct, Contender::Shunt]);
        for (direct, shunt) in [(10.0, 7.0), (20.0, 10.0), (30.0, 60.0)] {
            summary.note(0, direct);
            summary.note(1, shunt);
        }
        let rows = summary.rows("stream", "same node", 1, "1/s");
        let shunt = &rows[1];
        assert_eq!((shunt.median, shunt.min, shunt.max), (10.0, 7.0, 60.0));
        let ratios = |row: &Row| (row.ratio, row.ratio_median, row.ratio_min, row.ratio_max);
        assert_eq!(ratios(shunt), (0.5, 0.7, 0.5, 2.0));
        assert_eq!(ratios(&rows[0]), (1.0, 1.0, 1.0, 1.0));
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(format!("{:?}", spread(&[4.0, 1.0, 3.0, 2.0])), "[2.5, 1.0, 4.0]");
    }
}
