//! A node, seen from outside: its network, its folder, its cgroups, and the process that is its first.

use std::{
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Plugin, programs::Programs, settings, state::NodeState};
use crate::{
    addr::{self, Addrs},
    control_plane::ControlPlane,
    name::BedName,
    netns::Netns,
    node::FORWARDING,
    process::Process,
    scratch::remove_cgroup,
    underlay::Underlay,
    wait,
};

/// A machine may start several at once, and each unpacks images.
const START_LIMIT: Duration = Duration::from_mins(3);
/// Where a node keeps what is its own.
#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// A node of a cluster. Dropping it ends everything on it.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    index: u8,
    folder: Folder,
    cgroups: Cgroups,
    init: Option<Process>,
    netns: Netns,
}

/// The node's own groups, one in each hierarchy, which go with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::unsafe_derive_deserialize, reason = "paths need not be anything for a process to join the groups")]
pub(super) struct Cgroups(Vec<PathBuf>);

impl Folder {
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn create(path: &Path) -> Result<Self> {
        for part in ["containerd", "kubelet", "pods", "etc.up", "etc.work", "var.up", "var.work"] {
            let part = path.join(part);
            fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        }
        Ok(Self(path.to_owned()))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.file(name), text).with_context(|| format!("writing {name} of a node"))
    }
}

impl Node {
    /// Makes the node's network and folder; nothing runs yet.
    pub(super) fn create(bed: &BedName, index: u8, underlay: &Underlay, folder: &Path) -> Result<Self> {
        let name = format!("n{index}");
        let netns = Netns::create(&bed.part(&name))?;
        netns.sysctl(&FORWARDING)?;
        underlay.attach(&name, &netns, addr::node(index))?;
        let Addrs { v4, v6 } = addr::router();
        netns.ip(&format!("route add default via {v4}\nroute add default via {v6}\n"))?;
        let folder = Folder::create(&folder.join(&name))?;
        let cgroups = Cgroups::create(&bed.part(&name))?;
        Ok(Self { name, index, folder, cgroups, init: None, netns })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The Node object, which the kubelet fills in.
    pub(super) fn object(&self) -> Value {
        let cidrs = addr::pod_cidrs(self.index);
        let zone = format!("z{}", (self.index - 1) % 3 + 1);
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": self.name,
                "labels": {"kubernetes.io/hostname": self.name, "topology.kubernetes.io/zone": zone},
            },
            "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        })
    }

    /// How others reach the node's pods.
    pub(super) fn routes(&self) -> String {
        let Addrs { v4, v6 } = addr::node(self.index);
        let [pods4, pods6] = addr::pod_cidrs(self.index);
        format!("route add {pods4} via {v4}\nroute add {pods6} via {v6}\n")
    }

    /// Starts containerd and the kubelet, in namespaces of the node's own.
    pub(super) fn start(&mut self, control_plane: &ControlPlane, plugin: Plugin, programs: &Programs) -> Result<()> {
        let folder = &self.folder;
        control_plane.write_node_kubeconfig(&self.name, &folder.file("kubeconfig"))?;
        folder.write("resolv.conf", "")?;
        folder.write("containerd.toml", &settings::containerd(programs))?;
        folder.write("cni.conflist", &settings::network(plugin, &addr::pod_cidrs(self.index)).to_string())?;
        let kubelet = settings::kubelet(&control_plane.authority_file(), &folder.file("resolv.conf"));
        folder.write("kubelet.yaml", &kubelet.to_string())?;
        let log = File::create(folder.file("init.log")).context("opening the log of a node's first process")?;
        let addresses = addr::node(self.index).both().map(|addr: IpAddr| addr.to_string()).join(",");
        let mut unshare = self.netns.command("unshare");
        unshare.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork", "--kill-child", "--mount-proc"]);
        unshare.arg(std::env::current_exe().context("finding this program")?).arg("node").arg(&self.name);
        unshare.arg(&self.folder.0).arg(programs.folder()).arg(addresses);
        unshare.stdout(log.try_clone().context("sharing a log")?).stderr(log);
        self.cgroups.take(&mut unshare)?;
        self.init = Some(Process::spawn(&mut unshare)?);
        Ok(())
    }

