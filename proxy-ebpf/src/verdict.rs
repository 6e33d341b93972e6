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

/// The result of a stage; `?` ends the packet, or leaves it to another stage.
pub type Step<T> = Result<T, End>;

/// How a packet's way ends, or which function of the program goes on with it.
///
/// One number: nothing else may cross the border between two functions. And no `enum`: of that the compiler would keep the parts in registers by
/// themselves, and read those that are not set, which the verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End(pub u32);

// === impl End ===

impl End {
    /// [`Verdict::Continue`].
    pub const TRANSLATED: Self = Self(0);
    /// [`Verdict::Reflect`].
    pub const REFLECTED: Self = Self(1);
    /// [`Verdict::SendOn`].
    pub const SENT_ON: Self = Self(2);
    /// It is nothing that the pipeline deals with. It goes through the one that stands aside.
    pub const ASIDE: Self = Self(3);
    /// It has ports all the same: it has options, is SCTP, or the first fragment of a datagram.
    pub const RARE: Self = Self(4);
    /// It has none: it may be about a packet of a flow.
    pub const RELATED: Self = Self(5);
    /// It belongs to no known flow: it is to be found out where it goes.
    pub const UNKNOWN: Self = Self(6);
    /// A flow begins, to the backend that lies in the scratch room.
    pub const CHOSEN: Self = Self(7);
    /// The same, but the node has to stand in for the client.
    pub const STAND_IN: Self = Self(8);
    /// It is to get the tuple that lies in the scratch room.
    pub const TRANSLATE: Self = Self(9);
    /// It is to be sent on under the tuple that lies in the scratch room.
    pub const SEND_ON: Self = Self(10);
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

    /// What a pipeline came to.
    #[inline(always)]
    pub const fn new(ended: Step<Verdict>) -> Self {
        match ended {
            Ok(Verdict::Continue) => Self::TRANSLATED,
            Ok(Verdict::Reflect) => Self::REFLECTED,
            Ok(Verdict::SendOn) => Self::SENT_ON,
            Err(end) => end,
        }
    }

    /// It goes on untouched.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self(Self::PASSED + reason.index())
    }

    /// It ends here.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self(Self::DROPPED + reason.index())
    }

    /// It ends here, and its sender is told why.
    #[inline(always)]
    pub const fn tell(news: News) -> Self {
        match news {
            News::Refused => Self::REFUSED,
            News::TimeExceeded => Self::TIME_EXCEEDED,
            News::TooBig(fits) => Self(Self::TOO_BIG + fits as u32),
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
            let [passed, dropped] = [End::pass(reason), End::drop(reason)];
            assert_eq!((passed.reason(), passed.is_drop(), passed.news()), (Some(index), false, None));
            assert_eq!((dropped.reason(), dropped.is_drop(), dropped.news()), (Some(index), true, None));
        }
        for news in [News::Refused, News::TimeExceeded, News::TooBig(0), News::TooBig(1280), News::TooBig(u16::MAX)] {
            let end = End::new(Err(End::tell(news)));
            assert_eq!((end.news(), end.reason(), end.is_drop()), (Some(news), None, false));
        }
        let goes_on =
            [End::ASIDE, End::RARE, End::RELATED, End::UNKNOWN, End::CHOSEN, End::STAND_IN, End::TRANSLATE, End::SEND_ON].map(Err);
        let others: Vec<End> =
            [Verdict::Continue, Verdict::Reflect, Verdict::SendOn].map(Ok).into_iter().chain(goes_on).map(End::new).collect();
        assert_eq!(others.iter().map(|end| end.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert!(others.iter().all(|end| end.reason().is_none() && end.news().is_none() && !end.is_drop()));
    }
}
