//! Progress for people.

use std::io::{IsTerminal, Write};
use std::time::Instant;

/// Where progress goes: standard output, or standard error when that is for programs.
#[derive(Debug)]
pub struct Console {
    to_errors: bool,
    colour: bool,
    start: Instant,
}

impl Console {
    /// Starts the clock that each line shows.
    pub fn new(to_errors: bool) -> Self {
        let terminal = if to_errors { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { to_errors, colour, start: Instant::now() }
    }

    /// Something new begins.
    pub fn step(&self, text: &str) {
        let text = if self.colour { format!("\x1b[1m{text}\x1b[0m") } else { text.to_string() };
        self.print(&format!("{:>5.1}s  {text}", self.start.elapsed().as_secs_f64()));
    }

    /// Something within a step.
    pub fn say(&self, text: &str) {
        self.print(&format!("{:>5.1}s    {text}", self.start.elapsed().as_secs_f64()));
    }

    fn print(&self, line: &str) {
        // A reader that has seen enough doesn't stop the demo: it still has to clean up.
        let _ =
            if self.to_errors { writeln!(std::io::stderr(), "{line}") } else { writeln!(std::io::stdout(), "{line}") };
    }
}