    /// Waits until its containers could run.
    pub(super) fn wait_until_up(&mut self) -> Result<()> {
        let up = self.folder.file("up");
        let (name, folder, Some(init)) = (&self.name, &self.folder, &mut self.init) else { return Ok(()) };
        wait::until(&format!("{name} to be up"), START_LIMIT, || {
            ensure!(init.poll()?.is_none(), "its first process has ended: {}", fs::read_to_string(folder.file("init.log"))?);
            ensure!(up.is_file(), "it is not yet");
            Ok(())
        })
    }

    /// What those need to know who want to enter it.
    pub(super) fn state(&self) -> Result<NodeState> {
        let init = self.init.as_ref().context("the node does not run")?;
        Ok(NodeState { name: self.name.clone(), pid: first_child(init.pid())?, cgroups: self.cgroups.clone() })
    }
}

/// A command in the namespaces and cgroups of a node.
pub(super) fn enter(cgroups: &Cgroups, pid: u32) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]);
    cgroups.take(&mut command)?;
    Ok(command)
}

/// The process that `unshare` has made: the first one in there.
fn first_child(pid: u32) -> Result<u32> {
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&children).with_context(|| format!("reading {children}"))?;
    children.split_whitespace().next().context("the node has no first process")?.parse().context("a process's number")
}

impl Drop for Node {
    fn drop(&mut self) {
        // The kernel ends everything in a PID namespace with its first process.
        if let Some(pid) = self.init.as_ref().and_then(|init| first_child(init.pid()).ok()) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).ok();
        }
        drop(self.init.take());
        self.cgroups.remove();
    }
}

// === impl Cgroups ===

impl Cgroups {
    /// Makes a group below this process's own in every hierarchy there is.
    fn create(name: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("reading this process's cgroups")?;
        let mut groups = Self(Vec::new());
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let Some(root) = hierarchy(controllers) else { continue };
            let parent = root.join(path.trim_start_matches('/'));
            let group = parent.join(name);
            fs::create_dir(&group).with_context(|| format!("making {}", group.display()))?;
            // A group has neither processors nor memory of its own accord.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if controllers == "cpuset" {
                    fs::copy(parent.join(file), group.join(file)).with_context(|| format!("setting {file}"))?;
                }
            }
            groups.0.push(group);
        }
        Ok(groups)
    }

    /// Lets a command run in the groups.
    fn take(&self, command: &mut Command) -> Result<()> {
        let files = self.0.iter().map(|group| File::options().write(true).open(group.join("cgroup.procs")));
        let files: Vec<File> = files.collect::<Result<_, _>>().context("opening a node's cgroups")?;
        // SAFETY: between fork and exec it only writes to files that are open. "0" is whoever writes.
        unsafe {
            command.pre_exec(move || files.iter().try_for_each(|mut file| file.write_all(b"0")));
        }
        Ok(())
    }

    /// Depth first: the kubelet's and containerd's groups, then the node's own.
    pub(super) fn remove(&self) {
        self.0.iter().for_each(|group| remove_cgroup(group));
    }
}

/// Where a hierarchy is mounted, by what `/proc/self/cgroup` calls it.
fn hierarchy(controllers: &str) -> Option<PathBuf> {
    let place = match (controllers, controllers.strip_prefix("name=")) {
        ("", _) => {
            ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from).into_iter().find(|place| place.join("cgroup.procs").exists())?
        }
        (_, Some(name)) => Path::new("/sys/fs/cgroup").join(name),
        (_, None) => Path::new("/sys/fs/cgroup").join(controllers),
    };
    place.is_dir().then_some(place)
}
