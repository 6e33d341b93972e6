//! Test runs that aya has no word for: with `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`, and from several threads at once.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
/// The packet comes with a sum over it. If it is wrong after the run, the run fails with `EBADMSG`.
const BPF_F_TEST_SKB_CHECKSUM_COMPLETE: u32 = 1 << 2;

/// `union bpf_attr`, as far as a test run goes (`include/uapi/linux/bpf.h`).
#[derive(Default)]
#[repr(C)]
struct Attributes {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Runs a program once on a frame with a sum, and yields its return value.
pub(super) fn test_run_with_sum(program: BorrowedFd<'_>, frame: &[u8]) -> Result<u32> {
    run(program, frame, &mut [], BPF_F_TEST_SKB_CHECKSUM_COMPLETE).map(|(value, _)| value)
}

/// Runs a program once on a frame, and yields its return value and the length of the frame afterwards, which is in `out`.
pub(super) fn test_run(program: BorrowedFd<'_>, frame: &[u8], out: &mut [u8]) -> Result<(u32, usize)> {
    run(program, frame, out, 0)
}

fn run(program: BorrowedFd<'_>, frame: &[u8], out: &mut [u8], flags: u32) -> Result<(u32, usize)> {
    let mut attributes = Attributes {
        prog_fd: u32::try_from(program.as_raw_fd())?,
        data_in: frame.as_ptr().addr() as u64,
        data_size_in: u32::try_from(frame.len())?,
        // Without a size, the kernel takes any address but zero to have room for the whole frame.
        data_out: if out.is_empty() { 0 } else { out.as_mut_ptr().addr() as u64 },
        data_size_out: u32::try_from(out.len())?,
        repeat: 1,
        flags,
        ..Attributes::default()
    };
    // SAFETY: the attributes are the kernel's, of the size that is given; it reads the frame and writes to `out` and the attributes, all of
    // which live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attributes, size_of::<Attributes>()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        let is_sum = error.raw_os_error() == Some(libc::EBADMSG);
        return Err(error).context(if is_sum { "the device's sum is wrong afterwards" } else { "BPF_PROG_TEST_RUN" });
    }
    Ok((attributes.retval, usize::try_from(attributes.data_size_out)?))
}
