//! The fuzzer: libFuzzer finds inputs, the laws judge what becomes of them.
#![no_main]

mod memory;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy_ebpf_fuzz::run(bytes));
