//! Capabilities: what is missing is named, what is asked for suffices.

use std::process::Command;
use std::time::Duration;

use sdwan_tests::bed::Namespace;
use sdwan_tests::mesh::{Gateway, Mesh, binary};

use crate::{PATIENCE, ended, mesh_of, picture, ready, says, sentence};

/// Where the binary is within the gateway's mounts, for users who may not enter the directory it was built in.
const PROGRAM: &str = "/run/sdwan-under-test";

/// `setpriv OPTIONS sdwan ARGUMENTS` in the gateway's namespace.
fn with(gateway: &Gateway, options: &[&str], arguments: &[&str]) -> Command {
    let mut command = gateway.namespace().command("setpriv");
    command.args(options).arg(PROGRAM).args(arguments);
    command.env_remove("SDWAN_SOCKET").env("SDWAN_CONFIG", gateway.config()).env("NO_COLOR", "1");
    command
}

fn offer_program(namespace: &Namespace) {
    let binary = binary().expect("the binary is there");
    let line = format!("touch {PROGRAM}; mount --bind '{}' {PROGRAM}", binary.display());
    namespace.shell(&line).expect("the binary is mounted");
}

/// Whether a test of privileges can run; if not, says so as skipped.
fn can_run(test: &str) -> bool {
    if !ready(test) {
        return false;
    }
    let there = Command::new("setpriv").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: {test}: no program `setpriv`: install util-linux");
    }
    there
}

#[test]
fn a_missing_capability_is_named_before_anything_is_made() {
    if !can_run("a_missing_capability_is_named_before_anything_is_made") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    offer_program(gateway.namespace());
    let before = picture::take(gateway);
    for (dropped, name) in [
        ("net_bind_service", "CAP_NET_BIND_SERVICE"),
        ("net_admin", "CAP_NET_ADMIN"),
        ("net_raw", "CAP_NET_RAW"),
        ("sys_admin,-perfmon", "CAP_PERFMON"),
        ("sys_admin,-bpf", "CAP_BPF"),
        ("all", "CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF"),
    ] {
        let options = [&format!("--bounding-set=-{dropped}")[..]];
        let parts = [&format!("missing the capabilities {name}: ")[..], "run as root", "CapabilityBoundingSet="];
        says(dropped, &sentence(dropped, with(gateway, &options, &["run"])), &parts);
        let check = ended(dropped, with(gateway, &options, &["check"]), 1);
        says(dropped, &check, &[&format!("{name} missing")[..], "run as root"]);
    }
    assert!(!gateway.state().join("lock").exists(), "not even the lock was made");
    picture::assert_same("a start without privileges", &before, &picture::take(gateway));
}

#[test]
fn an_unprivileged_user_is_told_to_be_root_and_nothing_is_made() {
    if !can_run("an_unprivileged_user_is_told_to_be_root_and_nothing_is_made") {
        return;
    }
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    offer_program(gateway.namespace());
    // A place where anybody may write: the daemon could make its state there.
    gateway.namespace().shell("mkdir -m 1777 /run/anybody").expect("it is made");
    let before = picture::take(gateway);
    let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let state = ["--state-dir", "/run/anybody/state"];
    let run = |arguments: &[&str]| {
        let mut command = with(gateway, &user, &[arguments, &state].concat());
        command.env_remove("SDWAN_CONFIG");
        command
    };
    says("nobody", &sentence("nobody", run(&["run"])), &["missing the capabilities CAP_", "run as root"]);
    says("nobody", &ended("nobody", run(&["check"]), 1), &["missing", "run as root"]);
    picture::assert_same("nobody", &before, &picture::take(gateway));

    // The configuration of the bed is root's own.
    let output = ended("the configuration", with(gateway, &user, &["run"]), 1);
    says("the configuration", &output, &["cannot read the configuration", "Permission denied"]);
}

