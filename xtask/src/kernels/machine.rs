//! A virtual machine that sees the host's files: virtiofsd shows them, qemu runs the kernel.
//!
//! In: a kernel, a first file system and the folder of its job. Out: the machine, running until it turns itself off or is dropped.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{prctl, signal::Signal};
use shunt_guest::{FOLDER, HOST_FILES};
use xshell::cmd;

use crate::{
    bpf_toolchain::on_path,
    debian::output,
    door::{Door, doing, done, found, patiently},
};

const QEMU: &str = "qemu-system-x86_64";
/// Where Debian puts it: since release 13, and before.
const VIRTIOFSD: [&str; 2] = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
const MEMORY_MIB: u32 = 3072;
/// More than one, so that what is kept for each processor is in several places.
const CPUS: u32 = 2;
/// What the kernel is told. A guest that gets too little of the processor as it starts would take its timer for broken.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic loglevel=5 mitigations=off no_timer_check";
const SOCKET_LIMIT: Duration = Duration::from_secs(10);

/// The programs that machines are made with.
pub(super) struct Tools {
    virtiofsd: PathBuf,
    acceleration: Acceleration,
}

/// Who runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Acceleration {
    /// The processor itself.
    Kvm,
    /// An emulator of it. Before version 8 it gets one instruction wrong (`cmpxchg16b`), which a guest then must do without.
    Emulator { without_cmpxchg16b: bool },
}

/// A running machine. Dropping it turns it off.
pub(super) struct Machine {
    qemu: Guard,
    _virtiofsd: Guard,
}

/// A process that ends with its guard.
struct Guard(Child);

/// What a machine is made of.
pub(super) struct Parts<'a> {
    pub(super) image: &'a Path,
    pub(super) initramfs: &'a [u8],
    /// The folder with the job, which the guest may write to. What the console says goes there too.
    pub(super) folder: &'a Path,
}

// === impl Tools ===

impl Tools {
    /// Finds qemu and virtiofsd, or installs them.
    pub(super) fn find_or_install(door: &Door) -> Result<Self> {
        let install = |packages: &[&str]| {
            doing(&format!("installing {}", packages.join(", ")));
            patiently(|| install(door, packages))
        };
        if on_path(QEMU).is_none() {
            install(&["qemu-system-x86"])?;
        }
        if virtiofsd().is_none() {
            install(&["virtiofsd"])?;
        }
        if on_path("depmod").is_none() || on_path("modprobe").is_none() {
            install(&["kmod"])?;
        }
        ensure!(on_path(QEMU).is_some(), "there is no {QEMU}");
        let virtiofsd = virtiofsd().context("there is no virtiofsd")?;
        let acceleration = Acceleration::of_this_machine(door)?;
        let tools = Self { virtiofsd, acceleration };
        found(&format!("{tools}, {}", tools.virtiofsd.display()));
        Ok(tools)
    }

    /// How much longer a guest takes than this machine, at worst.
    pub(super) fn slowness(&self) -> u32 {
        if self.acceleration == Acceleration::Kvm { 1 } else { 10 }
    }
}

impl fmt::Display for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{QEMU}, {}", self.acceleration)
    }
}

fn virtiofsd() -> Option<PathBuf> {
    VIRTIOFSD.iter().map(PathBuf::from).find(|path| path.is_file())
}

fn install(door: &Door, packages: &[&str]) -> Result<()> {
    ensure!(on_path("apt-get").is_some(), "this is not a Debian machine: install {} by hand", packages.join(", "));
    let sh = &door.sh;
    let _quiet = sh.push_env("DEBIAN_FRONTEND", "noninteractive");
    output(cmd!(sh, "apt-get update -qq")).context("reading the package lists")?;
    output(cmd!(sh, "apt-get install -qq --no-install-recommends {packages...}")).context("installing packages")?;
    done(&packages.join(", "));
    Ok(())
}

// === impl Acceleration ===

