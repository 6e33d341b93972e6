//! A node without devices: the real programs and maps, filled as in production, run on single frames with `BPF_PROG_TEST_RUN`.
//!
//! Each [`TestNode`] has programs, maps and pins of its own, so that tests run in parallel. Packets of a test run have no checksum state
//! (`CHECKSUM_NONE`) unless one is asked for, and a redirect is only said and not done.

mod raw;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::{ProgramFd, ProgramInfo, TestRun as _, TestRunOptions},
};
use bytemuck::{Pod, Zeroable as _};
use proxy_common::{
    Addr4, Addr6, Address as _, Family, Flow, FlowKey, Port, ServiceCounters, SnatSource, V4, V6, filter::Place, maps as names,
    reason::Reason,
};
use proxy_daemon::{
    config::Sizes,
    datapath::{self, Checksums, Clock, Datapath, Options},
    expiry::Expiry,
    filter,
    maps::{Direction, FlowTable, FrontendTable, KernelMaps, Maps as _, Pins, Row},
    model::ServicePortName,
    net::Role,
    tables::{self, Tables},
};

use crate::{
    gate::Need,
    name::BedName,
    scratch::{Kind, Scratch},
    tracer::{Hook, Plans},
};

/// What running programs takes.
pub const NEEDS: &[Need] = &[Need::Root, Need::Btf];

/// What running them on frames with a device's sum takes.
pub const NEEDS_SUM: &[Need] = &[Need::Root, Need::Btf, Need::Kernel(6, 11)];

/// Source ports that stand in for a pod's own.
pub const SNAT_PORTS: std::ops::RangeInclusive<u16> = 1024..=29_999;

/// Between two changes so much time passes that everything has rested.
const A_WHILE: Duration = Duration::from_mins(2);

/// How programs and maps are loaded in every test that does not ask for others.
pub const OPTIONS: Options = Options {
    sizes: Sizes { frontends: 256, backends: 1024, flows: 4096, services: 64 },
    xdp: true,
    checksums: Checksums::Cast,
    bpf_log: false,
};

/// What a program says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Other programs on the device see the packet next (`TCX_NEXT`, `TC_ACT_UNSPEC`).
    Next,
    /// The packet is dropped (`TC_ACT_SHOT`).
    Shot,
    /// The packet goes out of a device (`TC_ACT_REDIRECT`).
    Redirect,
}

/// What a program has done to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    pub verdict: Verdict,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

/// Runs one program, on any thread.
#[derive(Debug)]
pub struct Runner {
    program: ProgramFd,
}

/// What a family's maps are called here, and which of the node's tables is its own.
pub trait OfFamily: Family<Addr: proxy_common::Address> {
    const FLOWS: &'static str;
    fn flows(maps: &KernelMaps) -> &FlowTable<Self>;
    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>);
}

/// Programs and maps of a node of its own.
pub struct TestNode {
    // Fields are dropped in this order: the folder of the pins goes last.
    datapath: Datapath,
    maps: KernelMaps,
    tables: Tables,
    now: Instant,
    counted: Vec<(Reason, u64)>,
    pins: Pins,
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

    /// The same with programs that log what they decide.
    pub fn with_log(masquerade: &[IpAddr]) -> Result<Self> {
        Self::load(masquerade, Options { bpf_log: true, ..OPTIONS })
    }

    /// Loads everything, as it is told.
    pub fn load(masquerade: &[IpAddr], options: Options) -> Result<Self> {
        let folder = Scratch::create(Kind::Pins, &BedName::next(), "packet")?;
        let pins = Pins::new(folder.path().to_owned());
        datapath::prepare(&pins)?;
        let datapath = datapath::load(&pins, options)?;
        let mut maps = KernelMaps::open(&pins)?;
        maps.set_snat(snat_source::<V4>(masquerade), snat_source::<V6>(masquerade))?;
        let now = Instant::now();
        let tables = Tables::restore(maps.sizes(), &maps.snapshot()?, now);
        let counted = maps.reasons()?;
        Ok(Self { datapath, maps, tables, now, counted, pins, _folder: folder })
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

    fn bring(&mut self, plans: &Plans) -> Result<()> {
        let gone: Vec<ServicePortName> = self.tables.names().filter(|name| !plans.contains_key(name)).cloned().collect();
        let gone = gone.iter().map(|name| (name, None));
        for (name, plan) in gone.chain(plans.iter().map(|(name, plan)| (name, Some(plan)))) {
            for change in self.tables.set(name, plan, self.now)? {
                self.maps.apply(&change)?;
            }
        }
        Ok(())
    }

    /// A shipped program, of whatever type.
    pub fn program_fd(&self, name: &str) -> Result<ProgramFd> {
        let program = ProgramInfo::from_pin(self.pins.programs().join(name)).with_context(|| format!("there is no program {name}"))?;
        Ok(program.fd()?)
    }

    /// Runs the program of a hook on a frame with an Ethernet header.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<Ran> {
        self.run_program(program(hook), frame)
    }

