//! A path with all that it needs: a node whose flows are as its name says, the path's program in a driver, and its floor in another.

use anyhow::{Context as _, Result, ensure};
use proxy_daemon::{
    config::Sizes,
    datapath::{Checksums, Options, Programs},
};

use super::{
    check::check,
    driver::{Driver, frame_len},
    paths::{FLOOR_SAMPLE, Floor, Kind, Path, Program, Step},
    sample::{self, End, NODE_PORT, PORT, Sample, TARGET},
};
use crate::{
    addr::{self, Family},
    objects::{Endpoint, Service},
    packet::Packet,
    rows::Cluster,
    test_run::{OPTIONS, TestNode},
};

/// The tables' sizes where packets are of known flows: the daemon's own.
const FLOWS: u32 = proxy_common::maps::DEFAULT_FLOWS;

/// A driver, what is in its slot, and what must become of the packets.
struct Lane {
    driver: Driver,
    kind: Kind,
    is_to_client: bool,
    expected: Packet,
}

pub(super) struct Scene {
    node: TestNode,
    path: Lane,
    floor: Lane,
    counted: &'static [proxy_common::reason::Reason],
}

impl Scene {
    /// Loads everything and lets the packets pass that come before the path's own.
    pub(super) fn new(path: &Path, family: Family, flows: u32) -> Result<Self> {
        let entries = if path.is_new { flows * 2 } else { FLOWS };
        let node = serve(entries, path.checksums)?;
        for step in path.before {
            establish(&node, *step, family, flows)?;
        }
        let walk = (!path.is_new).then_some(flows);
        let Sample(_, _, transport) = path.packet;
        let expected = Sample(path.becomes.0, path.becomes.1, transport);
        let mut lane = Lane::new(path.kind, family, path.packet, expected, entries)?;
        match path.program {
            Program::Shipped(name) => lane.driver.put(&node.program_fd(name)?)?,
            Program::Floor(floor) => lane.put_floor(floor, family)?,
        }
        lane.driver.walk(walk)?;
        let mut floor = Lane::of_floor(path.floor, path.kind, family, entries)?;
        floor.driver.walk(walk)?;
        Ok(Self { node, path: lane, floor, counted: path.counted })
    }

    /// One turn that nobody measures, with one packet of each flow at least.
    pub(super) fn warm_up(&mut self, repeat: u32) -> Result<()> {
        self.run_floor(repeat)?;
        self.run_path(repeat)?;
        drop(self.node.take_counted()?);
        Ok(())
    }

    pub(super) fn run_path(&mut self, repeat: u32) -> Result<()> {
        self.path.run(repeat)
    }

    pub(super) fn run_floor(&mut self, repeat: u32) -> Result<()> {
        self.floor.run(repeat).context("the floor")
    }

    /// Whether so many packets since the warm-up were counted as they have to be, and as nothing else.
    pub(super) fn check_counters(&mut self, packets: u64) -> Result<()> {
        let counted = self.node.take_counted()?;
        let expected: Vec<_> = self.counted.iter().map(|reason| (*reason, packets)).collect();
        ensure!(counted == expected, "counted {counted:?} and not {expected:?}");
        Ok(())
    }
}

impl Lane {
    fn new(kind: Kind, family: Family, sample: Sample, expected: Sample, entries: u32) -> Result<Self> {
        let length = frame_len(family);
        let is_to_client = sample.is_to_client();
        let driver = Driver::load(kind, family, sample.packet(family, length).build(), is_to_client, entries)?;
        Ok(Self { driver, kind, is_to_client, expected: expected.packet(family, length) })
    }

    fn of_floor(floor: Floor, kind: Kind, family: Family, entries: u32) -> Result<Self> {
        let Sample(src, dst, transport) = FLOOR_SAMPLE;
        let dst = if floor == Floor::Nat { End::Backend } else { dst };
        let mut lane = Self::new(kind, family, FLOOR_SAMPLE, Sample(src, dst, transport), entries)?;
        lane.put_floor(floor, family)?;
        Ok(lane)
    }

    fn put_floor(&mut self, floor: Floor, family: Family) -> Result<()> {
        let program = self.driver.load_program(&floor.program(self.kind, family))?;
        self.driver.put(&program)
    }

    /// Runs, and sees to it that the last packet has become what it must.
    fn run(&mut self, repeat: u32) -> Result<()> {
        let ran = self.driver.run(repeat)?;
        let goes_on = match self.kind {
            // `TC_ACT_UNSPEC`, `XDP_PASS`.
            Kind::Tc => -1_i32,
            Kind::Xdp => 2,
        };
        ensure!(ran.value.cast_signed() == goes_on, "the program returned {} and not {goes_on}", ran.value.cast_signed());
        check(&ran.frame, ran.flow, &self.expected, self.is_to_client)
    }
}

/// A node with a Service of every kind and one backend, which is on it.
fn serve(flows: u32, checksums: Checksums) -> Result<TestNode> {
    let node = sample::node().both();
    let mut cluster = Cluster::of_node("n1", &node);
    let service = Service::named("s1").cluster_ips(addr::cluster_ips(1)).node_port(PORT, TARGET, NODE_PORT);
    cluster.apply(service.with_endpoints(&[Endpoint::at(sample::backend(), "n1")]));
    let options = Options { sizes: Sizes { flows, ..OPTIONS.sizes }, programs: Programs::All, checksums, ..OPTIONS };
    let mut test = TestNode::load(&node, options)?;
    test.apply(&cluster.plans())?;
    Ok(test)
}

/// Lets a packet of each flow pass through a program.
fn establish(node: &TestNode, Step(kind, program, sample): Step, family: Family, flows: u32) -> Result<()> {
    let frame = sample.packet(family, frame_len(family)).build();
    let mut driver = Driver::load(kind, family, frame, sample.is_to_client(), 1)?;
    driver.put(&node.program_fd(program)?)?;
    driver.walk(Some(flows))?;
    driver.run(flows)?;
    Ok(())
}
