//! `sdwan down`.

use super::{Context, Exit};
use crate::api::client::ClientError;
use crate::api::views::DoneView;
use crate::config::Options;
use crate::daemon::teardown;
use crate::store::StateLock;

/// Options of `sdwan down`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Works without the daemon too, after a crash for example. Traffic between sites ends with it. To restart the daemon
while traffic goes on, use `systemctl restart sdwan`: tunnels and programs outlive it.")]
pub(super) struct Args {}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let done = match context.client()?.down().await {
            Err(ClientError::NotRunning { .. }) => {
                let config = context.load(Options::default())?;
                // A daemon that is just starting would build up again what is taken down here.
                let _lock = StateLock::acquire(&config.site.lock)?;
                DoneView::new(teardown(&config).await?.to_string())
            }
            answer => answer?,
        };
        context.output.print(&done, |_| format!("{}\n", done.message))?;
        Ok(Exit::Ok)
    }
}
