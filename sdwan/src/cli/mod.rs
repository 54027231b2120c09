//! The command line: one file per command.
//!
//! Commands print what they found on standard output and what went wrong on standard error. Their outcome is an
//! [`Exit`].

mod api_cert;
mod api_schema;
mod audit;
mod backup;
mod check;
mod config;
mod dashboard;
mod down;
mod events;
mod explain;
mod flows;
mod generate;
mod measure;
mod mesh;
mod output;
mod paths;
mod policies;
mod reload;
mod remote;
mod replay;
mod report;
mod run;
mod site;
mod sites;
mod status;
mod support_dump;
#[cfg(test)]
mod tests;
mod token;
mod top;
mod trace;
pub mod userspace_wireguard;
mod validate;
mod watch;
mod when;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::api::client::{Client, ClientError};
use crate::config::{Config, ConfigError, Options};
use crate::store::Reader;
use output::Output;

const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it failed, or a check did
  2  the command line is wrong
  3  the daemon is not running, or can't be reached
  4  `sdwan status`: the gateway is degraded or failing";

/// SD-WAN gateway: WireGuard tunnels over every pair of uplinks, measured paths, and application-aware steering in eBPF
#[derive(Debug, Parser)]
#[command(name = "sdwan", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Clone, Debug)]
struct Global {
    /// How listings look: table, wide with all columns, or json for programs; `report` makes html, too [default: table]
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT",
        hide_possible_values = true, hide_default_value = true)]
    output: Format,
    /// Unix socket of the daemon [default: the one in the configuration, else /run/sdwan/sdwan.sock]
    #[arg(long, global = true, env = "SDWAN_SOCKET", hide_env_values = true, value_name = "PATH",
        value_parser = crate::config::from_here)]
    socket: Option<PathBuf>,
    /// Configuration file [default: /etc/sdwan/sdwan.toml, where it exists]
    #[arg(long, short, global = true, env = "SDWAN_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    remote: remote::RemoteArgs,
}

/// How listings look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, as wide as the terminal
    #[value(alias = "text")]
    Table,
    /// For people, with all columns, however wide
    Wide,
    /// For programs; has a version field
    Json,
    /// A page for a browser: `sdwan report` only
    Html,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Run(Box<run::Args>),
    /// Remove tunnels, routes, rules, programs and maps, and stop the daemon
    Down(down::Args),
    /// Make the daemon take its configuration, certificate and revocations anew, while traffic goes on
    Reload(reload::Args),
    /// Show how the gateway does
    Status(status::Args),
    /// Show paths, classes, flows and events live, by keyboard
    Top(top::Args),
    /// List the remote sites
    Sites(sites::Args),
    /// List the paths and how they do
    Paths(paths::Args),
    /// List flows and the paths that they stick to
    Flows(flows::Args),
    /// List, add, remove and test policies
    Policies(policies::Args),
    /// Show what happened
    Events(events::Args),
    /// Report what paths, providers and classes did over a span of time, and every failover with its cause
    Report(report::Args),
    /// Run the engine over a recording of `sdwan run --record`, and show what it decides
    Replay(replay::Args),
    /// Show who changed what
    Audit(audit::Args),
    /// Show where the dashboard is, or make a link that logs somebody in there, once
    Dashboard(dashboard::Args),
    /// Make, list and remove the tokens of viewers
    Token(token::Args),
    /// Say which path a flow takes, and why
    Explain(explain::Args),
    /// Follow the packets of a flow, and say what each program decided about them
    Trace(trace::Args),
    /// Measure on demand
    #[command(subcommand)]
    Measure(measure::MeasureCommand),
    /// Check the machine and the configuration, and say what to mend
    Check(check::Args),
    /// Say whether a configuration file is right, and if not, where and what to do
    Validate(validate::Args),
    /// Print the configuration
    Config(config::Args),
    /// Put all that helps to find out what is wrong into one file, without secrets
    SupportDump(support_dump::Args),
    /// Put keys, certificate, configuration and database into one file, from which the site can be restored
    Backup(backup::Args),
    /// Make a mesh, admit sites to it, revoke them
    #[command(subcommand)]
    Mesh(mesh::MeshCommand),
    /// Make this machine a site of a mesh
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Make certificates for the API over TLS
    ApiCert(api_cert::Args),
    /// Print the document of the API (OpenAPI 3.1)
    ApiSchema(api_schema::Args),
    /// Print a script by which a shell completes the command line
    Completions(generate::Completions),
    /// Write the manual pages
    Man(generate::Man),
    /// The process behind a tunnel where the kernel has no WireGuard; the daemon starts it
    #[command(hide = true)]
    UserspaceWireguard(userspace_wireguard::Args),
}

