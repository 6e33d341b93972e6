//! What programs must know of network namespaces: which is the node's, and in the running kernel, how to find that of a process, and whether it has
//! rules of netfilter for what is sent there.
//!
//! In: the kernel's own types, and a socket. Out: numbers that go into the object before it is loaded.

use std::{io, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};
use aya::{
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};

use super::btf::{self, STRUCT, Types};

/// How programs find the network namespace of a process, and the rules there for what is sent: offsets in bytes, in the order of
/// `SHUNT_NAMESPACE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NamespaceOffsets(pub(super) [u32; 4]);

impl NamespaceOffsets {
    /// Those of this kernel, if it tells and lets programs of sockets look there.
    pub(super) fn of_this_kernel() -> Option<Self> {
        let mut helpers = [BpfHelper::BPF_FUNC_get_current_task, BpfHelper::BPF_FUNC_probe_read_kernel].into_iter();
        let may_look = helpers.all(|helper| is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(false));
        if may_look { btf::of_this_kernel().and_then(|btf| Self::find(&btf)) } else { None }
    }

    fn find(btf: &[u8]) -> Option<Self> {
        /// Before what is sent goes on: the number of that hook, of pointers of eight bytes (`NF_INET_LOCAL_OUT`).
        const LOCAL_OUT: u32 = 3 * 8;
        let types = Types::read(btf)?;
        let offset = |of: &str, name: &str| types.member(types.id(STRUCT, of)?, name).map(|(bits, _)| bits / 8);
        let (rules, of) = types.member(types.id(STRUCT, "net")?, "nf")?;
        let rules = |name: &str| types.member(of, name).map(|(bits, _)| (rules + bits) / 8 + LOCAL_OUT);
        Some(Self([offset("task_struct", "nsproxy")?, offset("nsproxy", "net_ns")?, rules("hooks_ipv4")?, rules("hooks_ipv6")?]))
    }
}

/// The cookie of this process's network namespace. None on kernels before 5.14, which do not tell.
pub fn netns_cookie() -> Result<Option<u64>> {
    /// `SO_NETNS_COOKIE`.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = std::net::UdpSocket::bind((std::net::Ipv6Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)))
        .context("opening a socket")?;
    let (mut cookie, mut len) = (0_u64, libc::socklen_t::try_from(size_of::<u64>())?);
    // SAFETY: the option is a number of eight bytes, for which there is room.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len) };
    if result == 0 {
        return Ok(Some(cookie));
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENOPROTOOPT) { Ok(None) } else { Err(error).context("asking for the network namespace's cookie") }
}

#[cfg(test)]
mod tests {
    use super::{super::btf::testing::btf, *};

    const STRINGS: &str = "\0task_struct\0nsproxy\0net_ns\0net\0nf\0hooks_ipv4\0hooks_ipv6\0";

    fn at(name: &str) -> u32 {
        let found = STRINGS.find(&format!("\0{name}\0")).unwrap();
        u32::try_from(found + 1).unwrap()
    }

    #[test]
    fn the_way_goes_through_four_structures() {
        let types = [
            // 1: a pointer, 2: what netfilter has in a namespace, 3: the namespace, 4: all namespaces of a process, 5: the process.
            [0, 2 << 24, 0].as_slice(),
            &[0, STRUCT << 24 | 2, 200, at("hooks_ipv4"), 1, 64, at("hooks_ipv6"), 1, 64 + 5 * 64],
            &[at("net"), STRUCT << 24 | 1, 4000, at("nf"), 2, 8 * 1024],
            &[at("nsproxy"), STRUCT << 24 | 1, 64, at("net_ns"), 1, 8 * 40],
            &[at("task_struct"), STRUCT << 24 | 1, 9000, at("nsproxy"), 1, 8 * 2000],
        ];
        let whole = btf(&types.concat(), STRINGS);
        assert_eq!(NamespaceOffsets::find(&whole), Some(NamespaceOffsets([2000, 40, 1024 + 8 + 24, 1024 + 48 + 24])));
        for len in 0..whole.len() - 1 {
            assert_eq!(NamespaceOffsets::find(&whole[..len]), None);
        }
    }
}
