//! Roles, tokens, and the log of who changed what.

use crate::secured::{Secured, request};
use crate::support::{FakeDaemon, Place};
use sdwan::api::views::Health;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_its_part_and_no_more() {
    let place = Secured::new();
    let daemon = place.start().await;
    let add = ["policies", "add", "erp", "--priority", "50"];
    let (_, error) = place.remote(1, "vera", &add);
    assert!(error.contains("needs the role operator") && error.contains("has the role viewer"), "{error}");
    place.remote(0, "oscar", &add);
    for command in [&["token", "list"][..], &["audit"], &["reload"], &["down"]] {
        let (_, error) = place.remote(1, "oscar", command);
        assert!(error.contains("needs the role admin"), "{command:?}: {error}");
    }
    place.remote(0, "anna", &["token", "list"]);
    assert_eq!(place.remote(0, "anna", &["down"]).0, "everything is removed\n");
    assert_eq!(place.refused("wrong_role").await, 5);
    assert_eq!(daemon.store.policies().unwrap().len(), 1, "what was refused did nothing");
    let (status, page) = place.raw(Some("vera"), &request("GET", "/metrics", &[], "")).await;
    assert_eq!(status, 200);
    assert!(page.contains("sdwan_api_refused_total{reason=\"wrong_role\"} 5"), "{page}");
    let (text, _) = place.remote(0, "vera", &["status"]);
    assert!(text.contains("API refused:") && text.contains("5 wrong_role"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_role_and_no_certificate_at_all_are_refused() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let (_, error) = place.remote(1, "mallory", &["status"]);
    assert!(error.contains("\"mallory\"") && error.contains("[[api.user]]"), "{error}");
    let (status, body) = place.raw(None, &request("GET", "/v1/status", &[], "")).await;
    assert_eq!(status, 401, "{body}");
    assert_eq!((place.refused("unknown_user").await, place.refused("not_logged_in").await), (1, 1));
    let (_, error) = crate::support::expect(1, &["--connect", "https://127.0.0.1:1", "--ca", "/nowhere", "status"]);
    assert!(error.contains("/nowhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_a_viewer_in_until_it_is_removed_and_is_stored_nowhere() {
    let place = Secured::new();
    let daemon = place.start().await;
    let token = place.expect(0, &["token", "add", "grafana"]).0.trim().to_owned();
    let (_, error) = place.expect(1, &["token", "add", "grafana"]);
    assert!(error.contains("there is a token \"grafana\" already"), "{error}");
    place.with_token(0, &token, &["status"]);
    let bearer = format!("Bearer {token}");
    let scrape = request("GET", "/metrics", &[("authorization", &bearer)], "");
    assert_eq!(place.raw(None, &scrape).await.0, 200);
    let (_, error) = place.with_token(1, &token, &["policies", "remove", "x"]);
    assert!(error.contains("needs the role operator"), "{error}");
    let (listing, _) = place.expect(0, &["-o", "json", "token", "list"]);
    assert_eq!(json(&listing)["items"][0]["name"], "grafana");

    let short = json(&place.expect(0, &["-o", "json", "token", "add", "short", "--valid", "1s"]).0);
    let short = short["token"].as_str().unwrap().to_owned();
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    let (_, error) = place.with_token(1, &short, &["status"]);
    assert!(error.contains("not known, or has ended"), "{error}");
    place.expect(0, &["token", "remove", "grafana"]);
    place.with_token(1, &token, &["status"]);
    place.expect(1, &["token", "remove", "grafana"]);
    assert_eq!(place.refused("wrong_token").await, 2);

    daemon.store.flush().unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(place.path("state")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        files += 1;
        for secret in [&token, &short] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "a token is on the disk");
        }
    }
    assert!(files > 0, "there is a database");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_outlives_a_restart() {
    let place = Secured::new();
    let daemon = place.start().await;
    let token = place.expect(0, &["token", "add", "grafana"]).0.trim().to_owned();
    daemon.store.close().unwrap();
    drop(daemon);
    let gone = async {
        while place.path("run/sdwan.sock").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.expect("the daemon ends");
    let _daemon = place.start().await;
    place.with_token(0, &token, &["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_with_who_what_before_after_and_outcome() {
    let place = Secured::new();
    // Before there is a daemon …
    place.expect(0, &["policies", "add", "early", "--priority", "7"]);
    let daemon = place.start().await;
    // … by its socket, from elsewhere, refused, and failed.
    place.expect(0, &["policies", "add", "erp", "--priority", "50"]);
    place.remote(0, "oscar", &["policies", "remove", "erp"]);
    place.remote(1, "oscar", &["policies", "remove", "erp"]);
    place.remote(0, "anna", &["token", "add", "grafana"]);
    let (_, error) = place.expect(1, &["reload"]);
    assert!(error.contains("the files are wrong"), "{error}");
    let (text, _) = place.expect(0, &["-o", "json", "audit"]);
    let listing = json(&text);
    let found: Vec<[&str; 5]> = listing["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| ["via", "role", "action", "target", "outcome"].map(|key| entry[key].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [
            ["offline", "admin", "policies-add", "early", "done"],
            ["unix", "admin", "policies-add", "erp", "done"],
            ["tls", "operator", "policies-remove", "erp", "done"],
            ["tls", "operator", "policies-remove", "erp", "refused"],
            ["tls", "admin", "token-add", "grafana", "done"],
            ["unix", "admin", "reload", "", "refused"],
        ]
    );
    let items = &listing["items"];
    let uid = format!("uid {}", nix::unistd::geteuid());
    assert!(items[1]["who"].as_str().unwrap().starts_with(&uid), "{}", items[1]);
    assert!(items[2]["who"].as_str().unwrap().starts_with("certificate oscar ("), "{}", items[2]);
    assert!(items[2]["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{}", items[2]);
    assert_eq!(items[1]["after"][0]["priority"], 50);
    assert!(!text.contains("sdwan_"), "no token is in it: {text}");
    let (text, _) = place.expect(0, &["audit", "-n", "2"]);
    assert!(text.contains("earlier ones") && text.contains("token-add grafana, by certificate anna"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("policies-add"), "{text}");
    assert_eq!(place.expect(0, &["audit", "--since", "2200-01-01"]).0, "no change\n");

    daemon.store.close().unwrap();
    drop(daemon);
    let (text, note) = place.expect(0, &["audit"]);
    assert!(text.contains("certificate oscar") && note.contains("from its database"), "{text}{note}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_told_even_when_who_asked_for_it_goes_away() {
    use tokio::io::AsyncWriteExt as _;
    let place = Place::new("");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    // Some leave before their request was read, others while it is carried out.
    for number in 0..40_u16 {
        let body = format!("[{{\"name\": \"erp-{number}\", \"priority\": {}}}]", 50 + number);
        let mut stream = tokio::net::UnixStream::connect(place.path("run/sdwan.sock")).await.unwrap();
        stream.write_all(request("POST", "/v1/policies", &[], &body).as_bytes()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_micros(u64::from(number) * 250)).await;
        drop(stream);
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let told = async {
        loop {
            daemon.store.flush().unwrap();
            let question = sdwan::store::AuditQuery { since_unix_ns: None, limit: 100 };
            let found = daemon.store.audit(&question).unwrap();
            if daemon.store.policies().unwrap().len() == found.len() && !found.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(5), told).await.expect("what was done is told");
}
