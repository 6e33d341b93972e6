//! A frame between two addresses, as both the drivers and the floors see it.

/// Where a frame starts and ends in memory.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Frame {
    /// The same frame, of which the first `LEN` bytes are there for certain.
    #[inline(always)]
    pub(crate) fn checked<const LEN: usize>(self) -> Option<Checked<LEN>> {
        if self.start + LEN > self.end { None } else { Some(Checked { start: self.start }) }
    }
}

/// A frame of at least `LEN` bytes.
#[derive(Clone, Copy)]
pub(crate) struct Checked<const LEN: usize> {
    start: usize,
}

impl<const LEN: usize> Checked<LEN> {
    /// Reads a number as it lies in memory.
    #[inline(always)]
    pub(crate) fn read<T: Copy, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= LEN) }
        // SAFETY: within the bytes that were checked, and any bytes are a number. As in the packet path, alignment is the kernel's affair.
        unsafe { ((self.start + OFFSET) as *const T).read() }
    }

    /// Writes a number.
    #[inline(always)]
    pub(crate) fn write<T: Copy, const OFFSET: usize>(self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= LEN) }
        // SAFETY: as in `read`.
        unsafe { ((self.start + OFFSET) as *mut T).write(value) }
    }
}
