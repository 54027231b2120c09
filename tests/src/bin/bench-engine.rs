//! `cargo xtask bench engine`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use sdwan_tests::bed;
use sdwan_tests::engine::counting::Counting;
use sdwan_tests::engine::{self, Part};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What deciding costs: probes, ratings, path sets, map writes, announcements, memory, and the daemon among 1,000 sites
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Measure only this part; everything without it
    #[arg(long, value_enum)]
    part: Option<Part>,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    engine::run(arguments.part).context("the bench ended early")?.print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
