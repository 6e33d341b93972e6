//! A pod: a namespace with one `eth0`, connected to its node in the node's CNI style.

use anyhow::Result;

use crate::{
    addr::{self, Addrs},
    host::Host,
    netns::Netns,
    node::Node,
};

/// A running pod; dropping it deletes its devices and its namespace, as a CNI plugin does when a pod ends.
#[derive(Debug)]
pub struct Pod {
    name: String,
    addrs: Addrs,
    host_device: String,
    node: Node,
    netns: Netns,
}

impl Pod {
    pub(crate) fn create(node: &Node, name: &str, host: u8) -> Result<Self> {
        let part = format!("{}-{name}", node.name());
        let netns = Netns::create_in(&node.bed().part(&part), node.cgroup())?;
        let pod = Self {
            name: name.to_owned(),
            addrs: addr::pod(node.index(), host),
            host_device: format!("{}{host}", node.plan().cni.device_prefix()),
            node: node.clone(),
            netns,
        };
        node.plan().cni.attach_pod(&pod)?;
        node.adjust(&pod.host_device)?;
        Ok(pod)
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The device in the node's namespace that leads to the pod.
    pub fn host_device(&self) -> &str {
        &self.host_device
    }
}

impl Host for Pod {
    fn name(&self) -> &str {
        &self.name
    }

    fn netns(&self) -> &Netns {
        &self.netns
    }

    fn addrs(&self) -> Addrs {
        self.addrs
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The device is gone already when the pod never got that far.
        drop(self.node.netns().ip(&format!("link del {}\n", self.host_device)));
    }
}
