//! `cargo xtask bench flood`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sdwan_tests::flood;

/// What is left of a tunnel while its port is flooded at the in-kernel generator's full rate, with the guard and without
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    flood::run().context("the bench ended early")?.print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
