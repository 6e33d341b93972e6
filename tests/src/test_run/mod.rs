//! A node without devices: the real programs and maps, filled as in production, run on single frames with `BPF_PROG_TEST_RUN`.
//!
//! Each [`TestNode`] has programs, maps and pins of its own, so that tests run in parallel. Packets of a test run have no checksum state
//! (`CHECKSUM_NONE`) unless one is asked for, and a redirect is only said and not done.

mod place;
mod raw;
mod run;
mod state;

pub use self::{
    place::TUNNEL_MTU,
    run::{Ran, Runner, Verdict},
    state::OfFamily,
};

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytemuck::Zeroable as _;
use ipnet::IpNet;
use proxy_common::{ANY_DEVICE, Address as _, Family, Port, SnatSource, Sockets, V4, V6, reason::Reason};
use proxy_daemon::{
    config::Sizes,
    datapath::{self, Checksums, Datapath, Options, Programs},
    maps::{KernelMaps, Maps as _, Pins},
    model::ServicePortName,
    tables::{self, Tables},
};

use crate::{
    gate::Need,
    name::BedName,
    netns::Netns,
    scratch::{Kind, Scratch},
    tracer::Plans,
};

/// What running programs takes.
pub const NEEDS: &[Need] = &[Need::Root, Need::Btf];

/// What running them on frames with a device's sum takes.
pub const NEEDS_SUM: &[Need] = &[Need::Root, Need::Btf, Need::Kernel(6, 11)];

/// Source ports that stand in for a pod's own.
pub const SNAT_PORTS: RangeInclusive<u16> = 1024..=29_999;

/// Between two changes so much time passes that everything has rested.
const A_WHILE: Duration = Duration::from_mins(2);

/// How programs and maps are loaded in every test that does not ask for others.
pub const OPTIONS: Options = Options {
    sizes: Sizes { frontends: 256, backends: 1024, flows: 4096, services: 64, sources: 2048, affinity: 1024, sockets: 1024 },
    programs: Programs::Few,
    checksums: Checksums::Cast,
    new_flows: u32::MAX,
    outer_headers: false,
    sockets: Sockets::NONE,
    netns: 0,
    bpf_log: false,
};

/// Programs and maps of a node of its own.
pub struct TestNode {
    // Fields are dropped in this order: the folder of the pins goes last.
    datapath: Datapath,
    maps: KernelMaps,
    tables: Tables,
    now: Instant,
    counted: Vec<(Reason, u64)>,
    pins: Pins,
    /// Where the programs run, if what they ask the kernel's routing matters.
    place: Option<Netns>,
    _folder: Scratch,
}

// === impl TestNode ===

impl TestNode {
    /// Loads everything. The addresses, at most one of a family, stand in for pods that reach themselves.
    pub fn new(masquerade: &[IpAddr]) -> Result<Self> {
        Self::load(masquerade, OPTIONS)
    }

    /// The same with room for so many backend slots.
    pub fn with_backends(masquerade: &[IpAddr], backends: u32) -> Result<Self> {
        Self::load(masquerade, Options { sizes: Sizes { backends, ..OPTIONS.sizes }, ..OPTIONS })
    }

    /// The same with programs that change checksums in this way, or in the next one that this machine has.
    pub fn with_checksums(masquerade: &[IpAddr], checksums: Checksums) -> Result<Self> {
        Self::load(masquerade, Options { checksums, ..OPTIONS })
    }

    /// Loads everything, as it is told, for programs that run in a namespace with ways to the world and to pods, and stand in for others with
    /// these ports only.
    pub fn in_a_place(masquerade: &[IpAddr], ports: RangeInclusive<u16>, options: Options) -> Result<Self> {
        let mut node = Self::load(masquerade, options)?;
        let place = place::build(&BedName::next())?;
        set_snat(&mut node.maps, masquerade, &ports, &[(place::tunnel(&place)?, TUNNEL_MTU)])?;
        node.place = Some(place);
        Ok(node)
    }

    /// The namespace that the programs run in.
    ///
    /// # Panics
    /// When they run wherever the test does.
    pub fn place(&self) -> &Netns {
        self.place.as_ref().expect("a node in a place")
    }

