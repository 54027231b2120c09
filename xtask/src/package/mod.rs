//! `cargo xtask package`: a Debian package of the binary, its unit, its manual pages and completions.

mod deb;
mod guide;
mod life;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::cargo::workspace;
use crate::progress::step;
use crate::run;
use crate::web;
use deb::{Entry, Package};

/// Arguments of `package`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Package this binary instead of building one in release
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Revision of the package: what comes after the version
    #[arg(long, default_value = "1", value_name = "TEXT")]
    revision: String,
    /// Directory to put it in [default: target/package]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Try it on two virtual machines with systemd, from installing to purging, by the commands of the operator's guide
    ///
    /// Takes some ten minutes under emulation, and root. Nothing on this machine is changed but target/.
    #[arg(long, conflicts_with_all = ["revision", "out"])]
    test: bool,
    /// Kernel of these machines: a series such as 6.1 or 6.12
    #[arg(long, short, requires = "test", default_value = crate::vm::SERIES[1])]
    kernel: String,
}

const NAME: &str = "sdwan";
const SUMMARY: &str = "SD-WAN gateway: WireGuard tunnels over every line, steering in eBPF";
/// Each line of it begins with a blank in the control file.
const DESCRIPTION: [&str; 4] = [
    "Turns a machine with several internet connections into a gateway of a mesh.",
    "Gateways find each other, build WireGuard tunnels over every pair of lines,",
    "measure every path, and steer each application onto the path that suits it.",
    "eBPF programs carry the packets, and outlive the daemon.",
];
/// Maintainer's scripts.
const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("../../../packaging/debian/postinst")),
    ("prerm", include_str!("../../../packaging/debian/prerm")),
    ("postrm", include_str!("../../../packaging/debian/postrm")),
];
/// Completions: the shell, and where it looks.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/sdwan"),
    ("zsh", "usr/share/zsh/vendor-completions/_sdwan"),
    ("fish", "usr/share/fish/vendor_completions.d/sdwan.fish"),
];
/// Of `docs/`, what an operator needs beside the guide.
const DOCUMENTS: [&str; 8] = [
    "KERNELS.md",
    "MAPS.md",
    "DASHBOARD.md",
    "PROTOCOL.md",
    "SECURITY.md",
    "monitoring/alerts.yml",
    "monitoring/alerts.test.yml",
    "monitoring/grafana.json",
];

impl Arguments {
    /// Makes the package.
    ///
    /// # Errors
    /// When the build fails, or a file can't be read or written.
    pub fn run(&self) -> Result<ExitCode> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => {
                // A package without the dashboard would be a surprise.
                web::build()?;
                run::build_release(&["sdwan"])?.join("sdwan")
            }
        };
        if self.test {
            return life::test(&binary, &self.kernel);
        }
        let out = self.out.clone().unwrap_or_else(|| workspace().join("target/package"));
        fs::create_dir_all(&out).with_context(|| format!("can't make {}", out.display()))?;
        let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), self.revision);
        let file = out.join(format!("{NAME}_{version}_{}.deb", architecture()?));
        step(&format!("packaging {}", binary.display()));
        package(&binary, &version)?.write(&file)?;
        println!("{}", file.display());
        Ok(ExitCode::SUCCESS)
    }
}

/// Who makes the package, by the environment as Debian's own tools have it (`debchange(1)`).
fn maintainer() -> String {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let name = set("DEBFULLNAME").unwrap_or_else(|| "whoever built this package".into());
    let address = set("DEBEMAIL").or_else(|| set("EMAIL")).unwrap_or_else(|| "root@localhost".into());
    format!("{name} <{address}>")
}

/// What Debian calls this machine's architecture.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no package for {other}: the eBPF programs are built for x86_64 and aarch64"),
    }
}

