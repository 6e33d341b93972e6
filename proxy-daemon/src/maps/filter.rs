//! The marks of the service filter.

use std::path::Path;

use proxy_common::{
    filter::{FRESH, Marks, OLD, Place, UNMARKED},
    maps,
};

use super::{Error, MappedArray};

/// `FILTER`.
pub struct Filter {
    rows: MappedArray<Marks>,
}

impl Filter {
    pub(super) fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self { rows: MappedArray::open(dir, maps::FILTER)? })
    }

    /// Whether there is a mark at a place.
    pub fn is_marked(&self, place: Place) -> Result<bool, Error> {
        let Marks(marks) = self.rows.get(place.row())?;
        Ok(marks[place.byte()] != UNMARKED)
    }

    /// Says that something is known at a place.
    pub fn mark(&self, place: Place) -> Result<(), Error> {
        self.rows.publish_u8(place.row(), place.byte(), FRESH)
    }

    /// Takes back the old marks and makes all others old. Yields how many are left.
    pub fn age(&self) -> Result<usize, Error> {
        let mut left = 0;
        for (row, Marks(marks)) in self.rows.used(|marks| *marks != Marks([UNMARKED; 8])) {
            for (byte, mark) in marks.into_iter().enumerate().filter(|(_, mark)| *mark != UNMARKED) {
                let older = if mark == FRESH { OLD } else { UNMARKED };
                // Exchanged, not stored: a program may set the mark meanwhile.
                let is_gone = self.rows.exchange_u8(row, byte, mark, older)? && older == UNMARKED;
                left += usize::from(!is_gone);
            }
        }
        Ok(left)
    }
}
