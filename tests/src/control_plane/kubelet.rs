//! What users and kubelets tell the API server of the testbed's Services and pods.
//!
//! A pod has a label for each Service it serves, and the Service selects that label.

use serde_json::{Map, Value, json};

use crate::{host::Host as _, objects::Service, pod::Pod};

/// The Service object with a selector in place of endpoints.
pub(super) fn selecting(service: &Service) -> Value {
    let mut object = service.object();
    object["spec"]["selector"] = labels(&[service.name()]);
    object["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
    object
}

/// The Pod object. What runs in it is the testbed's business.
pub(super) fn pod(pod: &Pod, serves: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default", "labels": labels(serves)},
        "spec": {"nodeName": pod.node().name(), "containers": [{"name": "server", "image": "server"}]},
    })
}

fn labels(services: &[&str]) -> Value {
    services.iter().map(|service| (format!("serves-{service}"), json!("yes"))).collect::<Map<_, _>>().into()
}

/// Its status: running at its addresses, ready or not.
pub(super) fn pod_status(pod: &Pod, is_ready: bool) -> Value {
    let [v4, v6] = pod.addrs().both();
    let ready = if is_ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod.name(), "namespace": "default"},
        "status": {
            "phase": "Running",
            "podIP": v4,
            "podIPs": [{"ip": v4}, {"ip": v6}],
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}
