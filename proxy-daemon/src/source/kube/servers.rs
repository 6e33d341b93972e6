//! Several API servers: one is asked for as long as it answers, and when it does not, the next one.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use hyper::{Request, Uri};
use kube::client::middleware::{BaseUri, BaseUriLayer};
use tower::{Layer, Service};

/// The servers. A clone is of the same.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    uris: Arc<[Uri]>,
    turn: Arc<AtomicUsize>,
    by_environment: bool,
}

/// Sends every request to the server whose turn it is.
#[derive(Clone, Debug)]
pub(super) struct InTurn<S> {
    servers: Servers,
    inner: S,
}

impl Servers {
    /// One, and others.
    pub(super) fn new(first: Uri, others: impl IntoIterator<Item = Uri>) -> Self {
        Self { uris: [first].into_iter().chain(others).collect(), turn: Arc::default(), by_environment: false }
    }

    /// The one that a pod's environment names: a Service's address, unless somebody has set another.
    pub(super) fn by_environment(self) -> Self {
        Self { by_environment: true, ..self }
    }

    /// Whether it is that one.
    pub(super) const fn are_by_environment(&self) -> bool {
        self.by_environment
    }

    /// The next one's turn has come.
    pub(super) fn turn(&self) {
        self.turn.fetch_add(1, Ordering::Relaxed);
    }

    fn current(&self) -> Uri {
        let turn = self.turn.load(Ordering::Relaxed) % self.uris.len();
        self.uris.get(turn).cloned().unwrap_or_default()
    }
}

/// The one whose turn it is, and how many others there are.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.current().fmt(f)?;
        match self.uris.len() - 1 {
            0 => Ok(()),
            others => write!(f, " (and {others} more)"),
        }
    }
}

impl<S> Layer<S> for Servers {
    type Service = InTurn<S>;

    fn layer(&self, inner: S) -> InTurn<S> {
        InTurn { servers: self.clone(), inner }
    }
}

impl<S, B> Service<Request<B>> for InTurn<S>
where
    S: Service<Request<B>> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = <BaseUri<S> as Service<Request<B>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that is ready is used, and the copy kept.
        let copy = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, copy);
        BaseUriLayer::new(self.servers.current()).layer(ready).call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_their_turn() {
        let [a, b] = ["https://a:6443/", "https://b:6443/"].map(|uri| uri.parse::<Uri>().unwrap());
        let servers = Servers::new(a, [b]);
        let said = [0; 3].map(|_| {
            let said = servers.to_string();
            servers.turn();
            said
        });
        assert_eq!(said, ["https://a:6443/ (and 1 more)", "https://b:6443/ (and 1 more)", "https://a:6443/ (and 1 more)"]);
    }
}
