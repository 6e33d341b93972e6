//! The programs of sockets at a cgroup: attached by links that are pinned, so that they go on without the daemon.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program, links::FdLink};

use super::{cgroup_link::CgroupLink, load::Datapath};
use crate::maps::{Pins, names_in, unpin};

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
        unpin(&next)?;
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
        unpin(&pins.links().join(name))?;
        taken += 1;
    }
    Ok(taken)
}
