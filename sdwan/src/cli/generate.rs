//! `sdwan completions` and `sdwan man`: from the same definitions as the command line itself.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory;
use clap_complete::Shell;

use super::output::Output;
use super::{Cli, Exit};

/// Options of `sdwan completions`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sdwan completions bash > /usr/share/bash-completion/completions/sdwan
  sdwan completions zsh > /usr/share/zsh/vendor-completions/_sdwan
  sdwan completions fish > /usr/share/fish/vendor_completions.d/sdwan.fish")]
pub(super) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self, output: &Output) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "sdwan", &mut script);
        output.write(&String::from_utf8(script).context("the completion script is not text")?)?;
        Ok(Exit::Ok)
    }
}

/// Options of `sdwan man`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Example:
  sdwan man /usr/local/share/man/man1 && man sdwan-status")]
pub(super) struct Man {
    /// The directory to write them to, one for each command; it must exist
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(self) -> anyhow::Result<Exit> {
        let place = self.directory.display();
        clap_mangen::generate_to(Cli::command(), &self.directory)
            .with_context(|| format!("cannot write the manual pages to {place}: make the directory first"))?;
        Ok(Exit::Ok)
    }
}
