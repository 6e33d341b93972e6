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

/// The end of a packet's way as one number, the only thing that may cross the border between two functions of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End(pub u32);

impl End {
    /// [`Verdict::Continue`].
    pub const TRANSLATED: Self = Self(0);
    /// [`Verdict::Reflect`].
    pub const REFLECTED: Self = Self(1);
    /// Added to a reason's index.
    const PASSED: u32 = 0x100;
    /// Added to a reason's index.
    const DROPPED: u32 = 0x200;

    /// The number for an end.
    #[inline(always)]
    pub const fn new(ended: Step<Verdict>) -> Self {
        match ended {
            Ok(Verdict::Continue) => Self::TRANSLATED,
            Ok(Verdict::Reflect) => Self::REFLECTED,
            Err(Stop::Pass(reason)) => Self(Self::PASSED + reason.index()),
            Err(Stop::Drop(reason)) => Self(Self::DROPPED + reason.index()),
        }
    }

    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 >= Self::DROPPED
    }

    /// The index of the reason for which the packet is passed or dropped.
    #[inline(always)]
    pub const fn reason(self) -> Option<u32> {
        if self.0 < Self::PASSED { None } else { Some(self.0 % Self::PASSED) }
    }
}

const _: () = assert!(Reason::COUNT <= End::PASSED);
