//! The `sdwan` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    sdwan::cli::main()
}