    /// Runs the program that a hook of a device without Ethernet headers has, on a packet that starts with its network header.
    ///
    /// The kernel's test run takes the protocol of every packet from its bytes 12 and 13: they must be the ethertype all the same.
    pub fn run_without_ethernet(&mut self, direction: Direction, packet: &[u8]) -> Result<Ran> {
        self.run_program(
            match direction {
                Direction::Ingress => "uplink_l3_ingress",
                Direction::Egress => "uplink_l3_egress",
            },
            packet,
        )
    }

    /// Runs the XDP program on a frame, which it lets pass: the frame afterwards.
    pub fn run_xdp(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        const XDP_PASS: u32 = 2;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = self.datapath.xdp()?.test_run(options).context("test run of uplink_xdp")?;
        anyhow::ensure!(result.return_value == XDP_PASS, "the action is {}", result.return_value);
        out.truncate(result.data_size_out as usize);
        // What is translated has a mark before it, for tc.
        Ok(out.split_off(out.len() - frame.len()))
    }

    fn run_program(&mut self, name: &str, frame: &[u8]) -> Result<Ran> {
        // Answers may be longer than what they answer.
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = self.datapath.program(name)?.test_run(options).with_context(|| format!("test run of {name}"))?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran { verdict: Verdict::of(result.return_value)?, frame: out })
    }

    /// Runs the program of a hook on a frame as it comes from a device that has computed a sum over it (`CHECKSUM_COMPLETE`), which must be
    /// right afterwards too.
    pub fn run_with_sum(&mut self, hook: Hook, frame: &[u8]) -> Result<Verdict> {
        let name = program(hook);
        let fd = self.datapath.program(name)?.fd()?.try_clone()?;
        let value = raw::test_run_with_sum(fd.as_fd(), frame).with_context(|| format!("test run of {name}"))?;
        Verdict::of(value)
    }

    /// What runs the program of a hook from another thread.
    pub fn runner(&mut self, hook: Hook) -> Result<Runner> {
        Ok(Runner { program: self.datapath.program(program(hook))?.fd()?.try_clone()? })
    }

    /// What was counted since the last call, and how often.
    pub fn take_counted(&mut self) -> Result<Vec<(Reason, u64)>> {
        let now = self.maps.reasons()?;
        let before = std::mem::replace(&mut self.counted, now);
        let differences = self.counted.iter().zip(before).map(|((reason, now), (_, before))| (*reason, now - before));
        Ok(differences.filter(|(_, n)| *n > 0).collect())
    }

    /// What was counted for a service port since its rows were made.
    pub fn service_counters(&self, name: &ServicePortName) -> Result<ServiceCounters> {
        let id = self.tables.id(name).with_context(|| format!("{name} has no rows"))?;
        Ok(self.maps.service_counters(id)?)
    }

    /// Every flow entry of a family, in order.
    pub fn flows<F: OfFamily>(&self) -> Vec<(FlowKey<F>, Flow<F>)>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let mut entries: Vec<_> = F::flows(&self.maps).entries().collect();
        entries.sort_by_key(|(key, _)| *key);
        entries
    }

    /// Removes one flow entry.
    pub fn remove_flow<F: OfFamily>(&mut self, key: &FlowKey<F>) -> Result<()>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        Ok(F::tables(&mut self.maps).0.remove(key)?)
    }

    /// Removes every flow entry.
    pub fn forget_flows(&mut self) -> Result<()> {
        for (key, _) in self.flows::<V4>() {
            self.remove_flow(&key)?;
        }
        for (key, _) in self.flows::<V6>() {
            self.remove_flow(&key)?;
        }
        Ok(())
    }

    /// Takes marks of the service filter back as the daemon does.
    pub fn age_filter(&self) -> Result<()> {
        Ok(filter::round(&self.maps)?)
    }

    /// Whether the service filter has a mark at the place of an address and a port.
    pub fn is_marked(&self, end: SocketAddr) -> Result<bool> {
        let port = Port::from_host(end.port());
        let place = match end.ip() {
            IpAddr::V4(ip) => Place::of(Addr4::from_wire(ip.octets()), port),
            IpAddr::V6(ip) => Place::of(Addr6::from_wire(ip.octets()), port),
        };
        Ok(self.maps.filter.is_marked(place)?)
    }

    /// Makes every flow entry of a family older by so many seconds.
    pub fn age_flows<F: OfFamily>(&mut self, secs: u32) -> Result<()>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let path = self.pins.maps().join(F::FLOWS);
        let mut map: HashMap<_, Row<FlowKey<F>>, Row<Flow<F>>> = Map::from_map_data(MapData::from_pin(path)?)?.try_into()?;
        let jiffies = secs * self.hz()?;
        for (key, flow) in self.flows::<F>() {
            let last_used = flow.last_used.wrapping_sub(jiffies);
            map.insert(Row(key), Row(Flow { last_used, ..flow }), 0)?;
        }
        Ok(())
    }

    /// What the kernel's clock shows, in jiffies.
    pub fn clock(&self) -> Result<u32> {
        Clock::open(&self.pins.programs())?.now()
    }

    /// How many jiffies a second has.
    pub fn hz(&self) -> Result<u32> {
        Ok(self.maps.node()?.hz)
    }

    /// A family's flows as the daemon's expiry sees them so many seconds after the last of them was used, however long ago that is.
    pub fn expiry<F: OfFamily>(&mut self, secs: u32) -> Result<Expiry<'_, F>>
    where
        FlowKey<F>: Pod,
        Flow<F>: Pod,
    {
        let (hz, clock) = (self.hz()?, self.clock()?);
        let silence = self.flows::<F>().iter().map(|(_, flow)| clock.wrapping_sub(flow.last_used)).min().unwrap_or(0);
        let now = clock.wrapping_sub(silence).wrapping_add(secs * hz);
        let (flows, frontends) = F::tables(&mut self.maps);
        Ok(Expiry { flows, frontends, now, hz })
    }

    /// All that the daemon has written and no program may change.
    pub fn control_rows(&self) -> Result<(tables::Snapshot, proxy_common::NodeRow)> {
        Ok((self.maps.snapshot()?, self.maps.node()?))
    }
}

