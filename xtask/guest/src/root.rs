//! From the initial file system to one that looks like the host's: all its files, and what is written to them is dropped.

use std::{
    env, fs,
    io::ErrorKind,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::utsname::uname,
    unistd::{chdir, chroot},
};
use shunt_guest::{FOLDER, HOST_FILES, JOB, Job, MODULES};

const HOST: &str = "/host";
const SCRATCH: &str = "/scratch";
const NEW: &str = "/new";

/// Changes to the new root; afterwards nothing of the old one can be reached.
pub(crate) fn change() -> Result<()> {
    for (kind, at) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/run")] {
        attach(kind, at, "")?;
    }
    load_modules()?;
    attach_as("virtiofs", HOST_FILES, HOST, "")?;
    attach("tmpfs", SCRATCH, "size=75%")?;
    for folder in ["upper", "work"] {
        make(&Path::new(SCRATCH).join(folder))?;
    }
    attach("overlay", NEW, &format!("lowerdir={HOST},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work"))?;
    let job = show_folder()?;
    let release = uname().context("uname")?.release().to_owned();
    show(&job.modules, &Path::new("/lib/modules").join(release))?;
    for at in ["/proc", "/sys", "/dev", "/run"] {
        move_to(at, &below(NEW, Path::new(at)))?;
    }
    chdir(NEW).context("chdir")?;
    move_to(".", Path::new("/"))?;
    chroot(".").context("chroot")?;
    furnish(&job)
}

/// Loads what it takes to see the host's files.
fn load_modules() -> Result<()> {
    let entries = fs::read_dir(MODULES).context("listing modules")?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for path in files {
        let file = fs::File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Err(errno) if errno != Errno::EEXIST => return Err(errno).with_context(|| format!("loading {}", path.display())),
            _ => {}
        }
    }
    Ok(())
}

/// Lets the guest write into the host's folder, and reads the job there.
fn show_folder() -> Result<Job> {
    let folder = PathBuf::from(env::var_os(FOLDER).with_context(|| format!("the kernel was not told {FOLDER}"))?);
    show(&folder, &folder)?;
    let text = fs::read(below(NEW, &folder).join(JOB)).context("reading the job")?;
    serde_json::from_slice(&text).context("reading the job")
}

/// Shows a folder of the host at a place of the new root, past what keeps writes.
fn show(folder: &Path, at: &Path) -> Result<()> {
    let (from, to) = (below(HOST, folder), below(NEW, at));
    make(&to)?;
    let bound = mount(Some(&from), &to, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.with_context(|| format!("showing {} at {}", folder.display(), at.display()))
}

/// What an init system provides, as far as tests notice.
fn furnish(job: &Job) -> Result<()> {
    attach("devpts", "/dev/pts", "mode=620,ptmxmode=666")?;
    attach("tmpfs", "/dev/shm", "mode=1777")?;
    match symlink("/proc/self/fd", "/dev/fd") {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).context("linking /dev/fd"),
        _ => {}
    }
    attach("cgroup2", "/sys/fs/cgroup", "")?;
    for module in &job.load {
        run(job, "modprobe", &[module])?;
    }
    run(job, "ip", &["link", "set", "lo", "up"])
}

fn run(job: &Job, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.args(arguments).env_clear().envs(job.environment.iter().cloned()).status();
    let status = status.with_context(|| format!("starting {program}"))?;
    ensure!(status.success(), "{program} {}: {status}", arguments.join(" "));
    Ok(())
}

fn attach(kind: &str, at: &str, options: &str) -> Result<()> {
    attach_as(kind, kind, at, options)
}

fn attach_as(kind: &str, name: &str, at: &str, options: &str) -> Result<()> {
    make(Path::new(at))?;
    match mount(Some(name), at, Some(kind), MsFlags::empty(), Some(options)) {
        // The kernel may have mounted its devices already.
        Err(errno) if errno != Errno::EBUSY => Err(errno).with_context(|| format!("mounting {kind} at {at}")),
        _ => Ok(()),
    }
}

fn move_to(from: &str, to: &Path) -> Result<()> {
    make(to)?;
    let moved = mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>);
    moved.with_context(|| format!("moving {from} to {}", to.display()))
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}

/// A path of one root as seen from another.
fn below(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}
