//! A packet in tc: a socket buffer, of which the first part can be reached directly.

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_REDIRECT, bpf_adj_room_mode},
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_get_socket_cookie, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_pull_data, bpf_skb_vlan_pop,
    },
};
use proxy_common::{Protocol, Tuple, reason::Reason};

use super::{ETH_LEN, Hop, PacketCtx, Route, TRANSLATED_MARK, checksum, fib, socket, too_short};
use crate::{
    csum::{Delta, replace, replace_begun},
    ip::{
        Ip,
        extensions::{self, ExtensionsWord},
    },
    namespace, settings,
    verdict::{End, Step},
};

/// How much of a packet is made directly reachable: the longest headers that are looked at, with room to spare.
const HEADERS: u32 = 192;

/// The size of an aggregate's segments that says that each is a buffer of its own (`GSO_BY_FRAGS`, linux/skbuff.h): SCTP's are.
const BUFFER_EACH: u32 = 0xffff;

const TCP_HEADER: usize = 20;
/// Where a TCP header says how long it is.
const TCP_DATA_OFFSET: usize = 12;
const UDP_HEADER: usize = 8;
const SCTP_HEADER: usize = 12;

/// A socket buffer on a device with (`L2`) or without an Ethernet header.
pub struct TcCtx<const L2: bool> {
    skb: *mut __sk_buff,
}

impl<const L2: bool> TcCtx<L2> {
    /// A socket buffer whose headers are reachable, as far as anybody is going to read them.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub const unsafe fn pulled(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }

    /// Makes the headers of a socket buffer reachable.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub unsafe fn with_headers<F: Ip>(skb: *mut __sk_buff) -> Step<Self> {
        Self { skb }.reaching(HEADERS)
    }

    /// Makes reachable what a common packet has of headers: its network header, and TCP's without options. They are so already, mostly, and there
    /// is nothing to be moved.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub unsafe fn with_common_headers<F: Ip>(skb: *mut __sk_buff) -> Step<Self> {
        let ctx = Self { skb };
        let headers = ctx.l3() + F::HEADER + TCP_HEADER;
        ctx.reaching(headers as u32)
    }

    /// The same packet with so many bytes reachable, or as many as there are.
    #[inline(always)]
    fn reaching(self, headers: u32) -> Step<Self> {
        let wanted = if self.len() < headers { self.len() } else { headers };
        if self.data() + wanted as usize > self.data_end() {
            if self.segment_size() == BUFFER_EACH {
                // The headers are all that the first buffer has; with more than that the kernel could not part the segments any more.
                return Ok(self);
            }
            // SAFETY: the context is the kernel's own. No pointer into the packet is held here.
            let error = unsafe { bpf_skb_pull_data(self.skb, wanted) };
            if error != 0 {
                return Err(too_short());
            }
        }
        Ok(self)
    }

    /// Whether XDP has marked the packet as one that it has translated.
    ///
    /// # Safety
    /// `skb` is the context that the kernel gave to the program.
    #[inline(always)]
    pub unsafe fn is_marked(skb: *mut __sk_buff) -> bool {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        let mark = unsafe { (*skb).data_meta as usize };
        // SAFETY: as above.
        let data = unsafe { (*skb).data as usize };
        // SAFETY: the bounds are checked before.
        mark + size_of::<u32>() <= data && unsafe { (mark as *const u32).read() } == TRANSLATED_MARK
    }

    /// Marks a packet as one that a program sends to a device, so that the program at that device's egress knows it for one of ours. The mark
    /// has no meaning to other nodes, whose seeds are others: a packet may get there without having met such a program.
    #[inline(always)]
    pub fn mark_as_own(&mut self) {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs. Disciplines of queues read this number, and Cilium.
        unsafe { (*self.skb).tc_index = own_mark() };
    }

    /// Whether a packet has that mark, which it then loses.
    #[inline(always)]
    pub fn take_own_mark(&mut self) -> bool {
        // SAFETY: as in `mark_as_own`.
        let is_own = unsafe { (*self.skb).tc_index } == own_mark();
        if is_own {
            // SAFETY: as in `mark_as_own`.
            unsafe { (*self.skb).tc_index = 0 };
        }
        is_own
    }

    /// Makes of a packet one that a program sends to a device: it has the mark, and no tag any more. That of VLAN 0 only said how urgent the packet was
    /// on its way here; the stack would have taken it off, and some devices would put it into the packet.
    #[inline(always)]
    pub fn make_own(&mut self) {
        self.mark_as_own();
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        if L2 && unsafe { (*self.skb).vlan_present } != 0 {
            // SAFETY: as above. No pointer into the packet is held here. An error only says that there is another tag below.
            unsafe { bpf_skb_vlan_pop(self.skb) };
        }
    }

    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the context is the kernel's own, and valid as long as the program runs.
        unsafe { (*self.skb).data as usize }
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as in `data`.
        unsafe { (*self.skb).data_end as usize }
    }

    /// How much payload each segment of an aggregate has; zero where the packet is none.
    #[inline(always)]
    fn segment_size(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.skb).gso_size }
    }

    /// Changes a checksum directly. Says no where only the kernel's helpers know what to do.
    ///
    /// | the kernel's state | what is in the packet | what is done |
    /// |---|---|---|
    /// | `NONE`, `UNNECESSARY` | the whole checksum | it gets both changes |
    /// | `PARTIAL` | the pseudo header's sum | it gets the change of the pseudo header |
    /// | `COMPLETE` | the whole checksum, and beside it the device's sum of all bytes | it gets both; over IPv4 the sum is corrected |
    #[inline(always)]
    fn fix_directly(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, ipv6: bool) -> Step<bool> {
        // SAFETY: the context is the kernel's own.
        let Some(state) = (unsafe { checksum::state(self.skb) }) else { return Ok(false) };
        let old = self.read::<u16>(offset)?;
        if state == checksum::PARTIAL {
            // The device adds everything else.
            self.write(offset, replace_begun(old, pseudo))?;
            return Ok(true);
        }
        self.write(offset, replace(old, pseudo.plus(transport), optional))?;
        if state == checksum::COMPLETE && !ipv6 {
            // The device's sum covers the IPv4 header too, whose checksum makes up for the addresses once more.
            self.change_sum(pseudo.reversed());
        }
        Ok(true)
    }

    /// Has the packet leave by a device to where the kernel's routing says.
    #[inline(always)]
    pub fn send_by_route(&mut self, ifindex: u32) -> Step<()> {
        self.make_own();
        self.become_frame()?;
        // SAFETY: without parameters the helper takes numbers only.
        is_redirected(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) })
    }

    /// Gives a packet without an Ethernet header an empty one: the kernel takes one off what it is to find a hop for. No offset into the packet
    /// holds afterwards.
    #[inline(always)]
    fn become_frame(&mut self) -> Step<()> {
        if L2 {
            return Ok(());
        }
        // SAFETY: the context is the kernel's own. No pointer into the packet is held here.
        done(unsafe { bpf_skb_change_head(self.skb, ETH_LEN as u32, 0) })
    }

    #[inline(always)]
    fn replace_l4(&mut self, offset: usize, delta: Delta, flags: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own, which checks the offset.
        let error = unsafe { bpf_l4_csum_replace(self.skb, offset as u32, 0, u64::from(delta.word()), u64::from(flags)) };
        done(error)
    }

    /// Corrects the sum that the device has computed over the packet, if it has (`CHECKSUM_COMPLETE`).
    #[inline(always)]
    fn change_sum(&mut self, delta: Delta) {
        // SAFETY: the context is the kernel's own. An error only says that the packet has no such sum.
        unsafe { bpf_csum_update(self.skb, delta.word()) };
    }
}

