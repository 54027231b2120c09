//! What a daemon's engine was told on a real mesh, recorded and replayed.

use std::process::Command;
use std::time::Duration;

use sdwan::trust::files::read_any;
use sdwan_tests::bed::Cut;
use sdwan_tests::mesh::{Mesh, MeshOptions, binary};
use sdwan_tests::needs_bed;
use sdwan_tests::pace::patience;
use serde_json::Value;

use crate::{PATIENCE, mesh_on, two_sites};

/// A hold short enough for a test.
const QUICK_RETURN: &str = "[engine]\nhold_down = \"300ms\"\nhold_down_max = \"300ms\"\n";

/// Runs `sdwan replay`: the exit code, and both outputs.
fn replay(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(binary().expect("the binary")).arg("replay").args(arguments).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The engine's events in the daemon's database, as kind and sentence.
fn recorded_events(mesh: &Mesh) -> Vec<(String, String)> {
    let events: Value = mesh.gateway("a").json(&["events", "-n", "10000"]).expect("the events");
    pairs(&events)
}

fn pairs(listing: &Value) -> Vec<(String, String)> {
    // What the daemon itself tells isn't the engine's.
    let engine = ["site-up", "path-up", "path-down", "path-recovering", "class-moved", "uplink-up", "uplink-down"];
    let items = listing["items"].as_array().expect("a listing").iter();
    let text = |item: &Value, key: &str| item[key].as_str().unwrap_or_default().to_owned();
    let pairs = items.map(|item| (text(item, "kind"), text(item, "message")));
    pairs.filter(|(kind, _)| engine.contains(&kind.as_str())).collect()
}

#[test]
fn a_cut_that_was_recorded_replays_to_the_same_decisions() {
    needs_bed!();
    let options = MeshOptions { extra: QUICK_RETURN.into(), ..MeshOptions::default() };
    let mesh = mesh_on(two_sites(), &options);
    let gateway = mesh.gateway("a");
    gateway.stop().expect("the daemon ends");
    // Its last events are in the database now.
    let before = recorded_events(&mesh).len();
    let file = mesh.bed().directory().join("engine.jsonl");
    let name = file.to_str().expect("a plain name");
    gateway.start_with(&["--record", name]).expect("the daemon starts");
    gateway
        .wait_for("the daemon answers", patience(PATIENCE), |gateway| {
            Ok(gateway.status().map(drop).map_err(|error| error.to_string()))
        })
        .expect("the daemon answers");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    mesh.bed().link("a", "isp1").cut(Cut::Silent).expect("the line is cut");
    std::thread::sleep(Duration::from_secs(2));
    mesh.bed().link("a", "isp1").restore().expect("the line is mended");
    mesh.wait_until_up(patience(PATIENCE)).expect("the paths come back");
    // Events reach the database within a second.
    std::thread::sleep(Duration::from_millis(1_500));
    let events = recorded_events(&mesh).split_off(before);
    gateway.stop().expect("the daemon ends");

    let (code, json, errors) = replay(&["--check", "-o", "json", name]);
    let view: Value = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}\n{errors}"));
    println!("{} lines, {} inputs, {} decisions", view["lines"], view["inputs"], view["decisions"]);
    assert_eq!((code, &view["difference"], &view["missed"]), (Some(0), &Value::Null, &Value::from(0)), "{errors}");
    assert_eq!(view["ended"], "the daemon stopped");
    assert!(view["decisions"].as_u64() > Some(4), "{}", view["decisions"]);
    assert_eq!(pairs(&view), events, "the replay tells what the daemon told");
    assert!(events.iter().any(|(kind, _)| kind == "path-down"), "{events:?}");

    let text = std::fs::read_to_string(&file).expect("the recording");
    no_private_key(&mesh, &text);
    let broken = mesh.bed().directory().join("broken.jsonl");
    std::fs::write(&broken, &text[..text.len() - 20]).expect("a copy");
    let (code, shown, errors) = replay(&[broken.to_str().expect("a plain name")]);
    let cut = format!("line {} is cut off", text.lines().count());
    assert_eq!(code, Some(1));
    assert!(errors.contains(&cut) && shown.contains("path-down"), "{shown}{errors}");
}

/// Neither as bytes, nor as a list of numbers, nor as text is any private key of the site in it.
fn no_private_key(mesh: &Mesh, text: &str) {
    let mut secrets = 0;
    for entry in std::fs::read_dir(mesh.gateway("a").state()).expect("the state directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "key") {
            continue;
        }
        let (kind, key) = read_any(&path).expect("a key");
        assert!(kind.is_secret(), "{}", path.display());
        let armoured = std::fs::read_to_string(&path).expect("a key");
        let encoded = armoured.split_whitespace().find(|word| word.len() >= 40).expect("the key as text").to_owned();
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = serde_json::to_string(&key[..]).expect("a list of numbers");
        for form in [encoded, hex, list] {
            assert!(!text.contains(&form), "{} is in the recording", path.display());
        }
        secrets += 1;
    }
    assert!(secrets > 0, "there are private keys to look for");
    assert!(!text.contains("private"), "nothing is called private");
}
