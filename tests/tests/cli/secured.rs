//! A daemon that listens with TLS as well, on addresses of this machine, and users with certificates.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{FakeDaemon, Place, expect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sdwan::api::certificates::{Authority, Purpose};
use sdwan::api::client::Client;
use sdwan::api::views::{Health, StatusView};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Users and their roles; `mallory` has a certificate and no role.
const USERS: [(&str, &str); 3] = [("vera", "viewer"), ("oscar", "operator"), ("anna", "admin")];

/// A place with an authority, certificates, and addresses to listen on.
pub struct Secured {
    place: Place,
    certificates: tempfile::TempDir,
    pub addresses: [SocketAddr; 2],
}

impl Deref for Secured {
    type Target = Place;
    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A port that was free a moment ago.
fn free(address: &str) -> SocketAddr {
    let listener = TcpListener::bind((address.parse::<IpAddr>().expect("an address"), 0)).expect("it can be bound");
    listener.local_addr().expect("it has an address")
}

impl Secured {
    pub fn new() -> Self {
        let certificates = tempfile::tempdir().expect("a temporary directory");
        let directory = certificates.path();
        let authority = Authority::make("test", 10).expect("an authority");
        authority.save(directory).expect("it is written");
        let local = ["127.0.0.1", "::1"].map(|address| address.parse().expect("an address"));
        let gateway = Purpose::Gateway { names: vec!["gw.example.net".into()], addresses: local.into() };
        authority.issue("gw", &gateway, 1).expect("a certificate").save(directory, "gw").expect("it is written");
        for (name, days) in USERS.iter().map(|(name, _)| (*name, 1)).chain([("mallory", 1), ("expired", -1)]) {
            let issued = authority.issue(name, &Purpose::User, days).expect("a certificate");
            issued.save(directory, name).expect("it is written");
        }
        let foreign = Authority::make("test", 10).expect("another authority of the same name");
        foreign.issue("anna", &Purpose::User, 1).expect("a certificate").save(directory, "foreign").expect("written");
        std::fs::write(directory.join("foreign-ca.crt"), foreign.certificate()).expect("it is written");
        let addresses = [free("127.0.0.1"), free("::1")];
        let path = |name: &str| directory.join(name).display().to_string();
        let mut text = format!(
            "[api]\nlisten = [\"{}\", \"{}\"]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
            addresses[0],
            addresses[1],
            path("gw.crt"),
            path("gw.key"),
            path("api-ca.crt")
        );
        for (name, role) in USERS.into_iter().chain([("expired", "admin")]) {
            text.push_str(&format!("[[api.user]]\nname = \"{name}\"\nrole = \"{role}\"\n"));
        }
        Self { place: Place::new(&text), certificates, addresses }
    }

    pub async fn start(&self) -> FakeDaemon {
        FakeDaemon::start(&self.place, Health::Ok).await
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.certificates.path().join(name)
    }

    /// Runs the binary as a user with this certificate, from elsewhere: it has no configuration here.
    pub fn remote(&self, code: i32, user: &str, arguments: &[&str]) -> (String, String) {
        self.remote_at(self.addresses[0], "api-ca.crt", code, user, arguments)
    }

    pub fn remote_at(
        &self,
        address: SocketAddr,
        authority: &str,
        code: i32,
        user: &str,
        arguments: &[&str],
    ) -> (String, String) {
        let path = |name: String| self.file(&name).display().to_string();
        let (url, ca) = (format!("https://{address}"), path(authority.into()));
        let (cert, key) = (path(format!("{user}.crt")), path(format!("{user}.key")));
        let to = ["--connect", &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        expect(code, &[&to[..], arguments].concat())
    }

    /// Runs the binary with a token.
    pub fn with_token(&self, code: i32, token: &str, arguments: &[&str]) -> (String, String) {
        let file = self.file("token");
        std::fs::write(&file, format!("{token}\n")).expect("it is written");
        let (url, ca) = (format!("https://{}", self.addresses[0]), self.file("api-ca.crt").display().to_string());
        let file = file.display().to_string();
        expect(code, &[&["--connect", &url, "--ca", &ca, "--token-file", &file], arguments].concat())
    }

    /// What the daemon says about itself, by its Unix socket.
    pub async fn status(&self) -> StatusView {
        Client::new(self.path("run/sdwan.sock")).status().await.expect("it answers")
    }

    /// How often something was refused for this reason.
    pub async fn refused(&self, reason: &str) -> u64 {
        self.status().await.api_refused[reason]
    }

    /// Waits until that is so.
    pub async fn until_refused(&self, reason: &str, count: u64) {
        let counted = async {
            while self.refused(reason).await != count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let patience = Duration::from_secs(20);
        if tokio::time::timeout(patience, counted).await.is_err() {
            panic!("{reason} is {} and not {count}", self.refused(reason).await);
        }
    }

    /// A connection with TLS, from this address of our own.
    pub async fn connect_from(&self, own: &str, user: Option<&str>) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(own.parse().expect("an address"), 0))?;
        let stream = socket.connect(self.addresses[0]).await?;
        let name = ServerName::from(self.addresses[0].ip());
        TlsConnector::from(Arc::new(self.client(user))).connect(name, stream).await
    }

    /// A connection with TLS as this user.
    pub async fn connect(&self, user: Option<&str>) -> TlsStream<TcpStream> {
        self.connect_from("127.0.0.1", user).await.expect("TLS is set up")
    }

    fn client(&self, user: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("api-ca.crt")).expect("it is PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3 is there")
            .with_root_certificates(roots);
        let Some(user) = user else { return builder.with_no_client_auth() };
        let certificate = CertificateDer::from_pem_file(self.file(&format!("{user}.crt"))).expect("it is PEM");
        let key = PrivateKeyDer::from_pem_file(self.file(&format!("{user}.key"))).expect("it is PEM");
        builder.with_client_auth_cert(vec![certificate], key).expect("they fit")
    }

    /// Sends a request as it is and returns the answer's status and body.
    pub async fn raw(&self, user: Option<&str>, request: &str) -> (u16, String) {
        let mut stream = self.connect(user).await;
        stream.write_all(request.as_bytes()).await.expect("it is taken");
        answer(&mut stream).await
    }
}

/// Reads an answer until the server closes: status and body.
pub async fn answer(stream: &mut TlsStream<TcpStream>) -> (u16, String) {
    let (status, _, body) = whole_answer(stream).await;
    (status, body)
}

/// The same with the head between them.
pub async fn whole_answer(stream: &mut TlsStream<TcpStream>) -> (u16, String, String) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    // A server that refuses may reset the connection after its answer.
    let _ = read.expect("an answer in time");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), head.to_owned(), body.to_owned())
}

/// A request for its text.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "host") {
        text.push_str("host: 127.0.0.1\r\n");
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}\r\n{body}")
}
