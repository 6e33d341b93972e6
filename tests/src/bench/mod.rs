//! What Shunt costs, measured.

mod figures;
mod iperf;
mod machine;

pub mod kind;
pub mod net;
pub mod packet;

pub use self::figures::{Contender, Row};
