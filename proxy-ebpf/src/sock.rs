//! Sockets: what a process dials is exchanged for a backend before any packet is made, and what it has dialled is shown to it again.
//!
//! In: who calls, and the address that it says or hears. Out: the address to put there. The same tables decide as for packets, and what is found
//! there is not met by packets any more. The node's own processes have nobody else who would translate for them, and are answered whatever it is. To
//! a pod a backend is given where that is all there is to do; the rest is left to its packets: refusals and what is dropped, source ranges and
//! affinity, which go by an address that a socket does not have yet, and namespaces with rules of their own.
//!
//! They run in the process that calls, and packets interrupt them: no scratch room of a CPU's is theirs.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::generated::bpf_get_prandom_u32,
};
use proxy_common::{
    Backend, By, FrontendKey, FrontendRef, Port, Protocol, RowFlags, ServiceId, SocketKey, SocketPeer, Sockets,
    filter::{About, Place},
    reason::Reason,
};

use crate::{
    counters::{count, count_flow},
    filter::{is_marked, mark},
    flow::lives,
    frontend::{self, Row, Scope},
    ip::Ip,
    namespace,
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
    /// The cookie of its network namespace.
    pub namespace: u64,
    /// Whether that is the node's own: a process of the node, or of a hostNetwork pod.
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
    if !caller.is_served() {
        // A pod's datagrams, where those are left to packets.
        if call == Call::Connect && settings::sockets().serves_pods() && find::<F>(dialled, caller.protocol).is_some() {
            caller.meet();
        }
        return Answer::Leave;
    }
    let answer = answer_to::<F>(caller, dialled, call);
    if call == Call::Connect && matches!(answer, Answer::Leave) {
        // It may have been connected to a backend before. A call that fails changes nothing.
        release::<F>(caller.cookie, caller.protocol);
    }
    answer
}

#[inline(always)]
fn answer_to<F: Ip>(caller: &Caller, dialled: Peer<F>, call: Call) -> Answer<F> {
    let mut asked = dialled;
    if F::is_loopback(dialled.0) {
        if !caller.is_host {
            return Answer::Leave;
        }
        // Node ports at loopback are frontends at one address of it.
        asked.0 = F::LOOPBACK;
    }
    let Some(frontend) = find::<F>(asked, caller.protocol) else {
        return if caller.is_host { answer(no_frontend::<F>(asked.0)) } else { Answer::Leave };
    };
    if !caller.meet() {
        return Answer::Leave;
    }
    if call == Call::Send
        && let Some(backend) = known::<F>(caller, dialled, frontend.service)
    {
        return Answer::Go(backend);
    }
    match choose::<F>(caller, frontend) {
        Ok(backend) => {
            record(caller, &backend, dialled, call);
            Answer::Go((backend.addr, backend.port))
        }
        Err(end) if caller.is_host => answer(end),
        Err(_) => Answer::Leave,
    }
}

impl Caller {
    /// Whether it is one of those that the operator wants to be answered.
    #[inline(always)]
    fn is_served(&self) -> bool {
        let served = settings::sockets();
        if self.is_host { served.has(Sockets::HOST) } else { served.serve_pods(self.protocol) }
    }

    /// Whether it is known for one of the node's or of a pod's, who dials a frontend. If not, the packets of this call may tell. Nearly every pod asks
    /// for a name first, by a datagram that is left to them: its first connection finds it known.
    #[inline(always)]
    fn meet(&self) -> bool {
        let is_known = self.is_host || namespace::is_pods(self.namespace);
        if !is_known {
            namespace::note(self.cookie, self.namespace);
        }
        is_known
    }
}

/// Whether any socket may have been given this peer for a backend. Asked before anything else is found out about a socket: most have never called.
#[inline(always)]
pub fn may_be_given<F: Ip>(peer: Peer<F>) -> bool {
    is_marked(Place::of(About::Given, peer.0, peer.1))
}

