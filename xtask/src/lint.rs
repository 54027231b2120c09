//! `cargo xtask ci-lint`.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Result;
use ebpf_build::{Machine, Toolchain};

use crate::cargo::{self, cargo, workspace};
use crate::progress::{run, step};
use crate::setup::{self, For};
use crate::web;

/// Version of cargo-deny; its findings and its configuration change with it.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Runs every check that needs no running program.
///
/// # Errors
/// The first check that fails, or a tool that can't be installed.
pub fn lint() -> Result<ExitCode> {
    setup::setup(For::Lint)?;
    step("formatting");
    run(cargo("fmt").args(["--all", "--check"]))?;
    step("clippy, user space");
    run(cargo("clippy").args(cargo::USER_SPACE).args(["--all-targets", "--", "-D", "warnings"]))?;
    step("clippy, eBPF");
    run(&mut ebpf_clippy()?)?;
    web::test()?;
    step("licences and sources of the dependencies");
    let mut deny = Command::new(cargo_deny()?);
    deny.current_dir(workspace()).args(["check", "licenses", "bans", "sources"]);
    run(&mut deny)?;
    Ok(ExitCode::SUCCESS)
}

fn ebpf_clippy() -> Result<Command> {
    let machine = Machine::HOST;
    let toolchain = Toolchain::find(machine.target())?;
    let linker = ebpf_build::find_linker(&workspace(), toolchain.llvm())?;
    let mut command = toolchain.cargo("clippy", &workspace(), &machine, &linker);
    command.args(["--", "-D", "warnings"]);
    Ok(command)
}

/// Path of cargo-deny, which is installed first where it is missing.
fn cargo_deny() -> Result<PathBuf> {
    let right_version = |program: &PathBuf| {
        let output = Command::new(program).arg("--version").stderr(Stdio::null()).output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).trim_end().ends_with(CARGO_DENY_VERSION))
    };
    let root = workspace().join("target/tools");
    let own = root.join("bin/cargo-deny");
    if let Some(program) = [own.clone(), "cargo-deny".into()].into_iter().find(right_version) {
        return Ok(program);
    }
    step(&format!("building cargo-deny {CARGO_DENY_VERSION} (about three minutes, once)"));
    run(&mut setup::cargo_install("cargo-deny", CARGO_DENY_VERSION, &root))?;
    Ok(own)
}
