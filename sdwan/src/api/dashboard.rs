//! The dashboard: its files, which are in the binary, and the sockets on loopback addresses that serve them beside the API.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};

use axum::Router;
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, VARY};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flate2::read::GzDecoder;
use futures::future::join_all;
use tokio::net::TcpListener;
use tracing::info;

use super::access::Peer;
use super::handlers;
use super::listen::{Accept, Io, Opening, listen, serve};
use super::server::Api;
use super::tls::Tls;

/// A file of the dashboard.
#[derive(Clone, Copy, Debug)]
struct File {
    /// Path in the address.
    path: &'static str,
    content_type: &'static str,
    /// Its content, by gzip (RFC 1952).
    gzip: &'static [u8],
}

// `FILES: &[File]`, made by build.rs; empty where the pages weren't built.
include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

/// What is answered in the place of the pages when there are none.
const ABSENT: &str = "This sdwan was built without the dashboard's pages. Build them with `cargo xtask web`, then build \
                      sdwan again. The API is here all the same: see /v1/openapi.json.\n";

/// What a page may do: run the daemon's own script, use its own style sheet, and ask the daemon. Nothing from elsewhere,
/// nothing inline, and no frame around it.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                              base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(&str, &str); 7] = [
    ("content-security-policy", CONTENT_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-embedder-policy", "require-corp"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Whether the pages are in this binary.
pub fn is_built() -> bool {
    !FILES.is_empty()
}

/// The pages.
pub(super) fn pages() -> Router {
    if !is_built() {
        let absent = || async { (StatusCode::NOT_FOUND, [(CONTENT_TYPE, "text/plain; charset=utf-8")], ABSENT) };
        return Router::new().route("/", get(absent));
    }
    let page = |file: &'static File| move |headers: HeaderMap| async move { answer(file, &headers) };
    FILES.iter().fold(Router::new(), |router, file| router.route(file.path, get(page(file))))
}

fn answer(file: &File, asked: &HeaderMap) -> Response {
    // The names of these files change with what is in them.
    let lasting = if file.path.starts_with("/assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let mut headers = HeaderMap::new();
    for (name, value) in HEADERS.into_iter().chain([
        (CONTENT_TYPE.as_str(), file.content_type),
        (CACHE_CONTROL.as_str(), lasting),
        (VARY.as_str(), "accept-encoding"),
    ]) {
        headers.insert(HeaderName::from_static(name), axum::http::HeaderValue::from_static(value));
    }
    if takes_gzip(asked) {
        headers.insert(CONTENT_ENCODING, axum::http::HeaderValue::from_static("gzip"));
        return (headers, file.gzip).into_response();
    }
    let mut plain = Vec::new();
    match GzDecoder::new(file.gzip).read_to_end(&mut plain) {
        Ok(_) => (headers, plain).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{} can't be unpacked: {error}\n", file.path)).into_response()
        }
    }
}

fn takes_gzip(headers: &HeaderMap) -> bool {
    let texts = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        name.eq_ignore_ascii_case("gzip") && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// Where the dashboard can be found, as addresses for browsers.
pub fn addresses(plain: &[SocketAddr], secured: &[SocketAddr], tls: Option<&Tls>) -> Vec<String> {
    let names: BTreeSet<&str> = tls.iter().flat_map(|tls| tls.names()).map(String::as_str).collect();
    let name = names.into_iter().find(|name| !name.starts_with('*'));
    let over_tls = |address: &SocketAddr| match name {
        Some(name) => format!("https://{name}:{}/", address.port()),
        None => format!("https://{address}/"),
    };
    let mut all: Vec<String> = plain.iter().map(|address| format!("http://{address}/")).collect();
    all.extend(secured.iter().map(over_tls));
    all.dedup();
    all
}

/// Serves on these loopback addresses until dropped.
pub async fn run(addresses: Vec<SocketAddr>, api: Api) {
    // In one task, so that all sockets are closed when it ends.
    join_all(addresses.into_iter().map(|address| one(address, api.clone()))).await;
}

async fn one(address: SocketAddr, api: Api) {
    let listener = listen(address, "serve the dashboard", "[dashboard]").await;
    info!(target: "sdwan::api", "the dashboard is on http://{address}/");
    let refusals = api.refusals.clone();
    serve(&Browsers(listener), handlers::router(api, BTreeSet::new(), true), refusals).await;
}

/// A socket for browsers of this machine.
struct Browsers(TcpListener);

impl Accept for Browsers {
    async fn next(&self) -> std::io::Result<(Option<IpAddr>, Opening)> {
        let (stream, address) = self.0.accept().await?;
        let peer = Peer::Browser { address: address.to_string() };
        Ok((Some(address.ip()), Box::pin(async move { Ok((Box::new(stream) as Box<dyn Io>, peer)) })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_no_gzip_gets_none() {
        let with = |text: &'static str| HeaderMap::from_iter([(ACCEPT_ENCODING, text.parse().unwrap())]);
        assert!(takes_gzip(&with("deflate, gzip;q=0.8")) && takes_gzip(&with("GZIP")));
        assert!(!takes_gzip(&with("br")) && !takes_gzip(&with("gzip;q=0")) && !takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn every_file_can_be_had_either_way() {
        for file in FILES {
            let packed = answer(file, &HeaderMap::from_iter([(ACCEPT_ENCODING, "gzip".parse().unwrap())]));
            assert_eq!(packed.headers()[CONTENT_ENCODING], "gzip");
            assert!(packed.headers().contains_key("content-security-policy"));
            assert_eq!(answer(file, &HeaderMap::new()).status(), StatusCode::OK, "{}", file.path);
        }
    }

    #[test]
    fn addresses_are_told_by_name_where_there_is_one() {
        let plain: Vec<SocketAddr> = vec!["127.0.0.1:51880".parse().unwrap(), "[::1]:51880".parse().unwrap()];
        let told = addresses(&plain, &["192.0.2.1:9587".parse().unwrap()], None);
        assert_eq!(told, ["http://127.0.0.1:51880/", "http://[::1]:51880/", "https://192.0.2.1:9587/"]);
    }
}
