//! Load-time constants, and the clock that one of them explains. The daemon sets them before it loads the programs; to the verifier they are
//! constants.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use proxy_common::Sockets;

/// The seed of the flow hash, see `NodeRow::seed`.
#[unsafe(no_mangle)]
static SHUNT_SEED: u64 = 0;

/// The frequency of the kernel's jiffies, in hertz.
#[unsafe(no_mangle)]
static SHUNT_HZ: u32 = 250;

/// Where a socket buffer of the kernel keeps the state of its checksum, in bits; zero if programs have no way there.
#[unsafe(no_mangle)]
static SHUNT_IP_SUMMED: u32 = 0;

/// Whether that is read by a helper, because programs cannot have the kernel's own socket buffer: 1 if so.
#[unsafe(no_mangle)]
static SHUNT_READ_KERNEL: u32 = 0;

/// Whether the kernel leaves a tunnel's outer headers before what comes out of it, where the device has none of its own: 1 if so.
#[unsafe(no_mangle)]
static SHUNT_OUTER_HEADERS: u32 = 0;

/// How many flows a CPU begins at most in a second.
#[unsafe(no_mangle)]
static SHUNT_NEW_FLOWS: u32 = 65_536;

/// Whose calls are answered, see [`Sockets`].
#[unsafe(no_mangle)]
static SHUNT_SOCKETS: u32 = 0;

/// The network namespace of the node's own processes, by its cookie; zero for the first one that the kernel has made.
#[unsafe(no_mangle)]
static SHUNT_NETNS: u64 = 0;

/// Whether programs can say why a call fails (6.1): 1 if so.
#[unsafe(no_mangle)]
static SHUNT_SET_RETVAL: u32 = 0;

/// Where the kernel keeps the network namespace of a process, see [`Namespace`]: all zero if programs have no way there.
#[unsafe(no_mangle)]
static SHUNT_NAMESPACE: [u32; 4] = [0; 4];

/// Offsets in the kernel's structures, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Namespace {
    /// In a task: what points to its namespaces.
    pub of_task: u32,
    /// There: what points to its network namespace.
    pub network: u32,
    /// There: the rules of IPv4 for what its processes send; nothing where there are none.
    pub rules_v4: u32,
    /// The same of IPv6.
    pub rules_v6: u32,
}

/// The seed of the flow hash.
#[inline(always)]
pub fn seed() -> u64 {
    // SAFETY: a valid static; volatile, because the loader writes it behind the compiler's back.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_SEED) }
}

/// How many jiffies a second has.
#[inline(always)]
pub fn hz() -> u32 {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_HZ) }
}

/// Where a socket buffer of the kernel keeps the state of its checksum, in bits, if programs can read it.
#[inline(always)]
pub fn ip_summed() -> Option<u32> {
    // SAFETY: as in `seed`.
    let bit = unsafe { core::ptr::read_volatile(&raw const SHUNT_IP_SUMMED) };
    if bit == 0 { None } else { Some(bit) }
}

/// Whether a helper has to read it.
#[inline(always)]
pub fn reads_kernel() -> bool {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_READ_KERNEL) != 0 }
}

/// Whether outer headers may be left before packets of devices that have none.
#[inline(always)]
pub fn outer_headers() -> bool {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_OUTER_HEADERS) != 0 }
}

/// How many flows a CPU begins at most in a second.
#[inline(always)]
pub fn new_flows() -> u32 {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_NEW_FLOWS) }
}

/// Whose calls are answered.
#[inline(always)]
pub fn sockets() -> Sockets {
    // SAFETY: as in `seed`.
    Sockets(unsafe { core::ptr::read_volatile(&raw const SHUNT_SOCKETS) })
}

/// The cookie of the node's network namespace, zero for the first one.
#[inline(always)]
pub fn netns() -> u64 {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_NETNS) }
}

/// Whether programs can say why a call fails.
#[inline(always)]
pub fn sets_retval() -> bool {
    // SAFETY: as in `seed`.
    unsafe { core::ptr::read_volatile(&raw const SHUNT_SET_RETVAL) != 0 }
}

/// The way to a process's network namespace, if programs have one.
#[inline(always)]
pub fn namespace() -> Option<Namespace> {
    // SAFETY: as in `seed`.
    let [of_task, network, rules_v4, rules_v6] = unsafe { core::ptr::read_volatile(&raw const SHUNT_NAMESPACE) };
    if of_task == 0 { None } else { Some(Namespace { of_task, network, rules_v4, rules_v6 }) }
}

/// The kernel's coarse clock, which costs next to nothing to read: the low half of its jiffies.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as u32 }
}