    /// Loads everything, as it is told.
    pub fn load(masquerade: &[IpAddr], options: Options) -> Result<Self> {
        let folder = Scratch::create(Kind::Pins, &BedName::next(), "packet")?;
        let pins = Pins::new(folder.path().to_owned());
        datapath::prepare(&pins)?;
        datapath::make_folders(&pins)?;
        let datapath = datapath::load(&pins, options)?;
        let mut maps = KernelMaps::open(&pins)?;
        set_snat(&mut maps, masquerade, &SNAT_PORTS, &[])?;
        let now = Instant::now();
        let tables = Tables::restore(maps.sizes(), &maps.snapshot()?, now);
        let counted = maps.reasons()?;
        Ok(Self { datapath, maps, tables, now, counted, pins, place: None, _folder: folder })
    }

    /// What the programs are called.
    pub fn program_names(&self) -> Result<Vec<String>> {
        let pinned = fs::read_dir(self.pins.programs()).context("listing the programs")?;
        let mut names: Vec<String> = pinned.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// Brings the maps to these plans, by the same steps as the daemon's, and as if everything had rested.
    pub fn apply(&mut self, plans: &Plans) -> Result<()> {
        self.now += A_WHILE;
        self.bring(plans)
    }

    /// The same by the clock on the wall. False says that there is no room before something has rested; nothing has changed then.
    pub fn apply_now(&mut self, plans: &Plans) -> Result<bool> {
        self.now = self.now.max(Instant::now());
        match self.bring(plans) {
            Err(error) if matches!(error.downcast_ref(), Some(tables::Error::Full { .. })) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// The networks that the cluster takes its ClusterIPs from.
    pub fn set_networks(&mut self, networks: &[IpNet]) -> Result<()> {
        let changes = self.tables.set_networks(&networks.iter().copied().collect());
        self.apply_all(changes)
    }

    fn bring(&mut self, plans: &Plans) -> Result<()> {
        let gone: Vec<ServicePortName> = self.tables.names().filter(|name| !plans.contains_key(name)).cloned().collect();
        let released = self.tables.release(&gone);
        self.apply_all(released)?;
        let servers: BTreeMap<_, _> = plans.iter().flat_map(|(name, plan)| plan.frontends.keys().map(move |addr| (addr, name))).collect();
        let due = gone.into_iter().chain(plans.keys().cloned()).collect();
        for name in self.tables.takers_first(due, |addr| servers.get(addr).copied()) {
            let changes = self.tables.set(&name, plans.get(&name), self.now)?;
            self.apply_all(changes)?;
        }
        let claims = self.tables.write_claims();
        self.apply_all(claims)
    }

    fn apply_all(&mut self, changes: Vec<tables::Change>) -> Result<()> {
        for change in changes {
            self.maps.apply(&change)?;
        }
        Ok(())
    }
}

/// Gives the programs what stands in for clients, on whichever device and on these, of which the MTU is known.
fn set_snat(maps: &mut KernelMaps, addrs: &[IpAddr], ports: &RangeInclusive<u16>, devices: &[(u32, u16)]) -> Result<()> {
    let (v4, v6) = (snat_source::<V4>(addrs, ports), snat_source::<V6>(addrs, ports));
    let (mut all4, mut all6) = (BTreeMap::from([(ANY_DEVICE, v4)]), BTreeMap::from([(ANY_DEVICE, v6)]));
    for &(device, mtu) in devices {
        all4.insert(device, SnatSource { mtu, ..v4 });
        all6.insert(device, SnatSource { mtu, ..v6 });
    }
    Ok(maps.set_snat(&all4, &all6)?)
}

fn snat_source<F: Family>(addrs: &[IpAddr], ports: &RangeInclusive<u16>) -> SnatSource<F> {
    let addr = addrs.iter().find_map(|addr| F::Addr::from_ip(*addr));
    let port = |port| Port::from_host(if addr.is_some() { port } else { 0 });
    SnatSource {
        addr: addr.unwrap_or_else(F::Addr::zeroed),
        first_port: port(*ports.start()),
        last_port: port(*ports.end()),
        mtu: 0,
        bare: 0,
    }
}
