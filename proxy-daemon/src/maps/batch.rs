//! Reads a hash map many entries at a time, by `BPF_MAP_LOOKUP_BATCH` (since 5.6), for which aya has no call.
//!
//! The kernel goes through the map's buckets in order and copies each whole. So a walk comes to its end whatever happens meanwhile, and sees every
//! entry once that is there all the time; it is no snapshot of the others.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{MapData, MapError};
use bytemuck::Pod;
use nix::errno::Errno;

use super::Error;

/// `BPF_MAP_LOOKUP_BATCH` (`include/uapi/linux/bpf.h`).
const LOOKUP_BATCH: libc::c_int = 24;
/// How many entries are read at once. Far more than any bucket has: there are as many buckets as entries fit.
const ENTRIES: usize = 4096;

/// The member `batch` of the kernel's `union bpf_attr`.
#[repr(C)]
struct Attributes {
    /// Where to go on; zero at the start.
    in_batch: u64,
    /// Gets where to go on next: the number of a bucket.
    out_batch: u64,
    keys: u64,
    values: u64,
    /// How many there is room for, and afterwards how many there are.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What a step of a walk yields.
struct Step {
    count: usize,
    is_last: bool,
}

/// Room for one batch.
struct Batch<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    bucket: Option<u32>,
}

/// Shows every entry of a hash map.
pub(super) fn walk<K: Pod, V: Pod>(
    map: &MapData,
    name: &'static str,
    mut see: impl FnMut(&K, &V) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut batch = Batch::<K, V> { keys: Vec::new(), values: Vec::new(), bucket: None };
    batch.make_room(ENTRIES);
    loop {
        let step = batch.read(map).map_err(|error| Error::Read { map: name, source: MapError::IoError(error) })?;
        for (key, value) in batch.keys.iter().zip(&batch.values).take(step.count) {
            see(key, value)?;
        }
        if step.is_last {
            return Ok(());
        }
    }
}

impl<K: Pod, V: Pod> Batch<K, V> {
    fn make_room(&mut self, entries: usize) {
        self.keys.resize(entries, K::zeroed());
        self.values.resize(entries, V::zeroed());
    }

    /// Reads on from where the last step has ended.
    fn read(&mut self, map: &MapData) -> io::Result<Step> {
        loop {
            let mut next = 0_u32;
            let mut count = u32::try_from(self.keys.len()).unwrap_or(u32::MAX);
            let result = self.look_up(map, &mut next, &mut count);
            let step = |is_last| Step { count: usize::try_from(count).unwrap_or(usize::MAX), is_last };
            match result {
                Ok(()) => {
                    self.bucket = Some(next);
                    return Ok(step(false));
                }
                Err(Errno::ENOENT) => return Ok(step(true)),
                // A bucket with more entries than there is room for.
                Err(Errno::ENOSPC) => self.make_room(self.keys.len() * 2),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn look_up(&mut self, map: &MapData, next: &mut u32, count: &mut u32) -> Result<(), Errno> {
        let mut attributes = Attributes {
            in_batch: self.bucket.as_ref().map_or(0, |bucket| address(std::ptr::from_ref(bucket))),
            out_batch: address(std::ptr::from_mut(next)),
            keys: address(self.keys.as_mut_ptr()),
            values: address(self.values.as_mut_ptr()),
            count: *count,
            map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are those of this command. The kernel writes at most `count` keys and values of the map's sizes, which are those of
        // `K` and `V` as the map was opened with them, and one bucket's number; all of that is alive and borrowed for writing here.
        let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, std::ptr::from_mut(&mut attributes), size_of::<Attributes>()) };
        *count = attributes.count;
        Errno::result(result).map(|_| ())
    }
}

/// A pointer as system calls take it.
pub(super) fn address<T>(pointer: *const T) -> u64 {
    pointer.expose_provenance() as u64
}
