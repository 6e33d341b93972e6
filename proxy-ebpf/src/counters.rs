//! Counting: per reason and per service, each CPU by itself.

use proxy_common::{ServiceId, reason::Reason};

use crate::maps::{REASONS, SERVICE_STATS};

/// Counts one packet for a reason.
#[inline(always)]
pub fn count(reason: Reason) {
    if let Some(counter) = REASONS.get_ptr_mut(reason.index()) {
        // SAFETY: the row is this CPU's own; a program is not interrupted by another on it.
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
