//! The programs: a context in, an action out, nothing else.

mod tc;
