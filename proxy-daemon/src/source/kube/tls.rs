//! The node's own certificate: only the API server judges it.
//!
//! rustls reads the certificate that a client presents, to compare its key with the private one, and refuses one of X.509's first version,
//! as `openssl x509 -req` makes it and every API server takes it: kube-proxy and kubectl get on with such a kubeconfig. A key that does not
//! tell its public half is not compared; one that does not fit is refused by the server.

use std::sync::Arc;

use rustls::{
    Error, SignatureAlgorithm, SignatureScheme,
    crypto::{CryptoProvider, KeyProvider, ring},
    pki_types::PrivateKeyDer,
    sign::{Signer, SigningKey},
};

/// Lets all TLS of the process load its keys this way. What is in force already stays, which is this, if it was called before.
pub(super) fn leave_certificates_to_the_server() {
    let provider = CryptoProvider { key_provider: &Keys, ..ring::default_provider() };
    provider.install_default().ok();
}

/// Loads what ring loads.
#[derive(Debug)]
struct Keys;

/// A key that keeps its public half to itself.
#[derive(Debug)]
struct Key(Arc<dyn SigningKey>);

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, Error> {
        let key = ring::default_provider().key_provider.load_private_key(key)?;
        Ok(Arc::new(Key(key)))
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(offered)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[cfg(test)]
mod tests {
    use kube::{
        Config,
        config::{KubeConfigOptions, Kubeconfig},
    };

    use super::super::client;

    /// Of X.509's first version, with a key that is used nowhere else.
    const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIHaMIGNAhRSTtMTmhCfBzaYjnVUG4bDZbUgpDAFBgMrZXAwEDEOMAwGA1UEAwwF
c2h1bnQwHhcNMjYxMTI5MDIxNDUyWhcNMjYxMTMwMDIxNDUyWjAQMQ4wDAYDVQQD
DAVzaHVudDAqMAUGAytlcAMhADk3FwZmv/gG7zsa1/hlTCiVs8WIU8flYtjpCmxr
DKxpMAUGAytlcANBAKprbGgs6LnjBqZARA3i/X95IYYs3kaJNILWnopGkD4+fDoJ
HqxaZZG5wj+PtYiQWU54DRVQtef7+eSWC4jBNgU=
-----END CERTIFICATE-----
";
    const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIPG20dEaeprGlTJNuURCUUj0ggxht6j+gsRlZwQ/3e5S
-----END PRIVATE KEY-----
";

    #[tokio::test]
    async fn a_certificate_of_the_first_version_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            folder.path().join(name).display().to_string()
        };
        let (certificate, key) = (file("client.crt", CERTIFICATE), file("client.key", KEY));
        let yaml = format!(
            "{{clusters: [{{name: c, cluster: {{server: 'https://192.0.2.1', certificate-authority: {certificate}}}}}], \
              users: [{{name: u, user: {{client-certificate: {certificate}, client-key: {key}}}}}], \
              contexts: [{{name: x, context: {{cluster: c, user: u}}}}], current-context: x}}"
        );
        let kubeconfig = Kubeconfig::from_yaml(&yaml).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        client(config, &[]).map(drop).unwrap();
    }
}
