//! Another project's BPF program on a device, and how many programs a device has in all (tcx, Linux 6.6 and newer).
//!
//! Beside others Shunt must work, their verdicts must count after its own, and a clean-up must leave them alone. The
//! program here is two instructions that give one verdict on every packet.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;

use crate::netns::Netns;

/// What the program says to every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Verdict {
    /// Let the next program decide.
    Next = -1,
    Drop = 2,
}

/// An attached program; dropping it detaches it.
#[derive(Debug)]
pub struct ForeignProgram {
    _link: OwnedFd,
}

/// Opcodes; an instruction is eight bytes: opcode, registers, offset, immediate.
const MOVE_TO_R0: u8 = 0xb7;
const EXIT: u8 = 0x95;
const PROG_QUERY: libc::c_long = 16;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// The start of the kernel's attributes for loading a program.
#[repr(C)]
struct LoadAttributes {
    program_type: u32,
    n_instructions: u32,
    instructions: u64,
    license: u64,
}

/// The attributes for attaching a program behind those that are there.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

/// The attributes for asking which programs are attached; zero addresses ask for their number alone.
#[derive(Default)]
#[repr(C)]
struct QueryAttributes {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    arrays: [u64; 3],
    revision: u64,
}

/// How many programs a device has at ingress and at egress.
pub fn count(netns: &Netns, device: &str) -> Result<[u32; 2]> {
    netns.run(|| {
        let ifindex = if_nametoindex(device).context("looking for the device")?;
        let count = |attach_type| -> io::Result<u32> {
            let mut query = QueryAttributes { ifindex, attach_type, ..Default::default() };
            bpf(PROG_QUERY, &mut query)?;
            Ok(query.count)
        };
        Ok([count(TCX_INGRESS)?, count(TCX_EGRESS)?])
    })
}

impl ForeignProgram {
    /// Attaches one to a device's ingress, behind the programs that are there.
    pub fn attach(netns: &Netns, device: &str, verdict: Verdict) -> Result<Self> {
        let link = netns.run(|| {
            let program = load(verdict).context("loading the program")?;
            let ifindex = if_nametoindex(device).context("looking for the device")?;
            create_link(&program, ifindex).context("attaching the program")
        });
        Ok(Self { _link: link.with_context(|| format!("a foreign program on {device}"))? })
    }
}

fn load(verdict: Verdict) -> Result<OwnedFd> {
    let [a, b, c, d] = (verdict as i32).to_le_bytes();
    let program = [[MOVE_TO_R0, 0, 0, 0, a, b, c, d], [EXIT, 0, 0, 0, 0, 0, 0, 0]];
    let license = CString::new("GPL").context("the license")?;
    let mut attributes = LoadAttributes {
        program_type: SCHED_CLS,
        n_instructions: 2,
        instructions: program.as_ptr().addr() as u64,
        license: license.as_ptr().addr() as u64,
    };
    Ok(open(PROG_LOAD, &mut attributes)?)
}

fn create_link(program: &OwnedFd, ifindex: u32) -> Result<OwnedFd> {
    let mut attributes = LinkAttributes {
        program: program.as_raw_fd().cast_unsigned(),
        ifindex,
        attach_type: TCX_INGRESS,
        flags: 0,
        relative: 0,
        pad: 0,
        revision: 0,
    };
    Ok(open(LINK_CREATE, &mut attributes)?)
}

/// Makes a `bpf` call whose result is a descriptor.
fn open<A>(command: libc::c_long, attributes: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attributes)?;
    // SAFETY: these commands yield a new descriptor, which is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    let at = &raw mut *attributes;
    // SAFETY: the attributes are as long as said, and what they point to lives on in the caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, at, size_of::<A>()) };
    match i32::try_from(result).map_err(io::Error::other)? {
        result @ 0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
