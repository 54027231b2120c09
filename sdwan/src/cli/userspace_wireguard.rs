//! `sdwan userspace-wireguard`: the process behind a tunnel where the kernel has no WireGuard.
//!
//! Not for people: the daemon starts it, and it goes on when the daemon ends.

use anyhow::Context as _;
use clap::Args as ClapArgs;
use tracing_subscriber::EnvFilter;

use crate::tunnel::device;

/// What is logged unless `RUST_LOG` says otherwise. gotatun writes a line per packet when something is wrong with
/// it, which would let packets fill the disk.
const LOG: &str = "info,gotatun=off";

/// Options of `sdwan userspace-wireguard`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Stay in the terminal's session
    #[arg(long)]
    pub foreground: bool,
    /// Threads that carry packets [default: as many as the machine has use for]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Exchange single segments of TCP with the kernel, with checksums, in place of bundles
    #[arg(long)]
    pub no_offload: bool,
    /// Name of the interface to create, such as sdw0-0
    pub interface: String,
}

impl Args {
    /// Runs until the interface is removed.
    pub fn run(self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG));
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
        let options = device::Options { foreground: self.foreground, threads: self.threads, offload: !self.no_offload };
        device::run(&self.interface, &options)
            .with_context(|| format!("the userspace WireGuard of {} ended", self.interface))
    }
}
