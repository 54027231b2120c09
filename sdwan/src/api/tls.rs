//! The API on TCP: TLS 1.3 (RFC 8446), with certificates at both ends or a token at the client's.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::join_all;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tracing::info;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::access::{Fingerprint, Peer};
use super::listen::{Accept, Io, Opening, listen, serve};
use super::refusals::{Reason, Refusals};
use crate::config::ApiConfig;

/// A client whose certificate is refused gets so long to read why.
const LINGER: Duration = Duration::from_secs(1);
/// Most that is read of what it still sends meanwhile, bytes.
const LINGER_BYTES: u64 = 64 << 10;

/// A file that TLS needs and can't use.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It can't be read.
    #[error("{key} in [api]: cannot read {path}: {reason}", path = path.display())]
    File {
        /// Key in the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key that others may read.
    #[error("{path} holds a private key but its mode is {mode:04o}: run `chmod 600 {path}`, and make a new key if others had access", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The certificate and the key don't fit, or aren't usable.
    #[error("the certificate {certificate} can't be used with the key {key}: {reason}", certificate = certificate.display(), key = key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// The authority isn't one.
    #[error("{path} is no certificate of an authority: {reason}", path = path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What the TCP side needs to know of the configuration, with its files read.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    config: Arc<ApiConfig>,
    names: BTreeSet<String>,
}

impl Tls {
    /// Reads the files; `None` when the API isn't to be served on TCP.
    ///
    /// # Errors
    /// When a file can't be used.
    pub fn load(config: &ApiConfig) -> Result<Option<Self>, TlsError> {
        if config.listen.is_empty() {
            return Ok(None);
        }
        let (Some(certificate), Some(key), Some(authority)) = (&config.certificate, &config.key, &config.client_ca)
        else {
            // The configuration's validation has said so already.
            return Ok(None);
        };
        let chain = certificates("certificate", certificate)?;
        let names = chain.first().map(|first| names(first)).unwrap_or_default();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let refused =
            |error: &dyn std::fmt::Display| TlsError::Authority { path: authority.clone(), reason: error.to_string() };
        let roots = Arc::new(roots("client_ca", authority)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            // Without one, a token has to say who it is.
            .allow_unauthenticated()
            .build()
            .map_err(|error| refused(&error))?;
        let pair = |error: rustls::Error| TlsError::Pair {
            certificate: certificate.clone(),
            key: key.clone(),
            reason: error.to_string(),
        };
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private_key("key", key)?)
            .map_err(pair)?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A session that goes on must not outlive its certificate.
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Some(Self { acceptor: Arc::new(server).into(), config: Arc::new(config.clone()), names }))
    }

    /// Names in the certificate, which a request may be meant for.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Serves on the configured addresses until dropped.
    pub(super) async fn run(self, router: Router, refusals: Arc<Refusals>) {
        let addresses = self.config.listen.clone();
        let one = |address| Self::listen(self.clone(), address, router.clone(), refusals.clone());
        // In one task, so that all sockets are closed when it ends.
        join_all(addresses.into_iter().map(one)).await;
    }

    async fn listen(self, address: SocketAddr, router: Router, refusals: Arc<Refusals>) {
        let listener = listen(address, "serve the API", "[api]").await;
        info!(target: "sdwan::api", "the API is served on https://{address}");
        serve(&TlsListener { listener, tls: self }, router, refusals).await;
    }

    fn peer(&self, certificate: Option<&CertificateDer<'_>>, address: SocketAddr) -> Peer {
        let address = address.to_string();
        let Some(certificate) = certificate else { return Peer::Stranger { address } };
        let name = common_name(certificate).unwrap_or_default();
        let fingerprint = Fingerprint(Sha256::digest(certificate).into());
        Peer::Certificate { role: self.config.role(&name, &fingerprint), name, fingerprint, address }
    }
}

struct TlsListener {
    listener: TcpListener,
    tls: Tls,
}

impl Accept for TlsListener {
    async fn next(&self) -> std::io::Result<(Option<IpAddr>, Opening)> {
        let (stream, address) = self.listener.accept().await?;
        let tls = self.tls.clone();
        Ok((Some(address.ip()), Box::pin(async move { open(&tls, stream, address).await })))
    }
}

async fn open(tls: &Tls, stream: TcpStream, address: SocketAddr) -> Result<(Box<dyn Io>, Peer), (Reason, String)> {
    match tls.acceptor.accept(stream).into_fallible().await {
        Ok(stream) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let peer = tls.peer(certificates.and_then(|chain| chain.first()), address);
            Ok((Box::new(stream), peer))
        }
        Err((error, stream)) => {
            let _ = tokio::time::timeout(LINGER, let_read(stream)).await;
            Err((reason(&error), error.to_string()))
        }
    }
}

/// Closed with something unread, the connection would be reset, and the alert that says why might never be seen.
async fn let_read(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut (&mut stream).take(LINGER_BYTES), &mut tokio::io::sink()).await.map(drop)
}

fn reason(error: &std::io::Error) -> Reason {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Reason::CertificateExpired,
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Reason::UnknownAuthority,
            _ => Reason::TlsFailed,
        },
        _ => Reason::TlsFailed,
    }
}

/// Reads the certificates in a file; at least one.
///
/// # Errors
/// When there is none, or the file can't be read; `key` names it.
pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |reason: String| TlsError::File { key, path: path.into(), reason };
    let found = CertificateDer::pem_file_iter(path)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(|problem| error(problem.to_string()))?;
    if found.is_empty() {
        return Err(error("there is no certificate in it: PEM is expected".into()));
    }
    Ok(found)
}

/// Reads the certificates of authorities.
///
/// # Errors
/// When there is none, or the file can't be read.
pub(super) fn roots(key: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path)? {
        let refused = |error: rustls::Error| TlsError::Authority { path: path.into(), reason: error.to_string() };
        roots.add(certificate).map_err(refused)?;
    }
    Ok(roots)
}

/// Reads a private key that nobody but its owner and its group may read.
///
/// # Errors
/// When there is none, the file can't be read, or others may read it.
pub(super) fn private_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let error = |reason: String| TlsError::File { key, path: path.into(), reason };
    let metadata = std::fs::metadata(path).map_err(|problem| error(problem.to_string()))?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o027 != 0 {
        return Err(TlsError::Exposed { path: path.into(), mode });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|problem| error(problem.to_string()))
}

fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// DNS names that a certificate is for.
fn names(certificate: &CertificateDer<'_>) -> BTreeSet<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return BTreeSet::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}
