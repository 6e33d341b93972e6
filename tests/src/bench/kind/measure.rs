//! One turn: what a pod reaches, as the tools of the trade say.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use super::pods::Pods;
use crate::bench::iperf;

/// What can be measured.
#[derive(Clone, Copy, Debug)]
pub(super) enum Measure {
    Stream {
        seconds: u32,
    },
    /// A connection for each request, one after the other.
    Connections {
        number: u32,
    },
}

impl Measure {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stream { .. } => "stream",
            Self::Connections { .. } => "connect, request, close",
        }
    }

    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Stream { .. } => "Gbit/s",
            Self::Connections { .. } => "1/s",
        }
    }

    pub(super) fn take(self, pods: &Pods<'_>, to: IpAddr) -> Result<f64> {
        match self {
            Self::Stream { seconds } => {
                let said = pods.run(&["iperf3", "--client", &to.to_string(), "--time", &seconds.to_string(), "--json"])?;
                let received = iperf::received(&said)?;
                Ok(received.bytes * 8.0 / received.seconds / 1e9)
            }
            Self::Connections { number } => {
                let said = pods.run(&["ab", "-q", "-n", &number.to_string(), &format!("http://{to}/")])?;
                requests_per_second(&said, number).with_context(|| format!("ab says {said}"))
            }
        }
    }
}

/// Reads it in what ab says.
fn requests_per_second(said: &str, number: u32) -> Result<f64> {
    let field = |name: &str| {
        let value = said.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
        value.with_context(|| format!("there is no {name:?}"))
    };
    let (complete, failed) = (field("Complete requests:")?, field("Failed requests:")?);
    ensure!(complete == number.to_string() && failed == "0", "{complete} of {number} requests were answered, {failed} failed");
    field("Requests per second:")?.parse().context("reading a number")
}

#[cfg(test)]
mod tests {
    use super::requests_per_second;

    const SAID: &str = "Server Port:            80\n\nComplete requests:      1000\nFailed requests:        0\nRequests per second:    7012.37 [#/sec] (mean)\n";

    #[test]
    fn a_rate_is_read_where_all_were_answered() {
        assert!((requests_per_second(SAID, 1000).unwrap() - 7012.37).abs() < 0.001);
        requests_per_second(SAID, 1001).unwrap_err();
        requests_per_second(&SAID.replace("requests:        0", "requests:        3"), 1000).unwrap_err();
        requests_per_second("", 1000).unwrap_err();
    }
}
