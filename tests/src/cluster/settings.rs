//! What the programs of a node are told: containerd, the CNI plugins, the kubelet.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Plugin,
    programs::{PAUSE, Programs},
};

/// Where the cluster's DNS server is reached.
pub(super) const DNS: &str = "10.96.0.10";

/// Limits that only a machine of its own may set are left alone.
pub(super) fn containerd(programs: &Programs) -> String {
    let folder = programs.folder().display();
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dir = "{folder}/cni"
conf_dir = "/etc/cni/net.d"
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "{folder}/runc"
SystemdCgroup = false
"#
    )
}

/// The pods' network: addresses from the node's own networks, and nothing masqueraded.
pub(super) fn network(plugin: Plugin, pod_cidrs: &[String; 2]) -> Value {
    let ranges: Vec<Value> = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
    let ipam = json!({
        "type": "host-local",
        "dataDir": "/run/cni-ipam",
        "ranges": ranges,
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    });
    let mut first = match plugin {
        Plugin::Bridge => json!({"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true}),
        Plugin::Ptp => json!({"type": "ptp", "mtu": 1500}),
    };
    first["ipMasq"] = json!(false);
    first["ipam"] = ipam;
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [first, {"type": "portmap", "capabilities": {"portMappings": true}}],
    })
}

/// `authority`: who has signed for the API server.
pub(super) fn kubelet(authority: &Path, resolv_conf: &Path) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        // Machines with the first version of cgroups are taken as they are.
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": ["pods"],
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "resolvConf": resolv_conf,
        // The disk is the machine's, and how full it is no affair of the cluster's.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "maxPods": 200,
        "volumePluginDir": "/var/lib/kubelet/plugins/volume",
    })
}
