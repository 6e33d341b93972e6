//! The ports at which a load balancer asks whether this node has endpoints of a Service (`spec.healthCheckNodePort`, KEP-27).

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    future,
    net::IpAddr,
    sync::Arc,
};

use axum::{
    Json, Router,
    http::HeaderName,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use tokio::{
    sync::watch,
    task::{self, AbortHandle},
};

use super::{
    Health,
    proxy::{NO_SNIFFING, status},
};
use crate::{
    http::{self, Place},
    model::{IpFamily, ObjectName},
    plan::HealthCheck,
};

/// How many endpoints a load balancer may count on.
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Which Services are asked after, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// The addresses at which node ports are served; nothing where that is every address.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// What is answered.
    pub services: BTreeMap<ObjectName, HealthCheck>,
}

impl Checks {
    /// Takes in where to listen, and what is news of Services. Says whether anything differs.
    pub fn take(&mut self, addresses: Option<BTreeSet<IpAddr>>, news: BTreeMap<ObjectName, Option<HealthCheck>>) -> bool {
        let mut differs = self.addresses != addresses;
        self.addresses = addresses;
        for (service, check) in news {
            let before = match check {
                Some(check) => self.services.insert(service, check),
                None => self.services.remove(&service),
            };
            differs |= before != check;
        }
        differs
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    service: ServiceName<'a>,
    local_endpoints: usize,
    service_proxy_healthy: bool,
}

#[derive(Serialize)]
struct ServiceName<'a> {
    namespace: &'a str,
    name: &'a str,
}

/// A server, which ends with this.
struct Server(AbortHandle);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens wherever it is asked for, for as long as it is polled.
pub async fn serve_services(mut checks: watch::Receiver<Checks>, health: Arc<Health>) -> Infallible {
    let mut servers: BTreeMap<(Place, ObjectName), Server> = BTreeMap::new();
    loop {
        let wanted = places(&checks.borrow_and_update());
        servers.retain(|place, _| wanted.contains(place));
        // What was closed is free before it is asked for again.
        task::yield_now().await;
        for (place, service) in wanted {
            let (checks, health) = (checks.clone(), Arc::clone(&health));
            servers.entry((place, service.clone())).or_insert_with(|| {
                let serve = async move {
                    let what = format!("the health check of {service}");
                    http::serve(&what, place, |dialled| router(&service, dialled, &checks, &health)).await
                };
                Server(tokio::spawn(serve).abort_handle())
            });
        }
        if checks.changed().await.is_err() {
            // Nobody has anything to say any more: what was said last stands.
            future::pending::<()>().await;
        }
    }
}

fn places(checks: &Checks) -> BTreeSet<(Place, ObjectName)> {
    let mut places = BTreeSet::new();
    for (service, check) in &checks.services {
        match &checks.addresses {
            None => _ = places.insert((Place::Everywhere(check.port), service.clone())),
            Some(addresses) => places.extend(addresses.iter().map(|addr| (Place::At((*addr, check.port).into()), service.clone()))),
        }
    }
    places
}

/// Answers whatever path is asked for.
fn router(service: &ObjectName, dialled: IpAddr, checks: &watch::Receiver<Checks>, health: &Arc<Health>) -> Router {
    let (service, checks, health) = (service.clone(), checks.clone(), Arc::clone(health));
    Router::new().fallback(move || {
        let check = checks.borrow().services.get(&service).copied();
        let ready = check.map_or(0, |check| check.ready(IpFamily::of(dialled)));
        future::ready(answer(&service, ready, health.is_healthy()))
    })
}

fn answer(service: &ObjectName, ready: usize, healthy: bool) -> Response {
    let name = ServiceName { namespace: &service.namespace, name: &service.name };
    let body = Answer { service: name, local_endpoints: ready, service_proxy_healthy: healthy };
    (status(healthy && ready > 0), NO_SNIFFING, [(WEIGHT, ready.to_string())], Json(body)).into_response()
}
