//! The programs: a context in, an action out, nothing else.

#[cfg(feature = "log")]
mod log;
mod tc;
mod xdp;
