//! The manifests of deploy, as kustomize and Helm make them. That an API server takes them is seen in `e2e`.

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, process::Command};

    use serde::Deserialize as _;
    use serde_json::Value;
    use shunt_tests::{control_plane, gate};

    const HELM: &[gate::Need] = &[gate::Need::Tool("helm"), gate::Need::ControlPlane];
    const CHART: &str = "deploy/helm/shunt";

    fn project(path: &str) -> String {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).display().to_string()
    }

    fn run(command: &mut Command) -> Result<String, String> {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    fn objects(yaml: &str) -> BTreeMap<String, Value> {
        let documents = serde_yaml_ng::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).unwrap());
        let named = documents.filter(|object| !object.is_null());
        named.map(|object| (format!("{} {}", object["kind"], object["metadata"]["name"]), object)).collect()
    }

    fn kustomize(folder: &str) -> BTreeMap<String, Value> {
        let kubectl = control_plane::find_kubectl().unwrap();
        objects(&run(Command::new(kubectl).arg("kustomize").arg(project(folder))).unwrap())
    }

    fn helm(values: &[&str]) -> Result<BTreeMap<String, Value>, String> {
        let mut helm = Command::new("helm");
        helm.args(["template", "shunt", &project(CHART), "--namespace", "kube-system", "--kube-version", "1.36.0"]);
        run(helm.args(values.iter().flat_map(|value| ["--set", value]))).map(|yaml| objects(&yaml))
    }

    fn container<'a>(objects: &'a BTreeMap<String, Value>, list: &str) -> &'a Value {
        &objects["\"DaemonSet\" \"shunt\""]["spec"]["template"]["spec"][list][0]
    }

    #[test]
    fn kustomize_and_helm_make_the_same_objects() {
        if gate::skip(HELM) {
            return;
        }
        let (kustomized, helmed) = (kustomize("deploy/kustomize/base"), helm(&[]).unwrap());
        assert_eq!(kustomized.keys().collect::<Vec<_>>(), helmed.keys().collect::<Vec<_>>());
        for (name, object) in &kustomized {
            assert_eq!(*object, helmed[name], "{name}");
        }
        let of_kind = kustomize("deploy/kustomize/kind");
        assert!(kustomized.iter().all(|(name, object)| of_kind[name] == *object), "{of_kind:#?}");
        assert_eq!(of_kind["\"ConfigMap\" \"shunt\""]["data"]["api-servers"], "https://kind-control-plane:6443");
    }

    #[test]
    fn the_chart_is_clean_and_its_values_mean_something() {
        if gate::skip(HELM) {
            return;
        }
        run(Command::new("helm").args(["lint", "--strict", &project(CHART)])).unwrap();
        let made = helm(&[
            "apiServers={https://192.0.2.1:6443,192.0.2.2}",
            "clusterCIDRs={10.244.0.0/16,fd00::/48}",
            "extraArgs={--socket-lb=all}",
            "prepareArgs={--conntrack-min=1}",
            "image.repository=registry.example/shunt",
            "image.tag=v1",
        ]);
        let made = made.unwrap();
        assert_eq!(made["\"ConfigMap\" \"shunt\""]["data"]["api-servers"], "https://192.0.2.1:6443,192.0.2.2");
        let (prepare, shunt) = (container(&made, "initContainers"), container(&made, "containers"));
        assert_eq!(shunt["args"].as_array().unwrap()[2..], ["--cluster-cidr=10.244.0.0/16,fd00::/48", "--socket-lb=all"]);
        assert_eq!(prepare["args"].as_array().unwrap()[..], ["prepare", "--conntrack-min=1"]);
        assert!([prepare, shunt].iter().all(|container| container["image"] == "registry.example/shunt:v1"));
        for wrong in ["apiServers={}x", "apiserver=https://a", "clusterCIDRs={10.0.0.0}", "extraArgs={socket-lb}", "image.pullPolicy=Maybe"]
        {
            assert!(helm(&[wrong]).is_err(), "{wrong}");
        }
    }
}
