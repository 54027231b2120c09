//! `sdwan config`.

use super::{Context, Exit};
use crate::config::{DOCUMENTED_DEFAULTS, Options};

/// Options of `sdwan config`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// Print every key with its default and its meaning: a file to start from
    Defaults,
    /// Print the configuration that applies: defaults, under the file, under the options
    Show(Box<Show>),
}

#[derive(clap::Args, Clone, Debug)]
struct Show {
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command {
            Command::Defaults => context.output.write(DOCUMENTED_DEFAULTS)?,
            Command::Show(show) => {
                let config = context.load(show.options)?;
                context.output.print(&config, |_| config.to_toml())?;
            }
        }
        Ok(Exit::Ok)
    }
}
