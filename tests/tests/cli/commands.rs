//! The binary as people use it: exit codes, messages, JSON, with a daemon and without.

use std::io::Read;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use crate::support::{FakeDaemon, Place, expect};
use sdwan::api::views::Health;
use sdwan::engine::events::{EngineEvent, EventKind};
use sdwan::store::{Record, StateLock, Store};

fn record(daemon: &FakeDaemon, kind: EventKind, message: &str) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let event = Box::new(EngineEvent::new(kind, message));
    daemon.store.record(Record::Event { time_unix_ns: now.as_nanos() as i64, event });
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn exit_codes_are_those_that_the_help_names() {
    let place = Place::new("");
    let (help, _) = expect(0, &["--help"]);
    assert!(help.contains("3  the daemon is not running"), "{help}");
    expect(0, &["--version"]);
    expect(2, &["no-such-command"]);
    expect(2, &["explain", "10.1.0.5:x", "10.2.0.9:5060", "udp"]);
    expect(2, &["events", "--kind", "no-such-kind"]);
    let (_, error) = place.expect(1, &["explain", "10.1.0.5", "10.2.0.9:5060", "udp"]);
    assert!(error.contains("udp packets have ports: write 10.1.0.5:PORT"), "{error}");
    // Not `down`: without a daemon it takes down what one left on this machine.
    for command in ["status", "sites", "paths", "flows", "events"] {
        let (stdout, error) = place.expect(3, &[command]);
        assert_eq!(stdout, "", "{command}");
        assert!(error.contains("start it with `sdwan run` or `systemctl start sdwan`"), "{command}: {error}");
        assert!(error.contains("run/sdwan.sock"), "{command}: the socket is named: {error}");
    }
}

#[test]
fn a_wrong_configuration_is_shown_with_file_line_and_key() {
    let place = Place::new("[probe]\ninterval = \"fast\"\n[tunnel]\nport = 1\n");
    let (stdout, _) = place.expect(1, &["check"]);
    let file = place.config_file();
    assert!(stdout.contains(&format!("{file}:2:12: probe.interval: \"fast\" is not a duration")), "{stdout}");
    assert!(stdout.contains(&format!("{file}:4:1: tunnel.port: unknown key `port`")), "{stdout}");
    let (_, error) = place.expect(1, &["config", "show"]);
    assert!(error.contains("2 errors in the configuration"), "{error}");
    let (_, error) = place.expect(1, &["status"]);
    assert!(error.contains("probe.interval"), "a named file that is wrong is not passed over: {error}");
}

#[test]
fn the_configuration_that_applies_is_shown() {
    let place = Place::new("[tunnel]\nlisten_port = 52000\n");
    let (text, _) = place.expect(0, &["config", "show", "--site-name", "hq"]);
    assert!(text.contains("listen_port = 52000") && text.contains("name = \"hq\""), "{text}");
    let (text, _) = place.expect(0, &["-o", "json", "config", "show"]);
    assert_eq!(json(&text)["tunnel"]["listen_port"], 52_000);
    let (text, _) = expect(0, &["config", "defaults"]);
    assert!(text.contains("# Base UDP port"), "{text}");
}

#[test]
fn the_check_names_what_is_wrong_in_json_too() {
    let place = Place::new("[[uplink]]\nname = \"fibre\"\ninterface = \"nowhere0\"\n");
    let (text, _) = place.expect(1, &["-o", "json", "check"]);
    let report = json(&text);
    assert_eq!((&report["version"], &report["ok"]), (&1.into(), &false.into()));
    let uplink = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "uplink").unwrap();
    assert_eq!(uplink["finding"], "there is no interface nowhere0");
    assert!(uplink["remedy"].as_str().unwrap().contains("`interface` of uplink \"fibre\""));
}

