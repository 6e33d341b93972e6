//! Letting packets go of which nothing can be known, after one array read: most of those of no service.

use proxy_common::{
    FlowKey, Side,
    filter::{FRESH, Place, UNMARKED},
    reason::Reason,
};

use crate::{
    ip::Ip,
    maps::FILTER,
    parse::Packet,
    verdict::{Step, Stop},
};

/// Ends a packet's way here if neither a flow nor a frontend can be found for it at this side of a device.
#[inline(always)]
pub fn admit<F: Ip>(packet: &Packet<F>, side: Side) -> Step<()> {
    let mark = at(packet.tuple.place(side)).ok_or(Stop::Pass(Reason::NoService))?;
    // SAFETY: a byte of the map; volatile, because others write it.
    if unsafe { core::ptr::read_volatile(mark) } == UNMARKED { Err(Stop::Pass(Reason::NoService)) } else { Ok(()) }
}

/// Marks the place of an entry. That comes before the entry is inserted.
#[inline(always)]
pub(crate) fn mark<F: Ip>(key: &FlowKey<F>) {
    if let Some(mark) = at(key.place()) {
        // SAFETY: a byte of the map, which has no parts that could be written at different times.
        unsafe { core::ptr::write_volatile(mark, FRESH) };
    }
}

#[inline(always)]
fn at(place: Place) -> Option<*mut u8> {
    let row = FILTER.get_ptr_mut(place.row())?;
    // SAFETY: within the row.
    Some(unsafe { row.cast::<u8>().add(place.byte()) })
}
