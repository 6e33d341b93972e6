//! How a packet's way through the programs ends.

use proxy_common::reason::Reason;

/// What becomes of a packet that a pipeline has finished with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on, translated; other programs on the device see it next.
    Continue,
    /// It goes back out of the device it came from: an answer of ours, or a pod that reaches itself.
    Reflect,
    /// It is on its way to another device, past the stack.
    SendOn,
}

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nobody serves what he dials.
    Refused,
    /// The packet has gone through as many routers as it may.
    TimeExceeded,
    /// The packet is larger than this, which is what fits.
    TooBig(u16),
}

/// Why a packet's way ends early.
///
/// One number and no `enum`: of that the compiler would keep the parts in registers by themselves, and read those that are not set, which the
/// verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(End);

/// The result of a stage; `?` ends the packet.
pub type Step<T> = Result<T, Stop>;

/// The end of a packet's way as one number, the only thing that may cross the border between two functions of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End(pub u32);

// === impl Stop ===

impl Stop {
    /// It is nothing that the pipeline deals with. It goes through the one that stands aside.
    pub const ASIDE: Self = Self(End::ASIDE);

    /// It has ports all the same: it is SCTP, the first fragment of a datagram, or to what no Service defines.
    pub const RARE: Self = Self(End::RARE);
    /// It has none: it may be about a packet of a flow.
    pub const RELATED: Self = Self(End::RELATED);
    /// It belongs to no known flow: it is to be found out where it goes.
    pub const UNKNOWN: Self = Self(End::UNKNOWN);
    /// A flow begins, to the backend that lies in the scratch room.
    pub const CHOSEN: Self = Self(End::CHOSEN);
    /// The same, but the node has to stand in for the client.
    pub const STAND_IN: Self = Self(End::STAND_IN);
    /// It is to get the tuple that lies in the scratch room.
    pub const TRANSLATE: Self = Self(End::TRANSLATE);
    /// It is to be sent on under the tuple that lies in the scratch room.
    pub const SEND_ON: Self = Self(End::SEND_ON);

    /// It goes on untouched.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self(End(End::PASSED + reason.index()))
    }

    /// It ends here.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self(End(End::DROPPED + reason.index()))
    }

    /// It ends here, and its sender is told why.
    #[inline(always)]
    pub const fn tell(news: News) -> Self {
        Self(match news {
            News::Refused => End::REFUSED,
            News::TimeExceeded => End::TIME_EXCEEDED,
            News::TooBig(fits) => End(End::TOO_BIG + fits as u32),
        })
    }

    /// The index of the reason for which the packet is passed or dropped.
    #[inline(always)]
    pub const fn reason(self) -> Option<u32> {
        self.0.reason()
    }

    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0.is_drop()
    }
}

// === impl End ===

impl End {
    /// [`Verdict::Continue`].
    pub const TRANSLATED: Self = Self(0);
    /// [`Verdict::Reflect`].
    pub const REFLECTED: Self = Self(1);
    /// [`Verdict::SendOn`].
    pub const SENT_ON: Self = Self(2);
    /// [`Stop::ASIDE`].
    pub const ASIDE: Self = Self(3);
    /// [`Stop::UNKNOWN`].
    pub const UNKNOWN: Self = Self(4);
    /// [`Stop::CHOSEN`].
    pub const CHOSEN: Self = Self(5);
    /// [`Stop::STAND_IN`].
    pub const STAND_IN: Self = Self(6);
    /// [`Stop::SEND_ON`].
    pub const SEND_ON: Self = Self(7);
    /// [`Stop::RARE`].
    pub const RARE: Self = Self(8);
    /// [`Stop::RELATED`].
    pub const RELATED: Self = Self(9);
    /// [`Stop::TRANSLATE`].
    pub const TRANSLATE: Self = Self(10);
    /// [`News::Refused`].
    const REFUSED: Self = Self(11);
    /// [`News::TimeExceeded`].
    const TIME_EXCEEDED: Self = Self(12);
    /// Added to a reason's index.
    const PASSED: u32 = 0x100;
    /// Added to a reason's index.
    const DROPPED: u32 = 0x200;
    /// Added to what fits.
    const TOO_BIG: u32 = 0x1_0000;

    /// The number for an end.
    #[inline(always)]
    pub const fn new(ended: Step<Verdict>) -> Self {
        match ended {
            Ok(Verdict::Continue) => Self::TRANSLATED,
            Ok(Verdict::Reflect) => Self::REFLECTED,
            Ok(Verdict::SendOn) => Self::SENT_ON,
            Err(stop) => stop.0,
        }
    }

    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 >= Self::DROPPED && self.0 < Self::TOO_BIG
    }

    /// The index of the reason for which the packet is passed or dropped.
    #[inline(always)]
    pub const fn reason(self) -> Option<u32> {
        if self.0 < Self::PASSED || self.0 >= Self::TOO_BIG { None } else { Some(self.0 % Self::PASSED) }
    }

    /// What the packet's sender is to be told.
    #[inline(always)]
    pub const fn news(self) -> Option<News> {
        match self {
            Self::REFUSED => Some(News::Refused),
            Self::TIME_EXCEEDED => Some(News::TimeExceeded),
            Self(Self::TOO_BIG..) => Some(News::TooBig((self.0 - Self::TOO_BIG) as u16)),
            _ => None,
        }
    }
}

const _: () = assert!(Reason::COUNT <= End::PASSED);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_every_other() {
        for index in 0..Reason::COUNT {
            let reason = Reason::ALL[index as usize];
            let [passed, dropped] = [Stop::pass(reason), Stop::drop(reason)].map(|stop| End::new(Err(stop)));
            assert_eq!((passed.reason(), passed.is_drop(), passed.news()), (Some(index), false, None));
            assert_eq!((dropped.reason(), dropped.is_drop(), dropped.news()), (Some(index), true, None));
        }
        for news in [News::Refused, News::TimeExceeded, News::TooBig(0), News::TooBig(1280), News::TooBig(u16::MAX)] {
            let end = End::new(Err(Stop::tell(news)));
            assert_eq!((end.news(), end.reason(), end.is_drop()), (Some(news), None, false));
        }
        let stops =
            [Stop::ASIDE, Stop::UNKNOWN, Stop::CHOSEN, Stop::STAND_IN, Stop::SEND_ON, Stop::RARE, Stop::RELATED, Stop::TRANSLATE].map(Err);
        let others: Vec<End> =
            [Verdict::Continue, Verdict::Reflect, Verdict::SendOn].map(Ok).into_iter().chain(stops).map(End::new).collect();
        assert_eq!(others.iter().map(|end| end.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(others.iter().all(|end| end.reason().is_none() && end.news().is_none() && !end.is_drop()));
    }
}
