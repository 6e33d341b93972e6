//! `--api-servers`: URLs, or what is left of one where everything that is usual is left out.

use super::Error;

/// Where API servers usually listen.
const PORT: u16 = 6443;

/// Reads the list, as URLs. Nothing between commas is nothing, as in a `ConfigMap` that was not filled in.
pub(super) fn api_servers(typed: &[String]) -> Result<Vec<String>, Error> {
    typed.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).map(url).collect()
}

fn url(value: &str) -> Result<String, Error> {
    let error = || Error::ApiServer { value: value.to_owned() };
    let with_scheme = if value.contains("://") { value.to_owned() } else { format!("https://{}", bracketed(value)) };
    let uri: hyper::Uri = with_scheme.parse().ok().ok_or_else(error)?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme)).ok_or_else(error)?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(error)?;
    let port = match (uri.port_u16(), value.contains("://")) {
        (Some(port), _) => format!(":{port}"),
        (None, true) => String::new(),
        (None, false) => format!(":{PORT}"),
    };
    Ok(format!("{scheme}://{host}{port}{}", uri.path()))
}

/// An address of IPv6 has colons of its own.
fn bracketed(value: &str) -> String {
    if value.parse::<std::net::Ipv6Addr>().is_ok() { format!("[{value}]") } else { value.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_usual_may_be_left_out() {
        for (typed, expected) in [
            ("https://10.0.0.1:6443", "https://10.0.0.1:6443/"),
            ("10.0.0.1", "https://10.0.0.1:6443/"),
            ("api.example:443", "https://api.example:443/"),
            ("https://api.example/k8s/c", "https://api.example/k8s/c"),
            ("fd00::1", "https://[fd00::1]:6443/"),
            ("[fd00::1]:443", "https://[fd00::1]:443/"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(api_servers(&[typed.to_owned()]).unwrap(), [expected], "{typed}");
        }
        assert_eq!(api_servers(&[String::new(), " ".to_owned()]).unwrap(), [""; 0]);
        for wrong in ["ftp://10.0.0.1", "https://", "a b"] {
            assert!(api_servers(&[wrong.to_owned()]).unwrap_err().to_string().starts_with("--api-servers"), "{wrong}");
        }
    }
}