/// Some bits of the node's seed, not all of them zero. Of the sixteen that there are, Cilium has flags of its own in the lowest ones
/// (`TC_INDEX_F_FROM_INGRESS_PROXY` and others): they stay zero.
#[inline(always)]
fn own_mark() -> u32 {
    settings::seed() as u32 & 0xffe0 | 0x8000
}

#[inline(always)]
const fn done(error: i64) -> Step<()> {
    if error < 0 { Err(End::drop(Reason::RewriteFailed)) } else { Ok(()) }
}

#[inline(always)]
fn is_redirected(action: i64) -> Step<()> {
    if action == i64::from(TC_ACT_REDIRECT) { Ok(()) } else { Err(End::drop(Reason::NoRoute)) }
}

impl<const L2: bool> PacketCtx for TcCtx<L2> {
    #[inline(always)]
    fn l3(&self) -> usize {
        if L2 { ETH_LEN } else { 0 }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: as in `data`.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Step<*mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() {
            return Err(too_short());
        }
        Ok(start as *mut T)
    }

    #[inline(always)]
    fn fix_l4_csum(&mut self, offset: usize, pseudo: Delta, transport: Delta, optional: bool, ipv6: bool) -> Step<()> {
        if optional && self.read::<u16>(offset)? == 0 {
            // There is no checksum whose change would make up for the others in a sum that the device has computed. Only the change of
            // IPv4 addresses is made up for, by the header's checksum.
            self.change_sum(if ipv6 { pseudo.plus(transport) } else { transport });
            return Ok(());
        }
        if self.fix_directly(offset, pseudo, transport, optional, ipv6)? {
            return Ok(());
        }
        let optional = if optional { BPF_F_MARK_MANGLED_0 } else { 0 };
        if !transport.is_zero() {
            self.replace_l4(offset, transport, optional)?;
        }
        if !pseudo.is_zero() {
            self.replace_l4(offset, pseudo, optional | BPF_F_PSEUDO_HDR)?;
            if ipv6 {
                // For a packet whose sum the device has computed (CHECKSUM_COMPLETE) the helper corrects that sum as if an IPv4 header
                // checksum had been corrected too. IPv6 has none: the addresses' change and the checksum's cancel out, so take it back.
                self.change_sum(pseudo);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn sum<const WORDS: usize>(&self, offset: usize) -> Step<u64> {
        let words = self.at::<[u32; WORDS]>(offset)?;
        // SAFETY: `at` has checked the bounds; the length is a multiple of four, as the helper asks.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words.cast(), WORDS as u32 * 4, 0) };
        Ok(sum as u64 & 0xffff_ffff)
    }

    /// The kernel says of an aggregate how much payload each segment has.
    #[inline(always)]
    fn segment_len(&self, l4: usize, end: usize, protocol: Protocol) -> Step<u16> {
        let payload = match self.segment_size() {
            0 => return Ok(end.wrapping_sub(self.l3()) as u16),
            // SCTP knows what its way takes; nothing here says how large its segments are.
            BUFFER_EACH => 0,
            payload => payload,
        };
        let header = match protocol {
            Protocol::Tcp => (self.read::<u8>(l4 + TCP_DATA_OFFSET)? >> 4) as usize * 4,
            Protocol::Udp => UDP_HEADER,
            Protocol::Sctp => SCTP_HEADER,
        };
        Ok((l4 - self.l3() + header + payload as usize) as u16)
    }

    #[inline(always)]
    fn route<F: Ip>(&self, src: F::Addr, dst: F::Addr, len: u16) -> Route {
        // SAFETY: the context is the kernel's own.
        unsafe { fib::route::<F>(self.skb, src, dst, len) }
    }

    #[inline(always)]
    fn send_on(&mut self, hop: &Hop) -> Step<()> {
        if hop.family == 0 {
            return self.send_by_route(hop.ifindex);
        }
        self.make_own();
        self.become_frame()?;
        let [one, two, three, four] = bytemuck::cast::<_, [u32; 4]>(hop.addr);
        let mut params = [hop.family, one, two, three, four];
        // SAFETY: the parameters lie on the stack and have the length that is said (`struct bpf_redir_neigh`).
        is_redirected(unsafe { bpf_redirect_neigh(hop.ifindex, params.as_mut_ptr().cast(), size_of_val(&params) as i32, 0) })
    }

    #[inline(always)]
    fn has_socket<F: Ip>(&self, tuple: &Tuple<F>, protocol: Protocol) -> bool {
        // SAFETY: the context is the kernel's own.
        unsafe { socket::state(self.skb.cast(), tuple, protocol) }.is_some()
    }

    #[inline(always)]
    fn has_connection<F: Ip>(&self, tuple: &Tuple<F>, protocol: Protocol) -> bool {
        // SAFETY: the context is the kernel's own.
        unsafe { socket::is_connection(self.skb.cast(), tuple, protocol) }
    }

    #[inline(always)]
    fn learn_pod(&self) {
        if settings::sockets().serves_pods() {
            // SAFETY: the context is the kernel's own.
            namespace::learn(unsafe { bpf_get_socket_cookie(self.skb.cast()) });
        }
    }

    #[inline(always)]
    fn try_node_port<F: Ip>(&self, if_over: bool) -> bool {
        F::try_node_port(self.skb, if_over)
    }

    #[inline(always)]
    fn take_node_port<F: Ip>(&self, first: u32, count: u32, if_over: bool) -> bool {
        F::take_node_port(self.skb, first, count, if_over)
    }

    #[inline(always)]
    fn walk_extensions(&self, first: u8) -> ExtensionsWord {
        extensions::walk_skb::<L2>(self.skb, first)
    }

    #[inline(always)]
    fn note_change(&mut self, delta: Delta) {
        self.change_sum(delta);
    }

    #[inline(always)]
    fn truncate(&mut self, len: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own.
        done(unsafe { bpf_skb_change_tail(self.skb, len, 0) })
    }

    #[inline(always)]
    fn insert_before_l3(&mut self, len: u32) -> Step<()> {
        // SAFETY: the context is the kernel's own.
        done(unsafe { bpf_skb_adjust_room(self.skb, len as i32, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, 0) })
    }
}
