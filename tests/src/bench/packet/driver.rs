//! A driver and the program in its slot.
//!
//! In: a packet of the flow 0 and a program. Out: runs of the program on packets of as many flows as wanted.

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use bytemuck::Zeroable as _;

use super::paths::Kind;
use crate::addr::Family;

#[path = "../../../../proxy-ebpf/src/bench/layout.rs"]
mod layout;
use layout::{FRAME_V4, FRAME_V6, STEP, STORES, Walk};
pub(super) use layout::{PORT_BITS, PORT_SHIFT};

/// Offset and width of the stores that make an IPv4 frame.
const STORES_V4: &[(usize, usize)] =
    &[(0, 4), (4, 2), (6, 4), (10, 2), (12, 2), (14, 8), (22, 4), (26, 8), (34, 4), (38, 8), (46, 8), (54, 8), (62, 2)];
/// The same for IPv6.
const STORES_V6: &[(usize, usize)] =
    &[(0, 4), (4, 2), (6, 4), (10, 2), (12, 2), (14, 8), (22, 8), (30, 8), (38, 8), (46, 8), (54, 4), (58, 8), (66, 8), (74, 4), (78, 2)];

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/shunt-bench.bpf.o"));

/// A row of the driver's map.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Row(Walk);

// SAFETY: `Walk` is plain data without padding, as its own `Pod` says.
unsafe impl aya::Pod for Row {}

/// What a program's last packet came to.
#[derive(Clone, Debug)]
pub(super) struct Ran {
    /// What the program returned.
    pub(super) value: u32,
    /// The packet afterwards.
    pub(super) frame: Vec<u8>,
    /// Which flow it is of.
    pub(super) flow: u32,
}

/// A driver of its own maps, and the floors, which are in the same object.
pub(super) struct Driver {
    ebpf: Ebpf,
    kind: Kind,
    frame: Vec<u8>,
}

/// The length of all frames of a family.
pub(super) const fn frame_len(family: Family) -> usize {
    match family {
        Family::V4 => FRAME_V4,
        Family::V6 => FRAME_V6,
    }
}

impl Driver {
    /// A driver for packets like this frame, with a table of so many entries for the floors' flows.
    pub(super) fn load(kind: Kind, family: Family, frame: Vec<u8>, is_to_client: bool, entries: u32) -> Result<Self> {
        let (ipv6, to_client) = (u32::from(family == Family::V6), u32::from(is_to_client));
        let (wanted, other) =
            if family == Family::V4 { ("BENCH_FLOWS_V4", "BENCH_FLOWS_V6") } else { ("BENCH_FLOWS_V6", "BENCH_FLOWS_V4") };
        let mut loader = EbpfLoader::new();
        loader.override_global("BENCH_IPV6", &ipv6, true).override_global("BENCH_TO_CLIENT", &to_client, true);
        loader.map_max_entries(wanted, entries).map_max_entries(other, 1);
        let ebpf = loader.load(OBJECT).context("loading the object of the benches")?;
        let mut driver = Self { ebpf, kind, frame };
        driver.load_program(driver_name(kind))?;
        let words = words(if family == Family::V4 { STORES_V4 } else { STORES_V6 }, &driver.frame);
        driver.set_walk(Walk { words, ..Walk::zeroed() })?;
        Ok(driver)
    }

    /// Loads a program of the object.
    pub(super) fn load_program(&mut self, name: &str) -> Result<ProgramFd> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        let fd = match self.kind {
            Kind::Tc => {
                let program: &mut SchedClassifier = program.try_into()?;
                program.load().with_context(|| format!("loading {name}"))?;
                program.fd()?.try_clone()?
            }
            Kind::Xdp => {
                let program: &mut Xdp = program.try_into()?;
                program.load().with_context(|| format!("loading {name}"))?;
                program.fd()?.try_clone()?
            }
        };
        Ok(fd)
    }

    /// Puts a program into the slot.
    pub(super) fn put(&mut self, program: &ProgramFd) -> Result<()> {
        let mut slot = ProgramArray::try_from(self.ebpf.map_mut("BENCH_SLOT").context("the driver has no slot")?)?;
        slot.set(0, program, 0).context("putting the program into the driver's slot")
    }

    /// Makes packets of so many flows from now on, a power of two; of a new flow each for `None`.
    pub(super) fn walk(&mut self, flows: Option<u32>) -> Result<()> {
        let mask = match flows {
            Some(flows) => {
                ensure!(flows.is_power_of_two(), "{flows} flows are no power of two");
                flows - 1
            }
            None => u32::MAX,
        };
        let walk = self.walked()?;
        self.set_walk(Walk { mask, ..walk })
    }

    /// Runs the program in the slot on so many packets.
    pub(super) fn run(&mut self, repeat: u32) -> Result<Ran> {
        // An answer of the program may be longer than the packet.
        let mut out = vec![0; self.frame.len() + 256];
        let options = TestRunOptions { data_in: Some(&self.frame), data_out: Some(&mut out), repeat, ..TestRunOptions::default() };
        let name = driver_name(self.kind);
        let program = self.ebpf.program(name).with_context(|| format!("the object has no program {name}"))?;
        let result = match self.kind {
            Kind::Tc => <&SchedClassifier>::try_from(program)?.test_run(options),
            Kind::Xdp => <&Xdp>::try_from(program)?.test_run(options),
        };
        let result = result.context("BPF_PROG_TEST_RUN")?;
        out.truncate(result.data_size_out as usize);
        let Walk { mask, next, .. } = self.walked()?;
        let flow = next.wrapping_sub(1).wrapping_mul(STEP) & mask;
        Ok(Ran { value: result.return_value, frame: out, flow })
    }

    fn walked(&self) -> Result<Walk> {
        let map: Array<_, Row> = self.ebpf.map("BENCH_WALK").context("the driver has no packets")?.try_into()?;
        Ok(map.get(&0, 0)?.0)
    }

    fn set_walk(&mut self, walk: Walk) -> Result<()> {
        let mut map: Array<_, Row> = self.ebpf.map_mut("BENCH_WALK").context("the driver has no packets")?.try_into()?;
        Ok(map.set(0, Row(walk), 0)?)
    }
}

const fn driver_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tc => "drive_tc",
        Kind::Xdp => "drive_xdp",
    }
}

/// A frame as the words of the driver's stores.
fn words(stores: &[(usize, usize)], frame: &[u8]) -> [u64; STORES] {
    let mut words = [0; STORES];
    for (word, (offset, width)) in words.iter_mut().zip(stores) {
        let mut bytes = [0; 8];
        bytes[..*width].copy_from_slice(&frame[*offset..offset + width]);
        *word = u64::from_ne_bytes(bytes);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_make_the_whole_frame() {
        for (stores, len) in [(STORES_V4, FRAME_V4), (STORES_V6, FRAME_V6)] {
            let end = stores.iter().fold(0, |at, (offset, width)| {
                assert_eq!(*offset, at, "nothing is left out or made twice");
                at + width
            });
            assert_eq!(end, len);
            assert!(stores.len() <= STORES);
        }
    }
}
