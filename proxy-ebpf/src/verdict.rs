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
    /// It is nothing that the pipeline deals with. It goes through the one that stands aside.
    pub const ASIDE: Self = Self(0);
    /// It has ports all the same: it has options, is SCTP, or the first fragment of a datagram.
    pub const RARE: Self = Self(1);
    /// It has none: it may be about a packet of a flow.
    pub const RELATED: Self = Self(2);
    /// It belongs to no known flow: it is to be found out where it goes.
    pub const UNKNOWN: Self = Self(3);
    /// A flow begins, to the backend that lies in the scratch room.
    pub const CHOSEN: Self = Self(4);
    /// The same, but the node has to stand in for the client.
    pub const STAND_IN: Self = Self(5);
    /// It is to get the tuple that lies in the scratch room.
    pub const TRANSLATE: Self = Self(6);
    /// It is to be sent on under the tuple that lies in the scratch room.
    pub const SEND_ON: Self = Self(7);
    /// [`News::Refused`].
    const REFUSED: Self = Self(8);
    /// [`News::TimeExceeded`].
    const TIME_EXCEEDED: Self = Self(9);
    /// Added to what fits.
    const TOO_BIG: u32 = 0x1_0000;
    /// [`Verdict::Continue`]. From here on there is nothing left to do.
    pub const TRANSLATED: Self = Self(0x2_0000);
    /// [`Verdict::Reflect`].
    pub const REFLECTED: Self = Self(0x2_0001);
    /// [`Verdict::SendOn`].
    pub const SENT_ON: Self = Self(0x2_0002);
    /// Added to a reason's index.
    const PASSED: u32 = 0x2_0100;
    /// Added to a reason's index.
    const DROPPED: u32 = 0x2_0200;

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

    /// Whether there is nothing left to do. Asked first, and one comparison: most packets are done with after their first function.
    #[inline(always)]
    pub const fn is_final(self) -> bool {
        self.0 >= Self::TRANSLATED.0
    }

    /// Whether the packet is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 >= Self::DROPPED
    }

    /// The index of the reason for which the packet is passed or dropped.
    #[inline(always)]
    pub const fn reason(self) -> Option<u32> {
        if self.0 < Self::PASSED { None } else { Some(self.0 % 0x100) }
    }

    /// What the packet's sender is to be told.
    #[inline(always)]
    pub const fn news(self) -> Option<News> {
        match self {
            Self::REFUSED => Some(News::Refused),
            Self::TIME_EXCEEDED => Some(News::TimeExceeded),
            end if !end.is_final() && end.0 >= Self::TOO_BIG => Some(News::TooBig((self.0 - Self::TOO_BIG) as u16)),
            _ => None,
        }
    }
}

const _: () = assert!(Reason::COUNT <= 0x100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_from_every_other() {
        for index in 0..Reason::COUNT {
            let reason = Reason::ALL[index as usize];
            let [passed, dropped] = [End::pass(reason), End::drop(reason)];
            assert_eq!((passed.reason(), passed.is_drop(), passed.news(), passed.is_final()), (Some(index), false, None, true));
            assert_eq!((dropped.reason(), dropped.is_drop(), dropped.news(), dropped.is_final()), (Some(index), true, None, true));
        }
        for news in [News::Refused, News::TimeExceeded, News::TooBig(0), News::TooBig(1280), News::TooBig(u16::MAX)] {
            let end = End::tell(news);
            assert_eq!((end.news(), end.reason(), end.is_drop(), end.is_final()), (Some(news), None, false, false));
        }
        let goes_on = [End::ASIDE, End::RARE, End::RELATED, End::UNKNOWN, End::CHOSEN, End::STAND_IN, End::TRANSLATE, End::SEND_ON];
        let done = [Verdict::Continue, Verdict::Reflect, Verdict::SendOn].map(|verdict| End::new(Ok(verdict)));
        let others = [&goes_on[..], &done[..]].concat();
        let numbers: std::collections::BTreeSet<u32> = others.iter().map(|end| end.0).collect();
        assert_eq!(numbers.len(), others.len());
        assert!(others.iter().all(|end| end.reason().is_none() && end.news().is_none() && !end.is_drop()));
        assert!(goes_on.iter().all(|end| !end.is_final()) && done.iter().all(|end| end.is_final()));
    }
}
