//! Letting packets go of which nothing can be known, after an array read or two: most of those of no service.

use proxy_common::{
    Side,
    filter::{FRESH, Place, UNMARKED},
};

use crate::{ip::Ip, maps::FILTER, parse::Packet};

/// Whether anything may be known that a packet at this side of a device has to do with: its flow, or the frontend that it goes to. What enters and begins
/// something may also want the ports of a flow's answers, and what leaves may come from a frontend without being a Service's.
#[inline(always)]
pub fn admits<F: Ip>(packet: &Packet<F>, side: Side) -> bool {
    let answers = packet.tuple.reversed();
    match side {
        Side::Ingress => is_marked(packet.tuple.place(side)) || packet.may_move() && is_marked(answers.place(Side::Egress)),
        Side::Egress => is_marked(packet.tuple.place(side)) || is_marked(answers.place(Side::Ingress)),
    }
}

/// Whether anything may be found by what has this place.
#[inline(always)]
pub(crate) fn is_marked(place: Place) -> bool {
    let Some(mark) = at(place) else { return false };
    // SAFETY: a byte of the map; volatile, because others write it.
    unsafe { core::ptr::read_volatile(mark) != UNMARKED }
}

/// Marks the place of an entry. That comes before the entry is inserted.
#[inline(always)]
pub(crate) fn mark(place: Place) {
    if let Some(mark) = at(place) {
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
