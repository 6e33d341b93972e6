//! Which service ports have endpoints, but for some clients none that they may have from this node. How many is asked after every round, so it is known.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{IpFamily, ServicePortName},
    plan::Clients,
};

/// For which clients.
type Lacks = BTreeSet<(IpFamily, Clients)>;

#[derive(Debug, Default)]
pub(super) struct Lacking {
    ports: BTreeMap<ServicePortName, Lacks>,
    counts: BTreeMap<(IpFamily, Clients), usize>,
}

impl Lacking {
    /// What one lacks now.
    pub(super) fn set(&mut self, name: &ServicePortName, lacks: Lacks) {
        for clients in &lacks {
            *self.counts.entry(*clients).or_default() += 1;
        }
        let before = if lacks.is_empty() { self.ports.remove(name) } else { self.ports.insert(name.clone(), lacks) };
        for clients in before.into_iter().flatten() {
            *self.counts.entry(clients).or_default() -= 1;
        }
    }

    /// How many lack endpoints for these clients.
    pub(super) fn count(&self, family: IpFamily, clients: Clients) -> usize {
        self.counts.get(&(family, clients)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::Protocol;

    use super::*;

    #[test]
    fn each_is_counted_once_for_as_long_as_it_lacks() {
        let [web, dns] = ["web", "dns"].map(|name| ServicePortName::new("default", name, "", Protocol::Tcp));
        let (inside, outside) = ((IpFamily::V4, Clients::Inside), (IpFamily::V4, Clients::Outside));
        let mut lacking = Lacking::default();
        let mut after = |name, lacks: &[_]| {
            lacking.set(name, lacks.iter().copied().collect());
            [inside, outside].map(|(family, clients)| lacking.count(family, clients))
        };
        assert_eq!(after(&web, &[outside]), [0, 1]);
        assert_eq!(after(&web, &[outside]), [0, 1]);
        assert_eq!(after(&dns, &[inside, outside]), [1, 2]);
        assert_eq!(after(&web, &[inside]), [2, 1]);
        assert_eq!(after(&dns, &[]), [1, 0]);
        assert_eq!(after(&web, &[]), [0, 0]);
    }
}
