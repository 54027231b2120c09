//! What Prometheus sees of a live mesh, and what the dashboard and the alerts in `docs/monitoring` make of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan_tests::bed::Namespace;
use sdwan_tests::mesh::{Mesh, MeshOptions, UplinkRate};
use sdwan_tests::traffic::{UdpReceiver, UdpSender, UdpSpec};
use sdwan_tests::{needs_bed, tools};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::{PATIENCE, host, mesh_on, two_sites};

const METRICS: &str = "\n[metrics]\nlisten = [\"127.0.0.1:9586\", \"[::1]:9586\"]\n";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// Where `cargo xtask setup` unpacks them.
const PROMETHEUS_PROGRAM: &str = "prometheus/usr/bin/prometheus";
const PROMTOOL: &str = "prometheus/usr/bin/promtool";

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(file)
}

/// Head and body of an answer.
fn get(namespace: &Namespace, address: &str, path: &str) -> std::io::Result<(String, String)> {
    let address: SocketAddr = address.parse().expect("an address");
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // Of version 1.0, so that nothing comes in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(head, body)| (head.into(), body.into())).unwrap_or_default())
    };
    namespace.run(ask).expect("the namespace is there")
}

/// A mesh of two sites with metrics on TCP, whose lines have declared rates.
fn mesh() -> Mesh {
    let rates = ["isp1", "isp2"].map(|uplink| UplinkRate::mbps(uplink, 50.0, 50.0)).to_vec();
    mesh_on(two_sites(), &MeshOptions { extra: METRICS.into(), rates, ..MeshOptions::default() })
}

#[test]
fn metrics_are_served_on_both_families_and_nothing_else_is() {
    needs_bed!();
    let mesh = mesh();
    let gateway = mesh.gateway("a");
    for address in ["127.0.0.1:9586", "[::1]:9586"] {
        let (head, body) = get(gateway.namespace(), address, "/metrics").expect("it answers");
        assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
        let up = body.lines().filter(|line| line.starts_with("sdwan_path_up{") && line.ends_with(" 1.0")).count();
        assert_eq!(up, 4, "{body}");
        assert!(body.contains("sdwan_site_active{site=\"b\"} 1.0"), "{body}");
        for path in ["/v1/status", "/v1/down", "/"] {
            let (head, _) = get(gateway.namespace(), address, path).expect("it answers");
            assert!(head.contains(" 404 "), "{path}: {head}");
        }
    }
    let Some(promtool) = tools::find(PROMTOOL) else { return };
    let (_, body) = get(gateway.namespace(), "127.0.0.1:9586", "/metrics").expect("it answers");
    let mut check = Command::new(promtool);
    check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let mut check = check.spawn().expect("promtool starts");
    check.stdin.take().expect("piped").write_all(body.as_bytes()).expect("it reads");
    let outcome = check.wait_with_output().expect("it ends");
    assert!(outcome.status.success(), "{}\n{body}", String::from_utf8_lossy(&outcome.stderr));
}

fn connect_from(source: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    socket.bind(&address(&format!("{source}:0")).into()).expect("every address of 127.0.0.0/8 is ours");
    socket.connect(&address("127.0.0.1:9586").into()).expect("it accepts");
    socket.into()
}

#[test]
fn clients_that_say_nothing_or_too_much_hold_nobody_up() {
    needs_bed!();
    let mesh = mesh();
    let namespace = mesh.gateway("a").namespace();
    // More than are served of one address at a time keep silent; one sends headers without end. The others come from elsewhere.
    let silent: Vec<TcpStream> =
        namespace.run(|| (0..30).map(|_| connect_from("127.0.0.2")).collect()).expect("the namespace is there");
    let flood = || {
        let mut stream = connect_from("127.0.0.3");
        let line = format!("X-Padding: {}\r\n", "x".repeat(1_000));
        let sent = write!(stream, "GET /metrics HTTP/1.1\r\n")
            .and_then(|()| (0..10_000).try_for_each(|_| stream.write_all(line.as_bytes())));
        let mut answer = String::new();
        // Refused while it is still sending, so that the answer may be lost.
        let _ = stream.read_to_string(&mut answer);
        (sent.is_err(), answer)
    };
    let (broken, answer) = namespace.run(flood).expect("the namespace is there");
    assert!(broken || answer.contains(" 431 ") || answer.contains(" 400 "), "{answer}");
    let (head, _) = get(namespace, "127.0.0.1:9586", "/metrics").expect("it answers");
    assert!(head.contains(" 200 "), "{head}");
    drop(silent);
}

