//! The daemon's stages see only what comes before them: source -> model -> plan -> tables -> maps.
//!
//! Two tables say so: which modules of the daemon a module may use, and which libraries belong to one place.

use super::{Breach, Source};

const DAEMON: &str = "proxy-daemon/src/";

/// A module of the daemon and what it may use of its own crate. What is not listed puts stages together and may use all.
const STAGES: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("source", &["config", "model"]),
    ("plan", &["model"]),
    ("tables", &["model", "plan"]),
    ("maps", &["model", "plan", "tables"]),
    ("net", &[]),
    ("datapath", &["config", "maps", "net"]),
    ("admin", &[]),
];

/// A library and the only places of the daemon that may name it.
const OWNERS: &[(&str, &[&str])] = &[
    ("kube", &["source/kube"]),
    ("k8s_openapi", &["source/", "model/convert"]),
    ("rtnetlink", &["net/"]),
    // The command line's raw views show what the kernel says of maps and programs, and change nothing.
    ("aya", &["maps/", "datapath/", "cli/attachments", "cli/dump"]),
    ("aya_log", &["datapath/"]),
];

pub(super) fn check(sources: &[Source]) -> Vec<Breach> {
    let rust = sources.iter().filter(|source| source.is_rust());
    let daemon = rust.filter_map(|source| Some((source, source.path.strip_prefix(DAEMON)?)));
    daemon.flat_map(|(source, place)| stages(source, place).into_iter().chain(libraries(source, place))).collect()
}

fn stages(source: &Source, place: &str) -> Vec<Breach> {
    let stage = place.split(['/', '.']).next().unwrap_or_default();
    let Some((_, allowed)) = STAGES.iter().find(|(name, _)| *name == stage) else { return Vec::new() };
    let foreign = own_modules(source).into_iter().filter(|(_, module)| module != stage && !allowed.contains(&module.as_str()));
    foreign
        .map(|(line, module)| source.breach(line, format!("{stage} may not use {module}: see the table in xtask/src/tidy/imports.rs")))
        .collect()
}

fn libraries(source: &Source, place: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (line, code) in source.code() {
        for (library, owners) in OWNERS {
            if names(code, library) && !is_own_module(source, library) && !owners.iter().any(|owner| place.starts_with(owner)) {
                breaches.push(source.breach(line, format!("only {} may use {library}", owners.join(" and "))));
            }
        }
    }
    breaches
}

/// A module may bear the name of the library that only it uses; its parent then names the module.
fn is_own_module(source: &Source, library: &str) -> bool {
    source.code().any(|(_, code)| code.trim_start_matches("pub ").trim() == format!("mod {library};"))
}

/// Says whether a line uses a crate: its name as a whole word before `::`, and not as a part of a longer path.
fn names(code: &str, library: &str) -> bool {
    code.match_indices(library).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let longer = before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        !longer && code[at + library.len()..].starts_with("::")
    })
}

/// Modules of the own crate that a file names, with the line of each: `crate::x` as well as `crate::{x, y::{..}}`.
fn own_modules(source: &Source) -> Vec<(usize, String)> {
    let mut modules = Vec::new();
    let mut depth = None;
    for (line, code) in source.code() {
        let mut rest = code;
        while !rest.is_empty() {
            match depth {
                None => {
                    let Some(at) = rest.find("crate::") else { break };
                    rest = &rest[at + "crate::".len()..];
                    match rest.strip_prefix('{') {
                        Some(group) => (rest, depth) = (group, Some(1)),
                        None => modules.push((line, first_name(rest))),
                    }
                }
                Some(level) => rest = read_group(rest, level, &mut depth, |name| modules.push((line, name))),
            }
        }
    }
    modules.retain(|(_, name)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    modules
}

/// Reads one step of `{a::b, c::{d, e}}`: names at the group's own level start a path.
fn read_group<'a>(rest: &'a str, level: usize, depth: &mut Option<usize>, mut module: impl FnMut(String)) -> &'a str {
    let rest = rest.trim_start_matches([' ', ',']);
    let Some(first) = rest.chars().next() else { return "" };
    match first {
        '{' => *depth = Some(level + 1),
        '}' => *depth = (level > 1).then_some(level - 1),
        c if c.is_alphanumeric() || c == '_' => {
            let name = first_name(rest);
            let end = rest.find([',', '{', '}']).unwrap_or(rest.len());
            if level == 1 {
                module(name);
            }
            return &rest[end..];
        }
        _ => {}
    }
    &rest[first.len_utf8()..]
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    fn check_one(path: &str, text: &str) -> Vec<String> {
        check(&[source(path, text)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stage_may_not_look_ahead() {
        let found = check_one("proxy-daemon/src/plan/mod.rs", "use crate::model::X;\nuse crate::tables::Y;\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("proxy-daemon/src/plan/mod.rs:2: plan may not use tables"), "{found:?}");
    }

    #[test]
    fn groups_are_read_over_lines_and_by_their_first_names() {
        let text = "use crate::{\n    model::{Model, maps::Name},\n    plan::Plan, net,\n};\n";
        let found = check_one("proxy-daemon/src/plan/x.rs", text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(":3: plan may not use net"), "{found:?}");
    }

    #[test]
    fn paths_in_code_count_and_comments_and_unit_tests_do_not() {
        let text = "// crate::maps\nfn f() { crate::maps::g() }\n#[cfg(test)]\nmod tests { use crate::maps::h; }\n";
        assert_eq!(check_one("proxy-daemon/src/tables/x.rs", text).len(), 1);
    }

    #[test]
    fn tests_in_a_file_of_their_own_may_see_all_and_the_code_around_their_name_may_not() {
        let text = "#[cfg(test)]\nmod tests;\n\nuse crate::maps::X;\n";
        assert_eq!(check_one("proxy-daemon/src/tables/mod.rs", text).len(), 1);
        assert!(check_one("proxy-daemon/src/tables/tests.rs", text).is_empty());
        assert!(check_one("proxy-daemon/src/tables/tests/laws.rs", text).is_empty());
    }

    #[test]
    fn what_puts_stages_together_may_see_all() {
        assert!(check_one("proxy-daemon/src/run.rs", "use crate::{maps, plan, source};\n").is_empty());
    }

    #[test]
    fn libraries_have_owners() {
        assert_eq!(check_one("proxy-daemon/src/cli/show.rs", "use aya::maps::Map;\n").len(), 1);
        assert!(check_one("proxy-daemon/src/maps/mod.rs", "use aya::maps::Map;\nuse my::aya::X;\n").is_empty());
        assert_eq!(check_one("proxy-daemon/src/source/mod.rs", "type C = kube::Client;\n").len(), 1);
        assert!(check_one("proxy-daemon/src/source/mod.rs", "mod kube;\nfn f() { kube::start() }\n").is_empty());
        assert!(check_one("proxy-daemon/src/source/kube.rs", "use kube::Client;\n").is_empty());
    }
}
