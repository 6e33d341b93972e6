//! Which functions for memory the fuzzer is linked with: see `src/bin/packet/memory.rs`.

fn main() {
    for function in ["memcpy", "memmove", "memset"] {
        println!("cargo::rustc-link-arg-bin=packet=-Wl,--wrap={function}");
    }
    println!("cargo::rerun-if-changed=build.rs");
}
