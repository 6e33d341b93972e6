//! Programs of sockets: they answer calls of processes of a cgroup.
//!
//! One for each call and family. A socket of IPv6 may speak IPv4 (RFC 4291, section 2.5.5.2): such addresses are looked up as what they stand for.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use proxy_common::{Addr4, Addr6, Family, Port, Protocol, V4, V6};
use proxy_ebpf::{
    ip::Ip,
    settings,
    sock::{self, Answer, Call, Caller, Peer},
};

/// The call goes on.
const GO_ON: i32 = 1;
/// The call fails: with EPERM, unless another number was set before.
const FAIL: i32 = 0;
const ECONNREFUSED: i32 = 111;
const AF_INET6: u32 = 10;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect_v4(ctx: SockAddrContext) -> i32 {
    dial::<V4>(ctx.sock_addr, Call::Connect)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect_v6(ctx: SockAddrContext) -> i32 {
    if is_mapped(ctx.sock_addr) { dial::<Mapped>(ctx.sock_addr, Call::Connect) } else { dial::<V6>(ctx.sock_addr, Call::Connect) }
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg_v4(ctx: SockAddrContext) -> i32 {
    dial::<V4>(ctx.sock_addr, Call::Send)
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg_v6(ctx: SockAddrContext) -> i32 {
    dial::<V6>(ctx.sock_addr, Call::Send)
}

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg_v4(ctx: SockAddrContext) -> i32 {
    show::<V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg_v6(ctx: SockAddrContext) -> i32 {
    if is_mapped(ctx.sock_addr) { show::<Mapped>(ctx.sock_addr) } else { show::<V6>(ctx.sock_addr) }
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername_v4(ctx: SockAddrContext) -> i32 {
    show::<V4>(ctx.sock_addr)
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername_v6(ctx: SockAddrContext) -> i32 {
    if is_mapped(ctx.sock_addr) { show::<Mapped>(ctx.sock_addr) } else { show::<V6>(ctx.sock_addr) }
}

/// A socket that is closed.
#[cgroup_sock(sock_release)]
pub(crate) fn sock_release(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: the context that the kernel gave to the program.
    let number = unsafe { (*sock).protocol };
    let Some(protocol) = protocol(number) else { return GO_ON };
    // SAFETY: as above.
    let has_v6 = unsafe { (*sock).family } == AF_INET6;
    // SAFETY: as above.
    if protocol == Protocol::Tcp && !unsafe { may_have_called(sock, has_v6) } {
        return GO_ON;
    }
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
    sock::release::<V4>(cookie, protocol);
    if has_v6 {
        sock::release::<V6>(cookie, protocol);
    }
    GO_ON
}

/// Whether a socket of TCP may have been given its peer when it called: one that was accepted has not, and is spared the look-ups. One without a peer
/// may have had one. (What has been connected in both families one after the other may lose this way what is left of the first, to be evicted.)
///
/// # Safety
/// The context is the one that the kernel gave to the program.
#[inline(always)]
unsafe fn may_have_called(sock: *const bpf_sock, has_v6: bool) -> bool {
    // SAFETY: the caller's promise.
    let port = Port::from_wire(unsafe { (*sock).dst_port }.to_ne_bytes());
    // SAFETY: as above.
    let v4: Addr4 = bytemuck::cast(unsafe { (*sock).dst_ip4 });
    if port == Port::from_host(0) || sock::may_be_given::<V4>((v4, port)) {
        return true;
    }
    // SAFETY: as above.
    let v6 = unsafe { &raw const (*sock).dst_ip6 };
    // SAFETY: as above.
    has_v6 && sock::may_be_given::<V6>((bytemuck::cast(unsafe { words(v6) }), port))
}

/// Where a call has an address: in words of 32 bits, which alone every kernel lets programs read and write.
trait Place {
    type Family: Ip;

    /// Reads it.
    ///
    /// # Safety
    /// The context is the one that the kernel gave to the program, and has this place.
    unsafe fn read(call: *const bpf_sock_addr) -> Addr<Self>;

    /// Writes it.
    ///
    /// # Safety
    /// As of [`Self::read`].
    unsafe fn write(call: *mut bpf_sock_addr, addr: Addr<Self>);
}

type Addr<P> = <<P as Place>::Family as Family>::Addr;

/// IPv4 in the place of IPv6.
struct Mapped;

impl Place for V4 {
    type Family = Self;

    #[inline(always)]
    unsafe fn read(call: *const bpf_sock_addr) -> Addr4 {
        // SAFETY: the caller's promise.
        bytemuck::cast(unsafe { (*call).user_ip4 })
    }

    #[inline(always)]
    unsafe fn write(call: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: the caller's promise.
        unsafe { (*call).user_ip4 = addr.raw() };
    }
}

impl Place for V6 {
    type Family = Self;

    #[inline(always)]
    unsafe fn read(call: *const bpf_sock_addr) -> Addr6 {
        // SAFETY: the caller's promise.
        bytemuck::cast(unsafe { said(call) })
    }

    #[inline(always)]
    unsafe fn write(call: *mut bpf_sock_addr, addr: Addr6) {
        let words: [u32; 4] = bytemuck::cast(addr);
        for (n, word) in words.into_iter().enumerate() {
            // SAFETY: the caller's promise; there are as many words.
            unsafe { set_word(call, n, word) };
        }
    }
}

impl Place for Mapped {
    type Family = V4;

    #[inline(always)]
    unsafe fn read(call: *const bpf_sock_addr) -> Addr4 {
        // SAFETY: the caller's promise.
        let [.., addr] = unsafe { said(call) };
        bytemuck::cast(addr)
    }

    #[inline(always)]
    unsafe fn write(call: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: the caller's promise.
        unsafe { set_word(call, 3, addr.raw()) };
    }
}

/// The words of what a call says.
///
/// # Safety
/// The context is the one that the kernel gave to the program, which is one of IPv6.
#[inline(always)]
unsafe fn said(call: *const bpf_sock_addr) -> [u32; 4] {
    // SAFETY: the caller's promise.
    let addr = unsafe { &raw const (*call).user_ip6 };
    // SAFETY: as above.
    unsafe { words(addr) }
}

/// The words of an address of IPv6, each read by itself.
///
/// # Safety
/// They are in the context that the kernel gave to the program.
#[inline(always)]
unsafe fn words(addr: *const [u32; 4]) -> [u32; 4] {
    [0, 1, 2, 3].map(|n| {
        // SAFETY: one of four.
        let place = unsafe { addr.cast::<u32>().add(n) };
        // SAFETY: the caller's promise.
        unsafe { place.read_volatile() }
    })
}

#[inline(always)]
unsafe fn set_word(call: *mut bpf_sock_addr, n: usize, value: u32) {
    // SAFETY: the caller's promise.
    let words = unsafe { &raw mut (*call).user_ip6 }.cast::<u32>();
    // SAFETY: one of four.
    let place = unsafe { words.add(n) };
    // SAFETY: as above.
    unsafe { place.write_volatile(value) };
}

/// Whether an address of IPv6 stands for one of IPv4.
#[inline(always)]
fn is_mapped(call: *const bpf_sock_addr) -> bool {
    // SAFETY: the context that the kernel gave to the program, which is one of IPv6.
    stands_for_v4(unsafe { said(call) })
}

#[inline(always)]
fn stands_for_v4([a, b, c, _]: [u32; 4]) -> bool {
    a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

/// What a socket speaks, if it is something that Services can.
#[inline(always)]
fn protocol(number: u32) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        _ => None,
    }
}

/// Who calls, if it speaks what Services can.
#[inline(always)]
fn caller(call: *mut bpf_sock_addr) -> Option<Caller> {
    // SAFETY: the context that the kernel gave to the program.
    let protocol = protocol(unsafe { (*call).protocol })?;
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(call.cast()) };
    // SAFETY: as above.
    let netns = unsafe { bpf_get_netns_cookie(call.cast()) };
    Some(Caller { cookie, protocol, namespace: netns, is_host: netns == host_netns() })
}

/// The cookie of the node's network namespace.
#[inline(always)]
fn host_netns() -> u64 {
    match settings::netns() {
        // SAFETY: without a context it is the first namespace that is asked about.
        0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
        cookie => cookie,
    }
}

#[inline(always)]
fn peer<P: Place>(call: *const bpf_sock_addr) -> Peer<P::Family> {
    // SAFETY: the context that the kernel gave to the program.
    let port = unsafe { (*call).user_port };
    // SAFETY: as above.
    (unsafe { P::read(call) }, Port::from_wire((port as u16).to_ne_bytes()))
}

#[inline(always)]
fn set_peer<P: Place>(call: *mut bpf_sock_addr, (addr, port): Peer<P::Family>) {
    // SAFETY: the context that the kernel gave to the program.
    unsafe { P::write(call, addr) };
    // SAFETY: as above.
    unsafe { (*call).user_port = u32::from(port.raw()) };
}

/// A call that says where to.
#[inline(always)]
fn dial<P: Place>(call: *mut bpf_sock_addr, what: Call) -> i32 {
    let Some(caller) = caller(call) else { return GO_ON };
    match sock::dial::<P::Family>(&caller, peer::<P>(call), what) {
        Answer::Leave => GO_ON,
        Answer::Go(to) => {
            set_peer::<P>(call, to);
            GO_ON
        }
        Answer::Refuse => {
            if settings::sets_retval() {
                // SAFETY: a helper that takes a number only.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
            }
            FAIL
        }
        Answer::Deny => FAIL,
    }
}

/// A call that is told from where, or to where.
#[inline(always)]
fn show<P: Place>(call: *mut bpf_sock_addr) -> i32 {
    let peer = peer::<P>(call);
    if sock::may_be_given::<P::Family>(peer)
        && let Some(dialled) = caller(call).and_then(|caller| sock::shown::<P::Family>(&caller, peer))
    {
        set_peer::<P>(call, dialled);
    }
    GO_ON
}
