//! Whether the API server answers: said once when it stops, and once when it is back, for all watches together.
//!
//! While the server is away one request at a time looks for it, and the watches wait: so a cluster's nodes do not keep a server down
//! that tries to start, and all watches go on as soon as it is there. A watch that is open again says nothing until something
//! changes, so it could not tell.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, api::ListParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{backoff::Backoff, servers::Servers};
use crate::source::Standing;

/// The first and the longest time between two looks for a server that is away.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// How long a look may take: a server may accept a question and never answer, for its machine goes down or its store does not answer it.
const LOOK_FOR: Duration = Duration::from_secs(5);

/// Shared by all watches of one server.
pub(super) struct Connection {
    client: Client,
    servers: Servers,
    standing: Standing,
    is_lost: watch::Sender<bool>,
    look_for: Duration,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(client: Client, servers: Servers, standing: Standing) -> Self {
        standing.note_server(false);
        Self { client, servers, standing, is_lost: watch::Sender::new(false), look_for: LOOK_FOR }
    }

    /// Notes that the server has answered.
    pub(super) fn answered(&self) {
        self.standing.note_server(true);
    }

    /// Where what is counted goes.
    pub(super) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Notes that the server did not answer. The first to notice says so and looks for it.
    pub(super) fn lost(self: &Arc<Self>, error: &kube::Error) {
        if self.is_lost.send_replace(true) {
            return;
        }
        self.standing.note_server(false);
        let error = chain(error);
        if self.servers.are_by_environment() {
            warn!(
                server = %self.servers, error,
                "the API server does not answer; what is known stays in use (nobody serves the address of the Service kubernetes before shunt \
                 does: --api-servers names the servers' own)"
            );
        } else {
            warn!(server = %self.servers, error, "the API server does not answer; what is known stays in use");
        }
        self.servers.turn();
        let connection = Arc::clone(self);
        tokio::spawn(async move { connection.look().await });
    }

    /// Waits until the server is not known to be away.
    pub(super) async fn returned(&self) {
        // An error would mean that the sender is gone, but it is here.
        drop(self.is_lost.subscribe().wait_for(|is_lost| !is_lost).await);
    }

    async fn look(&self) {
        let since = Instant::now();
        let mut backoff = Backoff::new(LOOK_EVERY.0, LOOK_EVERY.1);
        loop {
            sleep(backoff.wait(Instant::now())).await;
            if self.is_there().await {
                info!(server = %self.servers, elapsed = ?since.elapsed(), "the API server is back");
                self.answered();
                self.is_lost.send_replace(false);
                return;
            }
            self.servers.turn();
        }
    }

    /// Asks for what the watches need: a server that has just started answers simpler questions earlier.
    async fn is_there(&self) -> bool {
        let services = Api::<Service>::all(self.client.clone());
        let one = ListParams::default().limit(1);
        let Ok(answer) = timeout(self.look_for, services.list_metadata(&one)).await else {
            debug!(after = ?self.look_for, "looked for the API server: no answer");
            return false;
        };
        let Err(error) = answer else { return true };
        debug!(error = chain(&error), "looked for the API server");
        // It may refuse, but then it is there.
        !is_away(&error)
    }
}

/// Whether an error means that the server cannot answer at present, rather than that it does not want to, or that its answer cannot be read.
pub(super) fn is_away(error: &kube::Error) -> bool {
    if let kube::Error::Api(status) = error {
        status.code >= 500 || status.code == 429
    } else {
        !matches!(error, kube::Error::SerdeError(_))
    }
}

/// An error with its causes, each once: the client's own texts have some of them, but not all.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::Config;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::source::kube::client;

    async fn answer(stream: &mut TcpStream) {
        let list = r#"{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": []}"#;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", list.len());
        stream.write_all((head + list).as_bytes()).await.unwrap();
    }

    fn url(listener: &TcpListener) -> String {
        format!("http://{}", listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn where_one_server_is_away_the_next_is_asked() {
        let [away, there] = [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let urls = [url(&away), url(&there)];
        drop(away);
        let (client, servers) = client(Config::new("http://127.0.0.1:1".parse().unwrap()), &urls).unwrap();
        let connection = Arc::new(Connection::new(client.clone(), servers, Standing::default()));
        let error = Api::<Service>::all(client).list_metadata(&ListParams::default()).await.unwrap_err();
        assert!(is_away(&error), "{error}");
        connection.lost(&error);
        let server = async {
            let (mut stream, _) = there.accept().await.unwrap();
            answer(&mut stream).await;
            stream
        };
        let (_stream, ()) = timeout(Duration::from_mins(1), async { tokio::join!(server, connection.returned()) }).await.unwrap();
    }

    /// The connection is there, and the question was taken.
    #[tokio::test]
    async fn a_server_that_never_answers_a_look_is_looked_for_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, servers) = client(Config::new(url(&listener).parse().unwrap()), &[]).unwrap();
        let connection = Connection::new(client, servers, Standing::default());
        let connection = Arc::new(Connection { look_for: Duration::from_millis(200), ..connection });
        let server = async {
            let (mut silent, _) = listener.accept().await.unwrap();
            assert!(silent.read(&mut [0; 1024]).await.unwrap() > 0);
            let (mut second, _) = listener.accept().await.unwrap();
            answer(&mut second).await;
            silent
        };
        connection.lost(&kube::Error::LinesCodecMaxLineLengthExceeded);
        let watches = async { connection.returned().await };
        let (_silent, ()) = timeout(Duration::from_mins(1), async { tokio::join!(server, watches) }).await.unwrap();
    }
}
