//! The BPF object: one file with all programs, which share their maps.
#![no_std]
#![no_main]
#![expect(clippy::cast_possible_truncation, reason = "the kernel's numbers are cut to what the field or the return value holds")]

#[expect(clippy::needless_pass_by_value, reason = "the macro that makes a program hands its context over by value")]
mod entry;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
