//! Builds the programs of the benches and leaves the object in `OUT_DIR` as `shunt-bench.bpf.o`.

use anyhow::Result;

#[path = "../proxy-ebpf/build/object.rs"]
mod object;
use object::Object;

fn main() -> Result<()> {
    object::build(&[Object { file: "shunt-bench.bpf.o", bin: "shunt-bench-bpf", features: &["bench"] }])
}
