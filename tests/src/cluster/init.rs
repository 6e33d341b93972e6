//! The first process of a node: sets up what the node sees of the machine, and runs containerd and the kubelet.
//!
//! It is started in namespaces of its own. The machine's file system stays visible; `/etc` and `/var` are layers over it, `/run` is the node's own, so
//! that nothing is written to the machine but below the node's folder.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::wait::{WaitStatus, waitpid},
    unistd::Pid,
};

use super::{node::Folder, programs::Programs};

/// Settings of the whole machine that the kubelet would write unless they have these values: it is shown that they have.
const TUNABLES: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
const START_LIMIT: Duration = Duration::from_mins(1);

/// Runs as long as the node does.
pub fn run(name: &str, folder: &Path, programs: &Path, addresses: &str) -> Result<()> {
    let (folder, programs) = (Folder::at(folder), Programs::at(programs));
    fs::write("/proc/sys/kernel/hostname", name).context("naming the host")?;
    set_up_mounts(&folder)?;
    fs::copy(folder.file("cni.conflist"), "/etc/cni/net.d/10-pods.conflist").context("configuring CNI")?;
    start_containerd(&folder, &programs)?;
    fs::write(folder.file("up"), "").context("saying that the node is up")?;
    let mut kubelet = start_kubelet(name, &folder, &programs, addresses)?;
    loop {
        // Whatever is orphaned in the node is this process's.
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) if pid == Pid::from_raw(kubelet.id().cast_signed()) => {
                thread::sleep(Duration::from_secs(1));
                kubelet = start_kubelet(name, &folder, &programs, addresses)?;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the node's processes"),
        }
    }
}

fn set_up_mounts(folder: &Folder) -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("sharing mounts within the node")?;
    for dir in ["etc", "var"] {
        let [upper, work] = ["up", "work"].map(|part| folder.file(&format!("{dir}.{part}")));
        let layers = format!("lowerdir=/{dir},upperdir={},workdir={}", upper.display(), work.display());
        mount_new("overlay", &format!("/{dir}"), Some(&layers))?;
    }
    for dir in ["/var/lib/containerd", "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/etc/cni/net.d"] {
        fs::create_dir_all(dir).with_context(|| format!("making {dir}"))?;
    }
    bind(&folder.file("containerd"), "/var/lib/containerd")?;
    bind(&folder.file("kubelet"), "/var/lib/kubelet")?;
    bind(&folder.file("pods"), "/var/log/pods")?;
    mount(none, "/var/lib/kubelet", none, MsFlags::MS_SHARED, none).context("sharing the kubelet's mounts")?;
    mount_new("tmpfs", "/run", Some("mode=755"))?;
    for dir in ["/run/containerd", "/run/netns", "/run/lock"] {
        fs::create_dir_all(dir).with_context(|| format!("making {dir}"))?;
    }
    // Of the node's network namespace.
    mount_new("sysfs", "/sys", None)?;
    mount_cgroups()?;
    mount_new("bpf", "/sys/fs/bpf", None)?;
    for (number, (file, value)) in TUNABLES.into_iter().enumerate() {
        let shown = format!("/run/tunable{number}");
        fs::write(&shown, format!("{value}\n")).with_context(|| format!("writing {shown}"))?;
        bind(Path::new(&shown), &format!("/proc/sys/{file}"))?;
    }
    Ok(())
}

/// The hierarchies of cgroups as the machine has them, each beginning at the node's own.
fn mount_cgroups() -> Result<()> {
    let own = fs::read_to_string("/proc/self/cgroup").context("reading the node's cgroups")?;
    let hierarchies: Vec<&str> = own.lines().filter_map(|line| line.split(':').nth(1)).filter(|name| !name.is_empty()).collect();
    if hierarchies.is_empty() {
        return mount_new("cgroup2", "/sys/fs/cgroup", None);
    }
    mount_new("tmpfs", "/sys/fs/cgroup", Some("mode=755"))?;
    for controllers in hierarchies {
        let (place, options) = match controllers.strip_prefix("name=") {
            Some(name) => (name, format!("none,{controllers}")),
            None => (controllers, controllers.to_owned()),
        };
        let place = format!("/sys/fs/cgroup/{place}");
        fs::create_dir(&place).with_context(|| format!("making {place}"))?;
        mount_new("cgroup", &place, Some(&options))?;
    }
    fs::create_dir("/sys/fs/cgroup/unified").context("making the place of cgroups of version 2")?;
    mount_new("cgroup2", "/sys/fs/cgroup/unified", None)
}

fn mount_new(kind: &str, at: &str, options: Option<&str>) -> Result<()> {
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options).with_context(|| format!("mounting {kind} at {at}"))
}

fn bind(from: &Path, at: &str) -> Result<()> {
    let none = None::<&str>;
    mount(Some(from), at, none, MsFlags::MS_BIND, none).with_context(|| format!("mounting {} at {at}", from.display()))
}

fn start_containerd(folder: &Folder, programs: &Programs) -> Result<()> {
    let mut containerd = program(folder, programs, "containerd")?;
    containerd.arg("--config").arg(folder.file("containerd.toml"));
    containerd.spawn().context("starting containerd")?;
    let ctr = |arguments: &[&str]| {
        let mut ctr = program(folder, programs, "ctr")?;
        let status = ctr.args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments).status().context("running ctr")?;
        anyhow::ensure!(status.success(), "ctr {arguments:?} ended with {status}");
        Ok(())
    };
    crate::wait::until("containerd", START_LIMIT, || ctr(&["version"]))?;
    let images = programs.images().display().to_string();
    ctr(&["images", "import", "--local", &images]).or_else(|_| ctr(&["images", "import", &images]))
}

fn start_kubelet(name: &str, folder: &Folder, programs: &Programs, addresses: &str) -> Result<Child> {
    let mut kubelet = program(folder, programs, "kubelet")?;
    kubelet.arg("--config").arg(folder.file("kubelet.yaml")).arg("--kubeconfig").arg(folder.file("kubeconfig"));
    kubelet.args(["--hostname-override", name, "--node-ip", addresses, "--root-dir", "/var/lib/kubelet"]);
    kubelet.arg("--cert-dir").arg(folder.file("kubelet/pki"));
    kubelet.spawn().context("starting the kubelet")
}

/// A program that says what it does in a file of the node's.
fn program(folder: &Folder, programs: &Programs, name: &str) -> Result<Command> {
    let file = folder.file(&format!("{name}.log"));
    let log = File::options().append(true).create(true).open(&file).with_context(|| format!("opening {}", file.display()))?;
    let mut command = Command::new(programs.path(name));
    let path: Vec<PathBuf> =
        [programs.folder().to_owned()].into_iter().chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from)).collect();
    command.env("PATH", std::env::join_paths(path).context("the search path")?);
    command.stdin(Stdio::null()).stdout(log.try_clone().context("sharing a log")?).stderr(log).process_group(0);
    Ok(command)
}
