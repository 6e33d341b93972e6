//! What `cargo xtask kernels` and the first process of its virtual machines agree on: a folder of the host that both see.
//!
//! The host writes the job into it, the guest what became of each program.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The guest's name of the file system that shows all of the host's files.
pub const HOST_FILES: &str = "host";
/// The guest is told the folder by this variable, which stands on the kernel's command line.
pub const FOLDER: &str = "SHUNT_GUEST";
/// The job, in the folder.
pub const JOB: &str = "job.json";
/// The file that is there once all programs have run, in the folder.
pub const DONE: &str = "done";
/// Modules that the guest needs before it sees the host's files, in its first file system, in the order to load them.
pub const MODULES: &str = "/modules";

/// All that a guest has to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The kernel's own modules, shown where it looks for them.
    pub modules: PathBuf,
    /// Modules that nothing asks for by itself.
    pub load: Vec<String>,
    /// The environment of every program, and nothing else.
    pub environment: Vec<(String, String)>,
    /// What to run, one after another.
    pub programs: Vec<Program>,
}

/// A program to run in the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// What it writes goes into `<name>.out` and `<name>.err`, how it ended into `<name>.status`.
    pub name: String,
    pub path: PathBuf,
    pub arguments: Vec<String>,
    pub directory: PathBuf,
    /// It is killed after so many seconds.
    pub limit_secs: u64,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// In words; empty for success.
    pub problem: String,
    pub secs: u64,
}
