//! TLS of a listener: its certificate, whom it asks for one, and taking both anew while connections go on.
//!
//! A listener's configuration is replaced as a whole or not at all: handshakes take the current one, connections keep theirs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion, version};
use thiserror::Error;
use tokio::sync::watch;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::model::CertificateIdentity;

/// What a listener's TLS is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM: our certificate and the ones between it and its authority.
    pub certificate: PathBuf,
    /// PEM: its private key, not encrypted.
    pub key: PathBuf,
    /// Whether clients show a certificate too.
    pub clients: ClientCertificates,
    /// False refuses TLS 1.2.
    pub allows_1_2: bool,
    /// What is spoken inside: clients that name protocols must name this one (RFC 7301).
    pub application: &'static [u8],
}

/// Whether clients show a certificate; one that is shown is always verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// They may, of an authority in this PEM file.
    Request(PathBuf),
    /// They must, of an authority in this PEM file.
    Require(PathBuf),
}

/// Why a listener's TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read, or is no PEM.
    #[error("cannot read {what} from {path}: {source}", path = path.display())]
    File {
        /// What it should hold.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// What the reader said.
        source: rustls::pki_types::pem::Error,
    },
    /// A PEM file without what it is for.
    #[error("{path} holds no certificate; it must have a 'BEGIN CERTIFICATE' section", path = path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// An authority that cannot be used, or certificate and key that are no pair.
    #[error("{path} cannot be used: {source}", path = path.display())]
    Unusable {
        /// The file that was looked at.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
}

/// The configuration that handshakes of a listener take.
pub type CurrentTls = watch::Receiver<Arc<ServerConfig>>;

/// Keeps a listener's TLS in step with its files.
pub struct TlsKeeper {
    options: TlsOptions,
    current: watch::Sender<Arc<ServerConfig>>,
    /// What the files looked like when they were last read.
    seen: Vec<Option<(SystemTime, u64)>>,
}

impl TlsKeeper {
    /// Reads the files.
    pub fn new(options: TlsOptions) -> Result<(TlsKeeper, CurrentTls), TlsError> {
        let seen = look(&options);
        let (current, receiver) = watch::channel(load(&options)?);
        Ok((TlsKeeper { options, current, seen }, receiver))
    }

    /// Takes the files anew; on an error what was in effect stays.
    pub fn reload(&mut self) -> Result<(), TlsError> {
        self.seen = look(&self.options);
        self.current.send_replace(load(&self.options)?);
        Ok(())
    }

    /// Takes the files anew if one of them changed since they were last read; returns whether one did.
    pub fn reload_if_changed(&mut self) -> Result<bool, TlsError> {
        let has_changed = look(&self.options) != self.seen;
        if has_changed {
            self.reload()?;
        }
        Ok(has_changed)
    }

    /// The file that says who we are, for messages.
    pub fn certificate(&self) -> &Path {
        &self.options.certificate
    }
}

fn look(options: &TlsOptions) -> Vec<Option<(SystemTime, u64)>> {
    let authorities = match &options.clients {
        ClientCertificates::None => None,
        ClientCertificates::Request(path) | ClientCertificates::Require(path) => Some(path),
    };
    let files = [Some(&options.certificate), Some(&options.key), authorities];
    let look = |path: &PathBuf| {
        let metadata = path.metadata().ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.into_iter().flatten().map(look).collect()
}

fn load(options: &TlsOptions) -> Result<Arc<ServerConfig>, TlsError> {
    static VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    let versions = if options.allows_1_2 { &VERSIONS[..] } else { &VERSIONS[..1] };
    let provider = Arc::new(ring::default_provider());
    let unusable = |source| TlsError::Unusable { path: options.certificate.clone(), source };
    let chain = certificates("our certificate", &options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key);
    let key = key.map_err(|source| TlsError::File {
        what: "our private key",
        path: options.key.clone(),
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(unusable)?;
    let builder = match &options.clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        ClientCertificates::Request(path) => {
            builder.with_client_cert_verifier(verifier(path, false, provider)?)
        }
        ClientCertificates::Require(path) => {
            builder.with_client_cert_verifier(verifier(path, true, provider)?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
    config.alpn_protocols = vec![options.application.to_vec()];
    Ok(Arc::new(config))
}

fn verifier(
    path: &Path,
    is_required: bool,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let unusable = |source| TlsError::Unusable { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for authority in certificates("authorities of clients", path)? {
        roots.add(authority).map_err(unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if is_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| unusable(rustls::Error::General(error.to_string())))
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> =
        read.map_err(|source| TlsError::File { what, path: path.to_owned(), source })?;
    match found.is_empty() {
        true => Err(TlsError::NoCertificate { path: path.to_owned() }),
        false => Ok(found),
    }
}

/// Returns the names in the certificate that the client showed and the handshake verified.
pub(super) fn identity(session: &ServerConnection) -> io::Result<Option<CertificateIdentity>> {
    let Some(shown) = session.peer_certificates().and_then(|chain| chain.first()) else {
        return Ok(None);
    };
    let (_, certificate) = X509Certificate::from_der(shown)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    let common_name = certificate.subject().iter_common_name().last();
    let mut identity = CertificateIdentity {
        common_name: common_name.and_then(|name| name.as_str().ok()).map(str::to_owned),
        ..CertificateIdentity::default()
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => identity.emails.push((*name).to_owned()),
            GeneralName::URI(name) => identity.uris.push((*name).to_owned()),
            _ => {}
        }
    }
    Ok(Some(identity))
}
