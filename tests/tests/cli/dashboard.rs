//! The dashboard over TLS: the pages for everybody, nothing else without a login.

use crate::secured::{Secured, request, whole_answer};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

/// Status, head and body of an answer to somebody with this certificate.
async fn ask(
    place: &Secured,
    user: Option<&str>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String, String) {
    let mut stream = place.connect(user).await;
    stream.write_all(request(method, path, headers, body).as_bytes()).await.expect("it is taken");
    whole_answer(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_pages_are_everybodys_and_all_else_takes_a_login() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let origin = format!("https://{}", place.addresses[0]);
    let host = place.addresses[0].to_string();
    let ours = [("host", host.as_str()), ("origin", origin.as_str())];
    let (status, head, _) = ask(&place, None, "GET", "/", &[], "").await;
    // Without pages in the binary the answer says how to build them.
    assert!([200, 404].contains(&status) && !head.contains("set-cookie"), "{head}");
    assert_eq!(ask(&place, None, "GET", "/", &[("host", "evil.example")], "").await.0, 421);
    assert_eq!(ask(&place, None, "GET", "/v1/session", &[], "").await.0, 401, "nobody looks without a login");

    let (token, _) = place.remote(0, "anna", &["-o", "json", "token", "add", "wallboard"]);
    let token: serde_json::Value = serde_json::from_str(&token).expect("JSON");
    let secret = |text: &str| json!({ "secret": text }).to_string();
    let token = secret(token["token"].as_str().expect("a token"));
    assert_eq!(ask(&place, None, "POST", "/v1/session", &ours, &secret("wrong")).await.0, 401);
    let evil = [("host", host.as_str()), ("origin", "https://evil.example")];
    assert_eq!(ask(&place, None, "POST", "/v1/session", &evil, &token).await.0, 403);
    let (status, head, body) = ask(&place, None, "POST", "/v1/session", &ours, &token).await;
    assert_eq!(status, 201, "{body}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
    assert!(["; Secure", "; HttpOnly", "; SameSite=Strict"].iter().all(|part| cookie.contains(part)), "{cookie}");
    let mine = [ours[0], ours[1], ("cookie", cookie.split(';').next().expect("its value"))];
    assert_eq!(ask(&place, None, "GET", "/v1/status", &mine, "").await.0, 200);
    assert_eq!(ask(&place, None, "POST", "/v1/policies", &mine, "[]").await.0, 403, "a token is a viewer's");
    place.remote(0, "anna", &["token", "remove", "wallboard"]);
    assert_eq!(ask(&place, None, "GET", "/v1/status", &mine, "").await.0, 401, "the login ends with its token");

    let (link, _) = place.remote(0, "anna", &["-o", "json", "dashboard", "--login", "--role", "operator"]);
    let link: serde_json::Value = serde_json::from_str(&link).expect("JSON");
    let code = secret(link["code"].as_str().expect("a code"));
    let (status, _, body) = ask(&place, None, "POST", "/v1/session", &ours, &code).await;
    assert!(status == 201 && body.contains("\"operator\""), "{status} {body}");
    assert_eq!(ask(&place, None, "POST", "/v1/session", &ours, &code).await.0, 401, "a code is of use once");
    assert!(place.remote(1, "oscar", &["dashboard", "--login"]).1.contains("needs the role admin"));
    let (status, _, body) = ask(&place, Some("vera"), "GET", "/v1/session", &[], "").await;
    assert!(status == 200 && body.contains("certificate vera") && body.contains("\"logged_in\":false"), "{body}");
}