/// What a process is shown where the kernel says that it hears from, or speaks to, `peer`.
#[inline(always)]
pub fn shown<F: Ip>(caller: &Caller, peer: Peer<F>) -> Option<Peer<F>> {
    let first = F::sockets().get_ptr(&SocketKey::first(caller.cookie, caller.protocol));
    if let Some(first) = first
        && backend(first) == peer
    {
        return Some(what_was_dialled(first));
    }
    // Only datagrams go to more than one.
    if caller.protocol != Protocol::Udp {
        return None;
    }
    F::sockets().get_ptr(&SocketKey::new(caller.cookie, peer, caller.protocol, By::Backend)).map(what_was_dialled)
}

/// Reads a field of an entry, once.
macro_rules! field {
    ($entry:ident.$field:ident) => {{
        // SAFETY: an entry stays readable while the program runs.
        let place = unsafe { &raw const (*$entry).$field };
        // SAFETY: an aligned field. Other CPUs may write it, hence volatile.
        unsafe { core::ptr::read_volatile(place) }
    }};
}

#[inline(always)]
fn what_was_dialled<F: Ip>(entry: *const SocketPeer<F>) -> Peer<F> {
    (field!(entry.dialled), field!(entry.dialled_port))
}

#[inline(always)]
fn backend<F: Ip>(entry: *const SocketPeer<F>) -> Peer<F> {
    (field!(entry.addr), field!(entry.port))
}

#[inline(always)]
fn is_connected<F: Ip>(entry: *const SocketPeer<F>) -> bool {
    field!(entry.connected) != 0
}

/// Where the last datagram to what is dialled went, if that is still the same service's and the backend lives.
#[inline(always)]
fn known<F: Ip>(caller: &Caller, dialled: Peer<F>, service: ServiceId) -> Option<Peer<F>> {
    if let Some(first) = F::sockets().get_ptr_mut(&SocketKey::first(caller.cookie, caller.protocol)) {
        // A connected socket of IPv6 that speaks IPv4: the kernel asks with each datagram, and says the backend.
        if is_connected(first) && backend(first) == dialled {
            return Some(dialled);
        }
        // Connected or not: of a socket of IPv6 that is not any more, the kernel still takes nobody else's datagrams.
        if what_was_dialled(first) == dialled && is_of_use(first, service) {
            return Some(backend(first));
        }
    }
    let further = F::sockets().get_ptr_mut(&SocketKey::new(caller.cookie, dialled, caller.protocol, By::Dialled))?;
    if !is_of_use(further, service) {
        return None;
    }
    let back = SocketKey::new(caller.cookie, backend(further), caller.protocol, By::Backend);
    match F::sockets().get_ptr_mut(&back) {
        Some(answers) => touch(answers),
        // Evicted.
        None => _ = insert::<F>(&back, further, BPF_ANY),
    }
    Some(backend(further))
}

/// Whether an entry is of a socket that sends datagrams to whom it likes, and sends by it to what is dialled.
#[inline(always)]
fn sends_to<F: Ip>(entry: *const SocketPeer<F>, dialled: Peer<F>) -> bool {
    !is_connected(entry) && what_was_dialled(entry) == dialled
}

/// Whether an entry still says a backend of the service. It is in use then.
#[inline(always)]
fn is_of_use<F: Ip>(entry: *mut SocketPeer<F>, service: ServiceId) -> bool {
    if field!(entry.service) != service || !lives(field!(entry.backend)) {
        count(Reason::BackendGone);
        return false;
    }
    touch(entry);
    true
}

/// Notes that an entry is in use, once in a second.
#[inline(always)]
fn touch<F: Ip>(entry: *mut SocketPeer<F>) {
    let now = now();
    if now.wrapping_sub(field!(entry.last_used)) >= settings::hz() {
        // SAFETY: a field of an entry, which stays readable while the program runs.
        let place = unsafe { &raw mut (*entry).last_used };
        // SAFETY: an aligned word; the last writer wins.
        unsafe { core::ptr::write_volatile(place, now) };
    }
}