impl Command {
    /// Whether it is a daemon that answers, wherever that is.
    fn asks_a_daemon(&self) -> bool {
        match self {
            Self::Run(_)
            | Self::Mesh(_)
            | Self::Site(_)
            | Self::UserspaceWireguard(_)
            | Self::Replay(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::ApiCert(_)
            | Self::ApiSchema(_)
            | Self::Backup(_)
            | Self::Check(_)
            | Self::Config(_)
            | Self::Validate(_)
            | Self::SupportDump(_)
            | Self::Measure(measure::MeasureCommand::Stamp(_) | measure::MeasureCommand::Reflector(_)) => false,
            Self::Down(_)
            | Self::Reload(_)
            | Self::Status(_)
            | Self::Sites(_)
            | Self::Paths(_)
            | Self::Flows(_)
            | Self::Policies(_)
            | Self::Events(_)
            | Self::Report(_)
            | Self::Audit(_)
            | Self::Dashboard(_)
            | Self::Token(_)
            | Self::Explain(_)
            | Self::Trace(_)
            | Self::Top(_)
            | Self::Measure(_) => true,
        }
    }
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It worked.
    Ok = 0,
    /// It failed, or a check did.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon is not running.
    NotRunning = 3,
    /// The gateway is degraded or failing.
    Degraded = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// What every command gets.
struct Context {
    global: Global,
    output: Output,
}

impl Context {
    /// The configuration with these options over it, and the global ones.
    fn load(&self, options: Options) -> Result<Config, ConfigError> {
        crate::config::load(&with_global(options, &self.global))
    }

    /// The database, for a command that can be answered from it, too; `away` says why the daemon doesn't.
    ///
    /// # Errors
    /// When it can't be read, and where there is none, `away`.
    fn database(&self, away: ClientError) -> anyhow::Result<(Config, Reader)> {
        let config = self.load(Options::default())?;
        if !config.site.database.exists() {
            return Err(away.into());
        }
        let reader = Reader::open(&config.site.database)?;
        Ok((config, reader))
    }

    /// The daemon's client.
    fn client(&self) -> anyhow::Result<Client> {
        if let Some(client) = self.global.remote.client()? {
            return Ok(client);
        }
        if let Some(socket) = &self.global.socket {
            return Ok(Client::new(socket));
        }
        match self.load(Options::default()) {
            Ok(config) => Ok(Client::new(config.site.socket)),
            Err(error) if self.global.config.is_some() => Err(error.into()),
            // A configuration that is being edited doesn't stand between the operator and the running daemon.
            Err(_) => Ok(Client::new(Config::default().site.socket)),
        }
    }
}

fn with_global(options: Options, global: &Global) -> Options {
    Options { config: global.config.clone(), socket: global.socket.clone(), ..options }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody may be reading.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    if cli.global.output == Format::Html && !matches!(cli.command, Command::Report(_)) {
        eprintln!("error: {}", output::NO_PAGE);
        return Exit::Usage.into();
    }
    let context = Context { output: Output::from_environment(cli.global.output), global: cli.global };
    match dispatch(cli.command, &context) {
        Ok(exit) => exit.into(),
        Err(error) => report(&error).into(),
    }
}

fn dispatch(command: Command, context: &Context) -> anyhow::Result<Exit> {
    if context.global.remote.connect.is_some() && !command.asks_a_daemon() {
        eprintln!("error: --connect is for commands that ask a daemon, and this one is about this machine alone");
        return Ok(Exit::Usage);
    }
    match command {
        Command::Run(args) => args.run(&context.global).map(|()| Exit::Ok),
        Command::Mesh(command) => command.run(&context.output).map(|()| Exit::Ok),
        Command::Site(command) => command.run(&context.output).map(|()| Exit::Ok),
        Command::UserspaceWireguard(args) => args.run().map(|()| Exit::Ok),
        Command::Replay(args) => args.run(&context.output),
        Command::Completions(args) => args.run(&context.output),
        Command::Man(args) => args.run(),
        Command::ApiCert(args) => args.run(&context.output),
        Command::ApiSchema(args) => args.run(&context.output),
        Command::Backup(args) => args.run(context),
        other => ask(other, context),
    }
}

/// The commands that talk to the daemon, or to the network.
fn ask(command: Command, context: &Context) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Run(_)
            | Command::Mesh(_)
            | Command::Site(_)
            | Command::UserspaceWireguard(_)
            | Command::Replay(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::ApiCert(_)
            | Command::ApiSchema(_)
            | Command::Backup(_) => {
                unreachable!("these don't talk to the daemon")
            }
            Command::Down(args) => args.run(context).await,
            Command::Reload(args) => args.run(context).await,
            Command::Status(args) => args.run(context).await,
            Command::Top(args) => args.run(context).await,
            Command::Sites(args) => args.run(context).await,
            Command::Paths(args) => args.run(context).await,
            Command::Flows(args) => args.run(context).await,
            Command::Policies(args) => args.run(context).await,
            Command::Events(args) => args.run(context).await,
            Command::Audit(args) => args.run(context).await,
            Command::Dashboard(args) => args.run(context).await,
            Command::Token(args) => args.run(context).await,
            Command::Report(args) => args.run(context).await,
            Command::Explain(args) => args.run(context).await,
            Command::Trace(args) => args.run(context).await,
            Command::Measure(command) => command.run(context).await,
            Command::Check(args) => args.run(context).await,
            Command::Validate(args) => args.run(context),
            Command::Config(args) => args.run(context),
            Command::SupportDump(args) => args.run(context).await,
        }
    })
}

/// Tells what went wrong, each cause once, and how to exit.
fn report(error: &anyhow::Error) -> Exit {
    let closed = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
    };
    if error.chain().any(closed) {
        // Whoever read our output has seen enough.
        return Exit::Ok;
    }
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Our own errors name their cause already.
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    eprintln!("error: {text}");
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::NotRunning { .. } | ClientError::Unreachable { .. }) => Exit::NotRunning,
        _ => Exit::Failed,
    }
}
