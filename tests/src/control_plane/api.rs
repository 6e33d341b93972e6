//! A client of the API server, inside the testbed: objects go in and come out as JSON values.
//!
//! An object names itself by its kind, name and namespace, so the same value is applied, read and deleted.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use tokio::runtime::{self, Runtime};

use crate::netns::Netns;

/// For connecting, and again for the answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many requests are under way where there are many.
const AT_A_TIME: usize = 16;
const MANAGER: &str = "testbed";

/// One client with its connections. After a restart of the server a new one is wanted.
#[derive(Debug)]
pub struct Api {
    netns: Netns,
    runtime: Runtime,
    client: ClientHandle,
}

/// Kube's client says nothing of itself.
struct ClientHandle(Client);

type Objects = kube::Api<DynamicObject>;

// === impl Api ===

impl Api {
    /// Reads the kubeconfig; connections are made when there is something to ask.
    pub(super) fn open(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
        let client = runtime.block_on(client(kubeconfig)).with_context(|| format!("using {}", kubeconfig.display()))?;
        Ok(Self { netns: netns.clone(), runtime, client: ClientHandle(client) })
    }

    /// Makes an object that is not there yet.
    pub fn create(&self, object: &Value) -> Result<Value> {
        let new = serde_json::from_value(object.clone()).context("reading the object")?;
        self.with("making", object, async |objects, _| objects.create(&PostParams::default(), &new).await)
    }

    /// Makes many objects that are not there yet, some at a time.
    pub fn create_all(&self, new: &[Value]) -> Result<()> {
        for some in new.chunks(AT_A_TIME * 16) {
            let create = async |object: &Value| {
                let (resource, name, namespace) = identity(object)?;
                let new = serde_json::from_value(object.clone()).context("reading the object")?;
                let made = objects(self.client(), &resource, namespace).create(&PostParams::default(), &new).await;
                made.map(drop).with_context(|| format!("making {} {name}", resource.kind))
            };
            self.run(async || stream::iter(some.iter().map(create)).buffer_unordered(AT_A_TIME).try_collect::<()>().await)??;
        }
        Ok(())
    }

    /// Makes an object, or makes it what the value says: fields that were set here before and are no longer go.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        self.with("applying", object, async |objects, name| {
            objects.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await
        })
    }

    /// Has the server check an object as if it were applied.
    pub fn apply_dry(&self, object: &Value) -> Result<Value> {
        self.with("checking", object, async |objects, name| {
            objects.patch(name, &PatchParams::apply(MANAGER).force().dry_run().validation_strict(), &Patch::Apply(object)).await
        })
    }

    /// Sets the status of an object to what the value says.
    pub fn apply_status(&self, object: &Value) -> Result<Value> {
        self.with("applying the status of", object, async |objects, name| {
            objects.patch_status(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await
        })
    }

    /// Changes single fields of an object; null removes one.
    pub fn merge(&self, object: &Value, change: &Value) -> Result<Value> {
        self.with("changing", object, async |objects, name| objects.patch(name, &PatchParams::default(), &Patch::Merge(change)).await)
    }

    pub fn get(&self, object: &Value) -> Result<Value> {
        self.with("reading", object, async |objects, name| objects.get(name).await)
    }

    /// Deletes an object at once.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (client, (resource, name, namespace)) = (self.client(), identity(object)?);
        let deleted = self.run(async || objects(client, &resource, namespace).delete(name, &DeleteParams::default().grace_period(0)).await);
        deleted?.map(drop).with_context(|| format!("deleting {} {name}", resource.kind))
    }

    /// Says which version the server is; an error as long as it is not ready to serve.
    pub(super) fn ready(&self) -> Result<String> {
        let client = self.client();
        let answer = self.run(async || {
            let namespaces = kube::Api::<k8s_openapi::api::core::v1::Namespace>::all(client.clone());
            // The last thing a new server makes, before which it takes no objects.
            namespaces.get("default").await?;
            namespaces.get("kube-system").await?;
            client.apiserver_version().await
        });
        Ok(answer?.context("asking the API server")?.git_version)
    }

    /// A token of a service account, as its pods would get it.
    pub(super) fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let request = TokenRequest {
            spec: TokenRequestSpec { audiences: Vec::new(), bound_object_ref: None, expiration_seconds: Some(3600) },
            ..TokenRequest::default()
        };
        let client = self.client();
        let answer = self.run(async || {
            let accounts = kube::Api::<ServiceAccount>::namespaced(client, namespace);
            accounts.create_token_request(account, &PostParams::default(), &request).await
        });
        let status = answer?.with_context(|| format!("asking for a token of {account}"))?.status;
        Ok(status.context("the answer has no token")?.token)
    }

    fn with(
        &self,
        doing: &str,
        object: &Value,
        work: impl AsyncFnOnce(Objects, &str) -> kube::Result<DynamicObject> + Send,
    ) -> Result<Value> {
        let (client, (resource, name, namespace)) = (self.client(), identity(object)?);
        let answer = self.run(async || work(objects(client, &resource, namespace), name).await);
        let answer = answer?.with_context(|| format!("{doing} {} {name}", resource.kind))?;
        serde_json::to_value(answer).context("reading the answer")
    }

    fn client(&self) -> Client {
        self.client.0.clone()
    }

    /// Runs inside the namespace; connections that outlive it go on when the next one runs.
    fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> Result<T> {
        let answer = self.netns.run(|| self.runtime.block_on(async { tokio::time::timeout(2 * PATIENCE, work()).await }));
        answer.context("waiting for the API server")
    }
}

impl std::fmt::Debug for ClientHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

/// A client of the server that a kubeconfig names.
pub(super) async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(PATIENCE);
    Ok(Client::try_from(config)?)
}

fn objects(client: Client, resource: &ApiResource, namespace: Option<&str>) -> Objects {
    match namespace {
        Some(namespace) => Objects::namespaced_with(client, namespace, resource),
        None => Objects::all_with(client, resource),
    }
}

/// What an object is, its name, and its namespace if it has one.
fn identity(object: &Value) -> Result<(ApiResource, &str, Option<&str>)> {
    let text = |path| object.pointer(path).and_then(Value::as_str);
    let kind = text("/kind").context("the object has no kind")?;
    let version = text("/apiVersion").context("the object has no apiVersion")?;
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Ok((resource, text("/metadata/name").context("the object has no name")?, text("/metadata/namespace")))
}
