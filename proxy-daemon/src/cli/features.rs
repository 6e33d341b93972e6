//! What the running kernel has of what Shunt uses: `shunt version --features`.

use anyhow::Result;
use nix::sys::utsname::uname;
use proxy_common::maps;
use serde::Serialize;

use super::output::{Row, Show, table};
use crate::datapath;

/// The version, and the kernel with what it has.
#[derive(Debug, Serialize)]
pub(super) struct KernelView {
    version: &'static str,
    layout_version: u32,
    kernel: String,
    features: Vec<FeatureView>,
}

#[derive(Debug, Serialize)]
struct FeatureView {
    name: &'static str,
    available: bool,
    required: bool,
    /// The first kernel with it.
    since: &'static str,
    /// What Shunt does where it is missing.
    without: &'static str,
    /// Why it could not be found out.
    problem: Option<String>,
}

impl KernelView {
    /// Asks the kernel.
    pub(super) fn of_this_kernel() -> Result<Self> {
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            layout_version: maps::LAYOUT_VERSION,
            kernel: uname()?.release().to_string_lossy().into_owned(),
            features: datapath::features().into_iter().map(FeatureView::from).collect(),
        })
    }
}

impl From<datapath::Feature> for FeatureView {
    fn from(feature: datapath::Feature) -> Self {
        let datapath::Feature { name, since, required, without, available } = feature;
        let (available, problem) = match available {
            Ok(available) => (available, None),
            Err(error) => (false, Some(format!("{error:#}"))),
        };
        Self { name, available, required, since, without, problem }
    }
}

// === impl Show, Row ===

impl Show for KernelView {
    fn table(&self) -> String {
        format!("shunt {} (layout {}) on Linux {}\n\n{}", self.version, self.layout_version, self.kernel, table(&self.features))
    }
}

impl Row for FeatureView {
    const COLUMNS: &'static [&'static str] = &["FEATURE", "AVAILABLE", "SINCE", "WITHOUT IT SHUNT"];

    fn cells(&self) -> Vec<String> {
        let available = match &self.problem {
            Some(problem) => format!("not known: {problem}"),
            None => if self.available { "yes" } else { "no" }.to_owned(),
        };
        vec![self.name.to_owned(), available, self.since.to_owned(), self.without.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::{args::Format, cli::output::render};

    fn kernel() -> KernelView {
        let feature = |name, available| datapath::Feature { name, since: "6.6", required: false, without: "is slow", available };
        let features = [feature("tcx", Ok(true)), feature("jit", Ok(false)), feature("xdp", Err(anyhow!("no answer")))];
        KernelView { version: "1.0", layout_version: 3, kernel: "6.12".to_owned(), features: features.map(FeatureView::from).into() }
    }

    #[test]
    fn what_is_missing_is_told_from_what_is_not_known() {
        let expected = "\
shunt 1.0 (layout 3) on Linux 6.12

FEATURE   AVAILABLE              SINCE   WITHOUT IT SHUNT
tcx       yes                    6.6     is slow
jit       no                     6.6     is slow
xdp       not known: no answer   6.6     is slow
";
        assert_eq!(render(&kernel(), Format::Table), expected);
    }

    #[test]
    fn programs_get_a_field_for_each() {
        let json: serde_json::Value = serde_json::from_str(&render(&kernel(), Format::Json)).unwrap();
        assert_eq!(json["features"][1]["available"], false);
        assert_eq!(json["features"][2]["problem"], "no answer");
        assert_eq!(json["kernel"], "6.12");
    }
}
