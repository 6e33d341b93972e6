//! How many instructions the kernel's verifier looks at until it is content with a program.
//!
//! Before 5.16 the kernel says so in the verifier's log alone, and only to a loader that gave it a place for one. Loaders give none while all
//! goes well, so this one looks over a loader's shoulder (`ptrace`): each time it loads a program, it is lent a place for the log.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io,
    os::unix::{fs::FileExt as _, process::CommandExt as _},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

const BPF_PROG_LOAD: u64 = 5;
/// Asks for the verifier's figures only, which are a few lines.
const BPF_LOG_STATS: u32 = 4;
const LOG_LEN: u32 = 4096;
/// So far below the stack's end nothing lies that the thread would miss.
const BELOW_STACK: u64 = 16_384;
/// Of `union bpf_attr`, up to the name's end.
const ATTRIBUTES_LEN: usize = 64;
/// Where in it the log's level, length and place are.
const LOG: std::ops::Range<usize> = 24..40;
const LOG_PLACE: std::ops::Range<usize> = 32..40;
const NAME: std::ops::Range<usize> = 48..64;

/// A thread's call that loads a program.
struct Loading {
    name: String,
    attributes: u64,
    /// Where the log will be.
    log: u64,
    /// What stood there of a log, if nothing did.
    lent: bool,
}

/// Runs a command to its end, and gives for each program that it loaded the instructions that were looked at. Names are the kernel's: it
/// keeps 15 bytes of them.
pub fn watch(command: &mut Command) -> Result<BTreeMap<String, u64>> {
    let traced = || ptrace::traceme().map_err(io::Error::from);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    let command = unsafe { command.process_group(0).pre_exec(traced) };
    let child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    let child = Pid::from_raw(child.id().cast_signed());
    // It stops where it begins.
    waitpid(child, None).context("waiting for its beginning")?;
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(child, options).context("following its system calls")?;
    ptrace::syscall(child, None).context("letting it go on")?;
    let mut loading = HashMap::new();
    let mut verified = BTreeMap::new();
    // Its threads are in its group; other tests' children are not.
    let group = Pid::from_raw(-child.as_raw());
    loop {
        let (thread, signal) = match waitpid(group, Some(WaitPidFlag::__WALL)).context("following its system calls")? {
            WaitStatus::Exited(pid, status) if pid == child => {
                ensure!(status == 0, "{command:?} ended with {status}");
                return Ok(verified);
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => bail!("{command:?} ended by {signal}"),
            WaitStatus::PtraceSyscall(thread) => {
                step(thread, &mut loading, &mut verified)?;
                (thread, None)
            }
            // A new thread begins with a stop that nobody sent.
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal).filter(|signal| *signal != Signal::SIGSTOP)),
            WaitStatus::PtraceEvent(thread, ..) => (thread, None),
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) | WaitStatus::Continued(_) | WaitStatus::StillAlive => continue,
        };
        // One that was killed meanwhile cannot go on.
        match ptrace::syscall(thread, signal) {
            Err(error) if error != nix::errno::Errno::ESRCH => return Err(error).context("letting it go on"),
            _ => {}
        }
    }
}

/// A thread enters a system call or comes back from one.
fn step(thread: Pid, loading: &mut HashMap<Pid, Loading>, verified: &mut BTreeMap<String, u64>) -> Result<()> {
    let call = ptrace::syscall_info(thread).context("asking for the system call")?;
    if let Some(done) = loading.remove(&thread) {
        let memory = memory(thread)?;
        let mut log = vec![0; LOG_LEN as usize];
        let len = memory.read_at(&mut log, done.log).context("reading the verifier's log")?;
        if done.lent {
            memory.write_all_at(&[0; LOG.end - LOG.start], done.attributes + LOG.start as u64).context("taking the log back")?;
        }
        verified.extend(processed(&String::from_utf8_lossy(&log[..len])).map(|instructions| (done.name, instructions)));
        return Ok(());
    }
    if call.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(());
    }
    // SAFETY: the kernel has filled in this one, for a thread that enters a call.
    let entry = unsafe { call.u.entry };
    if entry.nr == libc::SYS_bpf.cast_unsigned() && entry.args[0] == BPF_PROG_LOAD {
        loading.extend(lend(thread, entry.args[1], call.stack_pointer)?.map(|call| (thread, call)));
    }
    Ok(())
}

/// Lends a loader a place for the log, unless it has one.
fn lend(thread: Pid, attributes: u64, stack: u64) -> Result<Option<Loading>> {
    let memory = memory(thread)?;
    let mut bytes = [0; ATTRIBUTES_LEN];
    // One with fewer attributes asks what the kernel knows.
    if memory.read_exact_at(&mut bytes, attributes).is_err() {
        return Ok(None);
    }
    let name = bytes[NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8_lossy(name).into_owned();
    let own = u64::from_ne_bytes(bytes[LOG_PLACE].try_into()?);
    if own != 0 {
        return Ok(Some(Loading { name, attributes, log: own, lent: false }));
    }
    let log = stack - BELOW_STACK;
    let lent = [BPF_LOG_STATS.to_ne_bytes(), LOG_LEN.to_ne_bytes()].concat();
    memory.write_all_at(&lent, attributes + LOG.start as u64).context("lending a log")?;
    memory.write_all_at(&log.to_ne_bytes(), attributes + LOG_PLACE.start as u64).context("lending a log")?;
    Ok(Some(Loading { name, attributes, log, lent: true }))
}

fn memory(thread: Pid) -> Result<File> {
    let file = File::options().read(true).write(true).open(format!("/proc/{thread}/mem"));
    file.context("opening its memory")
}

/// The figure in `processed 1234 insns (limit 1000000) ...`.
fn processed(log: &str) -> Option<u64> {
    let log = log.split('\0').next()?;
    log.split_once("processed ")?.1.split_once(" insns")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::processed;

    #[test]
    fn the_figure_is_found_in_the_log() {
        let log = "stack depth 96\nprocessed 1234 insns (limit 1000000) max_states_per_insn 1\n\0rest processed 9 insns";
        assert_eq!(processed(log), Some(1234));
        assert_eq!(processed(""), None);
        assert_eq!(processed("\0processed 9 insns"), None);
    }
}
