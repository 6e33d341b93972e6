//! Sockets: what a process dials is exchanged for a backend before any packet is made, and what it has dialled is shown to it again.
//!
//! In: who calls, and the address that it says or hears. Out: the address to put there. The same tables decide as for packets, and what is found
//! there is not met by packets any more: only the node's own processes are served in this way, whose packets to a Service nobody else would translate.
//!
//! They run in the process that calls, and packets interrupt them: no scratch room of a CPU's is theirs.

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use proxy_common::{Backend, FrontendKey, FrontendRef, Port, Protocol, RowFlags, ServiceId, SocketKey, SocketPeer, Toward, reason::Reason};

use crate::{
    counters::{count, count_flow},
    filter::is_marked,
    flow::lives,
    frontend::{self, Scope},
    ip::Ip,
    settings::{self, now},
    snat::any_source,
    undefined::{judge, nobody},
    verdict::{End, Step},
};

/// An address and a port, of one end or the other.
pub type Peer<F> = (<F as proxy_common::Family>::Addr, Port);

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The socket's number, which the kernel gives to no other.
    pub cookie: u64,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether its network is the node's own: a process of the node, or of a hostNetwork pod.
    pub is_host: bool,
}

/// What it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// The socket is to have this one peer.
    Connect,
    /// One datagram goes there.
    Send,
}

/// What becomes of the call.
#[derive(Clone, Copy, Debug)]
pub enum Answer<F: Ip> {
    /// It goes where it says.
    Leave,
    /// It goes there instead.
    Go(Peer<F>),
    /// It fails: nobody serves what is dialled.
    Refuse,
    /// It fails: a policy forbids it.
    Deny,
}

/// Answers a call that says where to.
#[inline(always)]
pub fn dial<F: Ip>(caller: &Caller, dialled: Peer<F>, call: Call) -> Answer<F> {
    if !caller.is_host || !settings::sockets().serve_host() {
        return Answer::Leave;
    }
    // Node ports at loopback are frontends at one address of it.
    let asked = (if F::is_loopback(dialled.0) { F::LOOPBACK } else { dialled.0 }, dialled.1);
    let Some(frontend) = find::<F>(asked, caller.protocol) else {
        return answer(no_frontend::<F>(asked.0));
    };
    let there = SocketKey::new(caller.cookie, dialled, caller.protocol, Toward::Backend);
    if call == Call::Send
        && let Some(peer) = known::<F>(&there, caller, dialled, frontend.service)
    {
        return Answer::Go(peer);
    }
    match choose::<F>(frontend) {
        Ok(backend) => {
            record(caller, &there, &backend, dialled, call);
            Answer::Go((backend.addr, backend.port))
        }
        Err(end) => answer(end),
    }
}

/// What a process is shown where the kernel says that it hears from, or speaks to, `peer`.
#[inline(always)]
pub fn shown<F: Ip>(caller: &Caller, peer: Peer<F>) -> Option<Peer<F>> {
    let back = SocketKey::new(caller.cookie, peer, caller.protocol, Toward::Process);
    let dialled = F::sockets().get_ptr(&back)?;
    // SAFETY: the entry stays readable while the program runs. It is copied: other CPUs may write it.
    let dialled = unsafe { core::ptr::read_volatile(dialled) };
    Some((dialled.addr, dialled.port))
}

/// Where the last datagram to what is dialled went, if that is still the same service's and the backend lives.
#[inline(always)]
fn known<F: Ip>(there: &SocketKey<F>, caller: &Caller, dialled: Peer<F>, service: ServiceId) -> Option<Peer<F>> {
    let entry = F::sockets().get_ptr_mut(there)?;
    // SAFETY: as in `shown`.
    let backend = unsafe { core::ptr::read_volatile(entry) };
    if backend.service != service || !lives(backend.backend) {
        count(Reason::BackendGone);
        return None;
    }
    let peer = (backend.addr, backend.port);
    let back = SocketKey::new(caller.cookie, peer, caller.protocol, Toward::Process);
    match F::sockets().get_ptr_mut(&back) {
        Some(answers) => {
            touch(entry, backend.last_used);
            touch(answers, backend.last_used);
        }
        // Evicted.
        None => insert::<F>(&back, &SocketPeer { addr: dialled.0, port: dialled.1, last_used: now(), ..backend }),
    }
    Some(peer)
}

