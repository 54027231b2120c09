//! The document of the API is true: every path of it is there, and answers are as it says.

use std::collections::BTreeSet;

use crate::support::{FakeDaemon, Place, expect};
use sdwan::api::views::Health;
use sdwan_tests::openapi::{Document, over_unix};

#[test]
fn it_is_printed_without_a_daemon_and_complete() {
    let (text, _) = expect(0, &["api-schema"]);
    let document = Document::new(&text);
    let roles: BTreeSet<String> = document.operations().into_iter().map(|operation| operation.role).collect();
    assert_eq!(roles, BTreeSet::from(["admin", "operator", "viewer"].map(str::to_owned)));
    for operation in document.operations() {
        assert!(!operation.summary.is_empty(), "{} {} says nothing", operation.method, operation.path);
    }
    document.every_reference_leads_somewhere();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_in_it_is_there_and_answers_as_it_says() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    place.expect(0, &["policies", "add", "erp", "--priority", "50", "--protocol", "tcp", "--port", "8443,9000-9099"]);
    place.expect(0, &["token", "add", "grafana"]);
    let socket = place.path("run/sdwan.sock");
    let (status, text) = over_unix(&socket, "GET", "/v1/openapi.json", "").await;
    assert_eq!((status, &text), (200, &expect(0, &["api-schema"]).0), "the daemon's own is the same");
    let document = Document::new(&text);
    let mut good = 0;
    for operation in document.operations() {
        let path = operation.path.replace("{name}", "nothing").replace("{id}", "1");
        let body = match (operation.method.as_str(), operation.path.as_str()) {
            ("POST", "/v1/policies/test") => {
                "{\"source\": \"10.1.0.5:1\", \"destination\": \"10.2.0.9:5060\", \"protocol\": \"udp\"}"
            }
            // Not answered by the test's core task.
            ("POST", "/v1/explain") => "{}",
            _ => "",
        };
        let (status, answer) = over_unix(&socket, &operation.method, &path, body).await;
        assert_ne!(status, 405, "{} {path}: {answer}", operation.method);
        assert!(!answer.contains("no such path in version"), "{} {path}: {answer}", operation.method);
        document.check(&operation.method, &operation.path, status, &answer);
        good += usize::from(status < 300);
    }
    assert!(good >= 12, "only {good} were answered with what was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_another_method_is_not_there() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let socket = place.path("run/sdwan.sock");
    let document = Document::new(&expect(0, &["api-schema"]).0);
    let known: BTreeSet<(String, String)> =
        document.operations().into_iter().map(|operation| (operation.method, operation.path)).collect();
    let paths: BTreeSet<&String> = known.iter().map(|(_, path)| path).collect();
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            if known.contains(&(method.to_owned(), path.clone())) {
                continue;
            }
            let asked = path.replace("{name}", "nothing").replace("{id}", "1");
            let (status, answer) = over_unix(&socket, method, &asked, "").await;
            // `/v1/policies/test` is also `/v1/policies/{name}` for who deletes.
            assert!(status == 405 || (method == "DELETE" && status == 404), "{method} {path}: {status} {answer}");
        }
    }
}
