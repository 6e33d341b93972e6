//! The API server as a source: one watch for Services, one for `EndpointSlice`s, one for the own Node, and one for `ServiceCIDR`s, which not every
//! server has.
//!
//! The server filters, each object is converted and dropped as it arrives, and while the server is away the model stays as it was.

mod backoff;
mod connection;
mod tls;
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher,
};
use tokio::sync::mpsc;

use self::{
    connection::{Connection, chain},
    watch::Watch,
};
use super::Error;
use crate::model::{Change, convert};

/// A server that does not accept a connection in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Headless Services are not even sent to us.
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Starts the watches. Only a configuration that cannot be used is an error.
pub(super) async fn start(kubeconfig: Option<&Path>, node_name: &str, changes: &mpsc::Sender<Change>) -> Result<(), Error> {
    let client = match kubeconfig {
        Some(file) => from_file(file).await.map_err(|source| Error::Kubeconfig { file: file.to_owned(), source })?,
        None => from_pod().map_err(Error::InCluster)?,
    };
    let connection = Arc::new(Connection::new(client.clone()));
    let services = Watch {
        kind: "Service",
        api: Api::<Service>::all(client.clone()),
        config: watcher::Config::default().fields(SERVICE_FIELDS),
        convert: convert::service,
        change: Change::Service,
        required: None,
        if_unknown: None,
    };
    let slices = Watch {
        kind: "EndpointSlice",
        api: Api::<EndpointSlice>::all(client.clone()),
        config: watcher::Config::default().labels(SLICE_LABELS),
        convert: convert::endpoint_slice,
        change: Change::Slice,
        required: None,
        if_unknown: None,
    };
    let node = Watch {
        kind: "Node",
        api: Api::<Node>::all(client.clone()),
        config: watcher::Config::default().fields(&format!("metadata.name={node_name}")),
        convert: convert::node,
        change: Change::Node,
        required: Some(node_name.into()),
        if_unknown: None,
    };
    let service_cidrs = Watch {
        kind: "ServiceCIDR",
        api: Api::<ServiceCIDR>::all(client),
        config: watcher::Config::default(),
        convert: convert::service_cidr,
        change: Change::ServiceCidr,
        required: None,
        if_unknown: Some("packets to ClusterIPs that no Service has are not dropped"),
    };
    tokio::spawn(services.run(Arc::clone(&connection), changes.clone()));
    tokio::spawn(slices.run(Arc::clone(&connection), changes.clone()));
    tokio::spawn(node.run(Arc::clone(&connection), changes.clone()));
    tokio::spawn(service_cidrs.run(connection, changes.clone()));
    Ok(())
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn from_file(file: &Path) -> Result<Client, BoxError> {
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| chain(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    client(config.map_err(|error| chain(&error))?)
}

fn from_pod() -> Result<Client, BoxError> {
    client(Config::incluster().map_err(|error| chain(&error))?)
}

fn client(mut config: Config) -> Result<Client, BoxError> {
    tls::leave_certificates_to_the_server();
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    let server = config.cluster_url.clone();
    let client = Client::try_from(config).map_err(|error| chain(&error))?;
    tracing::info!(%server, "watching the API server");
    Ok(client)
}
