//! One turn of a contender: what its client reaches in a while.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use super::{
    cpus,
    scene::{IPERF, Place, RESPONDER},
};
use crate::{
    bench::{figures::Route, iperf},
    host::Host as _,
    process,
    traffic::patience,
};

/// The socket buffers of a stream. With what TCP would settle for, a stream's bytes are in the second cache in one round and not in the next,
/// which makes a greater difference than what is measured.
const WINDOW: &str = "128K";

/// What a stream brings: a tenth of a second's worth, or two.
const BYTES: &str = "256M";

/// How often a stream is tried again whose server was not ready for it.
const MORE_CALLS: usize = 3;

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Measure {
    /// TCP streams, one at a time.
    Stream,
    /// A byte there and a byte back, over one connection.
    Requests,
    /// A connection for each such pair.
    Connections,
}

impl Measure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Requests => "request, response",
            Self::Connections => "connect, request, close",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Stream => "Gbit/s",
            Self::Requests | Self::Connections => "1/s",
        }
    }

    /// Measures for `turn`.
    pub(super) fn take(self, place: &Place, route: Route, turn: Duration) -> Result<f64> {
        let measured = match self {
            Self::Stream => streams(place, place.targets(route, IPERF)[0], turn),
            Self::Requests => as_client(place, || requests(place.targets(route, RESPONDER)[0], turn)),
            Self::Connections => as_client(place, || connections(&place.targets(route, RESPONDER), turn)),
        };
        measured.with_context(|| format!("{}, {}, {}", place.contender, self.name(), route.name()))
    }
}

/// As one asks for it.
impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

fn as_client(place: &Place, work: impl FnOnce() -> Result<f64> + Send) -> Result<f64> {
    place.client.netns().run(|| {
        cpus::stay_on_the_first()?;
        work()
    })
}

/// As many streams one after the other as a turn has room for: where a stream's buffers come to lie decides for all of its life how fast it is.
fn streams(place: &Place, to: SocketAddr, turn: Duration) -> Result<f64> {
    let start = Instant::now();
    let (mut bytes, mut seconds) = (0.0, 0.0);
    while start.elapsed() < turn {
        let received = stream(place, to)?;
        bytes += received.bytes;
        seconds += received.seconds;
    }
    Ok(bytes * 8.0 / seconds / 1e9)
}

fn stream(place: &Place, to: SocketAddr) -> Result<iperf::Received> {
    let mut iperf = place.client.netns().command("iperf3");
    iperf.arg("--client").arg(to.ip().to_string()).arg("--port").arg(to.port().to_string());
    iperf.arg("--affinity").arg(cpus::of_a_stream().map(|cpu| cpu.to_string()).join(","));
    iperf.args(["--window", WINDOW, "--bytes", BYTES, "--json"]);
    let mut said = process::output(&mut iperf)?;
    for _ in 0..MORE_CALLS {
        if iperf::is_too_early(&said) {
            thread::sleep(Duration::from_millis(20));
            said = process::output(&mut iperf)?;
        }
    }
    iperf::received(&said)
}

fn requests(to: SocketAddr, turn: Duration) -> Result<f64> {
    let mut stream = connect(to)?;
    count(turn, || request(&mut stream))
}

/// One target after the other, for who finds some of them sooner than others.
fn connections(to: &[SocketAddr], turn: Duration) -> Result<f64> {
    let mut to = to.iter().cycle();
    count(turn, || to.next().map_or(Ok(()), |to| request(&mut connect(*to)?)))
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, patience()).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(patience()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn request(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(&[1])?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

/// How often a second something can be done, one after the other.
fn count(turn: Duration, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < turn {
        work()?;
        done += 1;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}
