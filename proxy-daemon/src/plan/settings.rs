//! What the operator says of how Services are served.

use ipnet::IpNet;

use super::{FrontendKind, NodePortAddresses};
use crate::model::IpFamily;

/// What is the same for all Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The node stands in for clients wherever kube-proxy does, and not only where answers would not come back through it otherwise.
    pub masquerade_as_kube_proxy: bool,
    /// The node stands in for everybody who dials a ClusterIP.
    pub masquerade_all: bool,
    /// The networks of all nodes' pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Packets to an address that Services have theirs from, and none has, are dropped.
    pub drop_unallocated: bool,
    /// Where node ports are served.
    pub node_ports: NodePortAddresses,
}

/// For which clients the node stands in wherever the backend is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// Those inside the cluster.
    pub internal: bool,
    /// Those outside.
    pub external: bool,
}

impl Settings {
    /// Who is masqueraded at a frontend, in kube-proxy's words: everybody who dials a ClusterIP with `masqueradeAll`; who is no pod and dials a
    /// ClusterIP, if it is known which addresses are pods'; everybody who dials another address under the policy `Cluster`; nobody else.
    pub(super) fn masquerade(&self, kind: FrontendKind, family: IpFamily, is_local_for_outside: bool) -> Masquerade {
        let knows_pods = self.cluster_cidrs.iter().any(|cidr| IpFamily::of(cidr.network()) == family);
        let (internal, external) = match kind {
            FrontendKind::ClusterIp if self.masquerade_all => (true, true),
            FrontendKind::ClusterIp => (false, self.masquerade_as_kube_proxy && knows_pods),
            FrontendKind::NodePort | FrontendKind::ExternalIp | FrontendKind::LoadBalancerIp => {
                let everybody = self.masquerade_as_kube_proxy && !is_local_for_outside;
                (everybody, everybody)
            }
        };
        Masquerade { internal, external }
    }
}

#[cfg(test)]
mod tests {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancerIp, NodePort};

    use super::*;

    const NOBODY: [bool; 2] = [false; 2];
    const OUTSIDE: [bool; 2] = [false, true];
    const EVERYBODY: [bool; 2] = [true; 2];

    /// kube-proxy's own table (`TestInternalExternalMasquerade`), as far as it is about where a packet comes in: inside and outside.
    #[test]
    fn who_is_masqueraded_is_what_kube_proxy_says() {
        for (settings, kind, is_local, expected) in [
            ("", ClusterIp, false, NOBODY),
            ("", NodePort, false, NOBODY),
            ("kube-proxy", ClusterIp, false, NOBODY),
            ("kube-proxy pods", ClusterIp, false, OUTSIDE),
            ("kube-proxy pods", ClusterIp, true, OUTSIDE),
            ("kube-proxy", NodePort, false, EVERYBODY),
            ("kube-proxy", ExternalIp, false, EVERYBODY),
            ("kube-proxy pods", LoadBalancerIp, false, EVERYBODY),
            ("kube-proxy pods", NodePort, true, NOBODY),
            ("kube-proxy pods", LoadBalancerIp, true, NOBODY),
            ("all", ClusterIp, false, EVERYBODY),
            ("all", ClusterIp, true, EVERYBODY),
            ("all", NodePort, false, NOBODY),
            ("all kube-proxy pods", ClusterIp, false, EVERYBODY),
            ("all kube-proxy pods", LoadBalancerIp, false, EVERYBODY),
            ("all kube-proxy pods", LoadBalancerIp, true, NOBODY),
        ] {
            let has = |word| settings.split(' ').any(|other| other == word);
            let found = Settings {
                masquerade_as_kube_proxy: has("kube-proxy"),
                masquerade_all: has("all"),
                cluster_cidrs: if has("pods") { vec!["10.244.0.0/16".parse().unwrap()] } else { vec![] },
                ..Settings::default()
            }
            .masquerade(kind, IpFamily::V4, is_local);
            assert_eq!([found.internal, found.external], expected, "{settings:?} {kind} {is_local}");
        }
    }

    #[test]
    fn pods_are_known_in_each_family_by_itself() {
        let cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let settings = Settings { masquerade_as_kube_proxy: true, cluster_cidrs, ..Settings::default() };
        assert_eq!(settings.masquerade(ClusterIp, IpFamily::V6, false), Masquerade::default());
    }
}