#[test]
fn the_check_follows_a_site_from_no_identity_to_its_certificate() {
    let place = Place::new("");
    let identity = |outcome: &str| {
        let (report, _) = place.run_json(&["check"]);
        let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "identity").cloned();
        let check = check.expect("the identity is checked");
        assert_eq!(check["outcome"], outcome, "{check}");
        format!("{} {}", check["finding"].as_str().unwrap(), check["remedy"].as_str().unwrap_or(""))
    };
    assert!(identity("failed").contains("sdwan site init"));
    let text = |name: &str| place.path(name).display().to_string();
    let (authority, state) = (text("authority"), text("state"));
    expect(0, &["mesh", "init", "--name", "test", "--dir", &authority]);
    let mesh = format!("{authority}/mesh.toml");
    expect(0, &["site", "init", "--name", "branch", "--mesh", &mesh, "--dir", &state]);
    assert!(identity("failed").contains("sdwan mesh admit"));
    let request = format!("{state}/site.request");
    let certificate = text("branch.cert");
    let admit = ["mesh", "admit", &request, "--dir", &authority, "--out", &certificate, "--prefix", "10.1.0.0/24"];
    expect(0, &[&admit[..], &["--days", "10"]].concat());
    expect(0, &["site", "install", &certificate, "--dir", &state]);
    let finding = identity("warning");
    assert!(finding.contains("more days") && finding.contains("sdwan mesh admit"), "{finding}");
    std::fs::remove_file(&certificate).unwrap();
    expect(0, &admit);
    expect(0, &["site", "install", &certificate, "--dir", &state]);
    assert!(identity("ok").contains("site \"branch\""));
    let (report, _) = place.run_json(&["check", "--prefix", "10.9.0.0/24"]);
    assert!(report.to_string().contains("does not allow the prefix 10.9.0.0/24"), "{report}");
    let (report, _) = place.run_json(&["check", "--site-id", "00000000000000000000000000000000"]);
    assert!(report.to_string().contains("not of the wanted one"), "{report}");
}

#[test]
fn policies_are_kept_without_a_daemon_and_guarded_by_the_lock() {
    let place = Place::new("");
    let (text, _) =
        place.expect(0, &["policies", "add", "erp", "--priority", "50", "--protocol", "tcp", "--port", "8443"]);
    assert!(text.contains("policy \"erp\" is stored; the daemon is not running"), "{text}");
    let (text, note) = place.expect(0, &["policies", "-o", "json"]);
    assert!(note.contains("not running"), "{note}");
    let listing = json(&text);
    assert_eq!((&listing["version"], &listing["items"][0]["name"]), (&1.into(), &"erp".into()));
    assert_eq!(listing["items"][0]["source"], "stored");
    let (text, _) = place.expect(0, &["policies", "test", "10.1.0.5:9", "10.2.0.9:8443", "tcp"]);
    assert!(text.contains("policy:  erp (rule 0)"), "{text}");

    let again = ["policies", "add", "erp", "--priority", "51"];
    assert!(place.expect(1, &again).1.contains("use --replace"));
    place.expect(0, &[&again[..], &["--replace"]].concat());
    let (_, error) = place.expect(1, &["policies", "add", "x", "--priority", "1", "--protocol", "icmp", "--port", "5"]);
    assert!(error.contains("icmp has no ports"), "{error}");
    let (_, error) = place.expect(1, &["policies", "remove", "bulk"]);
    assert!(error.contains("is built in"), "{error}");

    let _lock = StateLock::acquire(&place.config().site.lock).unwrap();
    let (_, error) = place.expect(1, &["policies", "remove", "erp"]);
    assert!(error.contains("another sdwan (process"), "{error}");
}

