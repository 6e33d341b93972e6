//! Logs go to standard error, one line an event.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::args::LogArgs;

/// The Kubernetes client reports every failed request, again and again. What an operator should know of them is said by `source`.
const QUIET: &str = "kube_client=off,kube_runtime=off,hyper=off,hyper_util=off,tower=off";

/// Programs log only where that was asked for, so then all they have to say is wanted.
const PROGRAMS: &str = "shunt_bpf=debug";

/// A filter that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("--log-level {filter}: neither a level nor MODULE=LEVEL,...")]
pub struct Error {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging, once a process.
pub fn init(args: &LogArgs) -> Result<(), Error> {
    let filter = filter(args)?;
    // Where standard error is gone there is nobody to tell that it is, and saying so there would panic.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).log_internal_errors(false).init();
    Ok(())
}

fn filter(args: &LogArgs) -> Result<EnvFilter, Error> {
    let text = match (&args.log_level, args.v) {
        (Some(filter), _) => format!("{QUIET},{PROGRAMS},{filter}"),
        (None, 0..4) => format!("info,{QUIET},{PROGRAMS}"),
        (None, 4..6) => format!("info,{QUIET},{PROGRAMS},proxy_daemon=debug"),
        (None, 6..) => format!("debug,{QUIET},{PROGRAMS},proxy_daemon=trace"),
    };
    EnvFilter::try_new(&text).map_err(|source| Error { filter: args.log_level.clone().unwrap_or(text), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(log_level: Option<&str>, v: u8) -> Result<String, Error> {
        filter(&LogArgs { v, log_level: log_level.map(str::to_owned) }).map(|filter| filter.to_string())
    }

    #[test]
    fn verbosity_is_read_as_kube_proxys() {
        assert!(!described(None, 2).unwrap().contains("proxy_daemon"));
        assert!(described(None, 4).unwrap().contains("proxy_daemon=debug"));
        assert!(described(None, 9).unwrap().contains("proxy_daemon=trace"));
    }

    #[test]
    fn a_filter_takes_precedence_and_may_be_wrong() {
        assert!(described(Some("kube_client=debug"), 9).unwrap().contains("kube_client=debug"));
        assert!(described(Some("a=b=c"), 0).unwrap_err().to_string().contains("a=b=c"));
    }
}
