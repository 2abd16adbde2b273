//! A certificate authority and a server certificate, made anew at each start.

use anyhow::Context;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// TLS settings for localhost, 127.0.0.1 and `host_names`; the authority that signed them is written to `ca_file`.
///
/// `tls` narrows the version to "1.2" or "1.3".
///
/// # Errors
/// A host name that is none, or a `ca_file` that cannot be written.
pub fn server_config(
    host_names: &[String],
    tls: Option<&str>,
    ca_file: &Path,
) -> anyhow::Result<Arc<ServerConfig>> {
    let (certificate, leaf_key) = signed(host_names, ca_file)?;
    let versions: &[&rustls::SupportedProtocolVersion] = match tls {
        Some("1.2") => &[&rustls::version::TLS12],
        Some("1.3") => &[&rustls::version::TLS13],
        _ => rustls::DEFAULT_VERSIONS,
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.der().to_vec())],
            PrivateKeyDer::try_from(leaf_key.serialize_der()).map_err(anyhow::Error::msg)?,
        )?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For servers in other languages: what [`server_config`] has, as files in `folder`.
///
/// # Errors
/// The folder cannot be written to.
pub fn files(folder: &Path) -> anyhow::Result<Files> {
    let named = |name: &str| folder.join(name);
    let files = Files { ca: named("ca.pem"), certificate: named("certificate.pem"), key: named("key.pem") };
    let (certificate, key) = signed(&[], &files.ca)?;
    std::fs::write(&files.certificate, certificate.pem())?;
    std::fs::write(&files.key, key.serialize_pem())?;
    Ok(files)
}

/// PEM files.
pub struct Files {
    /// The authority.
    pub ca: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A certificate for localhost, 127.0.0.1 and `host_names`, by a new authority that is written to `ca_file`.
fn signed(host_names: &[String], ca_file: &Path) -> anyhow::Result<(Certificate, KeyPair)> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "AgentSight test authority");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_certificate = ca.self_signed(&ca_key)?;
    std::fs::write(ca_file, ca_certificate.pem())
        .with_context(|| format!("cannot write the certificate authority to {}", ca_file.display()))?;

    let names = ["localhost", "127.0.0.1"].into_iter().map(str::to_owned).chain(host_names.iter().cloned());
    let mut leaf = CertificateParams::new(names.collect::<Vec<_>>())?;
    leaf.distinguished_name.push(DnType::CommonName, "AgentSight model server");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python 3.13 and later refuse a chain without it (X509_V_FLAG_X509_STRICT).
    leaf.use_authority_key_identifier_extension = true;
    let leaf_key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&leaf_key, &Issuer::from_params(&ca, &ca_key))?;
    Ok((certificate, leaf_key))
}
