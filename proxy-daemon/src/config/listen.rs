//! `--healthz-bind-address` and `--metrics-bind-address`: an address with or without a port, as kube-proxy has it, or nothing.

use std::net::{IpAddr, SocketAddr};

use super::Error;
use crate::http::Place;

/// Reads where to listen; nowhere, where nothing was typed between the quotes.
pub(super) fn place(flag: &'static str, typed: Option<&str>, port: u16, default: Place) -> Result<Option<Place>, Error> {
    match typed.map(str::trim) {
        None => Ok(Some(default)),
        Some("") => Ok(None),
        Some(text) => address(text, port).map(|addr| Some(Place::At(addr))).ok_or_else(|| Error::Listen { flag, value: text.to_owned() }),
    }
}

fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let with_port = text.parse::<SocketAddr>().ok().filter(|addr| addr.port() != 0);
    let bare = || text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    with_port.or_else(|| Some(SocketAddr::new(bare()?, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_where_there_is_none() {
        let read = |text| place("flag", Some(text), 10_256, Place::Everywhere(10_256));
        for (text, expected) in [
            ("0.0.0.0", "0.0.0.0:10256"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("::1", "[::1]:10256"),
            ("[::]", "[::]:10256"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(read(text).unwrap(), Some(Place::At(expected.parse().unwrap())), "{text}");
        }
        assert_eq!(read("").unwrap(), None);
        for wrong in ["localhost", "10256", "192.0.2.1:0", "192.0.2.1:70000"] {
            assert!(read(wrong).unwrap_err().to_string().starts_with(&format!("--flag {wrong}: ")), "{wrong}");
        }
    }
}
