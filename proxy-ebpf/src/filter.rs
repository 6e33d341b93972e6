//! Letting packets go of which nothing can be known, after one array read: most of those of no service.

use proxy_common::{
    FlowKey, Side, Tuple,
    filter::{FRESH, Place, UNMARKED},
};

use crate::{ip::Ip, maps::FILTER};

/// Whether a flow or a frontend may be found for a packet with this tuple at this side of a device.
#[inline(always)]
pub fn admits<F: Ip>(tuple: &Tuple<F>, side: Side) -> bool {
    is_marked(tuple.place(side))
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
