//! Names of API objects and of service ports. Cloning one copies no text.

use std::{fmt, sync::Arc};

use proxy_common::Protocol;

/// Namespace and name of an API object, written `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Empty for objects that live in no namespace, as Nodes do.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

/// The name of one port of a Service: what endpoints are selected for, and what the data path calls a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub name: Arc<str>,
    /// The port's name; empty when the Service has one unnamed port.
    pub port: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

// === impl ObjectName ===

impl ObjectName {
    /// The name of an object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The name of this Service's port.
    pub fn port(&self, port: &Arc<str>, protocol: Protocol) -> ServicePortName {
        ServicePortName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name), port: Arc::clone(port), protocol }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

// === impl ServicePortName ===

impl ServicePortName {
    /// The name of a service port.
    pub fn new(namespace: &str, name: &str, port: &str, protocol: Protocol) -> Self {
        ObjectName::new(namespace, name).port(&port.into(), protocol)
    }

    /// The name of the Service that has this port.
    pub fn service(&self) -> ObjectName {
        ObjectName { namespace: Arc::clone(&self.namespace), name: Arc::clone(&self.name) }
    }
}

/// `namespace/name:port/TCP`, without `:port` when the port has no name.
impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        write!(f, "/{}", self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_port_is_left_out() {
        let text = |port| ServicePortName::new("default", "web", port, Protocol::Udp).to_string();
        assert_eq!(text("dns"), "default/web:dns/UDP");
        assert_eq!(text(""), "default/web/UDP");
        assert_eq!(ObjectName::new("", "node-1").to_string(), "node-1");
    }
}
