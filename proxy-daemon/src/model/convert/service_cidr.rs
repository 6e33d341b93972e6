//! `ServiceCIDR`s.

use k8s_openapi::api::networking::v1 as api;

use super::{Converted, collect, network, object_name};
use crate::model::ServiceCidr;

/// Converts a `ServiceCIDR`. One that is being deleted counts until it is gone: Services may still have addresses there.
pub fn service_cidr(cidr: &api::ServiceCIDR) -> Converted<ServiceCidr> {
    let name = object_name(&cidr.metadata);
    let mut problems = Vec::new();
    let networks = cidr.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let networks = collect(&mut problems, networks.iter().map(|text| network("spec.cidrs", text)));
    Converted { object: Some(ServiceCidr { name: name.clone(), networks }), name, problems }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_network_is_left_out() {
        let text = "metadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/12, \"fd00:96::/112\", ten]}";
        let Converted { object, problems, .. } = service_cidr(&serde_yaml_ng::from_str(text).unwrap());
        let networks: Vec<_> = object.unwrap().networks.iter().map(ToString::to_string).collect();
        assert_eq!((networks, problems.len()), (vec!["10.96.0.0/12".to_owned(), "fd00:96::/112".to_owned()], 1));
    }
}
