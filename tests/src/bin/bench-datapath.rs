//! `cargo xtask bench datapath`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sdwan_tests::bed;
use sdwan_tests::datapath::{self, Options};

/// What a packet costs in the data path, and how many a processor carries, beside other ways to do it
#[derive(Debug, Parser)]
struct Arguments {
    /// Print the figures as one JSON object on standard output; everything else goes to standard error
    #[arg(long)]
    json: bool,
    /// Run this part only, or these; the figures of the others have no value then
    #[arg(long, value_enum)]
    part: Vec<datapath::Part>,
    /// Measure this userspace WireGuard instead of the carried one: a program with its arguments, separated by spaces; the
    /// name of the interface follows
    #[arg(long, value_name = "COMMAND")]
    userspace_wireguard: Option<String>,
}

fn main() -> Result<ExitCode> {
    bed::main_if_asked();
    let arguments = Arguments::parse();
    let command = arguments.userspace_wireguard.as_deref();
    let userspace_wireguard = command.map(|command| command.split_whitespace().map(Into::into).collect());
    datapath::run(&Options { parts: arguments.part, userspace_wireguard }).print(arguments.json);
    Ok(ExitCode::SUCCESS)
}
