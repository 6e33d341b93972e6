//! Load-time constants. The daemon sets them before it loads the programs; to the verifier they are constants.

/// The seed of the flow hash, see `NodeRow::seed`.
#[unsafe(no_mangle)]
static SHUNT_SEED: u64 = 0;

/// The frequency of the kernel's jiffies, in hertz.
#[unsafe(no_mangle)]
static SHUNT_HZ: u32 = 250;

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
