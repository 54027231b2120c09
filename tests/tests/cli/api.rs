//! The API on a real Unix socket: modes, bounds, slow and rude clients.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::support::{FakeDaemon, Place};
use sdwan::api::client::{Client, ClientError};
use sdwan::api::request::FlowFilter;
use sdwan::api::server::{BODY_LIMIT, Server};
use sdwan::api::views::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Sends bytes as they are and returns what comes back until the server closes.
async fn raw(place: &Place, request: &str) -> String {
    let mut stream = UnixStream::connect(place.path("run/sdwan.sock")).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses may reset the connection after its answer.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_for_its_group_and_goes_with_the_server() {
    let place = Place::new("");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    let mode = |name: &str| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run/sdwan.sock"), mode("run")), (0o660, 0o755));
    let second = Server::bind(&place.path("run/sdwan.sock")).await.unwrap_err().to_string();
    assert!(second.contains("another sdwan answers on"), "{second}");
    drop(daemon);
    let gone = async {
        while place.path("run/sdwan.sock").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the socket is removed");
    let error = Client::new(place.path("run/sdwan.sock")).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_a_killed_daemon_left_is_replaced() {
    let place = Place::new("");
    std::fs::create_dir(place.path("run")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(place.path("run/sdwan.sock")).unwrap());
    assert!(place.path("run/sdwan.sock").exists());
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    Client::new(place.path("run/sdwan.sock")).status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_in_json_with_the_reason() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let table = [
        ("GET", "/v1/nothing", "", "404", "no such path"),
        ("GET", "/v2/status", "", "404", "no such path"),
        ("PUT", "/v1/status", "", "405", "doesn't take this method"),
        ("GET", "/v1/events?limit=0", "", "400", "limit 0 is out of range"),
        ("GET", "/v1/events?limit=x", "", "400", "invalid digit"),
        ("GET", "/v1/events?colour=red", "", "400", "unknown field"),
        ("GET", "/v1/events?kind=nonsense", "", "400", "is no kind of event"),
        ("GET", "/v1/flows?limit=99999999", "", "400", "is out of range"),
        ("POST", "/v1/trace", "{}", "400", "missing field"),
        (
            "POST",
            "/v1/trace",
            "{\"flow\": {\"source\": \"10.0.0.1:1\", \"destination\": \"10.0.0.2:2\", \"protocol\": 17}, \"per_second\": 0}",
            "400",
            "per_second 0 is out of range",
        ),
        ("GET", "/v1/trace/9", "", "404", "there is no trace 9"),
        ("GET", "/v1/trace/x", "", "400", "Cannot parse"),
        ("DELETE", "/v1/trace/x", "", "400", "Cannot parse"),
        ("GET", "/v1/capacity/x", "", "400", "Cannot parse"),
        ("GET", "/v1/report", "", "400", "missing field"),
        ("GET", "/v1/report?since=5&until=5", "", "400", "ends before it begins"),
        ("GET", "/v1/report?since=0&until=1999999999", "", "400", "ten years"),
        ("POST", "/v1/policies", "{", "400", "body is wrong"),
        ("POST", "/v1/policies", "[{\"name\": \"X\", \"priority\": 1}]", "400", "can't be the name of a policy"),
        (
            "POST",
            "/v1/policies/test",
            "{\"source\": \"10.0.0.1\", \"destination\": \"::1\", \"protocol\": 1}",
            "400",
            "versions",
        ),
        ("DELETE", "/v1/policies/none", "", "404", "no stored policy"),
    ];
    for (method, path, body, status, reason) in table {
        let answer = raw(&place, &request(method, path, body)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"));
        assert!(body["error"].as_str().unwrap().contains(reason), "{method} {path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_unread() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let head = format!(
        "POST /v1/policies HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        BODY_LIMIT * 100
    );
    let answer = raw(&place, &head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let chunk = format!("{:x}\r\n{}\r\n", BODY_LIMIT + 1, "y".repeat(BODY_LIMIT + 1));
    let head = "POST /v1/policies HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let answer = raw(&place, &format!("{head}{chunk}")).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let head = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(BODY_LIMIT * 2));
    let answer = raw(&place, &head).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_never_finish_are_cut_off_and_hold_up_nobody_else() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let mut idle = Vec::new();
    for _ in 0..sdwan::api::server::CONNECTIONS - 1 {
        let mut stream = UnixStream::connect(place.path("run/sdwan.sock")).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost:").await.unwrap();
        idle.push(stream);
    }
    let start = Instant::now();
    Client::new(place.path("run/sdwan.sock")).status().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(Duration::from_secs(15), idle[0].read_to_end(&mut rest)).await;
    assert!(cut.is_ok(), "a client that sends no headers keeps its connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_task_that_does_not_answer_is_reported_in_time() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let flow = sdwan::api::flow::FlowSpec::new(
        "10.1.0.5:1".parse().unwrap(),
        "10.2.0.9:2".parse().unwrap(),
        "udp".parse().unwrap(),
    );
    let client = Client::new(place.path("run/sdwan.sock"));
    let start = Instant::now();
    let error = client.explain(&flow.unwrap()).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status: 503, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(15));
    client.flows(&FlowFilter { class: Some("a b&c".into()), ..FlowFilter::default() }).await.unwrap();
}
