//! An independent implementation of STAMP, `stamp-suite`, understands us and we understand it.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use sdwan_tests::{needs_bed, tools};
use serde_json::Value;

use crate::{PATIENCE, PORT, Reflector, addresses, answered, bed, key_file, wait_for};

/// Where `cargo xtask setup` puts it.
const PROGRAM: &str = "stamp-suite-1.0.0/bin/stamp-suite";

#[test]
fn our_sender_measures_by_an_independent_reflector() {
    needs_bed!();
    let Some(program) = tools::find(PROGRAM) else { return };
    let bed = bed();
    let key = key_file(&bed, "key", 7);
    let key = key.to_str().expect("text");
    for (family, address) in addresses(&bed, "b").into_iter().enumerate() {
        let target = SocketAddr::new(address, PORT);
        for (mode, theirs, ours) in [
            ("stateful", vec!["--stateful-reflector"], vec![]),
            ("stateless", vec!["-K", "PTP"], vec!["--timestamps", "ptp"]),
            ("authenticated", vec!["--stateful-reflector", "-A", "A", "--hmac-key-file", key], vec!["--key-file", key]),
            (
                "tlvs",
                vec!["--stateful-reflector", "--verify-tlv-hmac", "--hmac-key-file", key],
                vec!["--key-file", key, "--key-for-tlvs"],
            ),
        ] {
            let mut command = bed.site("b").command(&program);
            command.args(["-i", "-S", &address.to_string(), "-o", &PORT.to_string()]).args(&theirs);
            let mut process = bed.start(&format!("peer-{mode}-{family}"), command).expect("it starts");
            wait_for("the reflector listens", || process.output().contains("listening on"));
            let plan = ["-n", "20", "-i", "5ms", "--dscp", "ef", "-s", "600"];
            let report = answered(&bed, target, &[&plan[..], &ours].concat());
            let what = format!("{mode}, {address}: {report:#}");
            assert_eq!((&report["answered"], &report["lost"]), (&20.into(), &0.into()), "{what}");
            let numbering = if mode == "stateless" { "stateless" } else { "stateful" };
            assert_eq!(report["numbering"], numbering, "{what}");
            assert_eq!((&report["tlvs"], &report["session_returned"]), (&"read".into(), &true.into()), "{what}");
            assert_eq!(report["dscp"], serde_json::json!({"forward": 46, "backward": 46, "refused": false}), "{what}");
            assert_eq!(report["ttl"]["forward"], 255, "{what}");
            let format = if mode == "stateless" { "ptp" } else { "ntp" };
            assert_eq!(report["reflector_clock"]["format"], format, "{what}");
            // Namespaces share a clock: a misread timestamp would be years off.
            let there = report["one_way_ms"]["forward"]["median"].as_f64().expect("a figure");
            assert!((0.0..100.0).contains(&there), "{what}");
            process.signal(Signal::SIGINT).expect("a signal");
            process.wait(PATIENCE).expect("it ends");
        }
    }
}

#[test]
fn an_independent_sender_measures_by_our_reflector() {
    needs_bed!();
    let Some(program) = tools::find(PROGRAM) else { return };
    let bed = bed();
    let key = key_file(&bed, "key", 7);
    let key = key.to_str().expect("text");
    let all = [
        "--cos",
        "--dscp",
        "46",
        "--timestamp-info",
        "--direct-measurement",
        "--location",
        "--follow-up-telemetry",
        "--extra-padding",
        "100",
        "--access-report",
        "1",
        "--ssid",
        "77",
    ];
    for (mode, ours, theirs) in [
        ("open", vec![], vec![]),
        ("stateless", vec!["--stateless"], vec!["-K", "PTP"]),
        ("authenticated", vec!["--key-file", key], vec!["-A", "A", "--hmac-key-file", key]),
        ("tlvs", vec!["--key-file", key, "--key-for-tlvs"], vec!["--tlv-hmac", "on", "--hmac-key-file", key]),
    ] {
        let reflector = Reflector::start(&bed, mode, &ours);
        for address in addresses(&bed, "b") {
            let mut command = bed.site("a").command(&program);
            command.args(["-r", &address.to_string(), "-p", &PORT.to_string(), "-c", "20", "-d", "10", "-L", "2"]);
            command.args(["-S", if address.is_ipv4() { "0.0.0.0" } else { "::" }]);
            let output = command.args(["--output-format", "json"]).args(all).args(&theirs).output().expect("it runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            let text = String::from_utf8_lossy(&output.stdout);
            let summary: Value = text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .rfind(|line: &Value| line["type"] == "summary")
                .unwrap_or_else(|| panic!("{mode}, {address}: no summary: {text}{errors}"));
            let what = format!("{mode}, {address}: {summary:#}");
            assert_eq!((&summary["packets_received"], &summary["packets_lost"]), (&20.into(), &0.into()), "{what}");
            let tlvs = &summary["measurements"]["tlv_validation"];
            assert_eq!(tlvs["rejected_replies"], 0, "{what}");
            // A stateless reflector counts nothing, so it says that it doesn't understand Direct Measurement.
            let unrecognized = if mode == "stateless" { 20 } else { 0 };
            assert_eq!(tlvs["flags"]["unrecognized"], unrecognized, "{what}");
            assert_eq!(
                (&tlvs["flags"]["malformed"], &tlvs["flags"]["integrity_failed"]),
                (&0.into(), &0.into()),
                "{what}"
            );
            let verified = if ["authenticated", "tlvs"].contains(&mode) { 20 } else { 0 };
            assert_eq!(tlvs["hmac"]["verified"], verified, "{what}");
            assert_eq!(summary["access_report"]["outcome"], "acknowledged", "{what}");
            if mode != "stateless" {
                let direct = &summary["measurements"]["direct_measurement"]["latest_transmit"];
                assert_eq!((&direct["reflector_rx"], &direct["reflector_tx"]), (&20.into(), &20.into()), "{what}");
                assert_eq!(summary["measurements"]["follow_up"]["matched"], 19, "{what}");
            }
        }
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(reflector.finish()["answered"], 40, "{mode}");
    }
}
