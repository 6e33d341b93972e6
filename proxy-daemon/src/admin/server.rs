//! The daemon's end of the socket: one request after the other.

use std::{
    convert::Infallible,
    fs::{self, DirBuilder, Permissions},
    future, io,
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
        net::UnixStream as Probe,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    time,
};

use super::{Answer, Request};

/// Who has connected must ask, and take the answer, in this time: others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request is far shorter.
const MAX_REQUEST: u64 = 4096;

/// Answers what is asked at `socket` for as long as it is polled. Where nobody can ask, it says so and does nothing: traffic needs none of it.
pub async fn serve(socket: &Path, mut answer: impl AsyncFnMut(Request) -> Result<String>) -> Infallible {
    let listener = match Listener::bind(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "nobody can ask this daemon anything: `shunt debug` will not work");
            return future::pending().await;
        }
    };
    loop {
        match listener.socket.accept().await {
            Ok((stream, _)) => {
                if let Err(error) = converse(stream, &mut answer).await {
                    tracing::warn!(error = format!("{error:#}"), "a request on the local socket could not be answered");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the local socket");
                time::sleep(PATIENCE).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, answer: &mut impl AsyncFnMut(Request) -> Result<String>) -> Result<()> {
    let mut line = String::new();
    let (reader, mut writer) = stream.split();
    time::timeout(PATIENCE, BufReader::new(reader.take(MAX_REQUEST)).read_line(&mut line)).await.context("nothing was asked")??;
    let answer: Answer = match serde_json::from_str(&line) {
        Ok(request) => answer(request).await.map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("this daemon does not know the request {:?}: {error}", line.trim_end())),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    time::timeout(PATIENCE, writer.write_all(&line)).await.context("the answer was not taken")??;
    Ok(())
}

/// A socket with a name, which goes with it.
struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Takes the place of a daemon that was killed, and of no other. Only root may connect.
    fn bind(path: &Path) -> Result<Self> {
        let binding = || format!("listening at {}", path.display());
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(binding)?;
        }
        match Probe::connect(path) {
            Ok(_) => bail!("another daemon listens at {} (--socket names another place)", path.display()),
            // Nobody listens. It may be no socket at all, which is not to be removed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                fs::remove_file(path).with_context(binding)?;
            }
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).with_context(binding)?;
        let listener = Self { socket, path: path.to_owned() };
        fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(binding)?;
        Ok(listener)
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Where it is gone already there is nothing to do; one that stays does no harm.
        fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use tokio::runtime::{self, Runtime};

    use super::*;
    use crate::admin::ask;

    fn runtime() -> Runtime {
        runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    /// What `ask` yields where a daemon answers in this way, and the socket's place.
    fn asked(path: &Path, client: impl FnOnce(PathBuf) -> Result<String> + Send + 'static) -> Result<String> {
        let runtime = runtime();
        let handler = async |Request::Log { on }| if on { Ok("done".to_owned()) } else { bail!("not {}", 1) };
        let owned = path.to_owned();
        runtime.block_on(async move {
            let client = async { tokio::task::spawn_blocking(move || client(owned)).await? };
            tokio::select! {
                biased;
                never = serve(path, handler) => match never {},
                answer = client => answer,
            }
        })
    }

    #[test]
    fn requests_are_answered_and_the_socket_goes_with_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/shunt/socket");
        assert_eq!(asked(&path, |path| ask(&path, Request::Log { on: true })).unwrap(), "done");
        assert!(!path.exists());
        let refusal = asked(&path, |path| ask(&path, Request::Log { on: false })).unwrap_err();
        assert_eq!(refusal.to_string(), "not 1");
        let nobody = ask(&path, Request::Log { on: true }).unwrap_err().to_string();
        assert!(nobody.starts_with("no daemon listens at"), "{nobody}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_the_next_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let answer = asked(&path, |path| {
            for nonsense in ["\n", "{\"request\":\"dance\"}\n", &"x".repeat(100_000)] {
                let mut stream = Probe::connect(&path)?;
                // Too much of it is not taken.
                stream.write_all(nonsense.as_bytes()).ok();
                let mut refusal = String::new();
                stream.read_to_string(&mut refusal).ok();
                assert!(refusal.is_empty() || refusal.contains("does not know the request"), "{refusal}");
            }
            let _silent = Probe::connect(&path)?;
            ask(&path, Request::Log { on: true })
        });
        assert_eq!(answer.unwrap(), "done");
    }

    #[test]
    fn a_dead_daemons_place_is_taken_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let living = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let runtime = runtime();
        let _context = runtime.enter();
        let refusal = Listener::bind(&path).err().unwrap().to_string();
        assert!(refusal.starts_with("another daemon listens"), "{refusal}");
        drop(living);
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "precious").unwrap();
        let runtime = runtime();
        let _context = runtime.enter();
        let refusal = format!("{:#}", Listener::bind(&path).err().unwrap());
        assert!(refusal.contains("Address already in use"), "{refusal}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
