//! What the cluster says, as plain data: Services, their endpoints and the own Node.

mod frontend;
mod name;

pub use frontend::{FrontendAddr, IpFamily};
pub use name::{ObjectName, ServicePortName};