#[test]
fn the_alerts_are_what_promtool_takes_for_right_and_fire_when_they_should() {
    let Some(promtool) = tools::find(PROMTOOL) else { return };
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts.test.yml")] {
        let outcome = Command::new(&promtool).args([what, "rules"]).arg(monitoring(file)).output();
        let outcome = outcome.expect("promtool starts");
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned() + &String::from_utf8_lossy(&outcome.stderr);
        assert!(outcome.status.success(), "{text}");
    }
}

/// Every query of the dashboard, by the title of its panel.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(monitoring("grafana.json")).expect("the dashboard is there");
    let dashboard: Value = serde_json::from_str(&text).expect("it is JSON");
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let query = target["expr"].as_str().expect("a query");
            let query = query.replace("$instance", ".*").replace("$site", ".*").replace("$__rate_interval", "10s");
            queries.push((panel["title"].as_str().expect("a title").into(), query));
        }
    }
    queries
}

fn result(namespace: &Namespace, query: &str) -> Vec<Value> {
    let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let Ok((_, body)) = get(namespace, PROMETHEUS, &format!("/api/v1/query?query={encoded}")) else {
        return Vec::new();
    };
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    answer["data"]["result"].as_array().cloned().unwrap_or_default()
}

#[test]
fn prometheus_scrapes_a_live_mesh_and_every_panel_of_the_dashboard_shows_something() {
    needs_bed!();
    let Some(prometheus) = tools::find(PROMETHEUS_PROGRAM) else { return };
    let mesh = mesh();
    let gateway = mesh.gateway("a");
    let namespace = gateway.namespace();
    let (a, b) = (host(&mesh, "a"), host(&mesh, "b"));
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), 16_400)).expect("the receiver starts");
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), 200.0)).expect("the sender starts");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n- job_name: sdwan\n  \
         static_configs: [{{targets: ['127.0.0.1:9586']}}]\n",
        monitoring("alerts.yml").display()
    );
    std::fs::write(&file, text).expect("written");
    let mut command = namespace.command(&prometheus);
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
        .arg(format!("--web.listen-address={PROMETHEUS}"));
    let process = mesh.bed().start("prometheus", command).expect("Prometheus starts");
    let start = Instant::now();
    let mut empty = queries();
    assert!(empty.len() >= 15, "{empty:?}");
    // A rate takes two scrapes, and Prometheus some seconds to start.
    while !empty.is_empty() {
        sleep(Duration::from_secs(1));
        empty.retain(|(_, query)| result(namespace, query).is_empty());
        assert!(start.elapsed() < 2 * PATIENCE, "nothing to see of {empty:?}\n{}", process.output());
    }
    // Until the window is full, it is less.
    let counted = || {
        let rate = result(namespace, "sum(rate(sdwan_class_packets_total{class=\"voip-video\"}[10s]))");
        rate[0]["value"][1].as_str().and_then(|rate| rate.parse::<f64>().ok()).expect("a number")
    };
    while !(100.0..300.0).contains(&counted()) {
        assert!(start.elapsed() < 2 * PATIENCE, "{} packets/s of voice are counted, 200 are sent", counted());
        sleep(Duration::from_secs(1));
    }
    let labels = result(namespace, "count by (site, local_uplink, remote_uplink) (sdwan_path_rtt_seconds)");
    assert_eq!(labels.len(), 4, "one series per path: {labels:?}");
    let sent = sender.stop().expect("the sender ends");
    receiver.finish(&sent, Duration::from_secs(1)).expect("the receiver ends");
}
