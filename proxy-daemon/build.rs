//! Builds the BPF programs of proxy-ebpf twice and leaves the objects in `OUT_DIR`:
//! `shunt.bpf.o`, which is shipped, and `shunt-log.bpf.o`, the same programs with logging compiled in.

use anyhow::Result;

#[path = "../proxy-ebpf/build/object.rs"]
mod object;
use object::Object;

const OBJECTS: [Object; 2] = [
    Object { file: "shunt.bpf.o", bin: "shunt-bpf", features: &["object"] },
    Object { file: "shunt-log.bpf.o", bin: "shunt-bpf", features: &["object", "log"] },
];

fn main() -> Result<()> {
    object::build(&OBJECTS)
}
