//! The bridge between the shared types' notion of plain data and aya's.

/// A key or value of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Row<T>(pub T);

// SAFETY: `bytemuck::Pod` promises all that `aya::Pod` asks: any bytes are a value, and there is no padding.
unsafe impl<T: bytemuck::Pod> aya::Pod for Row<T> {}
