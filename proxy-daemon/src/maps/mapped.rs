//! An array map in the daemon's memory: what it stores there, programs see at once, without a system call.
//!
//! The kernel gives each row a multiple of eight bytes. Programs read while the daemon writes: a row that nobody reads yet is written
//! whole; of a row that is read, single aligned words are published with release order, after everything they refer to.

use std::{
    ffi::c_void,
    io,
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::AsFd as _,
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::{Error, open};

/// A memory-mapped array of `T`.
pub struct MappedArray<T> {
    map: &'static str,
    memory: NonNull<c_void>,
    bytes: NonZeroUsize,
    len: u32,
    rows: PhantomData<T>,
}

// SAFETY: the memory belongs to the process, not to a thread; what several threads may do at once goes through atomics or volatile copies
// of rows, which the kernel reads at the same time anyway.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: bytemuck::Pod> MappedArray<T> {
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps a pinned array.
    pub fn open(dir: &Path, name: &'static str) -> Result<Self, Error> {
        let data = open(dir, name)?;
        let info = data.info().map_err(|source| Error::Read { map: name, source })?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(Error::Layout { map: name, expected: size_of::<T>(), found: info.value_size() });
        }
        let len = info.max_entries();
        let failed = |source| Error::Mmap { map: name, source };
        let bytes = NonZeroUsize::new(len as usize * Self::STRIDE).ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let memory = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, data.fd().as_fd(), 0) };
        let memory = memory.map_err(|errno| failed(errno.into()))?;
        Ok(Self { map: name, memory, bytes, len, rows: PhantomData })
    }

    /// How many rows there are.
    pub fn len(&self) -> u32 {
        self.len
    }

    fn at(&self, index: u32, offset: usize) -> Result<NonNull<c_void>, Error> {
        if index >= self.len || offset >= Self::STRIDE {
            return Err(Error::OutOfBounds { map: self.map, index });
        }
        // SAFETY: within the mapping, checked above.
        Ok(unsafe { self.memory.byte_add(index as usize * Self::STRIDE + offset) })
    }

    /// A copy of a row.
    pub fn get(&self, index: u32) -> Result<T, Error> {
        let row = self.at(index, 0)?.cast::<T>();
        // SAFETY: a row of the mapping, aligned to eight bytes; any bytes are a `T`. Volatile, because programs may write it.
        Ok(unsafe { row.read_volatile() })
    }

    /// Writes a whole row. No published word may lead to it.
    pub fn set(&self, index: u32, value: T) -> Result<(), Error> {
        let row = self.at(index, 0)?.cast::<T>();
        // SAFETY: a row of the mapping, aligned to eight bytes.
        unsafe { row.write_volatile(value) };
        Ok(())
    }

    /// Stores one 64-bit word of a row, after all that was written before.
    pub fn publish_u64(&self, index: u32, offset: usize, word: u64) -> Result<(), Error> {
        let word_at = self.at(index, offset)?.cast::<AtomicU64>();
        // SAFETY: a word of the mapping; rows and the fields that are published are aligned to eight bytes.
        unsafe { word_at.as_ref() }.store(word, Ordering::Release);
        Ok(())
    }

    /// Stores one 32-bit word of a row, after all that was written before.
    pub fn publish_u32(&self, index: u32, offset: usize, word: u32) -> Result<(), Error> {
        let word_at = self.at(index, offset)?.cast::<AtomicU32>();
        // SAFETY: a word of the mapping; the fields that are published are aligned to four bytes.
        unsafe { word_at.as_ref() }.store(word, Ordering::Release);
        Ok(())
    }

    /// Stores a byte of a row, after all that was written before.
    pub fn publish_u8(&self, index: u32, offset: usize, byte: u8) -> Result<(), Error> {
        let byte_at = self.at(index, offset)?.cast::<AtomicU8>();
        // SAFETY: a byte of the mapping.
        unsafe { byte_at.as_ref() }.store(byte, Ordering::Release);
        Ok(())
    }

    /// Stores a byte of a row if another one is still there. Yields whether it was.
    pub fn exchange_u8(&self, index: u32, offset: usize, old: u8, new: u8) -> Result<bool, Error> {
        let byte_at = self.at(index, offset)?.cast::<AtomicU8>();
        // SAFETY: as in `publish_u8`.
        Ok(unsafe { byte_at.as_ref() }.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// The rows that are in use, with their indices.
    pub fn used(&self, is_used: impl Fn(&T) -> bool) -> impl Iterator<Item = (u32, T)> {
        (0..self.len).filter_map(move |index| self.get(index).ok().filter(&is_used).map(|row| (index, row)))
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `open` made; no reference into it is left.
        if let Err(error) = unsafe { munmap(self.memory, self.bytes.get()) } {
            tracing::debug!(map = self.map, %error, "munmap");
        }
    }
}
