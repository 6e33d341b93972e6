//! Rows as a table for people.

use std::fmt;

use super::{Options, Row};
use crate::bench::machine::Machine;

/// The head of the table; [`Row`]s print as its lines.
pub struct Table<'a>(pub &'a Options);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { repeat, layouts, runs, .. } = self.0;
        writeln!(f, "{}", Machine::this())?;
        writeln!(
            f,
            "{repeat} packets a run, {runs} runs by turns with the floor, the median of {layouts} layouts; ns a packet, the driver's included\n"
        )?;
        let [path, flows, min, median, floor, ratio, instructions] =
            ["path", "flows", "ns min", "ns median", "floor", "ratio", "instructions"];
        write!(f, "{path:<30} {flows:>7} {min:>8} {median:>10} {floor:>8} {ratio:>6} {instructions:>13}")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, flows, ns_min, ns_median, floor_ns, ratio, .. } = self;
        let instructions = self.instructions.map_or_else(|| "-".to_owned(), |count| format!("{count:.0}"));
        write!(f, "{path:<30} {flows:>7} {ns_min:>8.1} {ns_median:>10.1} {floor_ns:>8.1} {ratio:>6.2} {instructions:>13}")
    }
}
