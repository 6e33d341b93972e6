//! How programs find the network namespace of a process in the running kernel, and whether it has rules of netfilter for what is sent there.
//!
//! In: the kernel's own types. Out: numbers that go into the object before it is loaded.

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
