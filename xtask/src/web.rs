//! `cargo xtask web`: the dashboard's pages, which the daemon carries. Quick when nothing has changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::cargo::workspace;
use crate::progress::{run, step};
use crate::setup;

/// What the pages are made of, relative to their directory.
const SOURCES: [&str; 9] = [
    "src",
    "public",
    "index.html",
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "vite.config.ts",
    "clean.mjs",
    "licenses.mjs",
];
/// What the test of the pages runs in.
const TEST_SOURCES: [&str; 1] = ["test"];
/// What npm leaves behind when it has installed everything.
const INSTALLED: &str = "node_modules/.package-lock.json";
const PAGE: &str = "dist/index.html";
/// Packages of the distribution that build the pages.
const PACKAGES: [&str; 2] = ["nodejs", "npm"];

fn web() -> PathBuf {
    workspace().join("web")
}

/// Builds the pages if they are older than what they are made of, with what is missing for that.
///
/// # Errors
/// When Node.js can't be had, or the pages don't build.
pub fn build() -> Result<()> {
    if !is_stale(&web(), PAGE, &SOURCES)? {
        return Ok(());
    }
    install()?;
    step("building the dashboard's pages");
    run(npm()?.args(["run", "--silent", "build"])).context("the pages don't build")
}

/// The same for builds that do without the pages where they can't be had: the daemon then says so at their address.
pub fn build_if_possible() {
    if let Err(error) = build() {
        step(&format!("no dashboard, the daemon is built without it: {error:#}"));
    }
}

/// Runs the pages' own tests.
///
/// # Errors
/// When one fails, or they can't be run.
pub fn test() -> Result<()> {
    build()?;
    let stamp = "node_modules/.tested";
    let sources: Vec<&str> = SOURCES.into_iter().chain(TEST_SOURCES).collect();
    if !is_stale(&web(), stamp, &sources)? {
        return Ok(());
    }
    step("testing the dashboard's pages");
    run(npm()?.args(["run", "--silent", "test"])).context("a test of the pages failed")?;
    fs::write(web().join(stamp), "").with_context(|| format!("can't write {stamp}"))
}

/// Packages that the pages need, as locked. They bring no program that is run when they are installed.
fn install() -> Result<()> {
    if !setup::in_path("node") || !setup::in_path("npm") {
        if !setup::has_apt() {
            bail!("Node.js 18.18 or later and npm are needed: install them with the package manager of this system");
        }
        setup::install_packages(&PACKAGES.map(String::from))?;
    }
    if !is_stale(&web(), INSTALLED, &["package-lock.json"])? {
        return Ok(());
    }
    step("installing the dashboard's packages from the npm registry (once)");
    run(npm()?.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])).context("npm can't install the packages")
}

fn npm() -> Result<Command> {
    let web = web();
    if !web.is_dir() {
        bail!("{} is missing: this is no whole checkout", web.display());
    }
    let mut command = Command::new("npm");
    command.current_dir(web).stdin(Stdio::null());
    Ok(command)
}

/// Is something of the sources newer than what was made of them, or is that missing?
fn is_stale(directory: &Path, made: &str, sources: &[&str]) -> Result<bool> {
    let Ok(made) = fs::metadata(directory.join(made)).and_then(|metadata| metadata.modified()) else { return Ok(true) };
    let mut latest = SystemTime::UNIX_EPOCH;
    for source in sources {
        newest(&directory.join(source), &mut latest)?;
    }
    Ok(latest > made)
}

fn newest(path: &Path, latest: &mut SystemTime) -> Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("can't look at {}", path.display()))?;
    *latest = (*latest).max(metadata.modified()?);
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            newest(&entry?.path(), latest)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_stale_when_they_are_missing_or_older_than_a_source() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("src")).unwrap();
        fs::write(path.join("src/a.ts"), "").unwrap();
        assert!(is_stale(path, "page", &["src"]).unwrap(), "it is missing");
        fs::write(path.join("page"), "").unwrap();
        let (page, source) =
            (fs::File::open(path.join("page")).unwrap(), fs::File::open(path.join("src/a.ts")).unwrap());
        let at = |seconds| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        page.set_modified(SystemTime::now() + std::time::Duration::from_secs(60)).unwrap();
        assert!(!is_stale(path, "page", &["src"]).unwrap());
        page.set_modified(at(5)).unwrap();
        source.set_modified(at(6)).unwrap();
        assert!(is_stale(path, "page", &["src"]).unwrap());
        assert!(is_stale(path, "page", &["gone"]).is_err());
    }

    #[test]
    fn the_lock_file_names_no_registry_and_only_free_licences() {
        let text = fs::read_to_string(web().join("package-lock.json")).unwrap();
        let lock: serde_json::Value = serde_json::from_str(&text).unwrap();
        let free = ["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "MIT OR Apache-2.0"];
        for (name, package) in lock["packages"].as_object().unwrap() {
            assert!(package.get("resolved").is_none(), "{name} names a registry: see web/.npmrc");
            let licence = package["license"].as_str().unwrap_or_default();
            assert!(free.contains(&licence), "{name} has the licence {licence:?}: say so in NOTICE, and here");
        }
    }
}
