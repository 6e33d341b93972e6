//! The C library's own functions for memory.
//!
//! aya-ebpf has some of the same names for BPF, on the host too, and they return nothing: pointers must not cross the borders of BPF's
//! functions. C++ goes on with what they return. So the linker (`build.rs`) takes every call to these instead, which go to the C library by
//! names that nobody else has.

use core::{
    ffi::{c_int, c_void},
    hint::black_box,
};

use libc::size_t;

/// As much room as there may be. The compiler must not see it: it would take the check away, and call the function that is stood in for.
const ANY: size_t = size_t::MAX;

unsafe extern "C" {
    fn __memcpy_chk(to: *mut c_void, from: *const c_void, len: size_t, room: size_t) -> *mut c_void;
    fn __memmove_chk(to: *mut c_void, from: *const c_void, len: size_t, room: size_t) -> *mut c_void;
    fn __memset_chk(to: *mut c_void, byte: c_int, len: size_t, room: size_t) -> *mut c_void;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_memcpy(to: *mut c_void, from: *const c_void, len: size_t) -> *mut c_void {
    // SAFETY: the caller promises what memcpy asks for; it is nobody's business here how much room there is.
    unsafe { __memcpy_chk(to, from, len, black_box(ANY)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_memmove(to: *mut c_void, from: *const c_void, len: size_t) -> *mut c_void {
    // SAFETY: as for memcpy.
    unsafe { __memmove_chk(to, from, len, black_box(ANY)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __wrap_memset(to: *mut c_void, byte: c_int, len: size_t) -> *mut c_void {
    // SAFETY: as for memcpy.
    unsafe { __memset_chk(to, byte, len, black_box(ANY)) }
}
