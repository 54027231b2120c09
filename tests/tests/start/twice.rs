//! One daemon at a time.

use std::thread::sleep;
use std::time::Duration;

use sdwan_tests::mesh::Gateway;

use crate::{PATIENCE, mesh_of, ready, says, sdwan, sentence};

fn running(gateway: &Gateway) {
    gateway.start().expect("the daemon starts");
    let settled = |gateway: &Gateway| {
        let status = gateway.status()?;
        let before = picture(gateway);
        sleep(Duration::from_millis(300));
        let done = !status.attached.is_empty() && before.contains("proto 93") && before == picture(gateway);
        Ok(if done { Ok(()) } else { Err(before) })
    };
    gateway.wait_for("it has done its work", PATIENCE, settled).expect("the daemon has done its work");
}

/// What a second daemon could break: pins, interfaces, rules, and the socket that the first one answers on.
fn picture(gateway: &Gateway) -> String {
    let look = "find /sys/fs/bpf /run -mindepth 1 | sort; ip -o link | cut -d: -f2; ip rule; ip -6 rule; \
                ls -i /run/sdwan/sdwan.sock";
    gateway.namespace().shell(look).expect("the picture is taken")
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_with_the_process_id_of_the_first() {
    if !ready("a_second_daemon_on_the_same_state_is_refused_with_the_process_id_of_the_first") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    running(gateway);
    let before = picture(gateway);
    let pid = gateway.pid().expect("it runs").to_string();
    let what = "the same state";
    let parts =
        [&format!("another sdwan (process {pid}) uses")[..], &gateway.state().display().to_string(), "`sdwan down`"];
    says(what, &sentence(what, sdwan(gateway, &["run"])), &parts);
    assert_eq!(picture(gateway), before);
    assert_eq!(gateway.status().expect("the first one answers").pid.to_string(), pid);

    // A killed one leaves its id in the lock, and the lock to the next.
    gateway.kill().expect("it is killed");
    running(gateway);
    assert_ne!(gateway.pid().expect("it runs").to_string(), pid);
    gateway.text(&["down"]).expect("it goes down");
}

#[test]
fn a_daemon_of_another_state_on_the_same_machine_is_refused_by_the_socket() {
    if !ready("a_daemon_of_another_state_on_the_same_machine_is_refused_by_the_socket") {
        return;
    }
    let mesh = mesh_of(["a", "b"]);
    let (first, other) = (mesh.gateway("a"), mesh.gateway("b"));
    running(first);
    let before = picture(first);
    let mut command = sdwan(first, &["run"]);
    command.env("SDWAN_CONFIG", other.config());
    let what = "another state";
    says(what, &sentence(what, command), &["another sdwan answers on /run/sdwan/sdwan.sock", "`sdwan down`"]);
    assert_eq!(picture(first), before);
    first.status().expect("the first one answers");
    first.text(&["down"]).expect("it goes down");
}
