//! `sdwan reload`.

use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use super::{Context, Exit};
use crate::api::client::ClientError;
use crate::api::views::DoneView;

/// How long the daemon gets to answer again.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(50);

/// Options of `sdwan reload`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Everything is checked first: what is wrong is told, and the daemon goes on as it was. Tunnels, programs and maps carry
traffic meanwhile. SIGHUP does the same, and tells the outcome in the log and in `sdwan events --kind reload`.")]
pub(super) struct Args {}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let before = client.status().await?;
        client.reload().await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match client.status().await {
                Ok(now) if now.started_unix_ms != before.started_unix_ms => break,
                Err(error @ ClientError::Untrusted { .. }) => {
                    return Err(error).context("the daemon was told, and has other certificates now");
                }
                // It hasn't begun yet, or is between its two lives.
                _ if Instant::now() < deadline => {}
                Ok(_) => anyhow::bail!("the daemon didn't start anew: look at its log"),
                Err(error) => {
                    return Err(error).context("the daemon doesn't answer since it was told: look at its log");
                }
            }
            sleep(PAUSE).await;
        }
        let done = DoneView::new("the daemon runs with its files as they are now");
        context.output.print(&done, |_| format!("{}\n", done.message))?;
        Ok(Exit::Ok)
    }
}
