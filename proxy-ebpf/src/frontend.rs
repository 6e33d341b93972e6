//! Which backend a new flow goes to: the frontend it dials, the range for where it comes from, and a slot of that range.
//!
//! The slot is chosen by a hash of the flow and a seed of the node, not by chance: a packet in mid-stream whose flow was lost finds the
//! same backend again as long as the set is the same.

use proxy_common::{Backend, FrontendKey, FrontendRow, Range, RangeWord, ServiceId, reason::Reason};

use crate::{
    ip::Ip,
    maps::FRONTEND_ROWS,
    parse::Packet,
    settings,
    verdict::{Step, Stop},
};

/// Where a client is, as the device tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A pod of this node.
    Internal,
    /// Anything that arrives on an uplink.
    External,
}

/// What a frontend has for a new flow.
pub enum Choice<F: Ip> {
    /// A backend, and the service it belongs to.
    Backend(Backend<F>, ServiceId),
    /// Nobody can serve it: the client is to be told.
    Refuse,
}

/// Chooses a backend for a packet of no known flow.
#[inline(always)]
pub fn choose<F: Ip>(packet: &Packet<F>, scope: Scope) -> Step<Choice<F>> {
    let key = FrontendKey::new(packet.tuple.dst, packet.tuple.dst_port, packet.protocol);
    // SAFETY: the value of a frontend never changes in its life; it is copied before anything else happens.
    let frontend = *unsafe { F::frontends().get(&key) }.ok_or(Stop::Pass(Reason::NoService))?;
    let slots = match range(frontend.row.0, scope).ok_or(Stop::Pass(Reason::NoService))?.range() {
        Range::Slots(slots) => slots,
        Range::Reject => return Ok(Choice::Refuse),
        Range::Drop => return Err(Stop::Drop(Reason::PolicyDrop)),
    };
    let slot = slots.pick(F::hash(&packet.tuple, packet.protocol, settings::seed()));
    let backend = *F::backends().get(slot).ok_or(Stop::Drop(Reason::StaleSlot))?;
    if backend.owner != frontend.service {
        return Err(Stop::Drop(Reason::StaleSlot));
    }
    Ok(Choice::Backend(backend, frontend.service))
}

/// The published word of a row. Read once: the daemon may store another at any time.
#[inline(always)]
fn range(row: u32, scope: Scope) -> Option<RangeWord> {
    let row = FRONTEND_ROWS.get_ptr(row)?;
    let offset = match scope {
        Scope::Internal => core::mem::offset_of!(FrontendRow, internal),
        Scope::External => core::mem::offset_of!(FrontendRow, external),
    };
    // SAFETY: within the row.
    let word = unsafe { row.byte_add(offset).cast::<RangeWord>() };
    // SAFETY: an aligned 64-bit word of that row.
    Some(unsafe { core::ptr::read_volatile(word) })
}
