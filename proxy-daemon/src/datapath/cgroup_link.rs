//! A pinned link of a program to a cgroup: which cgroup that is, and another program in its place. aya 0.14 has neither for such links.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Commands of `bpf(2)`.
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_UPDATE: libc::c_int = 29;

/// The arguments of `BPF_OBJ_GET`.
#[repr(C)]
#[derive(Default)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Those of `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct Info {
    fd: u32,
    len: u32,
    place: u64,
}

/// `bpf_link_info` as far as a link to a cgroup has it.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    cgroup: u64,
    attach_type: u32,
    reserved: u32,
}

/// The arguments of `BPF_LINK_UPDATE`.
#[repr(C)]
struct Update {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// A link that is pinned.
pub(super) struct CgroupLink(OwnedFd);

impl CgroupLink {
    /// The one that is pinned there, if there is one.
    pub(super) fn pinned(pin: &Path) -> io::Result<Option<Self>> {
        let path = CString::new(pin.as_os_str().as_bytes())?;
        let mut arguments = Pin { path: path.as_ptr() as u64, ..Pin::default() };
        // SAFETY: the arguments of this command, whose path outlives the call.
        match unsafe { bpf(OBJ_GET, &mut arguments) } {
            // SAFETY: the kernel has just made it for us.
            Ok(fd) => Ok(Some(Self(unsafe { OwnedFd::from_raw_fd(fd) }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the inode of the cgroup that it is at; zero where somebody has detached it, or the cgroup has gone.
    pub(super) fn cgroup(&self) -> io::Result<u64> {
        let mut info = LinkInfo::default();
        let len = u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?;
        let mut arguments = Info { fd: number(self.0.as_raw_fd())?, len, place: (&raw mut info) as u64 };
        // SAFETY: the arguments of this command, with room for what it writes.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut arguments) }?;
        Ok(info.cgroup)
    }

    /// Puts a program in the place of the one that is there. No call is answered by both or by none.
    pub(super) fn exchange(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut arguments =
            Update { link_fd: number(self.0.as_raw_fd())?, new_program_fd: number(program.as_raw_fd())?, flags: 0, old_program_fd: 0 };
        // SAFETY: the arguments of this command.
        unsafe { bpf(LINK_UPDATE, &mut arguments) }.map(drop)
    }
}

fn number(fd: libc::c_int) -> io::Result<u32> {
    u32::try_from(fd).map_err(io::Error::other)
}

/// Calls `bpf(2)`.
///
/// # Safety
/// The arguments are those of the command, and what they point to is there.
unsafe fn bpf<T>(command: libc::c_int, arguments: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(arguments), size_of::<T>()) };
    match libc::c_int::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
