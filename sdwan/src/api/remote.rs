//! The way to a daemon on another machine: TLS with certificates at both ends, or with a token at this one.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use zeroize::Zeroizing;

use super::client::ClientError;
use super::tls::{TlsError, certificates, private_key, roots};

/// Port of the API where a URL names none.
pub const PORT: u16 = 9587;

/// A daemon elsewhere, and how to talk to it.
#[derive(Clone, Debug)]
pub struct Target {
    /// `https://HOST[:PORT]`, or without the scheme.
    pub url: String,
    /// Certificate of the authority that issued the gateway's.
    pub authority: PathBuf,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Our token.
    pub token: Option<Zeroizing<String>>,
}

/// A target that can't be used; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("{0:?} is no address of a daemon: write https://HOST, https://HOST:PORT or https://[IPV6]:PORT")]
    Url(String),
    /// A file.
    #[error(transparent)]
    File(#[from] TlsError),
    /// The certificate and the key don't fit.
    #[error("the certificate {certificate} can't be used with the key {key}: {reason}", certificate = certificate.display(), key = key.display())]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// Nothing says who we are.
    #[error("say who you are: with --cert and --key, or with --token-file")]
    Nobody,
    /// TLS itself.
    #[error("cannot set up TLS: {0}")]
    Tls(rustls::Error),
}

/// A daemon elsewhere; connects when asked to.
#[derive(Clone)]
pub struct Remote {
    host: String,
    port: u16,
    address: String,
    name: ServerName<'static>,
    connector: TlsConnector,
    token: Option<Zeroizing<String>>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Remote {
    /// Reads the files; connects to nobody yet.
    ///
    /// # Errors
    /// When the URL or a file can't be used.
    pub fn new(target: &Target) -> Result<Self, TargetError> {
        let (host, port) = host_and_port(&target.url).ok_or_else(|| TargetError::Url(target.url.clone()))?;
        let name = ServerName::try_from(host.clone()).map_err(|_| TargetError::Url(target.url.clone()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TargetError::Tls)?
            .with_root_certificates(roots("--ca", &target.authority)?);
        let mut config = match &target.identity {
            Some((certificate, key)) => {
                let refused = |error: rustls::Error| TargetError::Identity {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    reason: error.to_string(),
                };
                let chain = certificates("--cert", certificate)?;
                builder.with_client_auth_cert(chain, private_key("--key", key)?).map_err(refused)?
            }
            None if target.token.is_some() => builder.with_no_client_auth(),
            None => return Err(TargetError::Nobody),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let token = target.token.clone();
        Ok(Self { host, port, address, name, connector: Arc::new(config).into(), token })
    }

    /// Where it is, as `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_ref().map(|token| token.as_str())
    }

    pub(super) async fn connect(&self) -> Result<TlsStream<TcpStream>, ClientError> {
        let address = || self.address.clone();
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| ClientError::Unreachable { address: address(), reason: error.to_string() })?;
        self.connector.connect(self.name.clone(), stream).await.map_err(|error| match why(&error) {
            Some(reason) => ClientError::Untrusted { address: address(), reason },
            None => ClientError::Unreachable { address: address(), reason: error.to_string() },
        })
    }
}

/// Host and port of `https://HOST:PORT/`, `HOST`, `[IPV6]:PORT`, …
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '?', '#', '@', ' ']) || rest.contains("://") {
        return None;
    }
    if rest.parse::<std::net::Ipv6Addr>().is_ok() {
        return Some((rest.into(), PORT));
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(six) => {
            let (host, port) = six.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or(if port.is_empty() { Some("") } else { None })?)
        }
        None => rest.split_once(':').unwrap_or((rest, "")),
    };
    let port = if port.is_empty() && !rest.ends_with(':') { PORT } else { port.parse().ok()? };
    (!host.is_empty() && port > 0).then(|| (host.to_owned(), port))
}

/// What an error of TLS means for the operator, if it is one.
pub(super) fn why(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(explain(tls));
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn explain(error: &rustls::Error) -> String {
    let text = match error {
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => {
                "it refuses our certificate, which has ended or not begun: get a new one"
            }
            // An authority of the same name with another key shows in the signature alone.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it refuses our certificate, which is not of the authority in its `client_ca`: see --cert"
            }
            AlertDescription::CertificateRequired => "it wants a client certificate: see --cert",
            _ => return format!("it ended the handshake: {error}"),
        },
        rustls::Error::InvalidCertificate(problem) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not of the authority in --ca"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has ended",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for other names than the one in --connect"
            }
            _ => return format!("its certificate is not to be trusted: {error}"),
        },
        rustls::Error::InvalidMessage(_) => "it doesn't speak TLS on this port",
        _ => return error.to_string(),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_people_write_them() {
        let good = [
            ("https://gw.example.net", "gw.example.net", PORT),
            ("https://gw.example.net:8443/", "gw.example.net", 8443),
            ("gw:1", "gw", 1),
            ("192.0.2.1:9587", "192.0.2.1", 9587),
            ("https://[2001:db8::1]:1", "2001:db8::1", 1),
            ("[2001:db8::1]", "2001:db8::1", PORT),
            ("2001:db8::1", "2001:db8::1", PORT),
        ];
        for (url, host, port) in good {
            assert_eq!(host_and_port(url), Some((host.into(), port)), "{url}");
        }
        for bad in ["", "http://gw", "https://", "gw:", "gw:0", "gw:70000", "https://gw/v1", "[gw]:1", "[::1]x", "a@b"]
        {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_error_of_tls_is_found_wherever_it_is() {
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let nested = std::io::Error::other(std::io::Error::other(alert));
        assert!(why(&nested).is_some_and(|text| text.contains("client_ca")), "{:?}", why(&nested));
        assert_eq!(why(&std::io::Error::other("x")), None);
    }
}
