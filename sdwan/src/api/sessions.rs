//! Logins of the dashboard: a one-time code, or a viewer's token, is exchanged for a cookie.
//!
//! Codes and cookies are 256 random bits, of which only the SHA-256 is kept, in memory: a restart or a reload ends all of
//! them. The cookie's name is another one for each daemon, for browsers send a cookie to every port of a host, and two
//! gateways may be reached by two tunnels to the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::COOKIE;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};

use super::access::Role;
use crate::engine::Time;

/// A code is of use for so long.
pub const CODE_VALID: Duration = Duration::from_secs(300);
/// Sessions by a viewer's token end after so long, if the token doesn't before.
pub const TOKEN_SESSION: Duration = Duration::from_secs(12 * 3_600);
/// Longest session, s: a week.
pub const LONGEST_S: u64 = 7 * 86_400;
/// Most codes that nobody has used yet, and most sessions: of more, the one that ends first goes.
const MOST: usize = 64;

type Hash = [u8; 32];

/// Somebody who has logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who, for the audit log.
    pub who: String,
    /// What they may do.
    pub role: Role,
    /// When it ends.
    pub ends: Time,
    /// The token that it was begun with: it ends with that.
    pub token: Option<Hash>,
}

#[derive(Clone, Debug)]
struct Code {
    who: String,
    role: Role,
    valid: Duration,
    ends: Time,
}

/// Codes and sessions; clones are the same.
#[derive(Clone, Debug)]
pub struct Sessions {
    cookie: String,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    codes: HashMap<Hash, Code>,
    sessions: HashMap<Hash, Session>,
    made: u64,
}

impl Default for Sessions {
    fn default() -> Self {
        let mut bytes = [0; 6];
        rand::rng().fill_bytes(&mut bytes);
        Self { cookie: format!("sdwan_{}", hex::encode(bytes)), inner: Arc::default() }
    }
}

/// 256 random bits as text.
fn secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// What is kept of a code, a cookie or a token.
pub fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

impl Inner {
    fn forget(&mut self, now: Time) {
        self.codes.retain(|_, code| now < code.ends);
        self.sessions.retain(|_, session| now < session.ends);
    }

    fn begin(&mut self, session: Session) -> String {
        if self.sessions.len() >= MOST
            && let Some(first) = self.sessions.iter().min_by_key(|(_, session)| session.ends).map(|(hash, _)| *hash)
        {
            self.sessions.remove(&first);
        }
        let cookie = secret();
        self.sessions.insert(hash(&cookie), session);
        cookie
    }
}

impl Sessions {
    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a code, by somebody, for one login that lasts so long.
    pub fn make_code(&self, by: &str, role: Role, valid: Duration, now: Time) -> String {
        let mut inner = self.locked();
        inner.forget(now);
        if inner.codes.len() >= MOST
            && let Some(first) = inner.codes.iter().min_by_key(|(_, code)| code.ends).map(|(hash, _)| *hash)
        {
            inner.codes.remove(&first);
        }
        inner.made += 1;
        let who = format!("dashboard login {} of {by}", inner.made);
        let code = secret();
        inner.codes.insert(hash(&code), Code { who, role, valid, ends: now + CODE_VALID });
        code
    }

    /// Takes a code, which is of no use from then on; gives the session and the value of its cookie. `None`: there is no
    /// such code, or it was used, or has ended.
    pub fn redeem(&self, code: &str, now: Time) -> Option<(Session, String)> {
        let mut inner = self.locked();
        inner.forget(now);
        let Code { who, role, valid, .. } = inner.codes.remove(&hash(code))?;
        let session = Session { who, role, ends: now + valid, token: None };
        let cookie = inner.begin(session.clone());
        Some((session, cookie))
    }

    /// Begins a session of a viewer whose token was found good.
    pub fn begin(&self, name: &str, token: &str, now: Time) -> (Session, String) {
        let who = format!("dashboard with token {name}");
        let session = Session { who, role: Role::Viewer, ends: now + TOKEN_SESSION, token: Some(hash(token)) };
        let mut inner = self.locked();
        inner.forget(now);
        let cookie = inner.begin(session.clone());
        (session, cookie)
    }

