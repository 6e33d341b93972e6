//! A network namespace: commands, in-process sockets and `ip` batches inside it, gone when the last handle is.
//!
//! Only the network namespace is entered, never a mount namespace as `ip netns exec` does, so that bpffs and
//! cgroups stay visible inside, as they are for a daemon on a real node. With that of a node or a pod goes the node's
//! cgroup, of which whoever enters is then: threads of a test, too.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::process::{self, Process};

pub(crate) const NETNS_DIR: &str = "/run/netns";

/// Keys that spare IPv6 addresses their probation, and the waiting for routers; set before the first device is there.
const PROMPT_IPV6: [(&str, &str); 4] = [
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// A handle to one named namespace; clones share it, the last one to go removes it.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    file: File,
    /// Where a cgroup takes threads.
    cgroup: Option<File>,
    /// Whose it is to remove.
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    This,
    /// Another handle, which is kept for that.
    Other {
        _kept: Netns,
    },
    /// Nobody here.
    Nobody,
}

impl Netns {
    /// Makes a namespace with loopback up, whose devices will have IPv6 at once.
    pub fn create(name: &str) -> Result<Self> {
        Self::create_with(name, None)
    }

    /// Makes such a namespace for processes of a cgroup, which has to be a threaded one.
    pub fn create_in(name: &str, cgroup: &Path) -> Result<Self> {
        Self::create_with(name, Some(threads_of(cgroup)?))
    }

    /// The same namespace for processes of another cgroup.
    pub fn in_cgroup(&self, cgroup: &Path) -> Result<Self> {
        let file = self.0.file.try_clone().context("a second descriptor of a namespace")?;
        let name = self.name().to_owned();
        Ok(Self(Arc::new(Inner { name, file, cgroup: Some(threads_of(cgroup)?), owner: Owner::Other { _kept: self.clone() } })))
    }

    /// The one that this process is in.
    pub fn own() -> Result<Self> {
        let file = File::open("/proc/self/ns/net").context("opening this process's namespace")?;
        Ok(Self(Arc::new(Inner { name: "own".to_owned(), file, cgroup: None, owner: Owner::Nobody })))
    }

    fn create_with(name: &str, cgroup: Option<File>) -> Result<Self> {
        process::output(Command::new("ip").args(["netns", "add", name]))?;
        let file = File::open(path(name)).with_context(|| format!("opening namespace {name}"))?;
        let netns = Self(Arc::new(Inner { name: name.to_owned(), file, cgroup, owner: Owner::This }));
        netns.sysctl(&PROMPT_IPV6)?;
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs a closure on a thread inside the namespace; sockets it opens stay there wherever they are used later.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.0.enter().expect("entering a namespace needs root");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let inner = Arc::clone(&self.0);
        // SAFETY: between fork and exec `enter` makes system calls and allocates nothing.
        unsafe {
            command.pre_exec(move || inner.enter());
        }
        command
    }

    /// Runs a shell command line to its end and gives what it printed; any other status than 0 is an error.
    pub fn exec(&self, line: &str) -> Result<String> {
        let output = process::output(self.command("sh").args(["-c", line]));
        output.with_context(|| format!("in namespace {}", self.name()))
    }

    /// Starts a shell command line that runs until the guard is dropped.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        Process::spawn(self.command("sh").args(["-c", line]))
    }

    /// Runs lines of `ip` commands as one batch.
    pub fn ip(&self, lines: &str) -> Result<()> {
        self.batch("ip", lines)
    }

    /// Runs lines of `bridge` commands as one batch.
    pub fn bridge(&self, lines: &str) -> Result<()> {
        self.batch("bridge", lines)
    }

    fn batch(&self, tool: &str, lines: &str) -> Result<()> {
        let mut command = Command::new(tool);
        self.feed(command.args(["-n", self.name(), "-batch", "-"]), lines)
    }

    /// Loads nftables rules.
    pub fn nft(&self, rules: &str) -> Result<()> {
        self.feed(self.command("nft").args(["-f", "-"]), rules)
    }

    fn feed(&self, command: &mut Command, lines: &str) -> Result<()> {
        let fed = process::feed(command, lines);
        fed.with_context(|| format!("in namespace {}:\n{lines}", self.name()))
    }

    /// Sets keys below `/proc/sys/net`, written with slashes: `("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            settings.iter().try_for_each(|(key, value)| {
                fs::write(Path::new("/proc/sys/net").join(key), value).with_context(|| format!("setting {key} to {value}"))
            })
        })
    }

    /// The hardware address of a device.
    pub fn mac(&self, device: &str) -> Result<String> {
        let shown: serde_json::Value = process::json(self.command("ip").args(["-j", "link", "show", "dev", device]))?;
        let mac = shown[0]["address"].as_str().map(str::to_owned);
        mac.with_context(|| format!("{device} has no address"))
    }
}

impl Inner {
    /// Takes the calling thread there. Where it is already, that takes no rights.
    fn enter(&self) -> io::Result<()> {
        if matches!(self.owner, Owner::Nobody) {
            return Ok(());
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        // The thread that writes is meant.
        self.cgroup.as_ref().map_or(Ok(()), |mut threads| threads.write_all(b"0"))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if matches!(self.owner, Owner::This) {
            remove(&self.name);
        }
    }
}

fn threads_of(cgroup: &Path) -> Result<File> {
    let threads = cgroup.join("cgroup.threads");
    File::options().write(true).open(&threads).with_context(|| format!("opening {}", threads.display()))
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Ends the processes in a namespace and takes its name away; the kernel frees it behind our back.
///
/// Whatever is gone already is as it should be, hence no errors.
pub(crate) fn remove(name: &str) {
    let path = path(name);
    process::kill_in_namespace(&path);
    nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH).ok();
    fs::remove_file(&path).ok();
}
