//! Who is let in, and with which role; asked before a request is looked at any further.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request as HttpRequest, State};
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::access::{Caller, Peer, Role};
use super::refusals::{Reason, Refusals};
use super::server::{Api, Failure};
use super::sessions::Sessions;
use super::tokens::Tokens;
use crate::measure::clock;

/// Where one logs in.
const LOGIN: &str = "/v1/session";

/// What it takes to let somebody in.
#[derive(Debug)]
pub(super) struct Guard {
    pub refusals: Arc<Refusals>,
    pub tokens: Tokens,
    pub sessions: Sessions,
    /// Names that this gateway is called by over TLS: those in its certificate.
    pub names: BTreeSet<String>,
}

impl Guard {
    pub fn new(api: &Api, names: BTreeSet<String>) -> Self {
        let Api { refusals, tokens, sessions, .. } = api;
        Self { refusals: refusals.clone(), tokens: tokens.clone(), sessions: sessions.clone(), names }
    }

    fn refuse(&self, reason: Reason, status: StatusCode, text: String) -> Failure {
        self.refusals.count(reason, &text);
        Failure::new(status, text)
    }

    /// A browser tells with each request which page sent it (Fetch Metadata, and RFC 6454 section 7): only our own may.
    /// Other programs send neither header.
    fn same_site(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let refuse = |from: &str| {
            let text = format!("a page of another site ({from}) may not talk to this gateway");
            Err(self.refuse(Reason::CrossSite, StatusCode::FORBIDDEN, text))
        };
        if let Some(site) = text("sec-fetch-site").filter(|site| !["same-origin", "none"].contains(&site.as_str())) {
            return refuse(&format!("Sec-Fetch-Site: {site}"));
        }
        let Some(origin) = text(ORIGIN.as_str()) else { return Ok(()) };
        let host = text(HOST.as_str()).unwrap_or_default();
        let ours = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        match ours.is_some_and(|ours| !host.is_empty() && ours.eq_ignore_ascii_case(&host)) {
            true => Ok(()),
            false => refuse(&format!("Origin: {origin}")),
        }
    }

    /// Over TLS, a name that isn't ours says that somebody has made it point here: DNS rebinding.
    fn our_name(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if self.is_ours(host) {
            return Ok(());
        }
        let text = format!("{host:?} is no name of this gateway: use an address, or a name in its certificate");
        Err(self.refuse(Reason::WrongHost, StatusCode::MISDIRECTED_REQUEST, text))
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = host_name(host);
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if literal.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost") {
            return true;
        }
        self.names.iter().any(|ours| match (ours.strip_prefix("*."), name.split_once('.')) {
            (Some(domain), Some((_, rest))) => rest.eq_ignore_ascii_case(domain),
            _ => ours.eq_ignore_ascii_case(name),
        })
    }

    /// Whoever has logged in to the dashboard. A change that a cookie is to allow must say which page it is from: every
    /// browser does.
    fn logged_in(&self, peer: &Peer, method: &Method, headers: &HeaderMap) -> Result<Option<Caller>, Failure> {
        let (via, address) = match peer {
            Peer::Browser { address } => ("http", address),
            Peer::Stranger { address } | Peer::Certificate { role: Some(_), address, .. } => ("tls", address),
            Peer::Local { .. } | Peer::Certificate { role: None, .. } | Peer::Scraper { .. } => return Ok(None),
        };
        let Some(session) = self.sessions.find(headers, clock::now()) else { return Ok(None) };
        if session.token.is_some_and(|hash| !self.tokens.knows(&hash)) {
            return Ok(None);
        }
        let says_where = headers.contains_key(ORIGIN) || headers.contains_key("sec-fetch-site");
        if !method.is_safe() && !says_where {
            let text = "a change by a login of the dashboard must come from its page: Origin is missing".to_owned();
            return Err(self.refuse(Reason::CrossSite, StatusCode::FORBIDDEN, text));
        }
        Ok(Some(Caller { who: session.who, via, source: address.clone(), role: session.role }))
    }

    fn caller(&self, peer: &Peer, method: &Method, path: &str, headers: &HeaderMap) -> Result<Caller, Failure> {
        if let Some(caller) = self.logged_in(peer, method, headers)? {
            return Ok(caller);
        }
        let nobody = |via, address: &String| {
            let who = "somebody without a login".to_owned();
            Caller { who, via, source: address.clone(), role: Role::Viewer }
        };
        let unauthorized = |reason, text: String| Err(self.refuse(reason, StatusCode::UNAUTHORIZED, text));
        match peer {
            Peer::Local { uid, pid } => Ok(Caller::local(*uid, *pid)),
            Peer::Certificate { name, fingerprint, role: Some(role), address } => {
                let who = format!("certificate {name} ({})", &fingerprint.to_string()[..16]);
                Ok(Caller { who, via: "tls", source: address.clone(), role: *role })
            }
            Peer::Certificate { name, fingerprint, role: None, .. } => {
                let text = format!(
                    "the certificate of {name:?} ({fingerprint}) is of nobody who may talk to this gateway: give it a \
                     role as [[api.user]] in the configuration"
                );
                Err(self.refuse(Reason::UnknownUser, StatusCode::FORBIDDEN, text))
            }
            Peer::Browser { address } => Ok(nobody("http", address)),
            // Whoever logs in can't have done so before.
            Peer::Stranger { address } if method == Method::POST && path == LOGIN => Ok(nobody("tls", address)),
            Peer::Stranger { address } => {
                let Some(token) = bearer(headers) else {
                    let text = "a client certificate is needed, or a token (`Authorization: Bearer …`)".to_owned();
                    return unauthorized(Reason::NotLoggedIn, text);
                };
                match self.tokens.find(token) {
                    Some(name) => {
                        let who = format!("token {name}");
                        Ok(Caller { who, via: "tls", source: address.clone(), role: Role::Viewer })
                    }
                    None => {
                        let text = "the token is not known, or has ended: `sdwan token add` makes a new one".to_owned();
                        unauthorized(Reason::WrongToken, text)
                    }
                }
            }
            Peer::Scraper { .. } => {
                unauthorized(Reason::NotLoggedIn, "there is no login here: only /metrics is served".into())
            }
        }
    }
}

