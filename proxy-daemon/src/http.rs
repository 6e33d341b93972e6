//! Small HTTP servers that can hurt nobody: a bounded number of connections, each with little patience, and a port that somebody else has is tried
//! again until it is free.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// How many connections a server has at once. Others wait in the kernel.
const CONNECTIONS: usize = 128;
/// How long a client may take to ask, and to ask again. Who asks more seldom connects anew.
const TO_ASK: Duration = Duration::from_secs(5);
/// How long a connection may last, whatever it does: a client that does not take its answer is not waited for.
const TO_LAST: Duration = Duration::from_mins(5);
/// How often a port that somebody else has is tried, as with kube-proxy.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// At every address of the node, of both families where the kernel has both.
    Everywhere(u16),
    /// At this one.
    At(SocketAddr),
}

/// Serves for as long as it is polled. The router is made for the address of ours that a client has dialled.
pub async fn serve(what: &str, place: Place, router: impl Fn(IpAddr) -> Router) -> Infallible {
    serve_trying(what, place, router, TRY_AGAIN).await
}

async fn serve_trying(what: &str, place: Place, router: impl Fn(IpAddr) -> Router, every: Duration) -> Infallible {
    let mut failed = false;
    loop {
        let error = match place.bind().await {
            Ok(listener) => {
                tracing::debug!(%place, "serving {what}");
                failed = false;
                accept(&listener, &router).await
            }
            Err(error) => error,
        };
        if !std::mem::replace(&mut failed, true) {
            tracing::warn!(%place, %error, "cannot serve {what} there, to be tried again every {every:?}");
        }
        sleep(every).await;
    }
}

/// Takes clients in until that fails.
async fn accept(listener: &TcpListener, router: &impl Fn(IpAddr) -> Router) -> io::Error {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return io::Error::other("no connections") };
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(local) = stream.local_addr() else { continue };
                let converse = converse(stream, router(local.ip().to_canonical()));
                tokio::spawn(async move {
                    // Its end, whatever it is, is the client's affair.
                    timeout(TO_LAST, converse).await.ok();
                    drop(permit);
                });
            }
            // Of the one connection, which is gone.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => return error,
        }
    }
}

async fn converse(stream: TcpStream, router: Router) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(TO_ASK);
    server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await.ok();
}

// === impl Place ===

impl Place {
    async fn bind(self) -> io::Result<TcpListener> {
        match self {
            Self::At(addr) => TcpListener::bind(addr).await,
            Self::Everywhere(port) => match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
                Err(error) if is_without_v6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
                result => result,
            },
        }
    }
}

fn is_without_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, "*:{port}"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(addr: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    fn echo(addr: IpAddr) -> Router {
        Router::new().route("/", get(move || future::ready(addr.to_string())))
    }

    #[tokio::test]
    async fn the_address_that_was_dialled_is_known_whatever_the_family_of_the_socket() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        tokio::spawn(async move { serve("a test", Place::Everywhere(port), echo).await });
        tokio::task::yield_now().await;
        for ip in ["127.0.0.1", "127.0.0.2"] {
            let answer = ask(SocketAddr::new(ip.parse().unwrap(), port)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(ip), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_keeps_no_other_from_being_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move { accept(&listener, &echo).await });
        let silent = TcpStream::connect(addr).await.unwrap();
        assert!(ask(addr).await.unwrap().ends_with("127.0.0.1"));
        drop(silent);
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_tried_again() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = other.local_addr().unwrap();
        let every = Duration::from_millis(5);
        tokio::spawn(async move { serve_trying("a test", Place::At(addr), echo, every).await });
        sleep(every * 4).await;
        drop(other);
        let answer = loop {
            match ask(addr).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => sleep(every).await,
                answer => break answer.unwrap(),
            }
        };
        assert!(answer.ends_with("127.0.0.1"), "{answer}");
    }
}
