//! Running programs on frames: what comes out, and what becomes of it.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya::programs::{ProgramFd, ProgramInfo, TestRun as _, TestRunOptions};
use proxy_daemon::{maps::Direction, net::Role};

use super::{TestNode, raw};
use crate::{netns::Netns, tracer::Hook};

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

// === impl TestNode ===

impl TestNode {
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
    /// The kernel's test run takes the protocol of every packet from its bytes 12 and 13: they must be the ethertype all the same. What is
    /// redirected has been given an empty header for the kernel to take off, and is here without it.
    pub fn run_without_ethernet(&mut self, direction: Direction, packet: &[u8]) -> Result<Ran> {
        const EMPTY: [u8; 14] = [0; 14];
        let program = match direction {
            Direction::Ingress => "uplink_l3_ingress",
            Direction::Egress => "uplink_l3_egress",
        };
        let ran = self.run_program(program, packet)?;
        if ran.verdict != Verdict::Redirect {
            return Ok(ran);
        }
        let frame = ran.frame.strip_prefix(&EMPTY).context("a packet is redirected without an empty Ethernet header")?;
        Ok(Ran { verdict: ran.verdict, frame: frame.to_vec() })
    }

    /// Runs the XDP program on a frame, which it lets pass: the frame afterwards.
    pub fn run_xdp(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        const XDP_PASS: u32 = 2;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let program = self.datapath.xdp()?;
        let result = in_place(self.place.as_ref(), || program.test_run(options).context("test run of uplink_xdp"))?;
        anyhow::ensure!(result.return_value == XDP_PASS, "the action is {}", result.return_value);
        out.truncate(result.data_size_out as usize);
        // What is translated has a mark before it, for tc.
        Ok(out.split_off(out.len() - frame.len()))
    }

    /// Runs a program by its name.
    pub fn run_program(&mut self, name: &str, frame: &[u8]) -> Result<Ran> {
        // Answers may be longer than what they answer.
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
        let program = self.datapath.program(name)?;
        let result = in_place(self.place.as_ref(), || program.test_run(options).with_context(|| format!("test run of {name}")))?;
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
}

/// Runs something in a node's place, or where the test runs.
fn in_place<T: Send>(place: Option<&Netns>, run: impl FnOnce() -> T + Send) -> T {
    match place {
        Some(netns) => netns.run(run),
        None => run(),
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
