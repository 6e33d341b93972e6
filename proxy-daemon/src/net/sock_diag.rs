//! Closes sockets of this network namespace in their owners' place (`SOCK_DESTROY`, since 4.5 where the kernel has it).

use std::{collections::BTreeSet, io, net::SocketAddr};

use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
    },
    sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG},
};

/// Closes the UDP sockets with these cookies that are connected to these peers, as far as they are in the network namespace of the calling thread:
/// whoever waits for something there hears that the connection was aborted. Takes out those that it closes; what fails for one does not keep the
/// others.
pub fn close_udp(sockets: &mut BTreeSet<(u64, SocketAddr)>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut result = Ok(());
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        for id in connected(&socket, family, any)? {
            let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
            let it = (u64::from_ne_bytes(id.cookie), peer);
            // It may have been connected to something else since.
            if !sockets.contains(&it) {
                continue;
            }
            match close(&socket, family, id) {
                Ok(true) => _ = sockets.remove(&it),
                Ok(false) => {}
                Err(error) => result = Err(error),
            }
        }
    }
    result
}

/// Whether the kernel closes sockets for others (`CONFIG_INET_DIAG_DESTROY`): asked with one that is not there.
pub fn closes_udp() -> io::Result<bool> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    match close(&socket, AF_INET, SocketId { cookie: [0; 8], ..SocketId::new_v4() }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    let (extensions, states) = (ExtensionFlags::empty(), StateFlags::ESTABLISHED);
    SockDiagMessage::InetRequest(InetRequest { family, protocol: IPPROTO_UDP, extensions, states, socket_id })
}

/// The connected UDP sockets of a family.
fn connected(socket: &Socket, family: u8, any: SocketId) -> io::Result<Vec<SocketId>> {
    send(socket, NLM_F_DUMP, request(family, any).into())?;
    let mut ids = Vec::new();
    receive(socket, |payload| {
        if let NetlinkPayload::Error(error) = payload {
            return Err(error.to_io());
        }
        let more = !matches!(payload, NetlinkPayload::Done(_));
        if let NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) = payload {
            ids.push(response.header.socket_id);
        }
        Ok(more)
    })?;
    Ok(ids)
}

/// Closes a socket. One that has gone meanwhile is as good as closed.
fn close(socket: &Socket, family: u8, id: SocketId) -> io::Result<bool> {
    send(socket, NLM_F_ACK, SockDiagDestroy::new(request(family, id)).into())?;
    let mut error = None;
    receive(socket, |payload: NetlinkPayload<SockDiagMessage>| {
        if let NetlinkPayload::Error(answer) = payload {
            error = answer.code.map(|_| answer.to_io());
        }
        Ok(false)
    })?;
    match error {
        None => Ok(true),
        Some(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Some(error) => Err(error),
    }
}

fn send<T: NetlinkSerializable>(socket: &Socket, flags: u16, payload: NetlinkPayload<T>) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads messages as long as `more` says that there are more.
fn receive<T: NetlinkDeserializable>(socket: &Socket, mut more: impl FnMut(NetlinkPayload<T>) -> io::Result<bool>) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
            if !more(message.payload)? {
                return Ok(());
            }
            // Messages begin at multiples of four bytes.
            rest = rest.get(length.next_multiple_of(4).max(4)..).unwrap_or_default();
        }
    }
}
