//! `cargo xtask bench accuracy`.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use sdwan_tests::{accuracy, bed};

/// What gateways say of their paths, beside the truth of emulated lines and the tools of others
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Run this part only; the figures of the others have no value then
    #[arg(long, value_enum)]
    part: Option<accuracy::Part>,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    if let Err(reason) = bed::available() {
        ensure!(false, "the bench can't run here: {reason}");
    }
    accuracy::run(arguments.part).print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
