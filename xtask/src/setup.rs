//! `cargo xtask setup`: installs what is missing, and nothing when nothing is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use ebpf_build::{BPF_LINKER_VERSION, Machine, Toolchain};

use crate::cargo::workspace;
use crate::fetch;
use crate::progress::{run, step};

/// What the tools are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Building.
    Build,
    /// Building, and running benches.
    Benches,
    /// Building, running the tests, benches and the demo.
    Tests,
    /// All of that, and virtual machines.
    Machines,
    /// Virtual machines with a whole system in them.
    Systems,
    /// Building, running the tests, and linting.
    Lint,
}

/// A prebuilt `core` for the eBPF target and the compiler that it belongs to.
const COMPILER_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// What the crates with C in them are built with.
const BUILD_PACKAGES: [&str; 2] = ["gcc", "libc6-dev"];
/// What bpf-linker is linked with, beside LLVM.
const LINKER_PACKAGES: [&str; 3] = ["pkg-config", "zlib1g-dev", "libzstd-dev"];
/// What the tests, the demo and `docs/` call, each with its command for systems without dpkg.
const TEST_PACKAGES: [(&str, &str); 9] = [
    ("bpftool", "bpftool"),
    ("iproute2", "ip"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("iputils-ping", "ping"),
    ("traceroute", "traceroute"),
    ("nftables", "nft"),
    ("wireguard-tools", "wg"),
    ("curl", "curl"),
];
/// What the accuracy bench puts beside our own measurements where the distribution has it; it says so where it is missing.
const REFERENCE_PACKAGES: [&str; 1] = ["irtt"];
/// What boots a kernel of the distribution, and takes apart what it comes in; the shell tools are everywhere.
const MACHINE_PACKAGES: [&str; 6] = ["qemu-system-x86", "kmod", "binutils", "zstd", "lz4", "xz-utils"];
/// What makes a system's disk.
const SYSTEM_PACKAGES: [&str; 2] = ["mmdebstrap", "e2fsprogs"];
/// An independent implementation of STAMP, which ours is tested against; `tests/tests/stamp/peer.rs` looks for it.
const STAMP_PEER: (&str, &str) = ("stamp-suite", "1.0.0");
/// The browser that the dashboard is tested in: its package, and its command.
const BROWSER: &str = "chromium";
/// Clippy of the compiler that builds the eBPF programs.
const LINT_PACKAGES: [&str; 1] = ["rust-web-clippy"];

/// Installs what is missing for a purpose.
///
/// # Errors
/// When something can't be installed; the text says what to do by hand.
pub fn setup(purpose: For) -> Result<()> {
    if has_apt() { setup_with_apt(purpose) } else { setup_elsewhere(purpose) }?;
    if purpose == For::Tests {
        install_stamp_peer();
        unpack_prometheus();
        install_browser();
    }
    Ok(())
}

/// Without it, the tests that need it say so as skipped.
fn install_stamp_peer() {
    let (name, version) = STAMP_PEER;
    let root = workspace().join(format!("target/tools/{name}-{version}"));
    if root.join("bin").join(name).is_file() {
        return;
    }
    step(&format!("building {name} {version} (about a minute, once)"));
    if let Err(error) = run(&mut cargo_install(name, version, &root)) {
        step(&format!("no {name}, the tests with it will be skipped: {error:#}"));
    }
}

/// Prometheus and promtool, which the metrics are tested with. Installed, the package would start a service. Without them the
/// tests that need them say so as skipped.
fn unpack_prometheus() {
    let target = workspace().join("target/tools/prometheus");
    if target.is_dir() {
        return;
    }
    step("fetching Prometheus (once)");
    let tools = fs::create_dir_all(workspace().join("target/tools")).map_err(Into::into);
    if let Err(error) = tools.and_then(|()| fetch::package("prometheus", &target)) {
        step(&format!("no Prometheus, the tests with it will be skipped: {error:#}"));
    }
}

/// What the dashboard's pages are tested in. Without it, the tests that need it say so as skipped.
fn install_browser() {
    if in_path(BROWSER) || !has_apt() {
        return;
    }
    if let Err(error) = install_packages(&[BROWSER.to_owned()]) {
        step(&format!("no {BROWSER}, the tests with it will be skipped: {error:#}"));
    }
}

/// A command that installs a crate's binary into the tools directory, with what it prints on standard error.
pub fn cargo_install(crate_name: &str, version: &str, root: &Path) -> Command {
    let mut command = crate::cargo::cargo("install");
    command.args([crate_name, "--locked", "--version", version, "--root"]).arg(root);
    // A directory of its own that is kept: an interrupted installation goes on where it was.
    command.arg("--target-dir").arg(workspace().join("target/tools/build"));
    // Cargo would otherwise warn that the directory is not in PATH, where it needn't be.
    command.env("PATH", path_with(&root.join("bin")));
    command
}

fn setup_with_apt(purpose: For) -> Result<()> {
    let target = Machine::HOST.target();
    let mut wanted: Vec<String> = BUILD_PACKAGES.map(String::from).to_vec();
    // A nightly of rustup does as well as the packages: what is there is taken.
    let mut toolchain = Toolchain::find(target).ok();
    if toolchain.is_none() {
        wanted.extend(COMPILER_PACKAGES.map(String::from));
    }
    if purpose != For::Build {
        wanted.extend(TEST_PACKAGES.map(|(package, _)| package.to_owned()));
    }
    if matches!(purpose, For::Machines | For::Systems) {
        wanted.extend(MACHINE_PACKAGES.map(String::from));
    }
    if purpose == For::Systems {
        wanted.extend(SYSTEM_PACKAGES.map(String::from));
    }
    if purpose == For::Lint && !matches!(toolchain, Some(Toolchain::Nightly { .. })) {
        wanted.extend(LINT_PACKAGES.map(String::from));
    }
    install_packages(&wanted)?;
    if purpose != For::Build && purpose != For::Lint {
        install_references();
    }
    if toolchain.is_none() {
        toolchain = Some(Toolchain::find(target)?);
    }
    match toolchain {
        Some(toolchain) => install_linker(&toolchain, true),
        None => Ok(()),
    }
}

fn setup_elsewhere(purpose: For) -> Result<()> {
    let toolchain = Toolchain::find(Machine::HOST.target())?;
    install_linker(&toolchain, false)?;
    let missing: Vec<&str> =
        TEST_PACKAGES.iter().filter(|(_, command)| !in_path(command)).map(|(package, _)| *package).collect();
    if purpose != For::Build && !missing.is_empty() {
        bail!("install these with the package manager of this system (Debian's names): {}", missing.join(" "));
    }
    Ok(())
}

fn install_linker(toolchain: &Toolchain, apt: bool) -> Result<()> {
    let llvm = toolchain.llvm();
    if ebpf_build::find_linker(&workspace(), llvm).is_ok() {
        return Ok(());
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if apt {
        let mut packages = vec![format!("llvm-{llvm}-dev")];
        packages.extend(LINKER_PACKAGES.map(String::from));
        install_packages(&packages)?;
    }
    step(&format!("building bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm} (about two minutes, once)"));
    let mut command = cargo_install("bpf-linker", BPF_LINKER_VERSION, &ebpf_build::tools_root(&workspace(), llvm));
    command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    if Path::new(&prefix).is_dir() {
        command.env("LLVM_PREFIX", &prefix);
    }
    run(&mut command).with_context(|| {
        format!(
            "bpf-linker needs the development files of LLVM {llvm}: install them and set LLVM_PREFIX to their place"
        )
    })
}

/// Installs those of the packages that are missing.
///
/// # Errors
/// When one can't be installed; the text says what to do.
pub fn install_packages(packages: &[String]) -> Result<()> {
    let installed = installed(packages)?;
    let missing: Vec<&String> = packages.iter().filter(|package| !installed.contains(*package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    step(&format!("installing packages: {names}"));
    update_packages()?;
    let mut install = apt_get()?;
    install.args(["--quiet", "install", "--assume-yes", "--no-install-recommends"]).args(&missing);
    run(&mut install).with_context(|| {
        format!(
            "this system's packages don't do. Install by hand what these bring: {names}; for the eBPF compiler \
             `rustup toolchain install nightly --component rust-src` does as well"
        )
    })
}

/// Installs those of the references that the distribution has. What can't be had is left out: nothing fails without it.
fn install_references() {
    let has = |package: &str| {
        let mut command = Command::new("apt-cache");
        command.args(["show", "--quiet", "--no-all-versions", package]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let known: Vec<String> = REFERENCE_PACKAGES.iter().filter(|name| has(name)).map(ToString::to_string).collect();
    if let Err(error) = install_packages(&known) {
        step(&format!("without {}: {error:#}", known.join(", ")));
    }
}

/// Fetches the list of the distribution's packages.
///
/// # Errors
/// When this isn't root, or the list can't be fetched.
pub fn update_packages() -> Result<()> {
    run(apt_get()?.args(["--quiet", "update"])).context("apt-get update")
}

/// Which of the packages are installed.
fn installed(packages: &[String]) -> Result<BTreeSet<String>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"])
        .args(packages)
        // It complains about each package that it doesn't know, which is what is asked.
        .stderr(Stdio::null())
        .output()
        .context("can't start dpkg-query")?;
    Ok(parse_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_installed(output: &str) -> BTreeSet<String> {
    let fields = output.lines().filter_map(|line| line.split_once(' '));
    fields.filter(|(_, status)| *status == "installed").map(|(package, _)| package.to_owned()).collect()
}

/// `apt-get`, through sudo for anybody but root.
fn apt_get() -> Result<Command> {
    let id = Command::new("id").arg("--user").output().context("can't start id")?;
    let mut command = if id.stdout.trim_ascii() == b"0" {
        Command::new("apt-get")
    } else if in_path("sudo") {
        let mut command = Command::new("sudo");
        command.arg("apt-get");
        command
    } else {
        bail!("packages are missing and installing them takes root: run `cargo xtask setup` as root once");
    };
    command.env("DEBIAN_FRONTEND", "noninteractive");
    Ok(command)
}

/// Does this system have Debian's package tools?
pub fn has_apt() -> bool {
    in_path("apt-get") && in_path("dpkg-query")
}

/// Is there such a program?
pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Programs of administrators are not in everybody's PATH.
    let system = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path).chain(system).any(|directory| directory.join(program).is_file())
}

fn path_with(directory: &Path) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain([directory.to_owned()]);
    std::env::join_paths(directories).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_removed_but_not_purged_is_missing() {
        let installed = parse_installed("bpftool installed\niperf3 config-files\nnftables not-installed\n");
        assert_eq!(installed.into_iter().collect::<Vec<_>>(), ["bpftool"]);
    }

    #[test]
    fn a_program_that_nobody_has_is_not_in_the_path() {
        assert!(in_path("sh"));
        assert!(!in_path("sdwan-no-such-program"));
    }
}
