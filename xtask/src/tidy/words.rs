//! Words that have no place in the tree: paths of one machine, and work that was put off.

use super::{Breach, Source};

/// Each is spelt in two parts, so that this file keeps the rule itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp", "/w/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
    (concat!("to", "do!("), "unfinished code"),
    (concat!("unimple", "mented!("), "unfinished code"),
];

pub(super) fn check(sources: &[Source]) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for source in sources {
        for (line, text) in (1..).zip(source.text.lines()) {
            let found = FORBIDDEN.iter().filter(|(word, _)| text.contains(word));
            breaches.extend(found.map(|(word, what)| source.breach(line, format!("`{word}` is {what}"))));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::{super::source, *};

    #[test]
    fn each_forbidden_word_is_found_where_it_stands() {
        for (word, _) in FORBIDDEN {
            let breaches = check(&[source("docs/x.md", &format!("fine\nsee {word}\n"))]);
            assert_eq!(breaches.len(), 1, "{word}");
            assert!(breaches[0].to_string().starts_with("docs/x.md:2: "), "{word}");
        }
    }
}
