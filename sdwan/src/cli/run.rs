//! `sdwan run`.

use std::path::PathBuf;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use super::{Global, with_global};
use crate::config::{Config, LogFormat, Options, load};
use crate::confine::{self, precedence};
use crate::daemon::{self, Ended, Reloader};
use crate::recording::{DEFAULT_LIMIT, Recording};
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
  sdwan run --site-name hq --listen-port 52000 --database /var/lib/sdwan/hq.db
  sdwan run --record /var/lib/sdwan/engine.jsonl    then: sdwan replay /var/lib/sdwan/engine.jsonl")]
pub(super) struct Args {
    #[command(flatten)]
    options: Options,
    /// Write what the engine is told and decides into this file, for `sdwan replay`; a former one becomes FILE.1
    #[arg(long, value_name = "FILE", value_parser = crate::config::from_here)]
    record: Option<PathBuf>,
    /// Size at which the recording ends, MiB
    #[arg(long, value_name = "MIB", requires = "record", default_value_t = DEFAULT_LIMIT >> 20,
        value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    record_limit: u64,
}

impl Args {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<()> {
        let options = with_global(self.options, global);
        let recording = self.record.map(|file| Recording { file, limit: self.record_limit << 20 });
        let config = load(&options)?;
        start_log(&config)?;
        let reloader = Reloader::new(move || load(&options)).context("cannot tell which program this is")?;
        daemon::check_privileges()?;
        let lock = StateLock::acquire(&config.site.lock)?;
        let confined = confine::confine(&config, recording.as_ref().map(|recording| recording.file.as_path()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .on_thread_start(precedence::give_up)
            .enable_all()
            .build()?;
        let ended = runtime.block_on(daemon::run(config, recording, reloader.clone(), lock));
        if !matches!(ended, Ok(Ended::Reload)) {
            confined.leave();
        }
        match ended? {
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
