//! Reads a row of which only the beginning is known: one that another version of the layout has written. aya wants to know its whole type.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::maps::MapData;

use super::batch::address;

/// The first eight bytes of the only row of an array, however long its rows are.
pub(super) fn first_word(map: &MapData) -> Option<u64> {
    /// `BPF_MAP_LOOKUP_ELEM`, of which the attributes are these.
    const LOOKUP: libc::c_int = 1;
    #[repr(C)]
    struct Attributes {
        map_fd: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let words = usize::try_from(map.info().ok()?.value_size()).ok()?.div_ceil(8);
    let (key, mut value) = (0_u32, vec![0_u64; words]);
    let mut attributes = Attributes {
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        pad: 0,
        key: address(std::ptr::from_ref(&key)),
        value: address(value.as_mut_ptr()),
        flags: 0,
    };
    // SAFETY: the attributes are those of this command. The kernel reads a key of four bytes, as arrays have, and writes a value of the size that it
    // has said itself; both are alive and borrowed here.
    let result = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP, std::ptr::from_mut(&mut attributes), size_of::<Attributes>()) };
    if result == 0 { value.first().copied() } else { None }
}
