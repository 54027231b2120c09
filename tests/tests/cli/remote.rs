//! The API over TLS, on real sockets: who gets in, and that nobody is held up by those who don't.

use std::time::{Duration, Instant};

use crate::secured::{Secured, answer, request};
use sdwan::api::server::{BODY_LIMIT, CONNECTIONS, CONNECTIONS_PER_SOURCE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listing_works_from_elsewhere_over_both_ip_versions() {
    let place = Secured::new();
    let _daemon = place.start().await;
    for address in place.addresses {
        for command in [&["status"][..], &["sites"], &["paths"], &["flows"], &["policies"], &["events"], &["audit"]] {
            let arguments = [&["-o", "json"], command].concat();
            let (text, error) = place.remote_at(address, "api-ca.crt", 0, "anna", &arguments);
            assert_eq!((json(&text)["version"].as_u64(), error.as_str()), (Some(1), ""), "{address} {command:?}");
        }
    }
    let (text, _) = place.remote(0, "anna", &["policies", "add", "erp", "--priority", "50", "--zone", "lan"]);
    assert!(text.contains("added"), "{text}");
    place.remote(0, "anna", &["policies", "remove", "erp"]);
    let (text, _) = place.remote(0, "vera", &["policies", "test", "10.1.0.5:9", "10.2.0.9:5060", "udp"]);
    assert!(text.contains("voip-video"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_this_machine_alone_is_not_asked_of_another() {
    let place = Secured::new();
    for command in [&["check"][..], &["config", "show"], &["mesh", "show"], &["api-schema"], &["support-dump"]] {
        let (_, error) = place.remote(2, "anna", command);
        assert!(error.contains("about this machine alone"), "{command:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_not_there_is_told_and_nothing_is_done_here_instead() {
    let place = Secured::new();
    let add = ["policies", "add", "erp", "--priority", "50"];
    for command in [&["status"][..], &["events"], &["audit"], &["down"], &add] {
        let (stdout, error) = place.remote(3, "anna", command);
        assert!(stdout.is_empty() && error.contains("cannot reach the daemon at 127.0.0.1:"), "{command:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_with_the_reason_and_counted() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let (_, error) = place.remote(1, "expired", &["status"]);
    assert!(error.contains("it refuses our certificate, which has ended or not begun"), "{error}");
    place.until_refused("certificate_expired", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_another_authority_are_refused_by_either_end() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let (_, error) = place.remote(1, "foreign", &["status"]);
    assert!(error.contains("not of the authority in its `client_ca`"), "{error}");
    place.until_refused("unknown_authority", 1).await;
    let (_, error) = place.remote_at(place.addresses[0], "foreign-ca.crt", 1, "anna", &["status"]);
    assert!(error.contains("its certificate is not of the authority in --ca"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_tls_is_refused_and_counted() {
    let place = Secured::new();
    let _daemon = place.start().await;
    // The test's own look whether it listens is one that isn't TLS.
    let before = place.refused("tls_failed").await;
    let mut stream = TcpStream::connect(place.addresses[0]).await.unwrap();
    stream.write_all(request("GET", "/v1/status", &[], "").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("it is closed").expect("after an alert");
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    place.until_refused("tls_failed", before + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_and_other_names_are_refused() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let get = |headers: &[(&str, &str)]| request("GET", "/v1/status", headers, "");
    for good in [
        vec![],
        vec![("host", "gw.example.net:9587"), ("origin", "https://gw.example.net:9587")],
        vec![("host", "[::1]:9587"), ("sec-fetch-site", "none")],
    ] {
        assert_eq!(place.raw(Some("vera"), &get(&good)).await.0, 200, "{good:?}");
    }
    let add = "[{\"name\": \"x\", \"priority\": 1}]";
    for bad in [
        get(&[("origin", "https://evil.example")]),
        get(&[("sec-fetch-site", "cross-site")]),
        request("POST", "/v1/policies", &[("origin", "null"), ("content-type", "text/plain")], add),
    ] {
        let (status, body) = place.raw(Some("anna"), &bad).await;
        assert_eq!(status, 403, "{body}");
        assert!(json(&body)["error"].as_str().unwrap().contains("a page of another site"), "{body}");
    }
    let (status, body) = place.raw(Some("anna"), &get(&[("host", "evil.example")])).await;
    assert_eq!(status, 421, "{body}");
    assert_eq!((place.refused("cross_site").await, place.refused("wrong_host").await), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_and_counted() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let head = format!(
        "POST /v1/policies HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        BODY_LIMIT * 100
    );
    let (status, body) = place.raw(Some("anna"), &head).await;
    assert_eq!(status, 413, "{body}");
    assert!(json(&body)["error"].as_str().unwrap().contains("65536 bytes"), "{body}");
    let chunked = format!(
        "POST /v1/policies HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{}\r\n",
        BODY_LIMIT + 1,
        "y".repeat(BODY_LIMIT + 1)
    );
    assert_eq!(place.raw(Some("anna"), &chunked).await.0, 413);
    assert_eq!(place.refused("oversized_body").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_are_cut_off_in_every_step_and_hold_up_nobody() {
    let place = Secured::new();
    let _daemon = place.start().await;
    // No TLS at all, TLS and no request, half a head, and a body that doesn't come.
    let mut silent = TcpStream::connect(place.addresses[0]).await.unwrap();
    let mut idle = place.connect(Some("vera")).await;
    let mut half = place.connect(Some("vera")).await;
    half.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").await.unwrap();
    let mut bodiless = place.connect(Some("anna")).await;
    let head = "POST /v1/policies HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 9\r\n\r\n[";
    bodiless.write_all(head.as_bytes()).await.unwrap();
    let start = Instant::now();
    assert_eq!(place.raw(Some("vera"), &request("GET", "/v1/status", &[], "")).await.0, 200);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let mut rest = Vec::new();
    for end in [
        tokio::time::timeout(Duration::from_secs(15), silent.read_to_end(&mut rest)).await,
        tokio::time::timeout(Duration::from_secs(15), idle.read_to_end(&mut rest)).await,
        tokio::time::timeout(Duration::from_secs(15), half.read_to_end(&mut rest)).await,
    ] {
        assert!(end.is_ok(), "a slow client keeps its connection");
    }
    let (status, body) = answer(&mut bodiless).await;
    assert_eq!(status, 408, "{body}");
    place.until_refused("slow_client", 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_gets_its_share_of_the_connections_and_the_others_theirs() {
    let place = Secured::new();
    let _daemon = place.start().await;
    let get = request("GET", "/v1/status", &[], "");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_PER_SOURCE {
        held.push(place.connect(Some("vera")).await);
    }
    let (status, body) = place.raw(Some("anna"), &get).await;
    assert_eq!(status, 503, "{body}");
    assert!(json(&body)["error"].as_str().unwrap().contains("too many connections"), "{body}");
    assert_eq!(place.refused("too_many_connections").await, 1);
    // Another address is served, until all places are taken.
    for _ in CONNECTIONS_PER_SOURCE..CONNECTIONS {
        held.push(place.connect_from("127.0.0.2", Some("vera")).await.unwrap());
    }
    let mut third = place.connect_from("127.0.0.3", Some("vera")).await.unwrap();
    third.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut third).await.0, 503);
    assert_eq!(place.refused("too_many_connections").await, 2, "and the Unix socket answers meanwhile");
    drop(held);
    let mut again = place.connect_from("127.0.0.3", Some("vera")).await.unwrap();
    again.write_all(get.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut again).await.0, 200, "places are free again");
}
