//! What Shunt costs, measured.

mod machine;

pub mod net;
pub mod packet;
