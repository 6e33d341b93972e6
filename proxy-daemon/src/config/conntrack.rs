//! `--conntrack-...`, kube-proxy's flags, with durations as Go writes them: `24h0m0s`.

use std::time::Duration;

use jiff::SignedDuration;

use super::Error;
use crate::{args::ConntrackArgs, conntrack::Conntrack};

/// Reads the flags. A duration of nothing leaves the kernel's own.
pub fn conntrack(args: ConntrackArgs) -> Result<Conntrack, Error> {
    Ok(Conntrack {
        max_per_core: args.conntrack_max_per_core,
        min: args.conntrack_min,
        tcp_established: duration("conntrack-tcp-timeout-established", args.conntrack_tcp_timeout_established)?,
        tcp_close_wait: duration("conntrack-tcp-timeout-close-wait", args.conntrack_tcp_timeout_close_wait)?,
        tcp_be_liberal: args.conntrack_tcp_be_liberal,
        udp: duration("conntrack-udp-timeout", args.conntrack_udp_timeout)?,
        udp_stream: duration("conntrack-udp-timeout-stream", args.conntrack_udp_timeout_stream)?,
    })
}

fn duration(flag: &'static str, value: String) -> Result<Option<Duration>, Error> {
    if value.trim() == "0" {
        return Ok(None);
    }
    let duration = value.trim().parse::<SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok());
    let duration = duration.ok_or(Error::Duration { flag, value })?;
    Ok(Some(duration).filter(|duration| duration.as_secs() > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_in_go() {
        let read = |text: &str| duration("flag", text.to_owned());
        for (text, seconds) in [("24h", 86_400), ("1h0m0s", 3600), ("1.5h", 5400), ("90s", 90)] {
            assert_eq!(read(text).unwrap(), Some(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["0", "0s", "500ms"] {
            assert_eq!(read(text).unwrap(), None, "{text}");
        }
        for wrong in ["", "60", "-1h", "long"] {
            assert!(read(wrong).unwrap_err().to_string().starts_with(&format!("--flag {wrong}: ")), "{wrong}");
        }
    }
}
