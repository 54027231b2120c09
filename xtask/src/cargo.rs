//! The workspace as cargo sees it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Selects all of user space. One selection for every cargo command, so that features are resolved once and nothing
/// is built twice.
pub const USER_SPACE: [&str; 3] = ["--workspace", "--exclude", ebpf_build::PACKAGE];

/// A target of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name of the package.
    pub package: String,
    /// Name of the target.
    pub name: String,
    /// `lib`, `bin`, `test`, …
    pub kind: String,
}

/// Directory of the workspace.
pub fn workspace() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// A cargo command in the workspace.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).arg(subcommand);
    // What the cargo that runs this program told it about its package. Build scripts watch it, and would run again by
    // turns with a cargo that is run by hand.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") || name.to_string_lossy().starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Every target of every package in the workspace.
///
/// # Errors
/// When cargo can't read the workspace.
pub fn targets() -> Result<Vec<Target>> {
    let output =
        cargo("metadata").args(["--no-deps", "--format-version", "1"]).output().context("can't start cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    Ok(targets_of(&metadata))
}

fn targets_of(metadata: &Value) -> Vec<Target> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut targets = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            targets.push(Target {
                package: text(&package["name"]),
                name: text(&target["name"]),
                kind: text(&target["kind"][0]),
            });
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_holds_the_ebpf_package_and_this_one() {
        let targets = targets().expect("this test runs inside the workspace");
        let has = |package: &str| targets.iter().any(|target| target.package == package && target.kind == "bin");
        assert!(has("xtask"));
        assert!(has(ebpf_build::PACKAGE), "the eBPF package has a new name: {targets:?}");
    }
}
