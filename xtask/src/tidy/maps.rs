//! Every map that the BPF programs declare is explained in docs/maps.md.

use super::{Breach, Source};

const DECLARATIONS: &str = "proxy-ebpf/src/maps.rs";
const TABLE: &str = "docs/maps.md";

pub(super) fn check(sources: &[Source]) -> Vec<Breach> {
    let Some(declarations) = sources.iter().find(|source| source.path == DECLARATIONS) else { return Vec::new() };
    let table = sources.iter().find(|source| source.path == TABLE).map_or("", |source| source.text.as_str());
    let undocumented = statics(declarations).filter(|(_, name)| !explains(table, name));
    undocumented.map(|(line, name)| declarations.breach(line, format!("{TABLE} does not have the map {name}"))).collect()
}

fn statics(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.code().filter_map(|(line, code)| {
        let (_, declaration) = code.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ").split_once("static ")?;
        Some((line, declaration.split([':', ' ']).next()?))
    })
}

/// A table may fold the two families into one row: `FLOWS_V4/V6`, or `FLOWS_V4`, `_V6`.
fn explains(table: &str, name: &str) -> bool {
    let family = name.strip_suffix("_V4").or_else(|| name.strip_suffix("_V6"));
    let words = || table.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words().any(|word| word == name) || family.is_some_and(|stem| words().any(|word| word.strip_suffix("_V4") == Some(stem)))
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    const MAPS: &str =
        "#[btf_map]\npub static FLOWS_V4: Flows = x();\n#[btf_map]\npub static FLOWS_V6: Flows = x();\n#[btf_map]\nstatic NODE: A = x();\n";

    fn check_with(table: &str) -> Vec<String> {
        check(&[source(DECLARATIONS, MAPS), source(TABLE, table)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_map_without_a_row_is_found_by_its_line() {
        assert_eq!(check_with("| `FLOWS_V4/V6` |"), ["proxy-ebpf/src/maps.rs:6: docs/maps.md does not have the map NODE"]);
    }

    #[test]
    fn a_longer_name_does_not_stand_in() {
        assert_eq!(check_with("FLOWS_V4 FLOWS_V6 NODE_NAMES").len(), 1);
        assert!(check_with("FLOWS_V4 FLOWS_V6 NODE").is_empty());
    }

    #[test]
    fn a_missing_table_explains_nothing() {
        assert_eq!(check(&[source(DECLARATIONS, MAPS)]).len(), 3);
    }
}
