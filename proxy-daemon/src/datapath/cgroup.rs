//! Where the cgroups of version 2 are that have all processes of the node.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The root of all cgroups of version 2, wherever that is mounted. Where a node is a container, what is mounted above this process: all that the node
/// has. A container has one of its own mounted, of which it seems to be the root.
pub fn root_cgroup() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    const OWN: &str = "/proc/self/cgroup";
    let mounts = fs::read_to_string(MOUNTS).with_context(|| format!("reading {MOUNTS}"))?;
    let own = fs::read_to_string(OWN).with_context(|| format!("reading {OWN}"))?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let root = cgroups_in(&mounts).find(|(_, place)| is_root(place)).or_else(|| cgroups_in(&mounts).find(|(root, _)| is_above(root, own)));
    let (_, place) = root.context(
        "no root of cgroups of version 2 is mounted here: in a container, mount the host's /sys/fs/cgroup, or name it by --cgroup",
    )?;
    Ok(place)
}

/// Which cgroups of version 2 are mounted, and where. The fourth and fifth field of a line say so, and behind a dash there is the kind of the file
/// system.
fn cgroups_in(mounts: &str) -> impl Iterator<Item = (&str, PathBuf)> {
    let cgroups = mounts.lines().filter(|line| line.split_once(" - ").is_some_and(|(_, kind)| kind.starts_with("cgroup2 ")));
    cgroups.filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        Some((fields.next()?, PathBuf::from(fields.next()?)))
    })
}

/// All cgroups have events but the root.
fn is_root(cgroup: &Path) -> bool {
    cgroup.join("cgroup.procs").exists() && !cgroup.join("cgroup.events").exists()
}

/// Whether a cgroup is above that of this process. Seen from a namespace of cgroups, what is above its own root begins with dots.
fn is_above(cgroup: &str, own: &str) -> bool {
    let below = own.strip_prefix(cgroup.trim_end_matches('/'));
    cgroup.starts_with("/..") || below.is_some_and(|below| below.len() > 1 && below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_found_wherever_they_are_mounted() {
        let mounts = "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw,nosuid shared:11 - cgroup cgroup rw,cpu\n\
                      33 30 0:27 /../.. /host/cgroup rw shared:10 - cgroup2 cgroup2 rw\n";
        let places: Vec<_> = cgroups_in(mounts).collect();
        assert_eq!(places, [("/", "/sys/fs/cgroup/unified"), ("/../..", "/host/cgroup")].map(|(root, place)| (root, PathBuf::from(place))));
    }

    #[test]
    fn what_a_node_has_that_is_a_container_is_above_its_processes() {
        for (cgroup, own, expected) in [
            ("/../../..", "/", true),
            ("/", "/system.slice/shunt.service", true),
            ("/docker/1a", "/docker/1a/kubelet/pod", true),
            ("/docker/1a", "/docker/1ab/kubelet", false),
            ("/docker/1a", "/docker/1a", false),
            ("/", "/", false),
        ] {
            assert_eq!(is_above(cgroup, own), expected, "{cgroup} {own}");
        }
    }

    #[test]
    fn a_containers_own_cgroup_is_not_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        assert!(is_root(dir.path()));
        fs::write(dir.path().join("cgroup.events"), "").unwrap();
        assert!(!is_root(dir.path()));
    }
}