/// The capabilities of the unit, as `setpriv` writes them.
fn of_the_unit() -> String {
    let unit = include_str!("../../../docs/sdwan.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = line.expect("the unit bounds the capabilities").split_whitespace();
    names.fold("-all".into(), |set, name| set + ",+" + &name.trim_start_matches("CAP_").to_lowercase())
}

/// The unit's limit of real-time priority, and what it forbids by seccomp.
fn real_time_of_the_unit() -> (u32, bool) {
    let unit = include_str!("../../../docs/sdwan.service");
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let limit = value("LimitRTPRIO").map_or(0, |limit| limit.parse().expect("a number"));
    (limit, value("RestrictRealtime").is_some_and(|value| value != "no"))
}

#[test]
fn the_unit_lets_trains_be_paced_at_real_time_priority_without_a_capability_for_it() {
    if !can_run("the_unit_lets_trains_be_paced_at_real_time_priority_without_a_capability_for_it") {
        return;
    }
    assert!(!of_the_unit().contains("sys_nice"));
    let (limit, forbidden) = real_time_of_the_unit();
    assert!(!forbidden, "RestrictRealtime= forbids it whatever the limit is");
    let mesh = mesh_of(["a"]);
    let gateway = mesh.gateway("a");
    offer_program(gateway.namespace());
    let bounding = format!("--bounding-set={}", of_the_unit());
    for (limit, outcome) in [(0, "warning"), (limit, "ok")] {
        // The limit first, as systemd does it: raising it takes another capability.
        let limit = format!("--rtprio={limit}");
        if !gateway.namespace().command("prlimit").args([&limit[..], "true"]).status().expect("it runs").success() {
            let name = "the_unit_lets_trains_be_paced_at_real_time_priority_without_a_capability_for_it";
            eprintln!("skipped: {name}: nobody here may raise the limit of real-time priority (prlimit {limit})");
            return;
        }
        // What the kernel says, and what the check says of it.
        let mut kernel = gateway.namespace().command("prlimit");
        kernel.args([&limit[..], "setpriv", &bounding, "chrt", "--rr", "1", "true"]);
        let allowed = kernel.output().expect("it runs").status.success();
        assert_eq!(allowed, outcome == "ok", "{limit}");
        let mut check = gateway.namespace().command("prlimit");
        check.args([&limit[..], "setpriv", &bounding, PROGRAM, "check", "-o", "json"]);
        check.env("SDWAN_CONFIG", gateway.config());
        let output = check.output().expect("it runs");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("checks");
        let pacing = checks.iter().find(|check| check["name"] == "pacing").expect("it is looked at");
        assert_eq!(pacing["outcome"], outcome, "{limit}: {pacing}");
    }
}

fn carries_paths_with(mesh: &Mesh, capabilities: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut daemons = Vec::new();
    for gateway in mesh.gateways() {
        offer_program(gateway.namespace());
        let command = with(gateway, &[&format!("--bounding-set={capabilities}")], &["run"]);
        let log = directory.path().join(gateway.name());
        let daemon = sdwan_tests::bed::Process::start(&format!("daemon of {}", gateway.name()), command, &log);
        daemons.push(daemon.expect("it starts"));
    }
    mesh.wait_until_up(PATIENCE).unwrap_or_else(|error| {
        let logs: Vec<String> = daemons.iter().map(|daemon| daemon.tail()).collect();
        panic!("with {capabilities}: {error}\n{}", logs.join("\n---\n"))
    });
    for gateway in mesh.gateways() {
        gateway.text(&["down"]).expect("it goes down");
    }
}

#[test]
fn the_capabilities_that_are_asked_for_suffice() {
    if !can_run("the_capabilities_that_are_asked_for_suffice") {
        return;
    }
    carries_paths_with(&mesh_of(["a", "b"]), "-all,+net_bind_service,+net_admin,+net_raw,+perfmon,+bpf");
}

#[test]
fn the_capabilities_of_the_unit_suffice() {
    if !can_run("the_capabilities_of_the_unit_suffice") {
        return;
    }
    carries_paths_with(&mesh_of(["a", "b"]), &of_the_unit());
}

/// Name and nice value of each thread of a process.
fn nice_values(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    let of = |task: std::io::Result<std::fs::DirEntry>| {
        let path = task.expect("an entry").path();
        // A thread may have ended meanwhile.
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        // The fields from the third on; nice is the nineteenth (proc_pid_stat(5)).
        Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().expect("a number")))
    };
    tasks.filter_map(of).collect()
}

#[test]
fn who_decides_goes_before_who_carries_answers_and_records() {
    let name = "who_decides_goes_before_who_carries_answers_and_records";
    if !can_run(name) {
        return;
    }
    let allowed = Command::new("nice").args(["-n", "-1", "nice"]).output().expect("coreutils are there");
    if allowed.stdout.starts_with(b"0") {
        eprintln!("skipped: {name}: no CAP_SYS_NICE");
        return;
    }
    let mesh = mesh_of(["a", "b"]);
    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(Duration::from_secs(60)).expect("all paths come up");
    let gateway = mesh.gateway("a");
    for _ in 0..2 {
        let pid = gateway.pid().expect("it runs");
        let threads = nice_values(pid);
        for (thread, nice) in &threads {
            // The one that started the process waits for signals.
            let first = ["core", "dataplane"].contains(&thread.as_str()) || thread == "sdwan";
            assert_eq!(*nice, if first { -10 } else { 0 }, "{thread}: {threads:?}");
        }
        assert!(
            ["core", "dataplane"].iter().all(|name| threads.iter().any(|(thread, _)| thread == name)),
            "{threads:?}"
        );
        let carriers = Command::new("pgrep").args(["-P", &pid.to_string()]).output().expect("pgrep is there");
        for carrier in String::from_utf8_lossy(&carriers.stdout).lines() {
            let threads = nice_values(carrier.parse().expect("a number"));
            assert!(threads.iter().all(|(_, nice)| *nice == 0), "{threads:?}");
        }
        gateway.reload().expect("it starts anew");
    }
}
