//! Who may do what.

use std::time::Duration;

use sdwan::api::views::{AuditView, Listing};
use sdwan_tests::mesh::Gateway;
use sdwan_tests::needs_bed;
use serde_json::{Value, json};

use crate::http::{Answer, ask};
use crate::{ADDRESS, login_link, mesh};

const POLICY: &str =
    "[{\"name\": \"erp\", \"priority\": 50, \"match\": [{\"protocols\": [\"tcp\"], \"ports\": [8443]}]}]";
const OURS: (&str, &str) = ("origin", "http://127.0.0.1:51880");

fn log_in(gateway: &Gateway, secret: &str, headers: &[(&str, &str)]) -> Answer {
    ask(gateway, "POST", "/v1/session", headers, &json!({ "secret": secret }).to_string())
}

/// A code that was made for one login.
fn code(gateway: &Gateway, arguments: &[&str]) -> String {
    let link = login_link(gateway, arguments);
    link.split_once("#/login/").expect("a code in the fragment").1.to_owned()
}

fn refused(gateway: &Gateway, reason: &str) -> u64 {
    gateway.status().expect("a status").api_refused[reason]
}

#[test]
fn looking_needs_no_login_and_changing_does() {
    needs_bed!();
    let mesh = mesh();
    let gateway = mesh.gateway("berlin");
    let get = |path: &str, headers: &[(&str, &str)]| ask(gateway, "GET", path, headers, "");
    assert_eq!(gateway.text(&["dashboard"]).unwrap(), format!("http://{ADDRESS}/\nhttp://[::1]:51880/\n"));

    // Without a login: everything that a viewer sees, and nothing more.
    assert_eq!(get("/v1/status", &[]).status, 200);
    assert!(get("/v1/session", &[]).body.contains("\"role\":\"viewer\""));
    assert_eq!(ask(gateway, "POST", "/v1/policies/dry-run", &[OURS], POLICY).status, 200);
    for (method, path, body) in [
        ("POST", "/v1/policies", POLICY),
        ("DELETE", "/v1/policies/bulk", ""),
        ("POST", "/v1/capacity", "{}"),
        ("POST", "/v1/session/code", "{\"role\": \"admin\", \"valid_s\": 60}"),
        ("GET", "/v1/tokens", ""),
        ("GET", "/v1/audit", ""),
        ("POST", "/v1/down", ""),
    ] {
        let answer = ask(gateway, method, path, &[OURS], body);
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
    }

    // Pages of other sites, and names that somebody makes point here.
    for header in [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")]
    {
        assert_eq!(get("/v1/status", &[header]).status, 403, "{header:?}");
    }
    assert_eq!(get("/v1/status", &[("host", "evil.example")]).status, 421);
    assert_eq!(get("/", &[("host", "evil.example:51880")]).status, 421);

    // A code is of use once.
    let once = code(gateway, &[]);
    assert_eq!(log_in(gateway, "wrong", &[OURS]).status, 401);
    assert_eq!(log_in(gateway, &once, &[("origin", "http://evil.example")]).status, 403);
    let answer = log_in(gateway, &once, &[OURS]);
    assert_eq!(answer.status, 201, "{answer:?}");
    assert!(answer.head.contains("HttpOnly; SameSite=Strict"), "{answer:?}");
    assert_eq!(log_in(gateway, &once, &[OURS]).status, 401, "it was used");

    // An operator changes policies, and nothing that is for admins.
    let cookie = answer.cookie();
    let mine = ("cookie", cookie.as_str());
    let change = |headers: &[(&str, &str)]| ask(gateway, "POST", "/v1/policies?replace=true", headers, POLICY).status;
    assert_eq!(change(&[mine]), 403, "a browser says which page it is from");
    assert_eq!(change(&[mine, ("origin", "http://evil.example")]), 403);
    assert_eq!(change(&[mine, ("origin", "http://127.0.0.1:8080")]), 403, "another port is another page");
    assert_eq!(change(&[mine, OURS]), 201);
    assert_eq!(ask(gateway, "POST", "/v1/down", &[mine, OURS], "").status, 403);
    let wrong = ask(gateway, "POST", "/v1/policies/dry-run", &[OURS], &POLICY.replace("tcp", "tpc"));
    assert!(wrong.status == 400 && wrong.body.contains("is not an IP protocol"), "{wrong:?}");

    let audit: Listing<AuditView> = gateway.json(&["audit"]).expect("the audit log");
    let who = |action: &str| {
        let mut of = audit.items.iter().filter(|item| item.entry.action == action);
        of.next_back().map(|item| (item.entry.who.clone(), item.entry.via.clone())).expect("an entry")
    };
    assert_eq!(who("policies-add"), ("dashboard login 1 of uid 0".into(), "http".into()));
    assert_eq!(who("dashboard-login").1, "unix");

    // A logout ends it, and so does time, and a reload.
    assert_eq!(ask(gateway, "DELETE", "/v1/session", &[mine, OURS], "").status, 200);
    assert_eq!(change(&[mine, OURS]), 403, "logged out");
    let short = log_in(gateway, &code(gateway, &["--for", "60s", "--role", "admin"]), &[OURS]);
    let answer: Value = serde_json::from_str(&short.body).expect("JSON");
    assert!((50..=60).contains(&answer["expires_in_s"].as_u64().unwrap_or(0)) && answer["role"] == "admin", "{answer}");
    let cookie = short.cookie();
    let admin = ("cookie", cookie.as_str());
    assert_eq!(get("/v1/tokens", &[admin]).status, 200);
    gateway.text(&["reload"]).expect("a reload");
    gateway
        .wait_for("the gateway is there again", Duration::from_secs(20), |gateway| {
            Ok(gateway.status().map(drop).map_err(|error| error.to_string()))
        })
        .expect("the reload ends");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(get("/v1/tokens", &[admin]).status, 403, "a reload ends all logins");
    for reason in ["wrong_role", "cross_site", "wrong_host", "wrong_token"] {
        // Counts begin anew with the reload.
        let _ = get("/v1/status", &[("host", "evil.example")]);
        let _ = get("/v1/status", &[("sec-fetch-site", "cross-site")]);
        let _ = log_in(gateway, "wrong", &[OURS]);
        assert!(refused(gateway, reason) > 0, "{reason}");
    }
}
