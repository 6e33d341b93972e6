//! The programs of sockets at a cgroup: attached by links that are pinned, so that they go on without the daemon.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, links::FdLink};

use super::{cgroup_link::CgroupLink, load::Datapath};
use crate::maps::{Pins, names_in};

/// What is heard comes before what is said: what is given a backend must be shown as it was dialled.
const PROGRAMS: [&str; 9] = [
    "sock_release",
    "recvmsg_v4",
    "recvmsg_v6",
    "getpeername_v4",
    "getpeername_v6",
    "connect_v4",
    "connect_v6",
    "sendmsg_v4",
    "sendmsg_v6",
];

/// A cgroup whose processes' calls are answered.
#[derive(Clone, Debug)]
pub struct Hooks {
    cgroup: PathBuf,
}

impl Hooks {
    /// Those of a cgroup, if it is one of the second version.
    pub fn at(cgroup: PathBuf) -> Result<Self> {
        fs::metadata(cgroup.join("cgroup.procs")).with_context(|| format!("{} is no cgroup", cgroup.display()))?;
        Ok(Self { cgroup })
    }

    /// Attaches the programs, those of before going.
    pub(super) fn put(&self, datapath: &mut Datapath, pins: &Pins) -> Result<()> {
        PROGRAMS.iter().try_for_each(|name| self.put_one(datapath, pins, name))
    }

    /// Attaches those that somebody has taken off. Yields how many.
    pub(super) fn restore(&self, datapath: &mut Datapath, pins: &Pins) -> Result<usize> {
        let mut missing = 0;
        for name in PROGRAMS {
            if self.link_here(&pins.socket_link(name))?.is_none() {
                self.put_one(datapath, pins, name)?;
                missing += 1;
            }
        }
        Ok(missing)
    }

    /// Exchanges the program of the link that is pinned, or attaches it anew, the link to another cgroup going only afterwards.
    fn put_one(&self, datapath: &mut Datapath, pins: &Pins, name: &str) -> Result<()> {
        let attaching = || format!("attaching {name} to {}", self.cgroup.display());
        let pin = pins.socket_link(name);
        let program = datapath.loaded(name)?;
        if let Some(link) = self.link_here(&pin)? {
            return link.exchange(program.fd()?.as_fd()).with_context(|| format!("exchanging the program of {}", pin.display()));
        }
        let cgroup = File::open(&self.cgroup).with_context(attaching)?;
        let link = attach(program, &cgroup).with_context(attaching)?;
        // A dot is nothing that a BPF file system has in a name.
        let next = pins.socket_link(&format!("{name}-next"));
        remove(&next)?;
        drop(link.pin(&next).with_context(|| format!("pinning {}", next.display()))?);
        fs::rename(&next, &pin).with_context(|| format!("pinning {}", pin.display()))
    }

    /// The link that is pinned there, if it is one to this cgroup.
    fn link_here(&self, pin: &Path) -> Result<Option<CgroupLink>> {
        let Some(link) = CgroupLink::pinned(pin).with_context(|| format!("opening {}", pin.display()))? else { return Ok(None) };
        let cgroup = fs::metadata(&self.cgroup).with_context(|| format!("looking for {}", self.cgroup.display()))?.ino();
        let is_here = link.cgroup().with_context(|| format!("asking where {} is attached", pin.display()))? == cgroup;
        Ok(is_here.then_some(link))
    }
}

fn attach(program: &mut Program, cgroup: &File) -> Result<FdLink> {
    /// There is always room for several programs where they are attached by links.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let link = if let Program::CgroupSock(program) = program {
        let id = program.attach(cgroup, MODE)?;
        FdLink::try_from(program.take_link(id)?)
    } else {
        let program: &mut CgroupSockAddr = program.try_into()?;
        let id = program.attach(cgroup, MODE)?;
        FdLink::try_from(program.take_link(id)?)
    };
    link.context("taking the link")
}

/// Takes the programs of sockets off, wherever they are attached.
pub(super) fn take_off(pins: &Pins) -> Result<usize> {
    let mut taken = 0;
    for name in names_in(&pins.links())?.iter().filter(|name| Pins::is_socket_link(name)) {
        remove(&pins.links().join(name))?;
        taken += 1;
    }
    Ok(taken)
}

fn remove(pin: &Path) -> Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(|| format!("removing {}", pin.display())),
        _ => Ok(()),
    }
}

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

/// The cookie of this process's network namespace. None on kernels before 5.14, which do not tell.
pub fn netns_cookie() -> Result<Option<u64>> {
    /// `SO_NETNS_COOKIE`.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)))
        .context("opening a socket")?;
    let (mut cookie, mut len) = (0_u64, libc::socklen_t::try_from(size_of::<u64>())?);
    // SAFETY: the option is a number of eight bytes, for which there is room.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len) };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(None) } else { Err(error).context("asking for the network namespace's cookie") }
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
