//! The certificates of one control plane: an authority of its own, the API server's, the administrator's, and the key
//! that signs service accounts' tokens. They end with the testbed.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};

/// The names that pods know the API server by.
const SERVER_NAMES: [&str; 3] = ["localhost", "kubernetes", "kubernetes.default.svc"];

/// Files in PEM form.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes all of them, for an API server at these addresses.
    pub(super) fn create(folder: &Path, server: &[IpAddr]) -> Result<Self> {
        let this = Self { folder: folder.to_owned() };
        let authority = this.authority().context("making a certificate authority")?;
        let mut params = CertificateParams::new(SERVER_NAMES.map(str::to_owned)).context("naming the API server")?;
        params.subject_alt_names.extend(server.iter().copied().map(SanType::IpAddress));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        this.issue("server", &params, &authority)?;
        this.issue("admin", &client("system:masters", "admin"), &authority)?;
        let tokens = KeyPair::generate().context("making a key")?;
        this.write("tokens.key", &tokens.serialize_pem())?;
        this.write("tokens.pub", &tokens.public_key_pem())?;
        Ok(this)
    }

    /// Makes the certificate of a node's kubelet, known by the node's name.
    pub(super) fn issue_for_node(&self, node: &str) -> Result<()> {
        let key = fs::read_to_string(self.key("ca")).context("reading the authority's key")?;
        let authority = Issuer::new(authority_params(), KeyPair::from_pem(&key).context("using the authority's key")?);
        self.issue(node, &client("system:nodes", &format!("system:node:{node}")), &authority)
    }

    pub(super) fn authority_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    pub(super) fn certificate(&self, of: &str) -> PathBuf {
        self.folder.join(format!("{of}.crt"))
    }

    pub(super) fn key(&self, of: &str) -> PathBuf {
        self.folder.join(format!("{of}.key"))
    }

    /// What tells that a token was signed with the key of the same name.
    pub(super) fn public_key(&self, of: &str) -> PathBuf {
        self.folder.join(format!("{of}.pub"))
    }

    fn authority(&self) -> Result<Issuer<'static, KeyPair>> {
        let params = authority_params();
        let key = KeyPair::generate()?;
        self.write("ca.crt", &params.self_signed(&key)?.pem())?;
        self.write("ca.key", &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn issue(&self, name: &str, params: &CertificateParams, authority: &Issuer<'_, KeyPair>) -> Result<()> {
        let key = KeyPair::generate().context("making a key")?;
        let certificate = params.signed_by(&key, authority).with_context(|| format!("signing {name}"))?;
        self.write(&format!("{name}.crt"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        fs::write(self.folder.join(file), text).with_context(|| format!("writing {file}"))
    }
}

/// A client, as the API server knows it by its certificate.
fn client(group: &str, user: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, group);
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "testbed");
    params
}
