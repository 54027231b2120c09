//! Builds the eBPF programs and puts the object where `include_bytes_aligned!` finds it: `$OUT_DIR/sdwan-ebpf`. Packs
//! the dashboard's pages beside it.

mod pages;

use std::path::PathBuf;
use std::process::ExitCode;

use ebpf_build::{Machine, PACKAGE};

/// What the object is made of, relative to the workspace. Directories stand for all that is in them.
const SOURCES: [&str; 4] = ["sdwan-ebpf", "sdwan-common", "Cargo.toml", "Cargo.lock"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let variable = |name: &str| std::env::var(name).map_err(|error| format!("{name}: {error}"));
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest.parent().ok_or("the crate is not inside a workspace")?;
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let little_endian = variable("CARGO_CFG_TARGET_ENDIAN")? == "little";
    let object = ebpf_build::build(workspace, &Machine { arch: &arch, little_endian })?;
    let out = PathBuf::from(variable("OUT_DIR")?);
    let destination = out.join(PACKAGE);
    std::fs::copy(&object, &destination)
        .map_err(|error| format!("can't copy {} to {}: {error}", object.display(), destination.display()))?;
    println!("cargo::rerun-if-changed={}", workspace.join(pages::PAGES).display());
    pages::pack(&workspace.join(pages::PAGES), &out)
}
