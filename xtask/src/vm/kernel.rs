//! Kernels of the distribution: found, fetched, checked and unpacked into the target directory. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::vmlinux;
use super::{modules, text_of};
use crate::progress::{run, step};
use crate::setup;

/// The kernels that tests run on: the oldest supported one (`sdwan_common::kernel::OLDEST`) and a newer one.
pub const SERIES: [&str; 2] = ["6.1", "6.12"];

/// The flavour that boots fastest.
const FLAVOUR: &str = "-cloud-amd64";
const PREFIX: &str = "linux-image-";

/// A kernel that is ready to boot.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    /// The uncompressed ELF file.
    pub vmlinux: PathBuf,
    /// A directory with `lib/modules/RELEASE`: the modules that tests need, uncompressed and indexed.
    pub modules: PathBuf,
}

impl Kernel {
    /// A kernel by its series (`6.1`), or out of a package file, or out of a directory with `boot` and `lib/modules`.
    ///
    /// A series that was fetched before is taken from the cache; `cargo xtask clean` empties it.
    ///
    /// # Errors
    /// When there is no such kernel, or it can't be fetched or unpacked.
    pub fn find(name: &str, cache: &Path) -> Result<Self> {
        let path = Path::new(name);
        if path.is_dir() {
            return Self::prepare(path, cache);
        }
        if path.is_file() {
            let unpacked = cache.join("packages").join(path.file_stem().unwrap_or_default());
            unpack_package(path, &unpacked)?;
            return Self::prepare(&unpacked, cache);
        }
        if name.contains('/') || !name.starts_with(|first: char| first.is_ascii_digit()) {
            bail!("there is no kernel at {name}: name a series such as {}, or a path", SERIES.join(" or "));
        }
        Self::prepare(&fetch(name, &cache.join("packages"))?, cache)
    }

    /// Makes an unpacked package ready.
    fn prepare(package: &Path, cache: &Path) -> Result<Self> {
        let image = entries(&package.join("boot"))?
            .into_iter()
            .find(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"vmlinuz-")))
            .with_context(|| format!("no boot/vmlinuz-* in {}", package.display()))?;
        let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let release = name.trim_start_matches("vmlinuz-").to_owned();
        let ready = cache.join("kernels").join(&release);
        let modules = ready.join(format!("modules-{:016x}", modules::fingerprint()));
        let kernel = Self { vmlinux: ready.join("vmlinux"), modules, release };
        if !ready.is_dir() {
            step(&format!("unpacking Linux {}", kernel.release));
            let fresh = fresh_directory(&ready)?;
            vmlinux::unpack(&image, &fresh.join("vmlinux"))?;
            fs::rename(&fresh, &ready).with_context(|| format!("can't rename {}", fresh.display()))?;
        }
        if !kernel.modules.is_dir() {
            // Those of an earlier list go with their directory.
            for old in entries(&ready)?.into_iter().filter(|path| path.is_dir()) {
                fs::remove_dir_all(&old).with_context(|| format!("can't remove {}", old.display()))?;
            }
            let fresh = fresh_directory(&kernel.modules)?;
            modules::stage(package, &kernel.release, &fresh)?;
            fs::rename(&fresh, &kernel.modules).with_context(|| format!("can't rename {}", fresh.display()))?;
        }
        Ok(kernel)
    }
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

/// The unpacked package of a series, fetched unless it is there.
fn fetch(series: &str, packages: &Path) -> Result<PathBuf> {
    fs::create_dir_all(packages).with_context(|| format!("can't create {}", packages.display()))?;
    let known = entries(packages)?.into_iter().filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_owned();
        (path.is_dir() && of_series(&name, series)).then_some(name)
    });
    if let Some(newest) = known.max_by_key(|name| numbers(name)) {
        return Ok(packages.join(newest));
    }
    let mut listed = listed(series)?;
    if listed.is_none() {
        step("looking for kernel packages");
        setup::update_packages()?;
        listed = self::listed(series)?;
    }
    let name = listed.with_context(|| format!("the distribution has no package {PREFIX}{series}*{FLAVOUR}"))?;
    step(&format!("fetching {name}"));
    let show = text_of(Command::new("apt-cache").args(["show", "--no-all-versions", &name]))?;
    let expected = field(&show, "SHA256").with_context(|| format!("apt lists no SHA256 of {name}"))?;
    let target = packages.join(&name);
    let download = fresh_directory(&packages.join(format!("{name}.download")))?;
    run(Command::new("apt-get").args(["--quiet", "download", &name]).current_dir(&download))?;
    let package = entries(&download)?.pop().with_context(|| format!("apt-get downloaded nothing for {name}"))?;
    let found = text_of(Command::new("sha256sum").arg(&package))?;
    if found.split_whitespace().next() != Some(expected) {
        bail!("{} has not the SHA256 that apt lists, {expected}", package.display());
    }
    unpack_package(&package, &target)?;
    fs::remove_dir_all(&download).with_context(|| format!("can't remove {}", download.display()))?;
    Ok(target)
}

/// The newest package of a series that apt knows.
fn listed(series: &str) -> Result<Option<String>> {
    let output = text_of(Command::new("apt-cache").args(["search", "--names-only", &format!("^{PREFIX}{series}\\.")]))?;
    let names = output.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| of_series(name, series)).max_by_key(|name| numbers(name)).map(str::to_owned))
}

fn of_series(package: &str, series: &str) -> bool {
    let rest = package.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(FLAVOUR));
    rest.and_then(|rest| rest.strip_prefix(series)).is_some_and(|rest| rest.starts_with('.'))
}

/// The numbers in a name, by which versions are ordered.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|one: char| !one.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The value of a field in a package's description.
fn field<'a>(description: &'a str, name: &str) -> Option<&'a str> {
    description.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn unpack_package(package: &Path, target: &Path) -> Result<()> {
    if target.is_dir() {
        return Ok(());
    }
    let fresh = fresh_directory(target)?;
    run(Command::new("dpkg").arg("-x").arg(package).arg(&fresh))?;
    fs::rename(&fresh, target).with_context(|| format!("can't rename {}", fresh.display()))
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("can't read {}", directory.display());
    let entries = fs::read_dir(directory).with_context(unreadable)?;
    entries.map(|entry| Ok(entry.with_context(unreadable)?.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_a_series_is_taken_by_number() {
        let names = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.1.0-57-cloud-amd64-dbg",
            "linux-image-6.1.0-57-amd64",
        ];
        let newest = |series| names.into_iter().filter(|name| of_series(name, series)).max_by_key(|name| numbers(name));
        assert_eq!(newest("6.1"), Some(names[1]));
        assert_eq!(newest("6.12"), Some(names[2]));
        assert_eq!(newest("6.2"), None);
    }

    #[test]
    fn the_oldest_supported_kernel_is_one_that_is_tested_and_the_documents_name_it() {
        let (major, minor) = sdwan_common::kernel::OLDEST;
        let oldest = format!("{major}.{minor}");
        assert_eq!(SERIES[0], oldest);
        for document in ["README.md", "docs/KERNELS.md"] {
            let text = fs::read_to_string(crate::cargo::workspace().join(document)).expect("the document is there");
            assert!(text.contains(&format!("Linux {oldest} or later")), "{document}");
        }
    }

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let description = "Package: x\nSHA256sum: no\nSHA256: abc\n";
        assert_eq!(field(description, "SHA256"), Some("abc"));
    }
}
