//! Writes the inputs that the fuzzer starts from to the folder that is named.

use std::{env, path::Path};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let folder = env::args_os().nth(1).context("the first argument is the folder to write to")?;
    let n = proxy_ebpf_fuzz::seeds::write_to(Path::new(&folder))?;
    println!("{n} seeds");
    Ok(())
}
