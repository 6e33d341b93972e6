//! The network the nodes stand on: a switch, the router that is everyone's way out, and the client behind it.

use anyhow::Result;

use crate::{
    addr::{self, Addrs, Family},
    name::BedName,
    netns::Netns,
};

/// Switch and router.
#[derive(Debug)]
pub(crate) struct Underlay {
    router: Netns,
    switch: Netns,
}

impl Underlay {
    /// Makes the segment with the router on it.
    pub(crate) fn create(name: &BedName) -> Result<Self> {
        let switch = Netns::create(&name.part("switch"))?;
        switch.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up\n")?;
        let router = Netns::create(&name.part("router"))?;
        router.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let underlay = Self { router, switch };
        underlay.attach("router", &underlay.router, addr::router())?;
        Ok(underlay)
    }

    pub(crate) fn router(&self) -> &Netns {
        &self.router
    }

    /// Gives a namespace an `eth0` on the segment. `port` names the switch's end.
    pub(crate) fn attach(&self, port: &str, netns: &Netns, addrs: Addrs) -> Result<()> {
        let peer = netns.name();
        self.switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {peer}\n\
             link set {port} master br0 up\n"
        ))?;
        let Addrs { v4, v6 } = addrs;
        netns.ip(&format!(
            "link set eth0 up\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n"
        ))
    }

    /// Puts the client behind the router, on a network of its own.
    pub(crate) fn attach_client(&self, client: &Netns) -> Result<()> {
        let peer = client.name();
        let Addrs { v4: gateway4, v6: gateway6 } = addr::client_gateway();
        self.router.ip(&format!(
            "link add eth1 type veth peer name eth0 netns {peer}\n\
             link set eth1 up\n\
             addr add {gateway4}/24 dev eth1\n\
             addr add {gateway6}/64 dev eth1 nodad\n"
        ))?;
        let Addrs { v4, v6 } = addr::client();
        client.ip(&format!(
            "link set eth0 up\n\
             addr add {v4}/24 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             route add default via {gateway4}\n\
             route add default via {gateway6}\n"
        ))
    }

    /// Makes the router's way to the client narrower than both of their devices. The client goes on telling others what its device takes, but
    /// sends no more than the link does: the router's end would drop that, and tell nobody.
    pub(crate) fn narrow_clients_link(&self, client: &Netns, mtu: u16) -> Result<()> {
        self.router.ip(&format!("link set eth1 mtu {mtu}\n"))?;
        let Addrs { v4, v6 } = addr::client_gateway();
        client.ip(&format!(
            "route replace default via {v4} mtu {mtu} advmss 1460\n\
             route replace default via {v6} mtu {mtu} advmss 1440\n"
        ))
    }

    /// Lets the router send a network's traffic to a node.
    pub(crate) fn route(&self, network: &str, node: Addrs) -> Result<()> {
        let family = if network.contains(':') { Family::V6 } else { Family::V4 };
        self.router.ip(&format!("route replace {network} via {}\n", node.of(family)))
    }
}
