//! What a session says of a line is what the line does.

use std::net::SocketAddr;

use sdwan_tests::bed::{Bed, Impairment};
use sdwan_tests::needs_bed;

use crate::{PORT, Reflector, addresses, answered, bed, key_file};

/// Packets of a session that counts losses.
const MANY: &str = "1500";

fn line(up: Impairment, down: Impairment) -> Bed {
    Bed::builder().sites(["a", "b"]).impair_directions("a", "isp1", up, down).build().expect("the bed is built")
}

#[test]
fn a_session_tells_the_delay_and_the_loss_of_each_direction_in_both_families_and_modes() {
    needs_bed!();
    let bed = line(Impairment::delay_ms(10).loss(0.1), Impairment::delay_ms(20));
    let key = key_file(&bed, "key", 7);
    let key = key.to_str().expect("text");
    for (name, reflector, sender) in
        [("open", vec![], vec![]), ("authenticated", vec!["--key-file", key], vec!["--key-file", key])]
    {
        let limits = ["--source-pps", "0", "--total-pps", "0"];
        let running = Reflector::start(&bed, name, &[&limits[..], &reflector].concat());
        for address in addresses(&bed, "b") {
            let before = bed.link("a", "isp1").statistics().expect("statistics").up;
            let plan = ["-n", MANY, "-i", "2ms", "--timeout", "2s"];
            let report = answered(&bed, SocketAddr::new(address, PORT), &[&plan[..], &sender].concat());
            let number = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_f64()).expect("a number");
            let rtt = number("/rtt_ms/median");
            assert!((29.9..35.0).contains(&rtt), "{rtt} ms");
            // Both ends have the same clock here.
            let (there, back) = (number("/one_way_ms/forward/median"), number("/one_way_ms/backward/median"));
            assert!((9.9..14.0).contains(&there) && (19.9..24.0).contains(&back), "{there} and {back} ms");
            assert_eq!(report["numbering"], "stateful");
            // The line counts a neighbour discovery or two more.
            let after = bed.link("a", "isp1").statistics().expect("statistics").up;
            let (truth, unsure) = (after.lost - before.lost, after.failed - before.failed);
            let lost = number("/loss/forward/lost");
            let told = (lost + number("/lost_unknown")) as u64;
            assert!(truth > 50 && told.abs_diff(truth) <= 3 + unsure, "{told}, the line lost {truth}: {report:#}");
            assert_eq!(number("/loss/backward/lost"), 0.0, "{report:#}");
            assert_eq!(number("/lost"), lost + number("/lost_unknown"));
        }
        assert!(running.finish()["answered"].as_u64().expect("a count") > 2_400);
    }
}

#[test]
fn loss_on_the_way_back_doubled_and_overtaken_packets_are_told_as_such() {
    needs_bed!();
    let down = Impairment { duplicate: 0.1, ..Impairment::delay_ms(1).loss(0.1) };
    let up = Impairment { reorder: 0.1, reorder_by: std::time::Duration::from_millis(10), ..Impairment::delay_ms(1) };
    let bed = line(up, down);
    let reflector = Reflector::start(&bed, "reflector", &["--source-pps", "0"]);
    let target = SocketAddr::new(addresses(&bed, "b")[0], PORT);
    let report = answered(&bed, target, &["-n", MANY, "-i", "2ms"]);
    let number = |pointer: &str| report.pointer(pointer).and_then(|value| value.as_u64()).expect("a number");
    assert_eq!(number("/loss/forward/lost"), 0, "{report:#}");
    let truth = bed.link("a", "isp1").statistics().expect("statistics");
    let unsure = 3 + truth.up.failed + truth.down.failed;
    let lost = number("/loss/backward/lost") + number("/lost_unknown");
    assert!(truth.down.lost > 50 && lost.abs_diff(truth.down.lost) <= unsure, "{truth:?}: {report:#}");
    assert!(number("/duplicates").abs_diff(truth.down.duplicated) <= unsure, "{truth:?}: {report:#}");
    assert_eq!(number("/duplicated_forward"), 0);
    // Of those that were held back some lost their answer, and some held each other's place.
    let overtaken = number("/reordered_by_direction/forward");
    assert!((truth.up.held_back / 2..=truth.up.held_back).contains(&overtaken), "{truth:?}: {report:#}");
    assert_eq!(number("/reordered_by_direction/backward"), 0);
    assert_eq!(reflector.finish()["answered"], 1_500);
}

#[test]
fn a_stateless_reflector_is_known_as_one_and_a_class_that_is_not_allowed_is_refused() {
    needs_bed!();
    let bed = bed();
    let reflector = Reflector::start(&bed, "reflector", &["--stateless", "--allow-dscp", "0", "--allow-dscp", "af41"]);
    for address in addresses(&bed, "b") {
        let target = SocketAddr::new(address, PORT);
        let plan = ["-n", "5", "-i", "5ms", "--dscp", "ef"];
        let report = answered(&bed, target, &[&plan[..], &["--reply-dscp", "af41", "-s", "1200"]].concat());
        assert_eq!(report["numbering"], "stateless");
        let dscp = report["dscp"].clone();
        assert_eq!(dscp, serde_json::json!({"forward": 46, "backward": 34, "refused": false}));
        assert_eq!((&report["payload_bytes"], &report["tlvs"]), (&1_200.into(), &"read".into()));
        assert_eq!((&report["ttl"]["forward"], &report["ttl"]["backward"]), (&255.into(), &255.into()));
        // EF isn't allowed for answers: they get the question's own.
        let report = answered(&bed, target, &plan);
        assert_eq!(report["dscp"], serde_json::json!({"forward": 46, "backward": 46, "refused": true}));
    }
    assert_eq!(reflector.finish()["answered"], 20);
}

#[test]
fn an_end_by_ctrl_c_shows_the_summary() {
    needs_bed!();
    let bed = bed();
    let reflector = Reflector::start(&bed, "reflector", &[]);
    let target = SocketAddr::new(addresses(&bed, "b")[0], PORT).to_string();
    let command = crate::sdwan(&bed, "a", &["measure", "stamp", &target, "-n", "0", "-i", "10ms", "-v"]);
    let mut process = bed.start("session", command).expect("it starts");
    crate::wait_for("some answers are shown", || process.output().matches("  rtt ").count() > 3);
    process.signal(nix::sys::signal::Signal::SIGINT).expect("a signal");
    assert!(process.wait(crate::PATIENCE).expect("it ends").success());
    let output = process.output();
    assert!(output.contains("loss there 0.00 %") && output.contains("(unsynchronised)"), "{output}");
    drop(reflector.finish());
}
