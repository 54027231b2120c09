//! Kernels of the distribution: found, fetched, checked and unpacked into the target directory. Nothing is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::modules;
use super::vmlinux;
use crate::fetch::{self, entries, fresh_directory, text_of};
use crate::progress::step;
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
    /// The unpacked package that it comes from, with all of its modules.
    pub package: PathBuf,
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
            fetch::unpack(path, &unpacked)?;
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
        let kernel = Self { vmlinux: ready.join("vmlinux"), modules, package: package.to_owned(), release };
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
    let target = packages.join(&name);
    fetch::package(&name, &target)?;
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
}
