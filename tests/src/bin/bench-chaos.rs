//! `cargo xtask bench chaos`.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sdwan_tests::chaos::plan::{Abilities, plan};
use sdwan_tests::{bed, chaos};

/// Lets everything go wrong that can, and tells the cause of each gap in the traffic
///
/// Exit code 1 when a gap has no cause or lasts longer than its cause allows.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// What goes wrong when follows from this number; without it, from the time of day
    #[arg(long)]
    seed: Option<u64>,
    /// Print what would go wrong when, and end
    #[arg(long)]
    plan: bool,
    /// How long to go on, minutes
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    ensure!((0.25..=10_000.0).contains(&arguments.minutes), "--minutes is from 0.25 to 10000");
    let length = Duration::from_secs_f64(arguments.minutes * 60.0);
    let seed = arguments.seed.unwrap_or_else(|| UNIX_EPOCH.elapsed().map_or(1, |now| now.as_secs() % 1_000_000));
    if arguments.plan {
        println!("seed {seed}");
        for step in plan(seed, length, Abilities { nat: true, clock: true }) {
            let (at, lasts) = (step.at.as_secs_f64(), step.lasts.as_secs_f64());
            println!("{at:8.3} s: {} at {} for {lasts:.3} s", step.fault.text(), step.place());
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Err(reason) = bed::available() {
        ensure!(false, "the bench can't run here: {reason}");
    }
    let again = || format!("the bench ended early; the same again: --seed {seed} --minutes {}", arguments.minutes);
    let outcome = chaos::run(seed, length, |what| eprintln!("{what}")).with_context(again)?;
    eprintln!("{outcome}");
    outcome.figures().print(arguments.json);
    Ok(if outcome.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
