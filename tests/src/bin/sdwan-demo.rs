//! `cargo xtask demo`.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sdwan_tests::{bed, demo};

/// Three sites with two uplinks each, real traffic, and a line that is cut
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave the mesh running at the end and print what to try
    #[arg(long)]
    keep: bool,
    /// End what --keep left running, and do nothing else
    #[arg(long)]
    clean: bool,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    if arguments.clean {
        for prefix in bed::clean_kept()? {
            eprintln!("ended {prefix}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(reason) = bed::available() {
        ensure!(false, "the demo can't run here: {reason}");
    }
    let options = demo::DemoOptions { json: arguments.json, keep: arguments.keep };
    let figures = demo::run(options).context("the demo ended early")?;
    if arguments.json {
        println!("{}", figures.to_json());
    }
    // Every figure is there, or the mesh didn't do what the demo is to show.
    let complete = figures.figures().iter().all(|figure| figure.value.is_some());
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
