//! Loads the object: makes or adopts the pinned maps, sets the load-time constants, verifies the programs.

use std::{convert::Infallible, fs, io, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::MapData,
    programs::{Program, ProgramError, ProgramType, SchedClassifier, Xdp},
    sys::{BpfHelper, is_helper_supported},
};
use aya_log::EbpfLogger;
use proxy_common::{NodeRow, Sockets, maps};
use tokio::{sync::oneshot, time};

use super::{
    checksum::{ChecksumState, Checksums},
    clock::jiffies_per_second,
    namespace::NamespaceOffsets,
};
use crate::{
    config::Sizes,
    maps::{KernelMaps, Pins, unpin},
};

/// How often what the programs have logged is printed.
const LOG_EVERY: Duration = Duration::from_millis(100);

/// The object that is shipped.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/shunt.bpf.o"));
/// The same programs with logging compiled in.
static LOG_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/shunt-log.bpf.o"));

/// How the object is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The maps' sizes.
    pub sizes: Sizes,
    /// The programs to load at once. Any other is loaded by the first who asks for it.
    pub programs: Programs,
    /// The first way to try in which programs change checksums. The next ones are slower.
    pub checksums: Checksums,
    /// How many flows a CPU begins at most in a second.
    pub new_flows: u32,
    /// Whether the kernel leaves a tunnel's outer headers before what comes out of it.
    pub outer_headers: bool,
    /// Whose sockets are served where they call.
    pub sockets: Sockets,
    /// The network namespace of the node's own processes by its cookie, zero for the first one that the kernel has made.
    pub netns: u64,
    /// Whether to load the object that logs.
    pub bpf_log: bool,
}

/// Which programs of the object are loaded at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Programs {
    All,
    /// All but those for XDP.
    Tc,
    /// The clock, and one that tells how the kernel lets programs read a packet's checksum state. For a process that runs few of them itself.
    Few,
}

/// The loaded programs. They stay on their devices when this is dropped.
pub struct Datapath {
    ebpf: Ebpf,
    bpf_log: bool,
    /// Ends the printing of what they log when it is dropped.
    printing: Option<oneshot::Sender<Infallible>>,
}

/// What programs are told when they are loaded, and what must not change as long as the maps are there.
#[derive(Clone, Copy, Debug)]
struct Constants {
    seed: u64,
    hz: u32,
    namespace: [u32; 4],
}

