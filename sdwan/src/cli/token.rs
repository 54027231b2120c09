//! `sdwan token`.

use std::time::Duration;

use super::output::Output;
use super::{Context, Exit, when};
use crate::api::views::{TokenOrder, TokenView};
use crate::config::units::Span;

/// Options of `sdwan token`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
A token lets a viewer in over TLS who has no certificate, such as a monitoring system:
  curl --cacert api-ca.crt -H \"Authorization: Bearer TOKEN\" https://GATEWAY:9587/metrics

Examples:
  sdwan token add grafana
  sdwan token add contractor --valid 30d
  sdwan token remove contractor")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// Make a token, and print it: it is shown this once
    Add {
        /// Its name: 1 to 32 of a-z, 0-9 and -
        name: String,
        /// It ends after so long, such as 30d [default: when it is removed]
        #[arg(long, value_name = "DURATION")]
        valid: Option<Span>,
    },
    /// List the tokens; not what they are
    List,
    /// Remove a token: it is of no use from then on
    Remove {
        /// Its name
        name: String,
    },
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        match self.command {
            Command::Add { name, valid } => {
                anyhow::ensure!(
                    valid.as_ref().is_none_or(|Span(span)| *span >= Duration::from_secs(1)),
                    "--valid is too short"
                );
                let made =
                    client.add_token(&TokenOrder { name, valid_s: valid.map(|Span(span)| span.as_secs()) }).await?;
                context.output.print(&made, |_| format!("{}\n", made.token))?;
            }
            Command::List => {
                let listing = client.tokens().await?;
                context.output.print(&listing, |output| render(&listing.items, output))?;
            }
            Command::Remove { name } => {
                let done = client.remove_token(&name).await?;
                context.output.print(&done, |_| format!("{}\n", done.message))?;
            }
        }
        Ok(Exit::Ok)
    }
}

/// The table.
fn render(tokens: &[TokenView], output: &Output) -> String {
    if tokens.is_empty() {
        return "no token\n".into();
    }
    let mut table = output.table(&["TOKEN", "MADE", "ENDS"]);
    let time = |seconds: i64| when::display(seconds.saturating_mul(1_000_000_000));
    for token in tokens {
        let ends = token.expires_unix_s.map_or_else(|| "when it is removed".into(), time);
        table.add_row(vec![token.name.clone(), time(token.created_unix_s), ends]);
    }
    output.text(&mut table)
}
