//! Logging in to the dashboard, and out.

use std::time::Duration;

use axum::Extension;
use axum::extract::{Request as HttpRequest, State};
use axum::http::header::SET_COOKIE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};

use super::access::{Caller, Peer};
use super::audit::Made;
use super::refusals::Reason;
use super::server::{Api, Failure};
use super::sessions::{CODE_VALID, LONGEST_S, Session};
use super::views::{CodeOrder, CodeView, DoneView, LoginOrder, SessionView, VERSION};
use crate::measure::clock;

fn view(api: &Api, session: &Session) -> SessionView {
    SessionView {
        version: VERSION,
        who: session.who.clone(),
        role: session.role,
        logged_in: true,
        expires_in_s: Some(session.ends.since(clock::now()).as_secs()),
        addresses: api.addresses.to_vec(),
    }
}

/// Only over TLS does a browser keep a cookie that is never to go over anything else.
fn is_secure(peer: &Peer) -> bool {
    matches!(peer, Peer::Certificate { .. } | Peer::Stranger { .. })
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/v1/session", tag = "access",
    responses((status = OK, description = "The asker, as the daemon sees them", body = SessionView)))]
pub(super) async fn session(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Json<SessionView> {
    let found = api.sessions.find(&headers, clock::now()).filter(|session| session.who == caller.who);
    let Caller { who, role, .. } = caller;
    Json(match found {
        Some(session) => view(&api, &session),
        None => {
            let addresses = api.addresses.to_vec();
            SessionView { version: VERSION, who, role, logged_in: false, expires_in_s: None, addresses }
        }
    })
}

/// Log in with a code of `POST /v1/session/code`, which is of use once, or with a viewer's token.
///
/// The answer brings a cookie that lets its browser in until it expires. Needs no login, of course.
#[utoipa::path(post, path = "/v1/session", tag = "access", request_body = LoginOrder,
    responses((status = CREATED, description = "Logged in", body = SessionView)))]
pub(super) async fn log_in(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    request: HttpRequest,
) -> Result<Response, Failure> {
    let LoginOrder { secret } = api.json(request).await?;
    let now = clock::now();
    let begun = api.sessions.redeem(&secret, now).or_else(|| {
        let name = api.tokens.find(&secret)?;
        Some(api.sessions.begin(&name, &secret, now))
    });
    let Some((session, cookie)) = begun else {
        let text = "the code or token is not known, was used already, or has ended: `sdwan dashboard --login` makes a \
                    new code";
        api.refusals.count(Reason::WrongToken, text);
        return Err(Failure::new(StatusCode::UNAUTHORIZED, text));
    };
    tracing::info!(target: "sdwan::audit", who = session.who, role = %session.role, "logged in to the dashboard");
    let cookie = api.sessions.set_cookie(Some(&cookie), session.ends.since(now), is_secure(&peer));
    Ok((StatusCode::CREATED, [(SET_COOKIE, cookie)], Json(view(&api, &session))).into_response())
}

/// Log out.
#[utoipa::path(delete, path = "/v1/session", tag = "access", responses((status = OK, description = "It is done", body = DoneView)))]
pub(super) async fn log_out(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if !api.sessions.end(&headers) {
        return Err(Failure::not_found("nobody is logged in with this request's cookie"));
    }
    let cookie = api.sessions.set_cookie(None, Duration::ZERO, is_secure(&peer));
    Ok(([(SET_COOKIE, cookie)], Json(DoneView::new("logged out"))).into_response())
}

/// Make a code that lets somebody log in to the dashboard, once.
#[utoipa::path(post, path = "/v1/session/code", tag = "access", request_body = CodeOrder,
    responses((status = CREATED, description = "The code, shown this once", body = CodeView)))]
pub(super) async fn make_code(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: HttpRequest,
) -> Result<(StatusCode, Json<CodeView>), Failure> {
    let CodeOrder { role, valid_s } = api.json(request).await?;
    if !(60..=LONGEST_S).contains(&valid_s) {
        let text = format!("a login of {valid_s} s is out of range: write 60 to {LONGEST_S}, a week");
        return Err(Failure::wrong(text));
    }
    let wanted = serde_json::json!({ "role": role, "valid_s": valid_s });
    let (owner, after, who) = (api.clone(), wanted.clone(), caller.who.clone());
    let work = async move {
        let code = owner.sessions.make_code(&who, role, Duration::from_secs(valid_s), clock::now());
        let message = format!("a code to log in to the dashboard as {role} was made");
        let answer = CodeView {
            version: VERSION,
            code,
            role,
            valid_s,
            code_valid_s: CODE_VALID.as_secs(),
            addresses: owner.addresses.to_vec(),
        };
        Ok(Made { answer, before: serde_json::Value::Null, after, message })
    };
    let made = api.change(caller, "dashboard-login", role.to_string(), wanted, work).await?;
    Ok((StatusCode::CREATED, Json(made)))
}
