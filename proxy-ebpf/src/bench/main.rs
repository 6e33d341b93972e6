//! The object of the benches, which is no part of what is shipped.
//!
//! Drivers make a packet and run the program in their slot on it: the kernel does not put a packet back between the repetitions of a test
//! run, so that a program which rewrites would see its own output from the second one on. Floors are the least that a program of some kind
//! can cost; what the shipped programs cost is held against them.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "halves of registers are cut off on purpose")]
#![expect(clippy::needless_borrows_for_generic_args, reason = "a key handed over by value would be copied on the stack")]

mod drive;
#[expect(clippy::needless_pass_by_value, reason = "the macro that makes a program hands its context over by value")]
mod entry;
mod floor;
mod frame;
mod layout;
mod maps;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
