//! Tasks of the workspace: `cargo xtask --help`.
#![forbid(unsafe_code)]

mod cargo;
mod clean;
mod fetch;
mod lint;
mod machine;
mod package;
mod progress;
mod run;
mod setup;
mod test;
mod vm;
mod web;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the sdwan workspace", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build, test and lint; every other task does this first
    ///
    /// On Debian 12 and later: packages, then bpf-linker into target/tools. Asks apt for nothing when nothing is
    /// missing. Elsewhere it takes a nightly of rustup with rust-src, or says what to install.
    Setup,
    /// Build the dashboard's pages, which the daemon carries; the other tasks do so when they are out of date
    Web,
    /// Build the sdwan binary, eBPF programs and the dashboard's pages included
    Build(run::Profile),
    /// Build sdwan and run it
    Run(run::Run),
    /// Build a mesh of three sites in network namespaces and show it steering, failing over and failing back
    Demo(run::Demo),
    /// Run the tests, tier by tier, and print a summary
    ///
    /// Exit code 1 when anything failed. What can't run on this machine is listed as skipped with its reason. Tests in
    /// namespaces that fail, three at most, are run once more: one that then passes is listed as unsteady.
    Test(test::Test),
    /// Run a command on a stock kernel in a virtual machine
    ///
    /// All binaries and tests of the workspace are in the `PATH` there by their names, beside the usual tools. Uses KVM
    /// where a kernel boots under it, else emulation. Fetches the distribution's kernel package into target/vm and
    /// installs nothing of it.
    Vm(vm::Vm),
    /// Check formatting, lints (user space and eBPF), and the licences and sources of dependencies
    CiLint,
    /// Run a bench, or list the benches
    Bench(run::Bench),
    /// Make a Debian package: binary (release), systemd unit, manual pages, completions, documents
    Package(package::Arguments),
    /// Remove what was built; the tools of `setup` stay
    Clean(clean::Clean),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::setup(setup::For::Tests).map(|()| ExitCode::SUCCESS),
        Task::Web => web::build().map(|()| ExitCode::SUCCESS),
        Task::Build(profile) => run::build(&profile),
        Task::Run(run) => run.run(),
        Task::Demo(demo) => demo.run(),
        Task::Test(test) => test.run(),
        Task::Vm(vm) => vm.run(),
        Task::CiLint => lint::lint(),
        Task::Bench(bench) => bench.run(),
        Task::Package(package) => package.run(),
        Task::Clean(clean) => clean.run(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
