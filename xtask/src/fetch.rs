//! Packages of the distribution that are unpacked below the target directory, and not installed: nothing of them is started or
//! changes the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::run;
use crate::setup;

/// Fetches a package, checks it against the SHA256 that apt lists, and unpacks it into `target`, unless that is there.
///
/// # Errors
/// When apt doesn't know or can't fetch it, or its sum is wrong.
pub fn package(name: &str, target: &Path) -> Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    let show = || text_of(Command::new("apt-cache").args(["show", "--no-all-versions", name]));
    // On a fresh machine nothing is listed yet.
    let show = show().or_else(|_| setup::update_packages().and_then(|()| show()))?;
    let expected = field(&show, "SHA256").with_context(|| format!("apt lists no SHA256 of {name}"))?;
    let download = fresh_directory(&target.with_file_name(format!("{name}.download")))?;
    run(Command::new("apt-get").args(["--quiet", "download", name]).current_dir(&download))?;
    let package = entries(&download)?.pop().with_context(|| format!("apt-get downloaded nothing for {name}"))?;
    let found = text_of(Command::new("sha256sum").arg(&package))?;
    if found.split_whitespace().next() != Some(expected) {
        bail!("{} has not the SHA256 that apt lists, {expected}", package.display());
    }
    unpack(&package, target)?;
    fs::remove_dir_all(&download).with_context(|| format!("can't remove {}", download.display()))
}

/// A new empty directory beside the one that it is to become: what a crash leaves isn't taken for complete.
pub fn fresh_directory(target: &Path) -> Result<PathBuf> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let fresh = target.with_file_name(format!("{name}.{}.new", std::process::id()));
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("can't remove {}", fresh.display()))?;
    }
    fs::create_dir_all(&fresh).with_context(|| format!("can't create {}", fresh.display()))?;
    Ok(fresh)
}

/// Unpacks a package's file into `target`, whole or not at all, unless that is there.
///
/// # Errors
/// When it is no package, or the target can't be written.
pub fn unpack(package: &Path, target: &Path) -> Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    let fresh = fresh_directory(target)?;
    run(Command::new("dpkg").arg("-x").arg(package).arg(&fresh))?;
    fs::rename(&fresh, target).with_context(|| format!("can't rename {}", fresh.display()))
}

/// What is in a directory.
///
/// # Errors
/// When it can't be read.
pub fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("can't read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(unreadable)?;
    entries.map(|entry| Ok(entry.with_context(unreadable)?.path())).collect()
}

/// What a command prints.
pub fn text_of(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't start {name}"))?;
    if !output.status.success() {
        bail!("{} failed: {}", crate::progress::words(command), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name} prints something else than text"))
}

/// The value of a field in a package's description.
fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let description = "Package: x\nSHA256sum: no\nSHA256: abc\n";
        assert_eq!(field(description, "SHA256"), Some("abc"));
    }
}
