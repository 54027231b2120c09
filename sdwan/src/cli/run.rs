//! `sdwan run`.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::{Global, with_global};
use crate::config::{Config, LogFormat, Options, load};
use crate::daemon::{self, Ended, Reloader};
use crate::store::StateLock;

/// Threads of the daemon's runtime: the core, and one for everything that must not hold it up.
const THREADS: usize = 2;

/// Options of `sdwan run`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Options stand over the configuration file. Without a file, uplinks are the interfaces with a default route.

Examples:
  sdwan run
  sdwan run --config /etc/sdwan/branch.toml
  sdwan run --site-name branch-1 --interface fibre=eth0 --interface lte=wwan0 --lan eth1
  sdwan run --site-name hq --listen-port 52000 --database /var/lib/sdwan/hq.db")]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        let options = with_global(self.options, global);
        let config = load(&options)?;
        start_log(&config)?;
        let reloader = Reloader::new(move || load(&options)).context("cannot tell which program this is")?;
        daemon::check_privileges()?;
        let lock = StateLock::acquire(&config.site.lock)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
        match runtime.block_on(daemon::run(config, reloader.clone(), lock))? {
            Ended::Stopped => Ok(()),
            Ended::Reload => Err(reloader.execute()).context("cannot execute this program anew"),
        }
    }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level)
        .with_context(|| format!("log.level {:?} can't be understood", config.log.level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log.format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
