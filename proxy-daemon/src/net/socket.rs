//! The two netlink sockets: one that listens, one that asks.
//!
//! They are separate because a listening socket that overruns may lose an answer as well, and the question would wait for ever.
//! Must be used inside a runtime whose thread is in the namespace to follow.

use std::{collections::VecDeque, future::Future, time::Duration};

use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::{NetlinkHeader, NetlinkMessage},
    packet_route::{AddressFamily, RouteNetlinkMessage, route::RouteMessage},
    sys::{AsyncSocket as _, SocketAddr},
};
use tokio::task::AbortHandle;

use super::{
    Error,
    classify::Rules,
    message::{Change, Link},
    table::Table,
};

/// Room for the messages of a node that starts or loses all its pods at once.
pub(super) const RECEIVE_BUFFER: usize = 4 << 20;

const PATIENCE: Duration = Duration::from_secs(5);

const GROUPS: [MulticastGroup; 5] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];

/// Ends the task that serves a socket.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn spawn(connection: impl Future<Output = ()> + Send + 'static) -> Task {
    Task(tokio::spawn(connection).abort_handle())
}

/// Hears of everything that happens from its creation on.
pub(super) struct Listener {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    _task: Task,
}

impl Listener {
    pub(super) fn open(receive_buffer: usize) -> Result<Self, Error> {
        let (mut connection, _, messages) = new_multicast_connection(&GROUPS).map_err(Error::Socket)?;
        if let Err(error) = setsockopt(connection.socket_mut().socket_mut(), RcvBufForce, &receive_buffer) {
            tracing::debug!(%error, "netlink socket keeps its default receive buffer");
        }
        Ok(Self { messages, _task: spawn(connection) })
    }

    /// Waits for something to happen and gives it with all that is known to have happened by then. Cancelling it loses nothing.
    pub(super) async fn changes(&mut self) -> Result<VecDeque<Change>, Error> {
        let (first, _) = self.messages.next().await.ok_or(Error::Broken)?;
        let mut changes: VecDeque<Change> = Change::from_message(first).into_iter().collect();
        while let Some(Some((message, _))) = self.messages.next().now_or_never() {
            changes.extend(Change::from_message(message));
        }
        Ok(changes)
    }
}

/// Asks the kernel for what it has.
pub(super) struct Asker {
    handle: Handle,
    _task: Task,
}

impl Asker {
    pub(super) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = new_connection().map_err(Error::Socket)?;
        Ok(Self { handle, _task: spawn(connection) })
    }

    /// All links, addresses and those routes that `rules` are concerned by.
    pub(super) async fn list(&self, rules: &Rules) -> Result<Table, Error> {
        let mut table = Table::default();
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>();
        for link in patiently("RTM_GETLINK", links).await?.iter().filter_map(Link::from_message) {
            table.apply(Change::Link(link));
        }
        let addresses = self.handle.address().get().execute().try_collect::<Vec<_>>();
        let (v6, rest): (Vec<_>, Vec<_>) =
            patiently("RTM_GETADDR", addresses).await?.into_iter().partition(|address| address.header.family == AddressFamily::Inet6);
        // The kernel lists IPv6 addresses the newest first; the table takes them in the order in which they came.
        for address in rest.into_iter().chain(v6.into_iter().rev()) {
            table.apply_all(change(RouteNetlinkMessage::NewAddress(address)));
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let routes = self.handle.route().get(request).execute();
            let routes = routes.try_filter_map(async |route| {
                Ok(change(RouteNetlinkMessage::NewRoute(route)).filter(|change| rules.are_concerned_by(change)))
            });
            table.apply_all(patiently("RTM_GETROUTE", routes.try_collect::<Vec<_>>()).await?);
        }
        Ok(table)
    }

    /// One link as it is now; nothing if there is none with this index any more.
    pub(super) async fn link(&self, ifindex: u32) -> Result<Option<Link>, Error> {
        let link = self.handle.link().get().match_index(ifindex).execute().try_collect::<Vec<_>>();
        match patiently("RTM_GETLINK", link).await {
            Ok(links) => Ok(links.iter().find_map(Link::from_message)),
            Err(Error::Request { source: rtnetlink::Error::NetlinkError(error), .. }) if error.raw_code() == -libc::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn change(message: RouteNetlinkMessage) -> Option<Change> {
    Change::from_message(NetlinkMessage::new(NetlinkHeader::default(), message.into()))
}

async fn patiently<T>(request: &'static str, answer: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|source| Error::Request { request, source }),
        Err(_) => Err(Error::Timeout { request, after: PATIENCE }),
    }
}
