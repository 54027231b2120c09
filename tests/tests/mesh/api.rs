//! The API of real daemons: answers are as its document says, and it is served over TLS with certificates that a reload
//! takes anew.

use std::path::Path;
use std::time::{Duration, Instant};

use sdwan::api::certificates::{Authority, Purpose};
use sdwan_tests::mesh::{Gateway, MeshOptions};
use sdwan_tests::needs_bed;
use sdwan_tests::openapi::{Document, over_unix};
use serde_json::Value;

use crate::{host, mesh_on, stream, two_sites};

const SOCKET: &str = "/run/sdwan/sdwan.sock";
const ADDRESS: &str = "127.0.0.1:9587";

fn ask(gateway: &Gateway, method: &str, path: &str, body: &str) -> (u16, String) {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(over_unix(Path::new(SOCKET), method, path, body))
    };
    gateway.namespace().run(ask).expect("the namespace is there")
}

#[test]
fn every_answer_of_a_live_mesh_is_as_the_document_says() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let (gateway, there) = (mesh.gateway("a"), host(&mesh, "b"));
    stream(host(&mesh, "a"), there, 5060, 50.0, Duration::from_secs(1));
    let document = Document::new(&ask(gateway, "GET", "/v1/openapi.json", "").1);
    let flow = |port: u16| {
        let (from, to) = (host(&mesh, "a").v4(), there.v4());
        format!("{{\"source\": \"{from}:40000\", \"destination\": \"{to}:{port}\", \"protocol\": \"udp\"}}")
    };
    let policy = "[{\"name\": \"erp\", \"priority\": 50, \"match\": [{\"protocols\": [\"tcp\", 17], \"dscp\": [\"ef\", 8], \
                  \"ports\": [8443, \"9000-9099\"], \"sources\": [\"10.9.0.0/16\"]}], \"sla\": {\"latency_ms\": 80}}]";
    // In their order: what stops the daemon is last.
    let questions: Vec<(&str, &str, &str, String, u16)> = vec![
        ("POST", "/v1/policies", "/v1/policies", policy.into(), 201),
        ("POST", "/v1/tokens", "/v1/tokens", "{\"name\": \"grafana\", \"valid_s\": 60}".into(), 201),
        ("GET", "/v1/status", "/v1/status", String::new(), 200),
        ("GET", "/v1/sites", "/v1/sites", String::new(), 200),
        ("GET", "/v1/paths", "/v1/paths", String::new(), 200),
        ("GET", "/v1/flows", "/v1/flows", String::new(), 200),
        ("GET", "/v1/policies", "/v1/policies", String::new(), 200),
        ("GET", "/v1/events", "/v1/events?limit=1000", String::new(), 200),
        ("GET", "/metrics", "/metrics", String::new(), 200),
        ("GET", "/v1/openapi.json", "/v1/openapi.json", String::new(), 200),
        ("POST", "/v1/policies/test", "/v1/policies/test", flow(5060), 200),
        ("POST", "/v1/explain", "/v1/explain", flow(5060), 200),
        ("GET", "/v1/report", "/v1/report?since=1700000000&until=1900000000", String::new(), 200),
        ("POST", "/v1/policies/dry-run", "/v1/policies/dry-run?replace=true", policy.into(), 200),
        (
            "GET",
            "/v1/history",
            "/v1/history?site={site}&local=0&remote=0&since=1700000000&until=1900000000",
            String::new(),
            200,
        ),
        ("GET", "/v1/session", "/v1/session", String::new(), 200),
        ("POST", "/v1/session/code", "/v1/session/code", "{\"role\": \"operator\", \"valid_s\": 60}".into(), 201),
        ("POST", "/v1/session", "/v1/session", "{\"secret\": \"nobody knows it\"}".into(), 401),
        ("DELETE", "/v1/session", "/v1/session", String::new(), 404),
        ("POST", "/v1/trace", "/v1/trace", format!("{{\"flow\": {}}}", flow(5060)), 201),
        ("GET", "/v1/trace/{id}", "/v1/trace/{made}", String::new(), 200),
        ("DELETE", "/v1/trace/{id}", "/v1/trace/{made}", String::new(), 200),
        ("POST", "/v1/measure/mtu", "/v1/measure/mtu", "{\"path\": \"b/0-0\"}".into(), 200),
        ("GET", "/v1/capacity/{id}", "/v1/capacity/4711", String::new(), 404),
        ("GET", "/v1/tokens", "/v1/tokens", String::new(), 200),
        ("DELETE", "/v1/policies/{name}", "/v1/policies/erp", String::new(), 200),
        ("DELETE", "/v1/tokens/{name}", "/v1/tokens/grafana", String::new(), 200),
        ("GET", "/v1/audit", "/v1/audit", String::new(), 200),
        ("POST", "/v1/down", "/v1/down", String::new(), 200),
    ];
    let mut made = Value::Null;
    let site = gateway.sites().expect("the sites are listed")[0].id.to_string();
    for (method, path, asked, body, expected) in &questions {
        let asked = asked.replace("{made}", &made.to_string()).replace("{site}", &site);
        let (status, answer) = ask(gateway, method, &asked, body);
        assert_eq!(status, *expected, "{method} {asked}: {answer}");
        if *path == "/v1/trace" {
            made = serde_json::from_str::<Value>(&answer).expect("JSON")["id"].clone();
        }
        document.check(method, path, status, &answer);
        let listed = |answer: &str| serde_json::from_str::<Value>(answer).map(|value| value["items"].clone());
        if *method == "GET" && ["/v1/sites", "/v1/paths", "/v1/flows", "/v1/events", "/v1/audit"].contains(path) {
            assert!(
                listed(&answer).is_ok_and(|items| items.as_array().is_some_and(|items| !items.is_empty())),
                "{path}"
            );
        }
        if *path == "/v1/audit" {
            let items = listed(&answer).expect("a listing");
            assert_eq!((&items[0]["action"], &items[0]["after"][0]["name"]), (&"policies-add".into(), &"erp".into()));
            assert_eq!(items[3]["before"][0]["name"], "erp", "what was removed is told: {items}");
        }
    }
    let asked = |method: &str, path: &str| questions.iter().any(|(m, p, ..)| (*m, *p) == (method, path));
    let left: Vec<String> = document
        .operations()
        .iter()
        .filter(|operation| !asked(&operation.method, &operation.path))
        .map(|operation| format!("{} {}", operation.method, operation.path))
        .collect();
    // One ends the process that answers, the other fills a line for seconds; both are tested elsewhere.
    assert_eq!(left, ["POST /v1/capacity", "POST /v1/reload"]);
}

