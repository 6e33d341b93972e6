//! Names of everything the testbed leaves in the kernel: `sh-<pid>-<bed>[-<part>]`, pid in base 36.
//!
//! The pid says whose it is. What belongs to a process that is gone may be swept by anyone, what belongs to a
//! living one is never touched, and two testbeds never collide.

use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "sh";
static NEXT_BED: AtomicU32 = AtomicU32::new(0);

/// The common part of one testbed's names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BedName(String);

impl BedName {
    /// Names the next testbed of this process.
    pub(crate) fn next() -> Self {
        let bed = NEXT_BED.fetch_add(1, Ordering::Relaxed);
        Self(format!("{PREFIX}-{}-{}", base36(std::process::id()), base36(bed)))
    }

    /// Names a part of the testbed: a namespace, a pin directory, a cgroup.
    pub(crate) fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.0)
    }
}

/// Reads the owner's pid out of a name made here; `None` for a stranger's name.
pub(crate) fn owner(name: &str) -> Option<u32> {
    let mut parts = name.split('-');
    let (prefix, pid, bed) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| {
        let digit = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
        !text.is_empty() && text.chars().all(digit)
    };
    (prefix == PREFIX && digits(bed) && digits(pid)).then_some(())?;
    u32::from_str_radix(pid, 36).ok()
}

/// Whether a process is there and not merely waiting to be reaped.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The command may hold spaces and brackets: the state follows the last bracket.
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}

fn base36(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.extend(char::from_digit(number % 36, 36));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_gives_its_owner_back() {
        let bed = BedName::next();
        assert_eq!(owner(&bed.part("n1-pod-a")), Some(std::process::id()));
        assert_eq!(owner(&bed.0), Some(std::process::id()));
        assert_ne!(BedName::next(), bed);
    }

    #[test]
    fn names_of_strangers_have_no_owner() {
        for name in ["sh", "sh-", "sh-12", "sh--0", "sh-1-", "ssh-1-2", "sh-A-1", "cni-1-2", "sh-zzzzzzzz-1"] {
            assert_eq!(owner(name), None, "{name}");
        }
    }

    #[test]
    fn base36_counts_like_std_parses() {
        for number in [0, 1, 35, 36, 37, 1295, 1296, u32::MAX] {
            assert_eq!(u32::from_str_radix(&base36(number), 36), Ok(number));
        }
    }

    #[test]
    fn this_process_is_alive_and_the_highest_pid_is_not() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
