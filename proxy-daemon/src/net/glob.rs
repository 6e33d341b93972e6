//! Device name patterns as a shell has them: `*` is any text, `?` any one character, everything else itself.

use std::{convert::Infallible, fmt, str::FromStr};

/// One pattern of `--uplinks` or `--workload-devices`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Whether the pattern covers the whole of `name`.
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

impl FromStr for Glob {
    type Err = Infallible;

    fn from_str(pattern: &str) -> Result<Self, Infallible> {
        Ok(Self(pattern.to_owned()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names have at most 15 bytes, so that trying every length for a star costs nothing worth avoiding.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|taken| matches(rest, name.get(taken..).unwrap_or_default())),
        Some((wanted, rest)) => {
            name.split_first().is_some_and(|(found, after)| (*wanted == b'?' || wanted == found) && matches(rest, after))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_stand_for_text() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth?", "eth1", true),
            ("eth?", "eth", false),
            ("eth*", "eth", true),
            ("eth*", "eth12", true),
            ("*", "anything", true),
            ("en*s?", "enp0s3", true),
            ("en*s?", "enp0s31", false),
            ("*cal*", "vxlan.calico", true),
            ("", "eth0", false),
        ] {
            let glob: Glob = pattern.parse().expect("any text is a pattern");
            assert_eq!(glob.matches(name), expected, "{pattern} against {name}");
        }
    }
}
