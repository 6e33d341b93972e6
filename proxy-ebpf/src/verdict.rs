//! How a packet's way through the programs ends.

use proxy_common::reason::Reason;

/// What becomes of a packet that a pipeline has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated; other programs on the device see it next.
    Continue,
    /// It goes back out of the device it came from: an answer of ours, or a pod that reaches itself.
    Reflect,
}

/// Why a packet's way ends early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It goes on untouched.
    Pass(Reason),
    /// It ends here.
    Drop(Reason),
}

/// The result of a stage; `?` ends the packet.
pub type Step<T> = Result<T, Stop>;