/// Puts a gateway's and a user's certificate of a new authority into a directory, in place of what is there.
fn certificates(directory: &Path) -> Authority {
    for name in ["gw.crt", "gw.key", "anna.crt", "anna.key", "api-ca.crt", "api-ca.key"] {
        let _ = std::fs::remove_file(directory.join(name));
    }
    let authority = Authority::make("bed", 1).expect("an authority");
    authority.save(directory).expect("it is written");
    let local = vec!["127.0.0.1".parse().expect("an address")];
    let gateway = Purpose::Gateway { names: Vec::new(), addresses: local };
    authority.issue("gw", &gateway, 1).expect("a certificate").save(directory, "gw").expect("it is written");
    authority.issue("anna", &Purpose::User, 1).expect("a certificate").save(directory, "anna").expect("it is written");
    authority
}

/// The API on TCP may be there a moment later than the Unix socket.
fn eventually(what: &str, good: impl Fn() -> Result<(), String>) {
    let start = Instant::now();
    loop {
        match good() {
            Ok(()) => return,
            Err(error) if start.elapsed() > Duration::from_secs(10) => panic!("{what}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

#[test]
fn certificates_are_taken_anew_by_a_reload_and_wrong_ones_are_refused_before() {
    needs_bed!();
    let directory = tempfile::tempdir().expect("a directory");
    certificates(directory.path());
    let path = |name: &str| directory.path().join(name).display().to_string();
    let extra = format!(
        "[api]\nlisten = [\"{ADDRESS}\"]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n\
         [[api.user]]\nname = \"anna\"\nrole = \"admin\"\n",
        path("gw.crt"),
        path("gw.key"),
        path("api-ca.crt")
    );
    let mesh = mesh_on(two_sites(), &MeshOptions { extra, ..MeshOptions::default() });
    let gateway = mesh.gateway("a");
    let old = tempfile::tempdir().expect("a directory");
    for name in ["api-ca.crt", "anna.crt", "anna.key"] {
        std::fs::copy(path(name), old.path().join(name)).expect("it is copied");
    }
    let url = format!("https://{ADDRESS}");
    let remote = |directory: &Path, arguments: &[&str]| {
        let file = |name: &str| directory.join(name).display().to_string();
        let (ca, cert, key) = (file("api-ca.crt"), file("anna.crt"), file("anna.key"));
        let to = ["--connect", &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        gateway.text(&[&to[..], arguments].concat()).map_err(|error| error.to_string())
    };
    eventually("the old certificates", || remote(old.path(), &["status"]).map(drop));

    std::fs::write(path("gw.crt"), "nothing\n").expect("it is written");
    let refused = gateway.text(&["reload"]).expect_err("nothing to read there").to_string();
    assert!(refused.contains("gw.crt") && refused.contains("no certificate"), "{refused}");
    remote(old.path(), &["status"]).expect("it goes on as it was");

    certificates(directory.path());
    remote(old.path(), &["status"]).expect("nothing changes before the reload");
    // The reload itself is asked for from elsewhere, with a certificate that is of no use after it.
    remote(old.path(), &["reload"]).expect_err("it can't ask any more whether it is there again");
    eventually("the new certificates", || remote(directory.path(), &["status"]).map(drop));
    let error = remote(old.path(), &["status"]).expect_err("the old authority is not trusted any more");
    assert!(error.contains("not of the authority"), "{error}");
    let audit: Value = gateway.json(&["audit"]).expect("it is told");
    let found: Vec<(&str, &str)> = audit["items"]
        .as_array()
        .expect("a listing")
        .iter()
        .map(|entry| (entry["via"].as_str().expect("a way"), entry["outcome"].as_str().expect("an outcome")))
        .collect();
    assert_eq!(found, [("unix", "refused"), ("tls", "done")], "{audit}");
}
