//! What Shunt costs, measured.

pub mod packet;
