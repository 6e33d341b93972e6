//! The API server as a source: one watch for Services, one for `EndpointSlice`s, one for the own Node, and one for `ServiceCIDR`s, which not every
//! server has.
//!
//! The server filters, each object is converted and dropped as it arrives, and while the server is away the model stays as it was.

mod backoff;
mod connection;
mod servers;
mod tls;
mod unconditional;
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

use hyper::Uri;
use hyper_timeout::TimeoutConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{
    Api, Client, Config,
    client::ConfigExt as _,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::watcher,
};
use tokio::sync::mpsc;
use tower::{BoxError, ServiceBuilder};

use self::{
    connection::{Connection, chain},
    servers::Servers,
    unconditional::Unconditional,
    watch::Watch,
};
use super::Error;
use crate::{
    model::{Change, convert},
    source::Standing,
};

/// A server that does not accept a connection in this time is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes is asked after this time, and then as often as this, whether its other end is still there: a machine that
/// lost its power says no goodbye. It is given up after as long as with client-go, of which kube-proxy is made (45 seconds).
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(5), 3);
/// The same for one on which something was sent that nobody acknowledges.
const UNACKNOWLEDGED: Duration = Duration::from_secs(45);

/// Headless Services are not even sent to us.
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Starts the watches. Only a configuration that cannot be used is an error.
pub(super) async fn start(
    kubeconfig: Option<&Path>,
    api_servers: &[String],
    node_name: &str,
    standing: &Standing,
    changes: &mpsc::Sender<Change>,
) -> Result<(), Error> {
    let (client, servers) = match kubeconfig {
        Some(file) => from_file(file, api_servers).await.map_err(|source| Error::Kubeconfig { file: file.to_owned(), source })?,
        None => from_pod(api_servers).map_err(Error::InCluster)?,
    };
    let connection = Arc::new(Connection::new(client.clone(), servers, standing.clone()));
    let services = Watch {
        kind: "Service",
        api: Api::<Unconditional<Service>>::all(client.clone()),
        config: watcher::Config::default().fields(SERVICE_FIELDS),
        convert: |service| convert::service(&service.0),
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
        api: Api::<Unconditional<ServiceCIDR>>::all(client),
        config: watcher::Config::default(),
        convert: |cidr| convert::service_cidr(&cidr.0),
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

async fn from_file(file: &Path, api_servers: &[String]) -> Result<(Client, Servers), BoxError> {
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| chain(&error))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    client(config.map_err(|error| chain(&error))?, api_servers)
}

/// Where `api_servers` are given, the environment need name none.
fn from_pod(api_servers: &[String]) -> Result<(Client, Servers), BoxError> {
    if api_servers.is_empty() {
        let (client, servers) = client(Config::incluster().map_err(|error| chain(&error))?, &[])?;
        return Ok((client, servers.by_environment()));
    }
    client(Config::incluster_dns().map_err(|error| chain(&error))?, api_servers)
}

/// A client as kube makes one by itself, but that its connections notice when the server is gone, and that it tries nothing again without a word,
/// which it does for minutes: the watches do, and know when the server is back.
fn client(config: Config, api_servers: &[String]) -> Result<(Client, Servers), BoxError> {
    tls::leave_certificates_to_the_server();
    if let Some(proxy) = &config.proxy_url {
        return Err(
            format!("it names a proxy, {proxy}, and shunt reaches API servers only directly: unset proxy-url or HTTPS_PROXY").into()
        );
    }
    let mut uris = api_servers.iter().map(|url| url.parse::<Uri>()).collect::<Result<Vec<_>, _>>()?.into_iter();
    let servers = Servers::new(uris.next().unwrap_or_else(|| config.cluster_url.clone()), uris);
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp()).map_err(|error| chain(&error))?);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let service = ServiceBuilder::new()
        .layer(servers.clone())
        .option_layer(config.auth_layer().map_err(|error| chain(&error))?)
        .layer(config.extra_headers_layer().map_err(|error| chain(&error))?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(connector));
    tracing::info!(server = %servers, "watching the API server");
    Ok((Client::new(service, config.default_namespace), servers))
}

/// What makes connections to a server, and notices that it is gone.
fn tcp() -> HttpConnector {
    let (idle, interval, probes) = KEEPALIVE;
    let mut tcp = HttpConnector::new();
    // TLS is a layer above.
    tcp.enforce_http(false);
    tcp.set_keepalive(Some(idle));
    tcp.set_keepalive_interval(Some(interval));
    tcp.set_keepalive_retries(Some(probes));
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    tcp
}
