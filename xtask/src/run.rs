//! `cargo xtask build | run | demo | bench`: build a binary, run it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cargo::{self, cargo};
use crate::progress;
use crate::setup::{self, For};
use crate::vm;
use crate::web;

/// How much the compiler optimizes.
#[derive(clap::Args)]
pub struct Profile {
    /// Optimize; the first release build takes minutes
    #[arg(long, short)]
    release: bool,
}

/// Arguments of `run`.
#[derive(clap::Args)]
pub struct Run {
    #[command(flatten)]
    profile: Profile,
    /// Arguments of sdwan
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Arguments of `demo`.
#[derive(clap::Args)]
pub struct Demo {
    #[command(flatten)]
    profile: Profile,
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave the mesh running at the end and print what to try
    #[arg(long)]
    keep: bool,
    /// More arguments of sdwan-demo
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Arguments of `bench`.
#[derive(clap::Args)]
pub struct Bench {
    /// Name of the bench; lists them when left out
    name: Option<String>,
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Run it on a stock kernel in a virtual machine, which has the kernel's WireGuard and netem
    #[arg(long)]
    vm: bool,
    /// Series of the distribution's kernel, such as 6.1 or 6.12
    #[arg(long, short, requires = "vm", default_value = vm::SERIES[1])]
    kernel: String,
    /// End the virtual machine after so many seconds
    #[arg(long, requires = "vm", default_value_t = 3_600, value_name = "SECONDS")]
    timeout: u64,
    /// More arguments of the bench
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// What keeps the test-bed of a bench.
const BED: &str = "sdwan-bed";
/// Binaries of the crate of tests with this prefix are benches.
const BENCH_PREFIX: &str = "bench-";

impl Profile {
    const RELEASE: Self = Self { release: true };

    /// Builds binaries and returns the directory that they are in.
    fn build(&self, binaries: &[&str]) -> Result<PathBuf> {
        setup::setup(For::Build)?;
        web::build_if_possible();
        progress::step(&format!("building {}", binaries.join(", ")));
        let mut command = cargo("build");
        command.args(cargo::USER_SPACE);
        for binary in binaries {
            command.args(["--bin", binary]);
        }
        if self.release {
            command.arg("--release");
        }
        progress::run(&mut command)?;
        Ok(cargo::workspace().join("target").join(if self.release { "release" } else { "debug" }))
    }
}

/// Builds binaries, optimized; returns the directory that they are in.
///
/// # Errors
/// When a tool is missing or the build fails.
pub fn build_release(binaries: &[&str]) -> Result<PathBuf> {
    Profile::RELEASE.build(binaries)
}

/// Builds the `sdwan` binary.
///
/// # Errors
/// When a tool is missing or the build fails.
pub fn build(profile: &Profile) -> Result<ExitCode> {
    let binary = profile.build(&["sdwan"])?.join("sdwan");
    progress::step(&format!("{} is ready", binary.display()));
    Ok(ExitCode::SUCCESS)
}

impl Run {
    /// Builds and runs `sdwan`.
    ///
    /// # Errors
    /// When a tool is missing or the build fails.
    pub fn run(&self) -> Result<ExitCode> {
        let binary = self.profile.build(&["sdwan"])?.join("sdwan");
        exit_code_of(Command::new(binary).args(&self.arguments))
    }
}

impl Demo {
    /// Builds and runs the demo.
    ///
    /// # Errors
    /// When a tool is missing or the build fails.
    pub fn run(&self) -> Result<ExitCode> {
        let directory = self.profile.build(&["sdwan", "sdwan-demo"])?;
        let mut command = Command::new(directory.join("sdwan-demo"));
        command.args(self.json.then_some("--json")).args(self.keep.then_some("--keep")).args(&self.arguments);
        exit_code_of(&mut command)
    }
}

impl Bench {
    /// Builds and runs a bench, in release.
    ///
    /// # Errors
    /// When there is no bench of that name, a tool is missing, or the build fails.
    pub fn run(&self) -> Result<ExitCode> {
        let targets = cargo::targets()?;
        let names =
            || targets.iter().filter(|target| target.kind == "bin").filter_map(|t| t.name.strip_prefix(BENCH_PREFIX));
        let known = if names().next().is_some() { names().collect::<Vec<_>>().join(", ") } else { "none".to_owned() };
        let Some(name) = &self.name else {
            println!("benches: {known}");
            return Ok(ExitCode::SUCCESS);
        };
        if !names().any(|known| known == name) {
            bail!("there is no bench {name:?}; there are: {known}");
        }
        setup::setup(For::Benches)?;
        let binary = format!("{BENCH_PREFIX}{name}");
        if self.vm {
            let arguments = self.json.then(|| "--json".into()).into_iter().chain(self.arguments.iter().cloned());
            return vm::bench(&self.kernel, Duration::from_secs(self.timeout), &binary, arguments.collect());
        }
        let directory = Profile::RELEASE.build(&["sdwan", BED, &binary])?;
        exit_code_of(Command::new(directory.join(binary)).args(self.json.then_some("--json")).args(&self.arguments))
    }
}

/// Runs a command with this process's streams and hands on its exit code.
fn exit_code_of(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().with_context(|| format!("can't start {}", command.get_program().display()))?;
    // No code: a signal ended it.
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