/// Lets in who may come in, and tells the handlers who it is.
pub(super) async fn admit(
    State(guard): State<Arc<Guard>>,
    mut request: HttpRequest,
    next: Next,
) -> Result<Response, Failure> {
    let headers = request.headers();
    let Some(peer) = request.extensions().get::<Peer>() else {
        let text = "who is at the other end isn't known".to_owned();
        return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    };
    if !matches!(peer, Peer::Local { .. }) {
        guard.our_name(headers)?;
    }
    guard.same_site(headers)?;
    let caller = guard.caller(peer, request.method(), request.uri().path(), headers)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// For the dashboard's files, which are the same for everybody and secret to nobody: any page may lead to them.
pub(super) async fn admit_page(
    State(guard): State<Arc<Guard>>,
    request: HttpRequest,
    next: Next,
) -> Result<Response, Failure> {
    guard.our_name(request.headers())?;
    Ok(next.run(request).await)
}

/// For metrics without a login: all that is asked is that no page of another site reads them.
pub(super) async fn admit_scraper(
    State(guard): State<Arc<Guard>>,
    request: HttpRequest,
    next: Next,
) -> Result<Response, Failure> {
    guard.same_site(request.headers())?;
    Ok(next.run(request).await)
}

/// Lets through who has at least this role.
pub(super) async fn require(
    State((role, refusals)): State<(Role, Arc<Refusals>)>,
    request: HttpRequest,
    next: Next,
) -> Result<Response, Failure> {
    let caller = request.extensions().get::<Caller>();
    if let Some(caller) = caller.filter(|caller| caller.role >= role) {
        tracing::trace!(target: "sdwan::api", who = caller.who, "{} {}", request.method(), request.uri().path());
        return Ok(next.run(request).await);
    }
    let (who, has) =
        caller.map_or(("nobody", "no role".to_owned()), |c| (c.who.as_str(), format!("the role {}", c.role)));
    let what = format!("{} {}", request.method(), request.uri().path());
    let text = format!("{what} needs the role {role}, and {who} has {has}");
    refusals.count(Reason::WrongRole, &text);
    Err(Failure::new(StatusCode::FORBIDDEN, text))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// `[::1]:443` → `[::1]`, `gw.example.net:443` → `gw.example.net`.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if host[colon + 1..].bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(']') => {
            if host.starts_with('[') || host[..colon].find(':').is_none() { &host[..colon] } else { host }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let names = ["gw.example.net", "*.branch.example.net"].map(str::to_owned).into();
        Guard { refusals: Arc::default(), tokens: Tokens::default(), sessions: Sessions::default(), names }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_host_is_ours_by_address_or_by_the_names_in_the_certificate() {
        let guard = guard();
        for host in [
            "192.0.2.1",
            "192.0.2.1:9587",
            "[2001:db8::1]:9587",
            "[::1]",
            "localhost:1",
            "GW.example.net",
            "a.branch.example.net:9587",
        ] {
            assert!(guard.is_ours(host), "{host}");
        }
        for host in ["", "evil.example", "a.b.branch.example.net", "gw.example.net.evil.example", "branch.example.net"]
        {
            assert!(!guard.is_ours(host), "{host}");
        }
    }

    #[test]
    fn only_our_own_pages_may_ask() {
        let guard = guard();
        let host = ("host", "gw.example.net:9587");
        for good in [
            vec![host],
            vec![host, ("sec-fetch-site", "none")],
            vec![host, ("sec-fetch-site", "same-origin"), ("origin", "https://gw.example.net:9587")],
        ] {
            assert!(guard.same_site(&headers(&good)).is_ok(), "{good:?}");
        }
        for bad in [
            vec![host, ("origin", "https://evil.example")],
            vec![host, ("origin", "null")],
            vec![host, ("sec-fetch-site", "cross-site")],
            vec![host, ("sec-fetch-site", "same-site")],
            vec![("origin", "https://")],
        ] {
            assert!(guard.same_site(&headers(&bad)).is_err(), "{bad:?}");
        }
        assert_eq!(guard.refusals.snapshot()["cross_site"], 5);
    }

    #[test]
    fn a_token_is_taken_from_its_header_only() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer  abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "Basic abc")])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }
}
