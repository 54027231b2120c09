//! A daemon that can't start says why and what to do in one sentence, exits with 1, and leaves nothing behind.
//! `sdwan check` says the same.

mod configuration;
mod machine;
mod picture;
mod privileges;
mod twice;

use std::process::Command;
use std::time::Duration;

use sdwan_tests::bed::{Bed, Process, Provider};
use sdwan_tests::mesh::{Gateway, Mesh, MeshOptions, ready};

/// A start that fails fails at once; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sites of a mesh with one uplink each and no daemon.
fn mesh_of<const N: usize>(sites: [&str; N]) -> Mesh {
    let bed = Bed::builder().sites(sites).providers([("isp1", Provider::Bridge)]).build().expect("the bed is built");
    Mesh::prepare(bed, &MeshOptions::default()).expect("the mesh is prepared")
}

/// Runs a command that must end by itself with this exit code; returns everything it put out.
fn ended(what: &str, command: Command, code: i32) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut process = Process::start(what, command, &directory.path().join("output")).expect("it starts");
    let status = process.wait(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error}"));
    let output = process.output();
    assert_eq!(status.code(), Some(code), "{what}: {output}");
    output
}

/// `sdwan ARGUMENTS` in the gateway's namespace.
fn sdwan(gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = gateway.command().expect("the binary is there");
    command.args(arguments);
    command
}

/// What `sdwan run` says when it fails: one line that begins with `error: `.
fn sentence(what: &str, command: Command) -> String {
    let output = ended(what, command, 1);
    let lines: Vec<&str> = output.lines().collect();
    match lines[..] {
        [line] if line.starts_with("error: ") => line.into(),
        _ => panic!("{what}: not one line that begins with `error: `:\n{output}"),
    }
}

/// Holds that a text has all these parts.
fn says(what: &str, text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{what}: {part:?} is not in:\n{text}");
    }
}

/// Holds that `sdwan run` fails with a sentence that has these parts and that `sdwan check` fails with the same ones,
/// that nothing of it is left, and that the rest of the machine is as before.
fn refuses(gateway: &Gateway, what: &str, parts: &[&str]) {
    let before = picture::take(gateway);
    says(what, &sentence(what, sdwan(gateway, &["run"])), parts);
    says(&format!("{what}, check"), &ended(what, sdwan(gateway, &["check"]), 1), parts);
    picture::assert_same(what, &before, &picture::take(gateway));
}