/// Each map's number of rows, where a flag decides it.
fn rows(sizes: Sizes) -> [(&'static str, u32); 18] {
    [
        (maps::FRONTENDS_V4, sizes.frontends),
        (maps::FRONTENDS_V6, sizes.frontends),
        (maps::FRONTEND_ROWS, sizes.frontends.saturating_mul(2)),
        (maps::BACKENDS_V4, sizes.backends),
        (maps::BACKENDS_V6, sizes.backends),
        (maps::BACKEND_LIVE, sizes.backends),
        (maps::FLOWS_V4, sizes.flows),
        (maps::FLOWS_V6, sizes.flows),
        (maps::SERVICES, sizes.services),
        (maps::SERVICE_STATS, sizes.services),
        (maps::SOURCES_V4, sizes.sources),
        (maps::SOURCES_V6, sizes.sources),
        (maps::AFFINITY_V4, sizes.affinity),
        (maps::AFFINITY_V6, sizes.affinity),
        (maps::CLUSTER_IPS_V4, sizes.frontends),
        (maps::CLUSTER_IPS_V6, sizes.frontends),
        (maps::SOCKETS_V4, sizes.sockets),
        (maps::SOCKETS_V6, sizes.sockets),
    ]
}

/// Loads the programs with the maps that are pinned there, or with new ones that then are, at the start of a daemon.
pub fn load(pins: &Pins, options: Options) -> Result<Datapath> {
    let constants = Constants::find(pins, options.sockets)?;
    let datapath = load_with(pins, options, constants)?;
    note_node(pins, constants)?;
    Ok(datapath)
}

/// Loads other programs for the daemon that runs.
pub(super) fn reload(pins: &Pins, options: Options) -> Result<Datapath> {
    load_with(pins, options, Constants::find(pins, options.sockets)?)
}

fn load_with(pins: &Pins, options: Options, constants: Constants) -> Result<Datapath> {
    for state in ChecksumState::on_this_kernel(options.checksums) {
        match load_for(pins, options, constants, Some(state)) {
            Err(error) => {
                let (way, error) = (state.way(), format!("{error:#}"));
                tracing::info!(?way, error, "the kernel does not let programs read a packet's checksum state in this way: trying another");
            }
            loaded => return loaded,
        }
    }
    load_for(pins, options, constants, None)
}

fn load_for(pins: &Pins, options: Options, constants: Constants, state: Option<ChecksumState>) -> Result<Datapath> {
    let dir = pins.maps();
    let paths = maps::ALL.map(|name| (name, dir.join(name)));
    let mut loader = EbpfLoader::new();
    loader.override_global("SHUNT_SEED", &constants.seed, true).override_global("SHUNT_HZ", &constants.hz, true);
    loader.override_global("SHUNT_NEW_FLOWS", &options.new_flows, true);
    let outer_headers = u32::from(options.outer_headers);
    loader.override_global("SHUNT_OUTER_HEADERS", &outer_headers, true);
    let ip_summed = state.map_or(0, ChecksumState::bit);
    let read_kernel = u32::from(state.is_some_and(|state| state.way() == Checksums::Read));
    loader.override_global("SHUNT_IP_SUMMED", &ip_summed, true).override_global("SHUNT_READ_KERNEL", &read_kernel, true);
    let set_retval = u32::from(options.sockets != Sockets::NONE && sets_retval());
    loader.override_global("SHUNT_SOCKETS", &options.sockets.0, true).override_global("SHUNT_NETNS", &options.netns, true);
    loader.override_global("SHUNT_SET_RETVAL", &set_retval, true).override_global("SHUNT_NAMESPACE", &constants.namespace, true);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
    }
    for (name, size) in rows(options.sizes) {
        loader.map_max_entries(name, pinned_size(&dir.join(name), name, size)?);
    }
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let object = if options.bpf_log { LOG_OBJECT } else { OBJECT };
    let patched = state.map(|state| state.put_into(object));
    let mut ebpf = loader.load(patched.as_deref().unwrap_or(object)).context("loading the BPF object")?;
    for (name, program) in ebpf.programs_mut().filter(|(name, program)| options.include(name, program)) {
        verify(name, program)?;
    }
    // Only now that the kernel has taken all of them.
    for (name, program) in ebpf.programs_mut() {
        unpin(&pins.programs().join(name))?;
        if options.include(name, program) {
            pin_program(pins, name, program)?;
        }
    }
    Ok(Datapath { ebpf, bpf_log: options.bpf_log, printing: None })
}

impl Options {
    fn include(&self, name: &str, program: &Program) -> bool {
        match (self.programs, program) {
            (Programs::Few, _) => matches!(name, "clock" | "workload_ingress"),
            (Programs::Tc, Program::Xdp(_)) => false,
            (_, Program::CgroupSockAddr(_) | Program::CgroupSock(_)) => self.sockets != Sockets::NONE,
            _ => true,
        }
    }
}

/// Whether programs of sockets can say why a call fails (6.1). Where that is not known they do not.
fn sets_retval() -> bool {
    is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval).unwrap_or(false)
}

/// Has the kernel take a program.
fn verify(name: &str, program: &mut Program) -> Result<()> {
    let taken = if let Program::Xdp(program) = program {
        program.load()
    } else if let Program::CgroupSockAddr(program) = program {
        program.load()
    } else if let Program::CgroupSock(program) = program {
        program.load()
    } else {
        <&mut SchedClassifier>::try_from(program).with_context(|| format!("program {name}"))?.load()
    };
    taken.map_err(|error| verifier_error(name, error))
}

impl Constants {
    /// Those of a previous run, or new ones.
    fn find(pins: &Pins, sockets: Sockets) -> Result<Self> {
        let seed = match pinned_seed(pins)? {
            Some(seed) => seed,
            None => random_seed().context("drawing the seed of the flow hash")?,
        };
        Ok(Self { seed, hz: jiffies_per_second()?, namespace: namespace(sockets) })
    }
}

