//! What has to be there before anything is loaded: the rights, a kernel that is new enough, a BPF file system.

use std::{io, path::Path, path::PathBuf};

use aya::util::KernelVersion;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
    unistd::Uid,
};

use super::root_cgroup;
use crate::maps::Pins;

/// The oldest kernel whose verifier and helpers the programs were tested with.
const OLDEST_KERNEL: (u8, u8) = (5, 10);
const BPFFS: &str = "/sys/fs/bpf";
/// Where the root of cgroups is mounted if it is nowhere else.
const CGROUPS: &str = "/run/shunt/cgroup";

/// Why the daemon cannot run here. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("not running as root: shunt loads BPF programs; run it as root or in a privileged pod")]
    NotRoot,
    #[error("kernel {found} is too old: shunt needs {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1)]
    OldKernel { found: String },
    #[error(
        "the kernel refuses BPF system calls ({0}): the process needs the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (CAP_SYS_ADMIN before 5.8), and the kernel CONFIG_BPF_SYSCALL"
    )]
    NoBpf(io::Error),
    #[error("no BPF file system at {} and mounting one failed ({source}): mount it with `mount -t bpf bpf {}`", at.display(), at.display())]
    Mount { at: PathBuf, source: io::Error },
    #[error("no cgroups of version 2 are mounted and mounting them at {} failed ({source}): --socket-lb=off does without", at.display())]
    MountCgroups { at: PathBuf, source: io::Error },
    #[error("{} is not on a BPF file system: give --bpffs a folder below one, such as {BPFFS}/shunt", at.display())]
    NotBpffs { at: PathBuf },
    #[error("creating {}", at.display())]
    Create { at: PathBuf, source: io::Error },
}

/// Checks and prepares the machine: afterwards the root of `pins` exists. Nothing that is there is changed.
pub fn prepare(pins: &Pins) -> Result<(), PrepareError> {
    if !Uid::effective().is_root() {
        return Err(PrepareError::NotRoot);
    }
    let (major, minor) = OLDEST_KERNEL;
    let kernel = KernelVersion::current().ok();
    if kernel.is_some_and(|kernel| kernel < KernelVersion::new(major, minor, 0)) {
        return Err(PrepareError::OldKernel { found: kernel.map(|kernel| kernel.to_string()).unwrap_or_default() });
    }
    lift_memory_limit();
    may_use_bpf()?;
    provide_bpffs(pins.root())?;
    make(pins.root().to_owned())
}

/// Mounts what there is none of: a BPF file system, and the root of cgroups of version 2.
pub fn mount_all(pins: &Pins) -> Result<(), PrepareError> {
    provide_bpffs(pins.root())?;
    if root_cgroup().is_ok() {
        return Ok(());
    }
    let at = Path::new(CGROUPS);
    make(at.to_owned())?;
    let failed = |errno: Errno| PrepareError::MountCgroups { at: at.to_owned(), source: errno.into() };
    mount(Some("cgroup2"), at, Some("cgroup2"), MsFlags::empty(), None::<&str>).map_err(failed)?;
    tracing::info!(at = CGROUPS, "mounted the cgroups of version 2");
    Ok(())
}

/// Makes the folders of this layout's version, for who has the right to write there: another version's daemon removes those of others.
pub fn make_folders(pins: &Pins) -> Result<(), PrepareError> {
    [pins.maps(), pins.links(), pins.programs()].into_iter().try_for_each(make)
}

fn make(dir: PathBuf) -> Result<(), PrepareError> {
    std::fs::create_dir_all(&dir).map_err(|source| PrepareError::Create { at: dir, source })
}

/// Whether this kernel leaves a tunnel's outer headers before what comes out of it, if the device has no headers of its own. Since 5.14 it does
/// not, which nothing but its version tells.
pub fn leaves_outer_headers() -> bool {
    KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(5, 14, 0))
}

/// Before 5.11 maps count against the limit of locked memory. Where it cannot be lifted it mostly need not be.
fn lift_memory_limit() {
    let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) else { return };
    if KernelVersion::current().is_ok_and(|kernel| kernel < KernelVersion::new(5, 11, 0)) {
        tracing::warn!(
            %error,
            "the limit of locked memory cannot be lifted, and before Linux 5.11 maps count against it: if making them fails, give the process \
             CAP_SYS_RESOURCE, or raise the limit of what starts it"
        );
    } else {
        tracing::debug!(%error, "setrlimit of RLIMIT_MEMLOCK");
    }
}

/// Asks the kernel for the smallest map there is.
fn may_use_bpf() -> Result<(), PrepareError> {
    use aya::maps::{Array, MapError};
    match Array::<_, u32>::create(1, 0) {
        Ok(_) => Ok(()),
        Err(MapError::CreateError { io_error, .. }) => Err(PrepareError::NoBpf(io_error)),
        Err(MapError::SyscallError(error)) => Err(PrepareError::NoBpf(error.io_error)),
        Err(error) => Err(PrepareError::NoBpf(io::Error::other(error))),
    }
}

/// Mounts a BPF file system at its usual place if `root` is below that and none is there.
fn provide_bpffs(root: &Path) -> Result<(), PrepareError> {
    if on_bpffs(root) {
        return Ok(());
    }
    let at = Path::new(BPFFS);
    if !root.starts_with(at) {
        return Err(PrepareError::NotBpffs { at: root.to_owned() });
    }
    let failed = |errno: Errno| PrepareError::Mount { at: at.to_owned(), source: errno.into() };
    mount(Some("bpf"), at, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(failed)?;
    tracing::info!(at = BPFFS, "mounted a BPF file system");
    Ok(())
}

/// Whether the nearest folder above `path` that exists is on a BPF file system.
pub(super) fn on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.and_then(|existing| statfs(existing).ok()).is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