/// The package of a binary; what the binary itself says of its commands goes into it.
fn package(binary: &Path, version: &str) -> Result<Package> {
    let program = fs::read(binary).with_context(|| format!("can't read {}", binary.display()))?;
    let libc = glibc_version(&program).with_context(|| format!("{} names no version of glibc", binary.display()))?;
    let mut files = vec![
        Entry::directory("etc/sdwan", 0o755),
        Entry::file("etc/sdwan/sdwan.toml.example", document("sdwan.toml")?),
        Entry::program("usr/bin/sdwan", program),
        Entry::file("usr/lib/systemd/system/sdwan.service", document("sdwan.service")?),
        Entry::file("usr/share/doc/sdwan/copyright", copyright()?),
    ];
    for (shell, path) in COMPLETIONS {
        files.push(Entry::file(path, output(binary, &["completions", shell])?));
    }
    for name in guide::PAGES.into_iter().chain(DOCUMENTS) {
        files.push(Entry::file(format!("usr/share/doc/sdwan/{name}"), document(name)?));
    }
    files.extend(manual_pages(binary)?);
    Ok(Package {
        control: vec![
            ("Package", NAME.into()),
            ("Version", version.into()),
            ("Architecture", architecture()?.into()),
            ("Maintainer", maintainer()),
            ("Section", "net".into()),
            ("Priority", "optional".into()),
            ("Depends", format!("libc6 (>= {}.{}), libgcc-s1", libc.0, libc.1)),
            ("Recommends", "iproute2".into()),
            ("Suggests", "wireguard-tools, bpftool, prometheus".into()),
            ("Description", format!("{SUMMARY}\n {}", DESCRIPTION.join("\n "))),
        ],
        scripts: SCRIPTS.map(|(name, text)| (name, text.to_owned())).to_vec(),
        conffiles: vec!["etc/sdwan/sdwan.toml.example".into()],
        files,
        time_unix_s: time()?,
    })
}

fn document(name: &str) -> Result<Vec<u8>> {
    let path = workspace().join("docs").join(name);
    fs::read(&path).with_context(|| format!("can't read {}", path.display()))
}

/// All licences, and those of the crates in the binary.
fn copyright() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    for name in ["NOTICE", "LICENSE-MIT", "LICENSE-APACHE"] {
        let path = workspace().join(name);
        text.extend(fs::read(&path).with_context(|| format!("can't read {}", path.display()))?);
        text.push(b'\n');
    }
    Ok(text)
}

fn output(binary: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output =
        Command::new(binary).args(arguments).output().with_context(|| format!("can't run {}", binary.display()))?;
    if !output.status.success() {
        let what = arguments.join(" ");
        bail!("{} {what} failed: {}", binary.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn manual_pages(binary: &Path) -> Result<Vec<Entry>> {
    let directory = workspace().join("target/package/man1");
    // What an earlier binary had may not be a command any more.
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).with_context(|| format!("can't make {}", directory.display()))?;
    output(binary, &["man", &directory.to_string_lossy()])?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        std::io::Write::write_all(&mut encoder, &fs::read(&path)?)?;
        pages.push(Entry::file(format!("usr/share/man/man1/{name}.gz"), encoder.finish()?));
    }
    if pages.is_empty() {
        bail!("{} has written no manual page", binary.display());
    }
    pages.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(pages)
}

/// Latest version of glibc that a binary asks for: the names of versions are in its table of dynamic strings.
fn glibc_version(program: &[u8]) -> Option<(u32, u32)> {
    const PREFIX: &[u8] = b"\0GLIBC_2.";
    let versions = program.windows(PREFIX.len()).enumerate().filter(|(_, window)| *window == PREFIX);
    let minors = versions.filter_map(|(at, _)| {
        let digits: Vec<u8> =
            program[at + PREFIX.len()..].iter().copied().take_while(u8::is_ascii_digit).take(3).collect();
        String::from_utf8(digits).ok()?.parse().ok()
    });
    minors.max().map(|minor| (2, minor))
}

/// Of the last commit, or what `SOURCE_DATE_EPOCH` says (reproducible-builds.org): equal sources give equal packages.
fn time() -> Result<u64> {
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        return text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, and no number"));
    }
    let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(workspace()).output();
    let output = output.context("can't run git: set SOURCE_DATE_EPOCH to the time of the sources")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().context("git names no time of the last commit: set SOURCE_DATE_EPOCH")
}