/// How programs find a pod's network namespace, where they have to.
fn namespace(sockets: Sockets) -> [u32; 4] {
    if !sockets.serves_pods() {
        return [0; 4];
    }
    let offsets = NamespaceOffsets::of_this_kernel().map(|NamespaceOffsets(offsets)| offsets);
    offsets.unwrap_or_else(|| {
        tracing::warn!(
            "the kernel does not tell which pods have rules of netfilter: their sockets are left alone, and their packets translated"
        );
        [0; 4]
    })
}

/// The seed that flows on this node were hashed with so far.
fn pinned_seed(pins: &Pins) -> Result<Option<u64>> {
    if !pins.maps().join(maps::NODE).exists() {
        return Ok(KernelMaps::seed_of_another_version(pins));
    }
    // This map alone: a run that was killed while it loaded may have left some of the others unmade.
    let node =
        KernelMaps::pinned_node(pins).context("reading the state of a previous run: if it cannot be saved, `shunt cleanup` removes it")?;
    let seed = node.seed;
    Ok((seed != 0).then_some(seed))
}

fn random_seed() -> io::Result<u64> {
    use io::Read as _;
    let mut bytes = [0; 8];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytemuck::cast(bytes))
}

/// The size to load a map with: the wanted one, or that of the map that is there, whose contents would else be lost.
fn pinned_size(path: &PathBuf, name: &str, wanted: u32) -> Result<u32> {
    if !path.exists() {
        return Ok(wanted);
    }
    let info = MapData::from_pin(path).and_then(|data| data.info()).with_context(|| format!("opening {}", path.display()))?;
    let found = info.max_entries();
    if found != wanted {
        tracing::warn!(
            map = name,
            found,
            wanted,
            "the map keeps its size because it holds state; `shunt cleanup` before the start changes it"
        );
    }
    Ok(found)
}

/// Pins a program, so that it can be listed.
fn pin_program(pins: &Pins, name: &str, program: &mut Program) -> Result<()> {
    let path = pins.programs().join(name);
    program.pin(&path).with_context(|| format!("pinning {}", path.display()))
}

/// The end of the verifier's log, which says what is wrong; all of it at the level debug.
fn verifier_error(name: &str, error: ProgramError) -> anyhow::Error {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        tracing::debug!(program = name, log, "verifier");
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        let end = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        return anyhow!(io_error).context(format!("the kernel refuses the program {name}:\n{end}"));
    }
    anyhow::Error::from(error).context(format!("loading the program {name}"))
}

impl Datapath {
    /// The program of a name that the object has.
    pub fn program(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        self.loaded(name)?.try_into().with_context(|| format!("program {name}"))
    }

    /// The XDP program.
    pub fn xdp(&mut self) -> Result<&mut Xdp> {
        self.loaded("uplink_xdp")?.try_into().context("uplink_xdp")
    }

    /// Any program of the object.
    pub(super) fn loaded(&mut self, name: &str) -> Result<&mut Program> {
        let program = self.ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
        if program.fd().is_err() {
            verify(name, program)?;
        }
        Ok(program)
    }

    /// Prints what the programs log until this is dropped, from a task of the runtime that calls this. Nothing to do where they do not log.
    pub fn print_log(&mut self) -> Result<()> {
        if !self.bpf_log {
            return Ok(());
        }
        let mut logger = EbpfLogger::init(&mut self.ebpf).context("reading the programs' log")?;
        let (printing, mut ended) = oneshot::channel();
        self.printing = Some(printing);
        tokio::spawn(async move {
            let mut ticks = time::interval(LOG_EVERY);
            loop {
                let last = tokio::select! {
                    _ = ticks.tick() => false,
                    _ = &mut ended => true,
                };
                logger.flush();
                if last {
                    break;
                }
            }
        });
        Ok(())
    }
}

/// Makes the maps fit for the first packet, and notes what has to outlive this run.
fn note_node(pins: &Pins, Constants { seed, hz, .. }: Constants) -> Result<()> {
    let mut maps = KernelMaps::open(pins)?;
    maps.prepare()?;
    let before = maps.node()?;
    let pid = std::process::id();
    maps.set_node(NodeRow { seed, hz, layout_version: maps::LAYOUT_VERSION, synced: 0, pid, ..before })?;
    Ok(())
}
