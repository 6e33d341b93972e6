//! Counting: per reason, per service and per second, each CPU by itself.

use proxy_common::{ServiceId, reason::Reason};

use crate::{
    maps::{LIMITS, Limits, REASONS, SERVICE_STATS},
    settings::{hz, now},
};

/// Counts one packet for a reason.
#[inline(always)]
pub fn count(reason: Reason) {
    count_index(reason.index());
}

/// Counts one packet for the reason with an index.
#[inline(always)]
pub fn count_index(index: u32) {
    if let Some(counter) = REASONS.get_ptr_mut(index) {
        // SAFETY: the row is this CPU's own. A packet's program is not interrupted by another; one of a socket's may be, and a count is lost then.
        unsafe { *counter += 1 };
    }
}

/// Counts one translated packet for its service. A service whose id is beyond the map is not counted.
#[inline(always)]
pub fn count_packet(service: ServiceId, bytes: u32) {
    if let Some(row) = SERVICE_STATS.get_ptr_mut(service.0) {
        // SAFETY: the row is this CPU's own, as in `count`.
        let row = unsafe { &mut *row };
        row.packets += 1;
        row.bytes += u64::from(bytes);
    }
}

/// Counts one new flow for its service.
#[inline(always)]
pub fn count_flow(service: ServiceId) {
    if let Some(row) = SERVICE_STATS.get_ptr_mut(service.0) {
        // SAFETY: the row is this CPU's own, as in `count`.
        unsafe { (*row).flows += 1 };
    }
}

/// What this CPU has done in this second that has a limit.
#[inline(always)]
pub fn limits() -> Option<&'static mut Limits> {
    let limits = LIMITS.get_ptr_mut(0)?;
    // SAFETY: the row is this CPU's own, as in `count`; each use of it ends before the next begins.
    let limits = unsafe { &mut *limits };
    let second = now() / hz().max(1);
    if limits.second != second {
        *limits = Limits { second, errors: 0, flows: 0 };
    }
    Some(limits)
}
