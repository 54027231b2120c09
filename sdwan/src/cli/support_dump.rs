//! `sdwan support-dump`: all that helps to find out what is wrong, in one file, without secrets.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::{Context, Exit};
use crate::api::client::ClientError;
use crate::api::request::FlowFilter;
use crate::api::server::EventsQuery;
use crate::api::views::VERSION;
use crate::config::Options;
use crate::measure::clock::unix_ns;

/// A command has ended by then, or is left out.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a command's output, bytes.
const MOST: u64 = 8 << 20;
/// Newest events.
const EVENTS: usize = 5_000;

/// What is asked of the system; none of these prints a key.
const COMMANDS: [(&str, &[&str]); 17] = [
    ("kernel", &["uname", "--all"]),
    ("uptime", &["uptime"]),
    ("memory", &["free", "--bytes"]),
    ("clock", &["timedatectl", "show"]),
    ("links", &["ip", "-details", "-statistics", "link"]),
    ("addresses", &["ip", "address"]),
    ("rules", &["ip", "rule"]),
    ("rules6", &["ip", "-6", "rule"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    ("routes6", &["ip", "-6", "route", "show", "table", "all"]),
    ("neighbours", &["ip", "neighbour"]),
    ("wireguard", &["wg", "show"]),
    ("sockets", &["ss", "--udp", "--tcp", "--listening", "--numeric", "--processes"]),
    ("firewall", &["nft", "list", "ruleset"]),
    ("programs", &["bpftool", "net"]),
    ("maps", &["bpftool", "map", "show"]),
    ("log", &["journalctl", "--unit", "sdwan", "--no-pager", "--lines", "5000"]),
];

/// Options of `sdwan support-dump`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
It holds the configuration, what the daemon shows (status, sites, paths, policies, events, flows), the outcome of
`sdwan check`, interfaces, routes, rules, firewall, and the log. Keys are not in it; names, addresses and ports are.
It can be made without the daemon, too.")]
pub(super) struct Args {
    /// The file to write, which must not exist [default: sdwan-support-TIME.tar.gz]
    file: Option<PathBuf>,
    /// Leave the flows out: who talks to whom
    #[arg(long)]
    without_flows: bool,
}

/// What the command tells.
#[derive(Serialize)]
struct Written {
    version: u32,
    file: PathBuf,
    left_out: Vec<String>,
}

/// The archive, and what could not be had.
struct Dump {
    archive: tar::Builder<GzEncoder<File>>,
    left_out: Vec<String>,
    seconds: u64,
}

impl Dump {
    fn add(&mut self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.seconds);
        self.archive.append_data(&mut header, format!("sdwan-support/{name}"), content).context("cannot write the file")
    }

    fn add_answer(&mut self, name: &str, answer: Result<impl Serialize, ClientError>) -> anyhow::Result<()> {
        match answer {
            Ok(answer) => self.add(&format!("daemon/{name}.json"), &serde_json::to_vec_pretty(&answer)?),
            Err(error) => {
                self.left_out.push(format!("daemon/{name}.json: {error}"));
                Ok(())
            }
        }
    }

    async fn add_command(&mut self, name: &str, program: &std::ffi::OsStr, arguments: &[&str]) -> anyhow::Result<()> {
        match tokio::time::timeout(PATIENCE, output(program, arguments)).await {
            Ok(Ok(output)) => self.add(&format!("system/{name}.txt"), &output),
            Ok(Err(error)) => {
                self.left_out.push(format!("system/{name}.txt: {}: {error}", program.display()));
                Ok(())
            }
            Err(_) => {
                self.left_out.push(format!("system/{name}.txt: {} took too long", program.display()));
                Ok(())
            }
        }
    }
}

/// What a command prints, the beginning of it if it is much. The command ends when nobody waits for it any more.
async fn output(program: &std::ffi::OsStr, arguments: &[&str]) -> std::io::Result<Vec<u8>> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(std::io::Error::other("its output can't be read"));
    };
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (stdout.take(MOST), stderr.take(MOST));
    tokio::try_join!(stdout.read_to_end(&mut output), stderr.read_to_end(&mut errors))?;
    output.extend(errors);
    Ok(output)
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let seconds = unix_ns() / 1_000_000_000;
        let file = self.file.clone().unwrap_or_else(|| format!("sdwan-support-{seconds}.tar.gz").into());
        // For the owner alone: it tells much about a network.
        let sink = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        let sink = sink.with_context(|| format!("cannot make {}: choose another file", file.display()))?;
        let mut dump = Dump {
            archive: tar::Builder::new(GzEncoder::new(sink, Compression::default())),
            left_out: Vec::new(),
            seconds,
        };
        if let Err(error) = self.fill(context, &mut dump).await {
            // Half a file is of no use to anybody.
            let _ = std::fs::remove_file(&file);
            return Err(error);
        }
        let left_out = dump.left_out;
        let mut rest = dump.archive.into_inner().context("cannot write the file")?.finish()?;
        rest.flush()?;
        let written = Written { version: VERSION, file, left_out };
        context.output.print(&written, |_| {
            let mut text = format!("{} is written\n", written.file.display());
            written.left_out.iter().for_each(|what| text.push_str(&format!("without {what}\n")));
            text
        })?;
        Ok(Exit::Ok)
    }

    async fn fill(&self, context: &Context, dump: &mut Dump) -> anyhow::Result<()> {
        let client = context.client()?;
        dump.add_answer("status", client.status().await)?;
        dump.add_answer("sites", client.sites().await)?;
        dump.add_answer("paths", client.paths().await)?;
        dump.add_answer("policies", client.policies().await)?;
        dump.add_answer("events", client.events(&EventsQuery { limit: EVENTS, ..EventsQuery::default() }).await)?;
        if !self.without_flows {
            let filter = FlowFilter { limit: FlowFilter::MAX_LIMIT, ..FlowFilter::default() };
            dump.add_answer("flows", client.flows(&filter).await)?;
        }
        match context.load(Options::default()) {
            Ok(config) => dump.add("config.toml", config.to_toml().as_bytes())?,
            Err(error) => dump.left_out.push(format!("config.toml: {error}")),
        }
        let me = std::env::current_exe().context("cannot find the program's own file")?;
        let mut check = vec!["check", "-o", "json"];
        if let Some(config) = context.global.config.as_deref().and_then(|config| config.to_str()) {
            check.extend(["--config", config]);
        }
        dump.add_command("check", me.as_os_str(), &check).await?;
        dump.add_command("version", me.as_os_str(), &["--version"]).await?;
        for (name, command) in COMMANDS {
            dump.add_command(name, command[0].as_ref(), &command[1..]).await?;
        }
        let left_out = dump.left_out.iter().map(|what| format!("{what}\n")).collect::<String>();
        dump.add("left-out.txt", left_out.as_bytes())
    }
}