#[test]
fn policies_from_a_file_are_refused_with_the_line() {
    let place = Place::new("");
    let file = place.path("policies.toml");
    std::fs::write(&file, "[[policy]]\nname = \"a\"\npriority = 1\n[[policy.match]]\nports = [\"9-5\"]\n").unwrap();
    let (_, error) = place.expect(1, &["policies", "add", "--file", file.to_str().unwrap()]);
    assert!(error.contains("policies.toml:5:9: policy[0].match[0].ports: \"9-5\" is not a port"), "{error}");
    let add = ["policies", "add", "--file", file.to_str().unwrap()];
    place.expect(0, &["policies", "add", "b", "--priority", "2"]);
    std::fs::write(&file, "[[policy]]\nname = \"a\"\npriority = 1\n[[policy]]\nname = \"b\"\npriority = 3\n").unwrap();
    assert!(place.expect(1, &add).1.contains("--replace"));
    let stored =
        |text: &str| json(text)["items"].as_array().unwrap().iter().filter(|p| p["source"] == "stored").count();
    assert_eq!(stored(&place.expect(0, &["policies", "-o", "json"]).0), 1, "all or none");
    assert!(place.expect(0, &[&add[..], &["--replace"]].concat()).0.contains("policies \"a\", \"b\" are stored"));
    assert_eq!(stored(&place.expect(0, &["policies", "-o", "json"]).0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_daemon_answers_every_listing_with_a_version() {
    let place = Place::new("");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    for command in ["status", "sites", "paths", "flows", "policies", "events"] {
        let (text, _) = place.expect(0, &["-o", "json", command]);
        assert_eq!(json(&text)["version"], 1, "{command}");
        let (text, error) = place.expect(0, &[command]);
        assert!(!text.is_empty() && error.is_empty(), "{command}: {text}{error}");
        assert!(!text.contains('\x1b'), "{command}: colour in a pipe");
    }
    place.expect(0, &["policies", "add", "erp", "--priority", "50", "--zone", "lan"]);
    let (_, error) = place.expect(1, &["policies", "add", "erp", "--priority", "50"]);
    assert!(error.contains("nothing was added") && error.contains("--replace"), "{error}");
    let (_, error) = place.expect(1, &["policies", "add", "x", "--priority", "50", "--zone", "guests"]);
    assert!(error.contains("the zones are: lan"), "{error}");
    assert_eq!(daemon.store.policies().unwrap().len(), 1);
    place.expect(0, &["policies", "remove", "erp"]);
    place.expect(1, &["policies", "remove", "erp"]);
    assert_eq!(place.expect(0, &["down"]).0, "everything is removed\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_degraded_gateway_exits_with_4() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Degraded).await;
    assert!(place.expect(4, &["status"]).0.contains("health:       degraded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_followed_and_still_there_without_the_daemon() {
    let place = Place::new("");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    record(&daemon, EventKind::PathDown, "first");
    record(&daemon, EventKind::PathUp, "second");
    daemon.store.flush().unwrap();
    let (text, _) = place.expect(0, &["events", "--kind", "path-up", "--since", "1h"]);
    assert!(text.contains("second") && !text.contains("first"), "{text}");
    let (text, _) = place.expect(0, &["-o", "json", "events", "--limit", "1"]);
    let listing = json(&text);
    assert_eq!((&listing["truncated"], &listing["items"][0]["message"]), (&true.into(), &"second".into()));

    let file = place.config_file();
    let mut follower = tokio::process::Command::new(crate::support::sdwan())
        .args(["--config", &file, "-o", "json", "events", "--follow"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(follower.stdout.take().unwrap()));
    let mut next = async || tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap();
    assert_eq!(json(&next().await.unwrap())["message"], "first");
    assert_eq!(json(&next().await.unwrap())["message"], "second");
    record(&daemon, EventKind::SiteUp, "third");
    assert_eq!(json(&next().await.unwrap())["message"], "third");
    follower.kill().await.unwrap();

    daemon.store.close().unwrap();
    drop(daemon);
    let (text, note) = place.expect(0, &["events"]);
    assert!(text.contains("third") && note.contains("from its database"), "{text}{note}");
}

#[test]
fn events_are_still_there_when_the_daemon_goes_away_before_it_answers() {
    let place = Place::new("");
    let config = place.config();
    let store = Store::open(&config.site.database, &config.store).expect("the store opens");
    let event = EngineEvent::new(EventKind::DaemonStopped, "the last one");
    store.record(Record::Event { time_unix_ns: 1, event: Box::new(event) });
    store.close().expect("the store is closed");
    std::fs::create_dir_all(config.site.socket.parent().expect("it has a directory")).expect("it is made");
    let listener = UnixListener::bind(&config.site.socket).expect("the socket binds");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One that closes the connection at once, and one that has read the question.
            drop(listener.accept().expect("sdwan connects"));
            let (mut stream, _) = listener.accept().expect("sdwan connects");
            assert!(stream.read(&mut [0; 64]).expect("it asks") > 0);
        });
        for _ in 0..2 {
            let (text, note) = place.expect(0, &["events"]);
            assert!(text.contains("the last one") && note.contains("from its database"), "{text}{note}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_early_is_no_error() {
    let place = Place::new("");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    for number in 0..5_000 {
        record(&daemon, EventKind::PathUp, &format!("event number {number} with a text of some length"));
    }
    daemon.store.flush().unwrap();
    let script = format!(
        "{} --config {} events -n 5000 | head -1; exit ${{PIPESTATUS[0]}}",
        crate::support::sdwan().display(),
        place.config_file()
    );
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_to_measure_is_named_by_its_site_and_tunnel() {
    let place = Place::new("");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    for path in [&["berlin", "0-1"][..], &["berlin 0-1"]] {
        let (_, error) = place.expect(1, &[&["measure", "mtu"], path].concat());
        assert!(error.contains("\"berlin 0-1\""), "{error}");
    }
    place.expect(2, &["measure", "mtu"]);
}

/// A path that was down for a quarter of the last hour but ten minutes, and the failover from it.
fn an_hour_of_history(store: &Store) {
    use sdwan::engine::account::Times;
    use sdwan::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};
    use sdwan::store::{ClassMetrics, PathMetrics, SiteRecord, UplinkMetrics};

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970").as_secs() as i64;
    let index = |index| UplinkIndex::new(index).expect("a small number");
    let site = SiteId([7; 16]);
    let path = PathKey { site, tunnel: TunnelKey { local: index(0), remote: index(1) } };
    let second = Duration::from_secs(1);
    store.record(Record::Site(Box::new(SiteRecord {
        time_unix_s: now,
        id: site,
        name: "berlin".into(),
        state: "active".into(),
        prefixes: Vec::new(),
        uplinks: vec![(index(1), "cable".into())],
    })));
    for number in 1..=300 {
        let (time_unix_s, up) = (now - number * 10, number > 75);
        let up_ms = if up { 10_000 } else { 0 };
        store.record(Record::PathMetrics(Box::new(PathMetrics {
            up,
            known_ms: 10_000,
            up_ms,
            score: 90.0,
            rtt_ms: Some(20.0),
            jitter_forward_ms: 1.0,
            jitter_backward_ms: 2.0,
            loss_forward_pct: Some(0.0),
            loss_backward_pct: Some(0.5),
            mos: Some(4.2),
            sent_packets: 10,
            sent_bytes: 1_000,
            received_packets: 20,
            received_bytes: 2_000,
            ..PathMetrics::unmeasured(path, time_unix_s)
        })));
        store.record(Record::UplinkMetrics(UplinkMetrics { time_unix_s, uplink: index(0), known_ms: 10_000, up_ms }));
        let times = Times { kept: second * 9, broken: second, ..Times::default() };
        let (class, sla) = ("voice".into(), "loss 1 %".into());
        store.record(Record::ClassMetrics(Box::new(ClassMetrics { time_unix_s, site, class, sla, times })));
    }
    let at = |kind, details, class: Option<&str>, to: PathKey| {
        let mut event = EngineEvent::new(kind, "told").with_path(to);
        (event.from_path, event.class, event.details) = (Some(path), class.map(str::to_owned), details);
        store.record(Record::Event { time_unix_ns: (now - 750) * 1_000_000_000, event: Box::new(event) });
    };
    at(EventKind::PathDown, serde_json::json!({ "cause": "silent" }), None, path);
    let other = PathKey { tunnel: TunnelKey { local: index(1), remote: index(1) }, ..path };
    at(EventKind::ClassMoved, serde_json::json!({ "reason": "down" }), Some("voice"), other);
    store.flush().expect("it is written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_the_same_from_the_daemon_and_from_its_database() {
    let place = Place::new("");
    let (_, error) = place.expect(3, &["report"]);
    assert!(error.contains("start it with"), "{error}");
    let daemon = FakeDaemon::start(&place, Health::Ok).await;
    let (text, _) = place.expect(0, &["report"]);
    assert!(text.starts_with("report of here: ") && text.contains("nothing was recorded yet"), "{text}");
    an_hour_of_history(&daemon.store);
    let span = ["report", "--since", "1h"];
    let (text, _) = place.expect(0, &span);
    assert!(text.contains("75.000") && text.contains("cable") && text.contains("no answer to probes"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 80) && !text.contains('\x1b'), "{text}");
    let (_, error) = place.expect(1, &["report", "--since", "1h", "--until", "2h"]);
    assert!(error.contains("ends before it begins"), "{error}");

    let (from_daemon, _) = place.run_json(&span);
    assert_eq!((&from_daemon["version"], &from_daemon["site_name"]), (&1.into(), &"here".into()));
    let path = &from_daemon["paths"][0];
    assert_eq!(
        (&path["availability_pct"], &path["down_s"], &path["falls"]["no answer to probes"]),
        (&75.0.into(), &750.0.into(), &1.into())
    );
    assert!((590.0..=680.0).contains(&path["unknown_s"].as_f64().expect("a number")), "{path}");
    assert_eq!(from_daemon["classes"][0]["compliance_pct"], 90.0);
    assert_eq!(from_daemon["failovers"][0]["cause"], "no answer to probes");

    let page = place.path("report.html").display().to_string();
    for _ in 0..2 {
        let (text, _) = place.expect(0, &[&span[..], &["-o", "html", "--file", &page]].concat());
        assert_eq!(text, "");
    }
    let page = std::fs::read_to_string(&page).expect("the page is there");
    assert!(page.contains("<svg") && page.contains("berlin 0→cable") && !page.contains("http"), "{page}");
    let files = std::fs::read_dir(place.path("")).expect("the place").count();
    assert_eq!(files, 4, "the configuration, two directories, the page");
    let (_, error) = place.expect(1, &["report", "--file", "/nowhere/report"]);
    assert!(error.contains("cannot write /nowhere/report: check the directory"), "{error}");
    let (_, error) = place.expect(2, &["-o", "html", "paths"]);
    assert!(error.contains("only `sdwan report` makes a page"), "{error}");

    daemon.store.close().unwrap();
    drop(daemon);
    let (text, note) = place.expect(0, &["report", "--since", "1h", "-o", "json"]);
    assert!(note.contains("from its database"), "{note}");
    let from_database = json(&text);
    for part in ["availability_pct", "up_s", "down_s", "falls", "rtt_ms"] {
        assert_eq!(from_database["paths"][0][part], path[part], "{part}");
    }
    assert_eq!(from_database["failovers"], from_daemon["failovers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_shows_each_packet_or_only_what_changes_and_ends_by_itself() {
    let place = Place::new("");
    let flow = ["trace", "10.1.0.5:40000", "10.2.0.9:5060", "udp"];
    let (_, error) = place.expect(3, &flow);
    assert!(error.contains("start it with"), "{error}");
    let _daemon = FakeDaemon::start(&place, Health::Ok).await;
    let (text, told) = place.expect(0, &[&flow[..], &["--for", "300ms"]].concat());
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("09:19:18.250000 → lan_ingress    packet 1\n") && !text.contains('\x1b'), "{text}");
    assert!(told.contains("tracing 10.1.0.5:40000 → 10.2.0.9:5060 udp; end it with Ctrl-C"), "{told}");
    assert!(told.contains("4 packets told of, 3 more were not: see --per-second"), "{told}");
    let (text, _) = place.expect(0, &[&flow[..], &["--for", "300ms", "--changes"]].concat());
    assert_eq!(text.lines().map(|line| &line[line.len() - 1..]).collect::<Vec<_>>(), ["1", "3"], "{text}");
    let (text, told) = place.expect(0, &[&flow[..], &["--limit", "2", "-o", "json"]].concat());
    let packets: Vec<_> = text.lines().map(json).collect();
    assert_eq!((packets.len(), told.as_str()), (2, ""));
    assert_eq!((&packets[1]["number"], &packets[1]["verdict"]), (&2.into(), &"forwarded".into()));
    place.expect(2, &["trace", "10.1.0.5", "10.2.0.9:5060"]);
    let (_, error) = place.expect(1, &["trace", "10.1.0.5", "10.2.0.9:5060", "udp"]);
    assert!(error.contains("write 10.1.0.5:PORT"), "{error}");
}

#[test]
fn a_configuration_is_validated_without_a_daemon() {
    let place = Place::new("[[policy]]\nname = \"erp\"\npriority = 5\n");
    let (text, _) = place.expect(0, &["validate"]);
    assert!(
        text.contains("sdwan.toml is valid: uplinks found by their default routes, 1 policy, no drop rule"),
        "{text}"
    );
    let wrong = place.path("wrong.toml");
    std::fs::write(&wrong, "[probe]\ninterval = \"fast\"\n").expect("it is written");
    let wrong = wrong.display().to_string();
    let (text, error) = expect(1, &["validate", &wrong]);
    assert_eq!(text, "");
    assert!(error.contains("wrong.toml:2:12: probe.interval: \"fast\" is not a duration"), "{error}");
    let (verdict, code) = place.run_json(&["validate", &wrong]);
    assert_eq!((code, &verdict["valid"], &verdict["version"]), (Some(1), &false.into(), &1.into()));
    let problem = &verdict["problems"][0];
    assert_eq!(
        (&problem["key"], &problem["line"], &problem["column"]),
        (&"probe.interval".into(), &2.into(), &12.into())
    );
    let (_, error) = expect(1, &["validate", "/nowhere/sdwan.toml"]);
    assert!(
        error.contains("cannot read the configuration /nowhere/sdwan.toml") && error.contains("config defaults"),
        "{error}"
    );
    // A policy of the operator's and one of the file that can't both be.
    place.expect(0, &["policies", "add", "calls", "--priority", "7"]);
    assert!(place.expect(0, &["validate"]).0.contains("and goes with the stored policy"));
}

#[test]
fn top_says_what_to_use_where_there_is_no_terminal() {
    let place = Place::new("");
    let (text, error) = place.expect(1, &["top"]);
    assert_eq!(text, "");
    assert!(error.contains("`sdwan top` needs a terminal") && error.contains("sdwan paths --watch"), "{error}");
    place.expect(2, &["top", "--interval", "0"]);
}