/// Forgets the first peer of a socket. Where it has sent datagrams besides is forgotten by the daemon, after a while.
#[inline(always)]
pub fn release<F: Ip>(cookie: u64, protocol: Protocol) {
    let first = SocketKey::first(cookie, protocol);
    // Asked before, for it is cheaper and most sockets have none.
    if F::sockets().get_ptr(&first).is_some() {
        _ = F::sockets().remove(&first);
    }
}

/// Chooses a backend as for a packet of a client inside the cluster. By chance: which ports the packets will have is not known yet.
#[inline(always)]
fn choose<F: Ip>(caller: &Caller, frontend: FrontendRef) -> Step<Backend<F>> {
    let row = frontend::read(frontend.row, Scope::Internal).ok_or(End::pass(Reason::NoService))?;
    let mut client = bytemuck::Zeroable::zeroed();
    if caller.is_host {
        client = node_address::<F>();
        if row.flags.has(RowFlags::SOURCE_RANGES) && !frontend::may_use::<F>(client, frontend.service) {
            return Err(End::drop(Reason::SourceRange));
        }
    } else if is_for_packets(&row) || namespace::has_rules::<F>() {
        return Err(End::pass(Reason::NoService));
    }
    // SAFETY: a helper without arguments.
    let hash = unsafe { bpf_get_prandom_u32() };
    let backend = frontend::pick(frontend, &row, client, hash)?;
    // What is a Service, too, its packets would dial, and nothing is to be translated twice.
    if !caller.is_host && find::<F>((backend.addr, backend.port), caller.protocol).is_some() {
        return Err(End::pass(Reason::NoService));
    }
    Ok(backend)
}

/// Whether more is to be done for a pod than to give it a backend.
#[inline(always)]
fn is_for_packets(row: &Row) -> bool {
    row.affinity_secs != 0 || row.flags.has(RowFlags::SOURCE_RANGES) || row.flags.has(RowFlags::MASQUERADE_INTERNAL)
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
fn record<F: Ip>(caller: &Caller, chosen: &Backend<F>, dialled: Peer<F>, call: Call) {
    let entry = SocketPeer::<F> {
        dialled: dialled.0,
        addr: chosen.addr,
        dialled_port: dialled.1,
        port: chosen.port,
        backend: chosen.reference,
        service: chosen.owner,
        last_used: now(),
        connected: u32::from(call == Call::Connect),
        reserved: 0,
    };
    mark(entry.place());
    // One that finds no room is not remembered: the call goes where it goes all the same.
    let first = SocketKey::first(caller.cookie, caller.protocol);
    let key = |peer, by| SocketKey::<F>::new(caller.cookie, peer, caller.protocol, by);
    if call == Call::Connect {
        insert(&first, &raw const entry, BPF_ANY);
    } else if let Some(held) = F::sockets().get_ptr(&first)
        && sends_to(held, dialled)
    {
        // What the one before may still answer is shown as until now.
        insert(&key(backend(held), By::Backend), held, BPF_ANY);
        insert(&first, &raw const entry, BPF_ANY);
    } else if !insert(&first, &raw const entry, BPF_NOEXIST) {
        insert(&key(dialled, By::Dialled), &raw const entry, BPF_ANY);
        insert(&key((entry.addr, entry.port), By::Backend), &raw const entry, BPF_ANY);
    }
    count(Reason::SocketDialled);
    count_flow(chosen.owner);
}

#[inline(always)]
fn insert<F: Ip>(key: &SocketKey<F>, entry: *const SocketPeer<F>, flags: u32) -> bool {
    // SAFETY: an entry of the map or on the stack, either of which the kernel reads as a whole.
    let entry = unsafe { &*entry };
    F::sockets().insert(key, entry, u64::from(flags)).is_ok()
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
