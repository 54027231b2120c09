//! `sdwan measure`: measurements on demand.

mod capacity;
mod mtu;
mod reflector;
mod show;
mod stamp;

use clap::Subcommand;

use super::{Context, Exit};

/// Measurements on demand.
#[derive(Debug, Subcommand)]
pub(super) enum MeasureCommand {
    /// Measure the way to any STAMP reflector (RFC 8762): delay, its variation and loss, each direction
    Stamp(Box<stamp::Args>),
    /// Measure how much a path carries, with a hundredth of what it carries in a minute
    Capacity(capacity::Capacity),
    /// Search the path MTU of a path now
    Mtu(mtu::Args),
    /// Answer STAMP packets, in the foreground; needs no daemon
    Reflector(Box<reflector::Args>),
}

impl MeasureCommand {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Stamp(args) => args.run(context).await,
            Self::Capacity(args) => args.run(context).await,
            Self::Mtu(args) => args.run(context).await,
            Self::Reflector(args) => args.run(context).await,
        }
    }
}

/// Done when somebody wants an end: Ctrl-C or SIGTERM.
async fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
