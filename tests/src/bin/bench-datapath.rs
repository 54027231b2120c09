//! `cargo xtask bench datapath`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sdwan_tests::datapath;

/// What a packet costs in the data path, and how many a processor carries, beside other ways to do it
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    datapath::run().context("the bench ended early")?.print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
