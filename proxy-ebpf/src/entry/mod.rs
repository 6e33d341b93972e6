//! The programs: a context in, an action out, nothing else.

mod cgroup;
#[cfg(feature = "log")]
mod log;
mod tc;
mod xdp;
