//! Session affinity: a client of a service port goes where it went last.
//!
//! kube-proxy's rule: all addresses of a service port share what is remembered; the time counts from the client's last new flow; a backend
//! that is not in the set of this frontend for this client is not gone to, and another one is chosen and remembered.

use aya_ebpf::bindings::BPF_NOEXIST;
use proxy_common::{Address as _, Affinity, AffinityKey, Backend, Port, Range, RangeWord, ServiceId, SlotRange};

use crate::{
    ip::Ip,
    settings::{self, now},
};

/// A range has less than 2^16 slots.
const STEPS: u32 = 16;

/// What a new flow asks, in as many numbers as a function of a program takes.
#[derive(Clone, Copy)]
pub struct Question {
    /// The client's address, as it lies in memory.
    pub client: [u64; 2],
    /// The service port in the lower half, and for how many seconds a client stays in the upper one.
    pub service_secs: u64,
    /// The backends that there are.
    pub range: RangeWord,
    /// The slot for a client of whom nothing is remembered.
    pub chosen: u32,
}

/// The slot for a client's new flow: where it went last, if that is in the range and was not too long ago, or else `chosen`. Remembers which.
#[inline(always)]
pub fn slot<F: Ip>(client: F::Addr, service: ServiceId, secs: u32, range: RangeWord, chosen: u32) -> u32 {
    let service_secs = u64::from(service.0) | u64::from(secs) << 32;
    F::affinity_slot(Question { client: client.words(), service_secs, range, chosen })
}

/// Answers the question.
#[inline(always)]
pub fn answer<F: Ip>(client: F::Addr, question: &Question) -> u32 {
    let Question { service_secs, range, chosen, .. } = *question;
    let Range::Slots(range) = range.range() else { return chosen };
    let secs = (service_secs >> 32) as u32;
    let key = AffinityKey::<F> { client, service: ServiceId(service_secs as u32), pad: bytemuck::Zeroable::zeroed() };
    if let Some(slot) = remembered(&key, secs, range) {
        return slot;
    }
    if let Some(backend) = F::backends().get(chosen) {
        remember(&key, backend);
    }
    chosen
}

#[inline(always)]
fn remembered<F: Ip>(key: &AffinityKey<F>, secs: u32, range: SlotRange) -> Option<u32> {
    let entry = F::affinities().get_ptr_mut(key)?;
    // SAFETY: the entry stays readable while the program runs, even if it is evicted. It is copied: other CPUs write it.
    let last = unsafe { core::ptr::read_volatile(entry) };
    let now = now();
    if u64::from(now.wrapping_sub(last.last_used)) >= u64::from(secs) * u64::from(settings::hz()) {
        return None;
    }
    let slot = find::<F>(last.addr, last.port, range)?;
    // SAFETY: a field of the entry.
    let place = unsafe { &raw mut (*entry).last_used };
    // SAFETY: an aligned word; the last writer wins.
    unsafe { core::ptr::write_volatile(place, now) };
    Some(slot)
}

/// Remembers a backend. Two first flows of a client that begin on two CPUs at once may go to two backends; the one that is remembered last counts.
#[inline(always)]
fn remember<F: Ip>(key: &AffinityKey<F>, backend: &Backend<F>) {
    let zero = bytemuck::Zeroable::zeroed();
    let fresh = Affinity { addr: backend.addr, port: backend.port, pad: 0, last_used: now(), reserved: 0, pad_word: zero };
    let Some(entry) = F::affinities().get_ptr_mut(key) else {
        // One that finds no room is forgotten at once.
        _ = F::affinities().insert(key, &fresh, u64::from(BPF_NOEXIST));
        return;
    };
    // SAFETY: as in `remembered`. Two CPUs that write at once leave one or the other, or what is no backend, which nobody goes to.
    unsafe { core::ptr::write_volatile(entry, fresh) };
}

/// The slot of a backend in a range, whose slots are in the order of addresses and ports: a search by halves.
///
/// Each step is computed and none is a branch: the verifier would follow every combination of them.
#[inline(always)]
fn find<F: Ip>(addr: F::Addr, port: Port, range: SlotRange) -> Option<u32> {
    let (mut base, mut size) = (range.base(), range.count());
    for _ in 0..STEPS {
        let half = size / 2;
        let backend = F::backends().get(base + half)?;
        let is_beyond = F::is_before((addr, port), (backend.addr, backend.port));
        // A size of one has a half of nothing, and stays.
        base += half & is_beyond.wrapping_sub(1);
        size -= half;
    }
    let backend = F::backends().get(base)?;
    (backend.addr == addr && backend.port == port).then_some(base)
}
