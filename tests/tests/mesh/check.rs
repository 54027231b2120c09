//! `sdwan check` tells what stands in the way, before a daemon runs and while one does.

use std::net::UdpSocket;

use sdwan_tests::bed::Cut;
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions};
use sdwan_tests::needs_bed;
use serde_json::Value;

use crate::{PATIENCE, patience, two_sites};

/// The checks of this name, and the exit code.
fn checks(gateway: &Gateway, name: &str) -> (Vec<Value>, i32) {
    let output =
        gateway.command().expect("there is a program").args(["-o", "json", "check"]).output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    });
    let checks = report["checks"].as_array().expect("checks").iter().filter(|check| check["name"] == name).cloned();
    (checks.collect(), output.status.code().expect("it ends by itself"))
}

#[track_caller]
fn says(gateway: &Gateway, name: &str, outcome: &str, parts: &[&str]) {
    let (found, code) = checks(gateway, name);
    let fits = |check: &Value| {
        let text = format!("{} {}", check["finding"], check["remedy"]);
        check["outcome"] == outcome && parts.iter().all(|part| text.contains(part))
    };
    assert!(found.iter().any(fits), "{name}, {outcome}, {parts:?}: {found:#?}");
    assert!(code == 1 || outcome != "failed", "a failure is told by the exit code, too");
}

#[test]
fn the_doctor_finds_taken_ports_foreign_rules_and_silent_lines() {
    needs_bed!();
    let mesh = Mesh::prepare(two_sites(), &MeshOptions::default()).expect("the mesh is prepared");
    let gateway = mesh.gateway("a");
    says(gateway, "daemon", "warning", &["is not running", "systemctl start sdwan"]);
    says(gateway, "kernel settings", "ok", &["the daemon sets", "rp_filter from", "to 2"]);
    says(gateway, "ports", "ok", &["UDP 51820–51884"]);
    says(gateway, "routing rules", "ok", &["nobody's"]);
    says(gateway, "what it adds", "ok", &["each of 2 uplinks", "5000–5099", "proto 93"]);

    let taken =
        gateway.namespace().run(|| UdpSocket::bind(("::", 51_821))).expect("in the namespace").expect("it is free");
    says(gateway, "ports", "failed", &["UDP 51821 of", "in use by somebody else", "ss -lunp"]);
    assert_eq!(checks(gateway, "ports").1, 1);
    drop(taken);
    gateway
        .namespace()
        .shell("ip rule add priority 4000 lookup 100; ip -6 rule add priority 5050 lookup 101")
        .expect("added");
    says(gateway, "routing rules", "warning", &["4000 (table 100)", "IPv6 5050 (table 101)", "higher number"]);

    mesh.start_daemons().expect("the daemons start");
    mesh.wait_until_up(patience(PATIENCE)).expect("all paths come up");
    says(gateway, "daemon", "ok", &["process"]);
    says(gateway, "reachable", "ok", &["b: 4 of 4 paths up", "answers in"]);
    says(gateway, "kernel settings", "ok", &["are what a gateway needs"]);
    says(gateway, "path MTU", "ok", &["fit into every path"]);
    says(gateway, "what it adds", "ok", &["4 tunnels are here already"]);
    says(gateway, "ports", "ok", &["free or sdwan's"]);
    says(gateway, "routing rules", "warning", &["4000 (table 100)"]);

    mesh.bed().link("a", "isp2").cut(Cut::Silent).expect("the line is cut");
    let told = gateway.wait_for("the silent line is told", PATIENCE, |gateway| {
        let (found, _) = checks(gateway, "reachable");
        let text = format!("{found:?}");
        let line = ["b: 2 of 4 paths up", "all of them use the uplink isp2 of this site", "lets UDP in"];
        Ok(if line.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) })
    });
    told.expect("the line is named");
}
