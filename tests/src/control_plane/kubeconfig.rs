//! Kubeconfig files: who somebody is to the API server, and how it is known.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::certificates::Certificates;

/// The administrator, known by a certificate.
pub(super) fn write_admin(file: &Path, server: &str, certificates: &Certificates) -> Result<()> {
    let user = json!({"client-certificate": certificates.certificate("admin"), "client-key": certificates.key("admin")});
    write(file, server, certificates, &user)
}

/// A node's kubelet, known by a certificate.
pub(super) fn write_node(file: &Path, server: &str, certificates: &Certificates, node: &str) -> Result<()> {
    let user = json!({"client-certificate": certificates.certificate(node), "client-key": certificates.key(node)});
    write(file, server, certificates, &user)
}

/// A service account, known by a token.
pub(super) fn write_account(file: &Path, server: &str, certificates: &Certificates, token: &str) -> Result<()> {
    write(file, server, certificates, &json!({"token": token}))
}

fn write(file: &Path, server: &str, certificates: &Certificates, user: &Value) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority": certificates.authority_file()}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "user"}}],
        "current-context": "testbed",
    });
    let text = serde_yaml_ng::to_string(&config).context("writing YAML")?;
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}
