//! Where Services come from: an API server or a directory of manifests, behind one stream of [`Change`]s.
//!
//! In: which source, and the own Node's name. Out: a channel on which first one complete list of every kind arrives and then what
//! changes, already in the model's types, so that nothing of an API object is kept that is not needed. `kube` is the only module that
//! knows the Kubernetes client. What an operator should know of an object that is not understood is logged here, once.

mod kube;
mod manifests;
mod problems;
mod standing;

use std::{io, path::PathBuf};

use tokio::sync::mpsc;

pub use self::standing::Standing;
use crate::{config::Source, model::Change};

/// How many changes may wait. A full channel slows the source down and loses nothing.
const CAPACITY: usize = 256;

/// Why a source cannot be used at all. Anything that may pass, such as an API server that does not answer, is no error but waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("cannot use kubeconfig {}: give a file with which `kubectl --kubeconfig FILE version` works", file.display())]
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no service account to use.
    #[error("this is not a pod with a service account: give --kubeconfig FILE or --manifests DIR")]
    InCluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The directory of manifests cannot be followed.
    #[error("cannot follow the manifests in {}: give --manifests a directory that exists and is readable", directory.display())]
    Manifests {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Starts a source, which runs until the receiver is dropped.
pub async fn start(source: &Source, api_servers: &[String], node_name: &str, standing: &Standing) -> Result<mpsc::Receiver<Change>, Error> {
    let (changes, receiver) = mpsc::channel(CAPACITY);
    match source {
        Source::Kubeconfig(file) => kube::start(Some(file), api_servers, node_name, standing, &changes).await?,
        Source::InCluster => kube::start(None, api_servers, node_name, standing, &changes).await?,
        Source::Manifests(directory) => manifests::start(directory, node_name, standing, changes)?,
    }
    Ok(receiver)
}
