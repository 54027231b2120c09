//! `cargo xtask bench failover`.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sdwan_tests::{bed, failover};

/// How long traffic stands still when a line, a daemon or both fail
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Only what happens to packets while daemons die, restart and are replaced
    #[arg(long)]
    crashes: bool,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    if let Err(reason) = bed::available() {
        ensure!(false, "the bench can't run here: {reason}");
    }
    failover::run(arguments.crashes).context("the bench ended early")?.print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
