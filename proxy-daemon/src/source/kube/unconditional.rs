//! Objects without the conditions in their status, which mean nothing here.
//!
//! Of all that is watched a condition of a Service or a `ServiceCIDR` has the only field that the client insists on where the server does not: the
//! time of its last transition. One object with a condition without it would keep the whole list from being read.

use std::borrow::Cow;

use kube::{Resource, core::ObjectMeta};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// An object that was read without its conditions.
#[derive(Clone, Debug)]
pub(super) struct Unconditional<K>(pub(super) K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for Unconditional<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
            status.remove("conditions");
        }
        serde_json::from_value(object).map(Self).map_err(serde::de::Error::custom)
    }
}

impl<K: Resource> Resource for Unconditional<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use kube::core::ObjectList;

    use super::*;

    #[test]
    fn a_condition_without_a_time_keeps_no_list_from_being_read() {
        let list = r#"{"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": [
            {"metadata": {"name": "web", "namespace": "d"}, "spec": {"clusterIP": "10.96.0.1"},
             "status": {"conditions": [{"type": "A", "status": "True", "reason": "r", "message": "", "lastTransitionTime": null}],
                        "loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}]}"#;
        assert!(serde_json::from_str::<ObjectList<Service>>(list).is_err(), "this type is not needed any more");
        let list: ObjectList<Unconditional<Service>> = serde_json::from_str(list).unwrap();
        let [Unconditional(web)] = &list.items[..] else { panic!("{} objects", list.items.len()) };
        assert_eq!(web.meta().name.as_deref(), Some("web"));
        let ingress = web.status.as_ref().unwrap().load_balancer.as_ref().unwrap().ingress.as_ref().unwrap();
        assert_eq!(ingress[0].ip.as_deref(), Some("203.0.113.1"));
    }
}
