//! What the kernel's routing says.

/// The device by which a packet leaves, and who takes it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The device.
    pub ifindex: u32,
    /// The number of the hop's family for the kernel: IPv4 packets may go by a router that is known by its IPv6 address. Zero where the kernel
    /// is to find the hop by itself: tunnels ask the packet's route for the node at their other end, which a hop alone is not.
    pub family: u32,
    /// The hop's address, as it lies in memory.
    pub addr: [u64; 2],
}

/// What the kernel's routing says of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// This way.
    By(Hop),
    /// It is this node.
    Here,
    /// There is no way, or none that a program may take.
    Nowhere,
    /// There is, but not for packets larger than this.
    TooBig(u16),
}
