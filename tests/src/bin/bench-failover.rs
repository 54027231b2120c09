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
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    if let Err(reason) = bed::available() {
        ensure!(false, "the bench can't run here: {reason}");
    }
    let figures = failover::run().context("the bench ended early")?;
    if arguments.json {
        println!("{}", figures.to_json());
    } else {
        for figure in figures.figures() {
            match (figure.value, &figure.why) {
                (Some(value), _) => println!("{:38} {value:>10} {} (n = {})", figure.name, figure.unit, figure.n),
                (None, why) => println!("{:38} not measured: {}", figure.name, why.as_deref().unwrap_or("?")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
