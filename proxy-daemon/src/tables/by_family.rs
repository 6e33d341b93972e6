//! One of something for each address family.

use crate::model::IpFamily;

/// One for IPv4 and one for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByFamily<T> {
    v4: T,
    v6: T,
}

impl<T> ByFamily<T> {
    /// That of a family.
    pub(super) fn of(&self, family: IpFamily) -> &T {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }

    /// That of a family, to be changed.
    pub(super) fn of_mut(&mut self, family: IpFamily) -> &mut T {
        match family {
            IpFamily::V4 => &mut self.v4,
            IpFamily::V6 => &mut self.v6,
        }
    }
}
