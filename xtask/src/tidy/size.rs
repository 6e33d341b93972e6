//! Files stay short enough to be one idea: above 400 lines a reviewer asks why, above 600 the file is split.

use super::{Breach, Source};

const LONG: usize = 400;
const TOO_LONG: usize = 600;

/// Files that are lists, where splitting helps nobody.
const LISTS: &[&str] = &[];

pub(super) fn check(sources: &[Source]) -> Vec<Breach> {
    let too_long = measured(sources).filter(|(_, lines)| *lines > TOO_LONG);
    too_long.map(|(source, lines)| source.breach(lines, format!("{lines} lines are more than {TOO_LONG}: split the file"))).collect()
}

pub(super) fn warnings(sources: &[Source]) -> Vec<String> {
    let long = measured(sources).filter(|(_, lines)| (LONG + 1..=TOO_LONG).contains(lines));
    long.map(|(source, lines)| format!("{}: {lines} lines, is it one idea?", source.path)).collect()
}

fn measured(sources: &[Source]) -> impl Iterator<Item = (&Source, usize)> {
    let rust = sources.iter().filter(|source| source.is_rust() && !LISTS.contains(&source.path.as_str()));
    rust.map(|source| (source, source.text.lines().count()))
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn the_limits_are_inclusive() {
        let files = [400, 401, 600, 601].map(|lines| source("x.rs", &"\n".repeat(lines)));
        assert_eq!(warnings(&files).len(), 2);
        assert_eq!(check(&files).len(), 1);
    }

    #[test]
    fn only_rust_is_measured() {
        assert!(check(&[source("x.md", &"\n".repeat(1000))]).is_empty());
    }
}