/// Notes that an entry is in use, once in a second.
#[inline(always)]
fn touch<F: Ip>(entry: *mut SocketPeer<F>, last_used: u32) {
    let now = now();
    if now.wrapping_sub(last_used) >= settings::hz() {
        // SAFETY: a field of an entry, which stays readable while the program runs.
        let place = unsafe { &raw mut (*entry).last_used };
        // SAFETY: an aligned word; the last writer wins.
        unsafe { core::ptr::write_volatile(place, now) };
    }
}

/// Forgets the backend of a socket that is closed. Where it has sent datagrams without being connected is forgotten by the daemon, after a while.
#[inline(always)]
pub fn release<F: Ip>(cookie: u64, protocol: Protocol, backend: Peer<F>) {
    // One that is not there was none of ours.
    _ = F::sockets().remove(&SocketKey::new(cookie, backend, protocol, Toward::Process));
}

/// Chooses a backend as for a packet of a client inside the cluster. By chance: which ports the packets will have is not known yet.
#[inline(always)]
fn choose<F: Ip>(frontend: FrontendRef) -> Step<Backend<F>> {
    let row = frontend::read(frontend.row, Scope::Internal).ok_or(End::pass(Reason::NoService))?;
    let client = node_address::<F>();
    if row.flags.has(RowFlags::SOURCE_RANGES) && !frontend::may_use::<F>(client, frontend.service) {
        return Err(End::drop(Reason::SourceRange));
    }
    // SAFETY: a helper without arguments.
    let hash = unsafe { bpf_get_prandom_u32() };
    frontend::pick(frontend, &row, client, hash)
}

#[inline(always)]
fn find<F: Ip>((addr, port): Peer<F>, protocol: Protocol) -> Option<FrontendRef> {
    let key = FrontendKey::<F>::new(addr, port, protocol);
    if is_marked(key.place()) { frontend::at(&key) } else { None }
}

/// What becomes of a call to what is no frontend. Most are to what has nothing to do with Services.
#[inline(always)]
fn no_frontend<F: Ip>(addr: F::Addr) -> End {
    let end = nobody::<F>(addr);
    if end == End::ASIDE { judge::<F>(addr, true, Reason::NoService) } else { end }
}

/// The address by which the node is known as a client: that of its packets where no device says otherwise.
#[inline(always)]
fn node_address<F: Ip>() -> F::Addr {
    any_source::<F>().map_or_else(|_| bytemuck::Zeroable::zeroed(), |source| source.addr)
}

/// Remembers which backend a socket has: where it goes on sending to it, and for whoever asks what was dialled.
#[inline(always)]
fn record<F: Ip>(caller: &Caller, there: &SocketKey<F>, backend: &Backend<F>, dialled: Peer<F>, call: Call) {
    let mut entry = SocketPeer::<F> {
        addr: backend.addr,
        port: backend.port,
        connected: u16::from(call == Call::Connect),
        backend: backend.reference,
        service: backend.owner,
        last_used: now(),
        reserved: 0,
        pad_word: bytemuck::Zeroable::zeroed(),
    };
    if call == Call::Send {
        insert::<F>(there, &entry);
    }
    (entry.addr, entry.port) = dialled;
    insert::<F>(&SocketKey::new(caller.cookie, (backend.addr, backend.port), caller.protocol, Toward::Process), &entry);
    count(Reason::SocketDialled);
    count_flow(backend.owner);
}

/// One that finds no room is not remembered: the call goes where it goes all the same.
#[inline(always)]
fn insert<F: Ip>(key: &SocketKey<F>, entry: &SocketPeer<F>) {
    _ = F::sockets().insert(key, entry, 0);
}

/// What the end of a packet is to a call of a process of the node.
#[inline(always)]
fn answer<F: Ip>(end: End) -> Answer<F> {
    if end.news().is_some() {
        count(Reason::SocketRefused);
        return Answer::Refuse;
    }
    if end.is_drop() {
        count(Reason::SocketDenied);
        return Answer::Deny;
    }
    Answer::Leave
}
