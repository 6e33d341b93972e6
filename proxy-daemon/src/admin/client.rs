//! The command line's end of the socket.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Answer, Request};

/// Asks the daemon that listens at `socket`, and waits for what has been done: as long as it takes, for the kernel has to verify programs. When the
/// daemon ends so does the wait.
pub fn ask(socket: &Path, request: Request) -> Result<String> {
    let stream = UnixStream::connect(socket).map_err(|error| no_daemon(socket, error))?;
    exchange(stream, request).with_context(|| format!("asking the daemon at {}", socket.display()))?.map_err(|error| anyhow!(error))
}

fn no_daemon(socket: &Path, error: io::Error) -> anyhow::Error {
    let path = socket.display();
    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return anyhow!("no daemon listens at {path}: is shunt running on this node? (--socket names another place)");
    }
    if error.kind() == io::ErrorKind::PermissionDenied {
        return anyhow!("not running as root: only root may ask the daemon at {path}");
    }
    anyhow::Error::from(error).context(format!("asking the daemon at {path}"))
}

fn exchange(mut stream: UnixStream, request: Request) -> Result<Answer> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        bail!("it ended without an answer: its log says why");
    }
    serde_json::from_str(&answer).context("its answer makes no sense: is it of another version?")
}
