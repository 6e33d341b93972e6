//! Netlink messages, reduced to the few facts the rest of the module uses. Nothing else knows rtnetlink's types.
//!
//! In: a `RTM_*` message. Out: a [`Change`], or nothing where the message says nothing about devices, addresses or routes: a
//! bridge reports its ports in `RTM_NEWLINK` and `RTM_DELLINK` too, and these must not be taken for the life of a device.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what the kernel says and is not named here is of no interest, now or in a newer version"
)]

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::{
    packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia},
    },
};

/// What one message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Link(Link),
    LinkGone(u32),
    Address(Address),
    AddressGone(Address),
    Route {
        route: Route,
        /// Takes the place of what stood under the same key.
        replace: bool,
    },
    RouteGone(Route),
    /// The socket's buffer was full and messages are missing.
    Lost,
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) ethernet: bool,
    pub(super) mtu: u32,
    pub(super) mac: [u8; 6],
    pub(super) master: Option<u32>,
    pub(super) peer: Peer,
}

/// Kinds of devices, as far as they are told apart here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Hardware or a paravirtual NIC: the kernel names no kind.
    Physical,
    /// veth and netkit.
    Pair,
    Bridge,
    /// bond and team.
    Bond,
    /// vlan, macvlan and ipvlan: stand on another device and have addresses of their own.
    Stacked,
    Tunnel,
    Loopback,
    /// dummy, ifb and other devices that lead nowhere.
    Dead,
    Other,
}

/// Where the other end of a pair is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// Not a pair.
    None,
    /// Half-way through its creation, or its peer has just gone: the kernel has to be asked.
    Unknown,
    /// In this namespace, with this ifindex.
    Here(u32),
    Elsewhere,
}

/// An address of a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Address {
    pub(super) ifindex: u32,
    pub(super) ip: IpAddr,
    pub(super) prefix_len: u8,
    /// Valid beyond the link.
    pub(super) global: bool,
    /// Usable already: not tentative, not a duplicate.
    pub(super) ready: bool,
    /// The address to prefer as source among several of its device: not secondary, temporary or deprecated.
    pub(super) primary: bool,
}

/// A route to a network: what a table has under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) key: RouteKey,
    pub(super) next_hops: Vec<NextHop>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RouteKey {
    pub(super) table: u32,
    pub(super) destination: IpNet,
    pub(super) metric: u32,
    pub(super) tos: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NextHop {
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
}

/// The routing table of the node's own addresses.
const TABLE_LOCAL: u32 = 255;

impl Change {
    pub(super) fn from_message(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Self> {
        let replace = message.header.flags & NLM_F_REPLACE != 0;
        let inner = match message.payload {
            NetlinkPayload::InnerMessage(inner) => inner,
            NetlinkPayload::Overrun(_) => return Some(Self::Lost),
            _ => return None,
        };
        match inner {
            RouteNetlinkMessage::NewLink(link) => Link::from_message(&link).map(Self::Link),
            RouteNetlinkMessage::DelLink(link) => is_device(&link).then_some(Self::LinkGone(link.header.index)),
            RouteNetlinkMessage::NewAddress(address) => Address::from_message(&address).map(Self::Address),
            RouteNetlinkMessage::DelAddress(address) => Address::from_message(&address).map(Self::AddressGone),
            RouteNetlinkMessage::NewRoute(route) => Route::from_message(&route).map(|route| Self::Route { route, replace }),
            RouteNetlinkMessage::DelRoute(route) => Route::from_message(&route).map(Self::RouteGone),
            _ => None,
        }
    }
}

fn is_device(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

// === impl Link ===

impl Link {
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        if !is_device(message) {
            return None;
        }
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            kind: if message.header.flags.contains(LinkFlags::Loopback) { Kind::Loopback } else { Kind::Physical },
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            mtu: 0,
            mac: [0; 6],
            master: None,
            peer: Peer::None,
        };
        let (mut iflink, mut other_namespace) = (None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
                LinkAttribute::Controller(master) => link.master = Some(*master),
                LinkAttribute::Link(ifindex) => iflink = Some(*ifindex),
                LinkAttribute::LinkNetNsId(_) => other_namespace = true,
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos).unwrap_or(link.kind),
                _ => {}
            }
        }
        if link.kind == Kind::Pair {
            link.peer = match iflink {
                _ if other_namespace => Peer::Elsewhere,
                None | Some(0) => Peer::Unknown,
                Some(ifindex) => Peer::Here(ifindex),
            };
        }
        Some(link)
    }
}

fn kind(infos: &[LinkInfo]) -> Option<Kind> {
    infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(Kind::from(kind)) } else { None })
}