impl Acceleration {
    fn of_this_machine(door: &Door) -> Result<Self> {
        // Where neither module is, /dev/kvm is somebody else's and not to be relied on.
        let has_module = ["kvm_intel", "kvm_amd"].iter().any(|module| Path::new("/sys/module").join(module).exists());
        if has_module && File::options().read(true).write(true).open("/dev/kvm").is_ok() {
            return Ok(Self::Kvm);
        }
        let version = output(cmd!(door.sh, "{QEMU} --version"))?;
        let major = major_version(&version).with_context(|| format!("no version in {version:?}"))?;
        Ok(Self::Emulator { without_cmpxchg16b: major < 8 })
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // In one thread for all processors: a kernel changes its own code while it runs, as it does when programs are attached, and
            // that is not safe between emulated processors. Five levels of page tables would only cost time.
            Self::Emulator { without_cmpxchg16b: true } => ["-accel", "tcg,thread=single", "-cpu", "max,-la57,-cx16"],
            Self::Emulator { without_cmpxchg16b: false } => ["-accel", "tcg,thread=single", "-cpu", "max,-la57"],
        }
    }
}

impl fmt::Display for Acceleration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Kvm { "with KVM" } else { "emulated" })
    }
}

/// The first number behind `version`.
fn major_version(text: &str) -> Option<u32> {
    text.split_once("version ")?.1.split('.').next()?.parse().ok()
}

// === impl Machine ===

impl Machine {
    /// Starts a machine.
    pub(super) fn start(tools: &Tools, parts: &Parts<'_>) -> Result<Self> {
        let folder = parts.folder;
        let initramfs = folder.join("initramfs");
        fs::write(&initramfs, parts.initramfs).context("writing the guest's first file system")?;
        let socket = folder.join("virtiofs");
        let virtiofsd = show_files(tools, &socket, &folder.join("virtiofsd.log"))?;
        let mut qemu = Command::new(QEMU);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-no-reboot"]);
        qemu.args(tools.acceleration.arguments());
        // The memory is shared with virtiofsd.
        qemu.args(["-machine", "q35,memory-backend=memory", "-smp", &CPUS.to_string(), "-m", &MEMORY_MIB.to_string()]);
        qemu.args(["-object", &format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on")]);
        qemu.arg("-kernel").arg(parts.image).arg("-initrd").arg(&initramfs);
        qemu.args(["-append", &format!("{COMMAND_LINE} {FOLDER}=\"{}\"", folder.display())]);
        qemu.args(["-serial", &format!("file:{}", console(folder).display())]);
        qemu.args(["-chardev", &format!("socket,id=files,path={}", socket.display())]);
        qemu.args(["-device", &format!("vhost-user-fs-pci,chardev=files,tag={HOST_FILES}")]);
        let qemu = Guard(spawn(qemu, &folder.join("qemu.log"))?);
        Ok(Self { qemu, _virtiofsd: virtiofsd })
    }

    /// Whether it has turned itself off, or ended otherwise.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.qemu.0.try_wait().context("looking after the virtual machine")?.is_some())
    }
}

/// What the machine's kernel and first process have said.
pub(super) fn console(folder: &Path) -> PathBuf {
    folder.join("console")
}

fn show_files(tools: &Tools, socket: &Path, log: &Path) -> Result<Guard> {
    let mut command = Command::new(&tools.virtiofsd);
    command.arg(format!("--socket-path={}", socket.display()));
    // Mounts below the root must look like part of it: the guest lays one overlay over all.
    if tools.virtiofsd.starts_with("/usr/lib/qemu") {
        command.args(["-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot"]);
    } else {
        command.args(["--shared-dir=/", "--cache=always", "--sandbox=chroot", "--no-announce-submounts"]);
    }
    let mut daemon = Guard(spawn(command, log)?);
    let start = Instant::now();
    while !socket.exists() {
        let ended = daemon.0.try_wait().context("looking after virtiofsd")?;
        if ended.is_some() || start.elapsed() > SOCKET_LIMIT {
            bail!("virtiofsd did not start:\n{}", fs::read_to_string(log).unwrap_or_default());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(daemon)
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let both = file.try_clone().context("a second handle of the log")?;
    command.stdin(Stdio::null()).stdout(file).stderr(both);
    // However this process ends, that one ends with it.
    let ends_too = || prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(ends_too) };
    command.spawn().with_context(|| format!("starting {}", command.get_program().display()))
}

// === impl Guard ===

impl Drop for Guard {
    fn drop(&mut self) {
        // An error says that it has ended.
        self.0.kill().ok();
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn the_version_of_qemu_is_read() {
        assert_eq!(major_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright\n"), Some(7));
        assert_eq!(major_version("QEMU emulator version 10.0.2\n"), Some(10));
        assert_eq!(major_version("something else"), None);
    }
}
