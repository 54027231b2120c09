//! The file for whoever is asked for help: all of it is there, and no secret is.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sdwan_tests::mesh::MeshOptions;
use sdwan_tests::needs_bed;
use serde_json::Value;

use crate::{mesh_on, two_sites};

/// Every file below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// What nobody may see of a site: the private keys, as bytes and as they are written.
fn secrets(state: &Path) -> Vec<Vec<u8>> {
    let mut secrets = Vec::new();
    for file in files(state).into_iter().filter(|file| file.extension().is_some_and(|extension| extension == "key")) {
        let content = std::fs::read(&file).expect("root reads it");
        let text = String::from_utf8_lossy(&content).trim().to_owned();
        let bytes = STANDARD.decode(&text).or_else(|_| hex::decode(&text).map_err(|_| ())).unwrap_or(content.clone());
        secrets.extend([
            text.clone().into_bytes(),
            STANDARD.encode(&bytes).into_bytes(),
            hex::encode(&bytes).into_bytes(),
        ]);
        secrets.push(bytes);
    }
    secrets
}

fn unpacked(archive: &Path, into: &Path) {
    let outcome = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into).status().expect("tar starts");
    assert!(outcome.success());
}

#[test]
fn a_support_dump_holds_what_helps_and_no_key_with_and_without_the_daemon() {
    needs_bed!();
    let mesh = mesh_on(two_sites(), &MeshOptions::default());
    let gateway = mesh.gateway("a");
    let secrets = secrets(&gateway.state());
    assert!(secrets.len() >= 8, "{} secrets are known", secrets.len());
    let directory = tempfile::tempdir().expect("a directory");
    let archive = directory.path().join("with.tar.gz");
    let archive_name = archive.to_str().expect("text").to_owned();
    let written: Value = gateway.json(&["support-dump", &archive_name]).expect("it is written");
    assert_eq!(written["file"], archive_name.as_str());
    assert_eq!(std::fs::metadata(&archive).expect("it is there").permissions().mode() & 0o777, 0o600);
    let refused = gateway.text(&["support-dump", &archive_name]).expect_err("nothing is overwritten").to_string();
    assert!(refused.contains("choose another file"), "{refused}");
    unpacked(&archive, directory.path());
    let place = directory.path().join("sdwan-support");
    for name in ["status", "sites", "paths", "policies", "events", "flows"] {
        let text = std::fs::read_to_string(place.join(format!("daemon/{name}.json"))).expect(name);
        let document: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(document["version"], 1, "{name}");
    }
    for (name, holds) in [
        ("config.toml", "[site]"),
        ("system/links.txt", "sdw0-0"),
        ("system/rules.txt", "fwmark"),
        ("system/check.txt", "\"outcome\""),
        ("system/version.txt", "sdwan "),
    ] {
        let text = std::fs::read_to_string(place.join(name)).expect(name);
        assert!(text.contains(holds), "{name}: {text}");
    }
    for file in files(&place) {
        let content = std::fs::read(&file).expect("unpacked");
        let found =
            secrets.iter().any(|secret| content.windows(secret.len()).any(|window| window == secret.as_slice()));
        assert!(!found, "{} holds a private key", file.display());
    }

    gateway.kill().expect("the daemon is killed");
    let archive = directory.path().join("without.tar.gz");
    let told = gateway.text(&["support-dump", archive.to_str().expect("text"), "--without-flows"]).expect("written");
    assert!(told.contains("daemon/status.json") && !told.contains("flows"), "{told}");
    std::fs::remove_dir_all(&place).expect("the first one is looked at");
    unpacked(&archive, directory.path());
    assert!(place.join("system/routes.txt").is_file() && !place.join("daemon").exists());
}