/// The program of a hook of a device with Ethernet headers.
fn program(hook: Hook) -> &'static str {
    match (hook.role, hook.direction) {
        (Role::Workload, Direction::Ingress) => "workload_ingress",
        (Role::Workload, Direction::Egress) => "workload_egress",
        (Role::Uplink, Direction::Ingress) => "uplink_ingress",
        (Role::Uplink, Direction::Egress) => "uplink_egress",
    }
}

fn snat_source<F: Family>(addrs: &[IpAddr]) -> SnatSource<F> {
    let addr = addrs.iter().find_map(|addr| F::Addr::from_ip(*addr));
    let port = |port| Port::from_host(if addr.is_some() { port } else { 0 });
    SnatSource {
        addr: addr.unwrap_or_else(F::Addr::zeroed),
        first_port: port(*SNAT_PORTS.start()),
        last_port: port(*SNAT_PORTS.end()),
        pad: F::RowPad::zeroed(),
    }
}

// === impl Runner ===

impl Runner {
    /// Runs the program on a frame with an Ethernet header.
    pub fn run(&self, frame: &[u8]) -> Result<Ran> {
        let mut out = vec![0; frame.len() + 256];
        let (value, len) = raw::test_run(self.program.as_fd(), frame, &mut out)?;
        out.truncate(len);
        Ok(Ran { verdict: Verdict::of(value)?, frame: out })
    }
}

// === impl Verdict ===

impl Verdict {
    /// Reads a program's return value.
    fn of(value: u32) -> Result<Self> {
        match value.cast_signed() {
            -1 => Ok(Self::Next),
            2 => Ok(Self::Shot),
            7 => Ok(Self::Redirect),
            other => anyhow::bail!("a program returned {other}, which none of ours does"),
        }
    }
}

// === impl OfFamily ===

impl OfFamily for V4 {
    const FLOWS: &'static str = names::FLOWS_V4;

    fn flows(maps: &KernelMaps) -> &FlowTable<Self> {
        &maps.flows4
    }

    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>) {
        (&mut maps.flows4, &maps.frontends4)
    }
}

impl OfFamily for V6 {
    const FLOWS: &'static str = names::FLOWS_V6;

    fn flows(maps: &KernelMaps) -> &FlowTable<Self> {
        &maps.flows6
    }

    fn tables(maps: &mut KernelMaps) -> (&mut FlowTable<Self>, &FrontendTable<Self>) {
        (&mut maps.flows6, &maps.frontends6)
    }
}
