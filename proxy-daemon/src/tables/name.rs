//! The names of service ports as the maps keep them, `namespace/name:port`, and back.

use proxy_common::{Protocol, ServiceRow};

use super::Error;
use crate::model::ServicePortName;

/// The row that names a service port: `namespace/name` or `namespace/name:port`.
pub(super) fn name_row(name: &ServicePortName) -> Result<Box<ServiceRow>, Error> {
    let ServicePortName { namespace, name: service, port, protocol } = name;
    let text = if port.is_empty() { format!("{namespace}/{service}") } else { format!("{namespace}/{service}:{port}") };
    ServiceRow::new(&text, *protocol).map(Box::new).ok_or_else(|| Error::Name { name: name.clone() })
}

/// The service port that a row names.
pub fn name_of(row: &ServiceRow) -> Option<ServicePortName> {
    let (namespace, rest) = row.name().split_once('/')?;
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    Some(ServicePortName::new(namespace, name, port, Protocol::from_wire(row.protocol)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_back_from_its_row() {
        for (text, name) in [
            ("kube-system/kube-dns:dns", ServicePortName::new("kube-system", "kube-dns", "dns", Protocol::Udp)),
            ("default/web", ServicePortName::new("default", "web", "", Protocol::Tcp)),
        ] {
            let row = name_row(&name).unwrap();
            assert_eq!((row.name(), name_of(&row)), (text, Some(name)));
        }
        assert_eq!(name_of(&ServiceRow::new("nonsense", Protocol::Tcp).unwrap()), None);
    }
}