    /// The session that a request's cookie is of.
    pub fn find(&self, headers: &HeaderMap, now: Time) -> Option<Session> {
        let hash = hash(self.value(headers)?);
        self.locked().sessions.get(&hash).filter(|session| now < session.ends).cloned()
    }

    /// Ends the session that a request's cookie is of; whether there was one.
    pub fn end(&self, headers: &HeaderMap) -> bool {
        self.value(headers).is_some_and(|value| self.locked().sessions.remove(&hash(value)).is_some())
    }

    /// The header that gives a browser its cookie: no script can read it, and no page of another site makes the browser
    /// send it. Without a value it takes the cookie away.
    pub fn set_cookie(&self, value: Option<&str>, valid: Duration, secure: bool) -> String {
        let (value, age) = value.map_or(("", 0), |value| (value, valid.as_secs()));
        let secure = if secure { "; Secure" } else { "" };
        format!("{}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}", self.cookie)
    }

    /// Whether a request has a cookie of ours, whatever it is worth.
    pub fn is_cookie_there(&self, headers: &HeaderMap) -> bool {
        self.value(headers).is_some()
    }

    fn value<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.filter(|(name, _)| *name == self.cookie).map(|(_, value)| value).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000_000);

    fn with(sessions: &Sessions, cookie: &str) -> HeaderMap {
        let text = format!("other=1; {}={cookie}", sessions.cookie);
        HeaderMap::from_iter([(COOKIE, text.parse().unwrap())])
    }

    #[test]
    fn a_code_is_of_use_once_and_for_its_time() {
        let sessions = Sessions::default();
        let hour = Duration::from_secs(3_600);
        let code = sessions.make_code("uid 0", Role::Operator, hour, NOW);
        assert!(sessions.redeem("wrong", NOW).is_none());
        let (session, cookie) = sessions.redeem(&code, NOW).unwrap();
        assert_eq!((session.role, session.who.as_str()), (Role::Operator, "dashboard login 1 of uid 0"));
        assert!(sessions.redeem(&code, NOW).is_none(), "it was used");
        let late = sessions.make_code("uid 0", Role::Admin, hour, NOW);
        assert!(sessions.redeem(&late, NOW + CODE_VALID).is_none(), "it has ended");

        let headers = with(&sessions, &cookie);
        assert_eq!(sessions.find(&headers, NOW + hour / 2), Some(session));
        assert_eq!(sessions.find(&headers, NOW + hour), None, "the session has ended");
        assert_eq!(sessions.find(&with(&sessions, &code), NOW), None, "a code is no cookie");
        assert_eq!(Sessions::default().find(&headers, NOW), None, "another daemon knows nothing of it");
    }

    #[test]
    fn a_logout_ends_the_session() {
        let sessions = Sessions::default();
        let (_, cookie) = sessions.begin("grafana", "sdwan_x", NOW);
        let headers = with(&sessions, &cookie);
        assert!(sessions.find(&headers, NOW).is_some_and(|session| session.role == Role::Viewer));
        assert!(sessions.end(&headers) && !sessions.end(&headers));
        assert_eq!(sessions.find(&headers, NOW), None);
    }

    #[test]
    fn there_are_so_many_sessions_and_no_more() {
        let sessions = Sessions::default();
        let begun: Vec<_> = (0..=MOST as u64)
            .map(|at| sessions.begin("t", "sdwan_x", NOW + Duration::from_secs(at)).1)
            .map(|cookie| with(&sessions, &cookie))
            .collect();
        assert_eq!(sessions.find(&begun[0], NOW), None, "the one that ends first went");
        assert!(begun[1..].iter().all(|headers| sessions.find(headers, NOW).is_some()));
        for _ in 0..=MOST {
            sessions.make_code("uid 0", Role::Admin, TOKEN_SESSION, NOW);
        }
        assert_eq!(sessions.locked().codes.len(), MOST);
    }

    #[test]
    fn a_cookie_is_for_no_script_and_no_other_site() {
        let sessions = Sessions::default();
        let cookie = sessions.set_cookie(Some("v"), Duration::from_secs(60), true);
        for part in ["HttpOnly", "SameSite=Strict", "Secure", "Max-Age=60", "Path=/"] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!sessions.set_cookie(None, Duration::ZERO, false).contains("Secure"));
    }
}