impl From<&InfoKind> for Kind {
    fn from(kind: &InfoKind) -> Self {
        match kind {
            InfoKind::Veth | InfoKind::Netkit => Self::Pair,
            InfoKind::Bridge => Self::Bridge,
            InfoKind::Bond | InfoKind::Team => Self::Bond,
            InfoKind::Vlan | InfoKind::MacVlan | InfoKind::IpVlan => Self::Stacked,
            InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::BareUdp
            | InfoKind::Wireguard
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::GreTap
            | InfoKind::GreTap6
            | InfoKind::Vti
            | InfoKind::Vti6
            | InfoKind::Xfrm
            | InfoKind::Tun => Self::Tunnel,
            InfoKind::Dummy | InfoKind::Ifb | InfoKind::Nlmon | InfoKind::Vcan | InfoKind::Vxcan => Self::Dead,
            _ => Self::Other,
        }
    }
}

// === impl Address ===

impl Address {
    fn from_message(message: &AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                // On point-to-point devices IFA_ADDRESS is the peer's address and IFA_LOCAL ours.
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.index,
            ip: local.or(address)?,
            prefix_len: message.header.prefix_len,
            global: matches!(message.header.scope, AddressScope::Universe | AddressScope::Site),
            ready: !flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed),
            // IFA_F_SECONDARY is IFA_F_TEMPORARY in IPv6.
            primary: !flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated),
        })
    }
}

// === impl Route ===

impl Route {
    /// Unicast routes of all tables but the local one: a node with several uplinks has default routes in tables of their own.
    fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.kind != RouteType::Unicast || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::from([0; 4]),
            AddressFamily::Inet6 => IpAddr::from([0; 16]),
            _ => return None,
        };
        let (mut table, mut metric, mut destination) = (u32::from(header.table), 0, any);
        let mut next_hops = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::MultiPath(hops) => {
                    next_hops.extend(hops.iter().map(|hop| next_hop(Some(hop.interface_index), &hop.attributes)));
                }
                _ => {}
            }
        }
        if next_hops.is_empty() {
            next_hops.push(next_hop(None, &message.attributes));
        }
        next_hops.retain(|hop| hop.ifindex != 0);
        let destination = IpNet::new(destination, header.destination_prefix_length).ok()?.trunc();
        let key = RouteKey { table, destination, metric, tos: header.tos };
        (table != TABLE_LOCAL).then_some(Self { key, next_hops })
    }
}

fn next_hop(ifindex: Option<u32>, attributes: &[RouteAttribute]) -> NextHop {
    let mut hop = NextHop { ifindex: ifindex.unwrap_or(0), gateway: None, source: None };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(oif) => hop.ifindex = *oif,
            RouteAttribute::Gateway(gateway) => hop.gateway = ip(gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => hop.gateway = Some((*gateway).into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => hop.gateway = Some((*gateway).into()),
            RouteAttribute::PrefSource(source) => hop.source = ip(source),
            _ => {}
        }
    }
    hop
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(attributes: impl IntoIterator<Item = LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)])];
        message.attributes.extend(attributes);
        message
    }

    #[test]
    fn the_peer_of_a_pair_is_told_from_link_and_namespace() {
        for (attributes, expected) in [
            (vec![], Peer::Unknown),
            (vec![LinkAttribute::Link(0)], Peer::Unknown),
            (vec![LinkAttribute::Link(8)], Peer::Here(8)),
            (vec![LinkAttribute::Link(8), LinkAttribute::LinkNetNsId(0)], Peer::Elsewhere),
        ] {
            let link = Link::from_message(&veth(attributes.clone())).expect("a device");
            assert_eq!(link.peer, expected, "{attributes:?}");
        }
    }

    #[test]
    fn a_bridge_that_lets_go_of_a_port_is_no_vanished_device() {
        let mut port = veth([]);
        port.header.interface_family = AddressFamily::Bridge;
        let message = NetlinkMessage::from(RouteNetlinkMessage::DelLink(port));
        assert_eq!(Change::from_message(message), None);
    }

    #[test]
    fn every_next_hop_of_a_multipath_route_counts() {
        use rtnetlink::packet_route::route::RouteNextHop;
        let hop = |ifindex, gateway: [u8; 4]| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = ifindex;
            hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(gateway.into()))];
            hop
        };
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.header.table = 254;
        message.attributes = vec![RouteAttribute::MultiPath(vec![hop(2, [192, 0, 2, 1]), hop(3, [198, 51, 100, 1])])];
        let route = Route::from_message(&message).expect("a unicast route");
        assert_eq!(route.key.destination, "0.0.0.0/0".parse().expect("a prefix"));
        assert_eq!(route.next_hops.iter().map(|hop| hop.ifindex).collect::<Vec<_>>(), [2, 3]);
    }
}
