//! The maps of the benches. Each driver and each floor is loaded with maps of its own.

use aya_ebpf::{
    btf_maps::{Array, LruHashMap, ProgramArray},
    macros::btf_map,
};

use crate::layout::Walk;

/// The flows of the floors, if the runner asks for no other number.
const FLOWS: usize = 262_144;

/// A driver's packets.
#[btf_map]
pub(crate) static BENCH_WALK: Array<Walk, 1> = Array::new();

/// The program that a driver runs.
#[btf_map]
pub(crate) static BENCH_SLOT: ProgramArray<1> = ProgramArray::new();

/// The flows of the floors: addresses, ports and protocol in whole words, as in the shipped programs. The value is the new destination.
#[btf_map]
pub(crate) static BENCH_FLOWS_V4: LruHashMap<[u64; 2], [u64; 3], FLOWS> = LruHashMap::new();
/// The same for IPv6.
#[btf_map]
pub(crate) static BENCH_FLOWS_V6: LruHashMap<[u64; 5], [u64; 6], FLOWS> = LruHashMap::new();
