//! `sdwan policies`.

use std::path::PathBuf;

use anyhow::Context as _;
use ipnet::IpNet;

use super::explain::FlowArgs;
use super::output::{Output, number, short};
use super::{Context, Exit, when};
use crate::api::access::Caller;
use crate::api::answer;
use crate::api::client::ClientError;
use crate::api::views::{DoneView, Listing, PolicySource, PolicyTestView, PolicyView};
use crate::config::{self, Config, Inadmissible, Options};
use crate::engine::policy::{Dscp, Match, Mode, Policy, PortRange, Preference, Protocol, Sla, Sticky};
use crate::store::{AuditEntry, AuditOutcome, Reader, StateLock, Store};

/// Options of `sdwan policies`.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// List the policies that apply, in their order
    List,
    /// Add a policy, from options or a file; it outlives restarts
    Add(Box<Add>),
    /// Remove an added policy
    Remove {
        /// Its name
        name: String,
    },
    /// Say which policy a flow matches
    Test(FlowArgs),
}

/// Options of `sdwan policies add`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Lists have commas between their elements; all that are given must match. A policy with several
alternatives comes from a file of [[policy]] tables (`sdwan config defaults` shows one).

Examples:
  sdwan policies add erp --priority 50 --protocol tcp --port 8443,9000-9099 --preference latency
  sdwan policies add guests --priority 60 --zone guests --preference cost
  sdwan policies add backup --priority 70 --destination 10.9.0.0/16 --mode balance --set-dscp cs1
  sdwan policies add --file policies.toml --replace")]
struct Add {
    /// Name: 1 to 32 of a-z, 0-9 and -
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<String>,
    /// File of [[policy]] tables
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Replace an added policy of the same name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    policy: PolicyArgs,
}

#[derive(clap::Args, Clone, Debug)]
#[group(id = "definition", multiple = true, conflicts_with = "file")]
struct PolicyArgs {
    /// Lower applies first; the default policies have 100, 200, 300 and 65535
    #[arg(long, required_unless_present = "file", value_name = "0..65535")]
    priority: Option<u16>,
    /// IP protocols: tcp, udp, icmp, icmpv6, or numbers
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    protocol: Vec<Protocol>,
    /// Ports or ranges of ports, of either end
    #[arg(long, value_delimiter = ',', value_name = "LIST", conflicts_with_all = ["source_port", "destination_port"])]
    port: Vec<PortRange>,
    /// Source ports
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    source_port: Vec<PortRange>,
    /// Destination ports
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    destination_port: Vec<PortRange>,
    /// DSCP values or names
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    dscp: Vec<Dscp>,
    /// Source prefixes
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    source: Vec<IpNet>,
    /// Destination prefixes
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    destination: Vec<IpNet>,
    /// Zones of LAN interfaces
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    zone: Vec<String>,
    /// Class that it assigns [default: its name]
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// What makes a path good: latency, throughput, cost or balanced [default: balanced]
    #[arg(long, value_parser = from_name::<Preference>)]
    preference: Option<Preference>,
    /// best: all flows on the best path; balance: spread by weight; duplicate: each packet by two paths [default: best]
    #[arg(long, value_parser = from_name::<Mode>)]
    mode: Option<Mode>,
    /// until-better: flows move to a path that is better, or that comes back, after a hold; until-end: they stay on theirs
    /// as long as it works and keeps the SLA [default: until-better]
    #[arg(long, value_parser = from_name::<Sticky>)]
    sticky: Option<Sticky>,
    /// DSCP to write into the packets
    #[arg(long, value_name = "DSCP")]
    set_dscp: Option<Dscp>,
    /// DSCP of the encrypted packets, where `outer_dscp` in [tunnel] is on
    #[arg(long, value_name = "DSCP")]
    set_outer_dscp: Option<Dscp>,
    /// SLA: longest round-trip time, ms
    #[arg(long, value_name = "MS")]
    sla_latency: Option<f64>,
    /// SLA: largest jitter, ms
    #[arg(long, value_name = "MS")]
    sla_jitter: Option<f64>,
    /// SLA: largest loss, percent
    #[arg(long, value_name = "PERCENT")]
    sla_loss: Option<f64>,
    /// SLA: least capacity, Mbit/s
    #[arg(long, value_name = "MBPS")]
    sla_bandwidth: Option<f64>,
    /// SLA: least mean opinion score, 1.0 to 4.5
    #[arg(long, value_name = "MOS")]
    sla_mos: Option<f64>,
}

/// A variant by the name that it has in files.
fn from_name<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(|error| error.to_string())
}

impl PolicyArgs {
    fn policy(self, name: String) -> Policy {
        let alternative = Match {
            protocols: self.protocol,
            ports: self.port,
            source_ports: self.source_port,
            destination_ports: self.destination_port,
            dscp: self.dscp,
            sources: self.source,
            destinations: self.destination,
            zones: self.zone,
        };
        Policy {
            name,
            priority: self.priority.unwrap_or(0),
            matches: if alternative == Match::default() { Vec::new() } else { vec![alternative] },
            class: self.class,
            preference: self.preference.unwrap_or_default(),
            sla: Sla {
                latency_ms: self.sla_latency,
                jitter_ms: self.sla_jitter,
                loss_pct: self.sla_loss,
                bandwidth_mbps: self.sla_bandwidth,
                mos: self.sla_mos,
            },
            mode: self.mode.unwrap_or_default(),
            sticky: self.sticky.unwrap_or_default(),
            dscp: self.set_dscp.map(|dscp| dscp.0),
            outer_dscp: self.set_outer_dscp.map(|dscp| dscp.0),
        }
    }
}

impl Args {
    /// The policy that `add` defines by its options.
    #[cfg(test)]
    pub(super) fn definition(self) -> Option<Policy> {
        match self.command? {
            Command::Add(add) => Some(add.policy.policy(add.name?)),
            _ => None,
        }
    }

    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.command.unwrap_or(Command::List) {
            Command::List => list(context).await,
            Command::Add(add) => add.run(context).await,
            Command::Remove { name } => remove(context, &name).await,
            Command::Test(flow) => test(context, flow).await,
        }
    }
}

async fn list(context: &Context) -> anyhow::Result<Exit> {
    let listing = match context.client()?.policies().await {
        Err(ClientError::NotRunning { .. }) => {
            let (config, stored) = offline(context)?;
            Listing::complete(answer::policy_views(&config, &stored))
        }
        answer => answer?,
    };
    context.output.print(&listing, |output| render(&listing.items, output))?;
    Ok(Exit::Ok)
}

impl Add {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let policies = match (&self.file, self.name) {
            (Some(file), _) => {
                let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
                let policies = config::parse_policies(file, &text)?;
                anyhow::ensure!(!policies.is_empty(), "{} holds no [[policy]] table", file.display());
                policies
            }
            (None, name) => vec![self.policy.policy(name.unwrap_or_default())],
        };
        let done = match context.client()?.add_policies(&policies, self.replace).await {
            Err(ClientError::NotRunning { .. }) => add_offline(context, &policies, self.replace)?,
            answer => answer.context("nothing was added")?,
        };
        context.output.print(&done, |_| format!("{}\n", done.message))?;
        Ok(Exit::Ok)
    }
}

async fn remove(context: &Context, name: &str) -> anyhow::Result<Exit> {
    let done = match context.client()?.remove_policy(name).await {
        Err(ClientError::NotRunning { .. }) => {
            let config = context.load(Options::default())?;
            let (_lock, store) = open_offline(&config)?;
            let before = stored(&store, &[name])?;
            let removed = store.remove_policy(name)?;
            if removed {
                audit(&store, "policies-remove", name, before, serde_json::Value::Null);
            }
            store.close()?;
            anyhow::ensure!(removed, "{}", why_not_removed(&config, name));
            DoneView::new(format!("policy {name:?} is removed; the daemon is not running"))
        }
        answer => answer?,
    };
    context.output.print(&done, |_| format!("{}\n", done.message))?;
    Ok(Exit::Ok)
}

/// Why `policies remove` found nothing to remove, and what to do instead.
fn why_not_removed(config: &Config, name: &str) -> String {
    match answer::policy_views(config, &[]).iter().find(|view| view.policy.name == name).map(|view| view.source) {
        Some(PolicySource::File) => format!("policy {name:?} is in the configuration file: remove it there"),
        Some(_) => format!(
            "policy {name:?} is built in: set `builtin_policies = false`, or add one of this name to replace it"
        ),
        None => format!("there is no policy {name:?}: `sdwan policies list` lists them"),
    }
}

async fn test(context: &Context, flow: FlowArgs) -> anyhow::Result<Exit> {
    let flow = flow.flow()?;
    let view = match context.client()?.test_policy(&flow).await {
        Err(ClientError::NotRunning { .. }) => {
            let (config, stored) = offline(context)?;
            answer::test_policy(&config::compile_with(&config, &stored)?, &flow)?
        }
        answer => answer?,
    };
    context.output.print(&view, |_| render_test(&view))?;
    Ok(Exit::Ok)
}

/// What applies while the daemon isn't running.
fn offline(context: &Context) -> anyhow::Result<(Config, Vec<Policy>)> {
    let config = context.load(Options::default())?;
    let database = &config.site.database;
    let stored = if database.exists() { Reader::open(database)?.policies()? } else { Vec::new() };
    eprintln!("note: the daemon is not running; this is from the configuration and its database");
    Ok((config, stored))
}

fn open_offline(config: &Config) -> anyhow::Result<(StateLock, Store)> {
    let lock = StateLock::acquire(&config.site.lock)?;
    let store = Store::open(&config.site.database, &config.store)?;
    Ok((lock, store))
}

fn add_offline(context: &Context, policies: &[Policy], replace: bool) -> anyhow::Result<DoneView> {
    let config = context.load(Options::default())?;
    let (_lock, store) = open_offline(&config)?;
    config::admit_policies(&config, &store.policies()?, policies, replace).map_err(|error| match error {
        Inadmissible::Invalid(text) | Inadmissible::Conflict(text) => anyhow::anyhow!(text),
    })?;
    let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
    let before = stored(&store, &names)?;
    store.save_policies(policies, replace)?;
    audit(&store, "policies-add", &names.join(", "), before, serde_json::to_value(policies)?);
    store.close()?;
    Ok(DoneView::new(format!(
        "{} stored; the daemon is not running and applies what is stored when it starts",
        answer::these(policies)
    )))
}

/// The stored ones of these names; null when there is none.
fn stored(store: &Store, names: &[&str]) -> anyhow::Result<serde_json::Value> {
    let found: Vec<Policy> =
        store.policies()?.into_iter().filter(|policy| names.contains(&policy.name.as_str())).collect();
    Ok(if found.is_empty() { serde_json::Value::Null } else { serde_json::to_value(found)? })
}

/// Records a change that is made without the daemon.
fn audit(store: &Store, action: &str, target: &str, before: serde_json::Value, after: serde_json::Value) {
    let pid = i32::try_from(std::process::id()).ok();
    let caller = Caller::local(nix::unistd::geteuid().as_raw(), pid);
    let entry = AuditEntry {
        time_unix_ns: when::now_ns(),
        who: caller.who,
        via: "offline".into(),
        source: caller.source,
        role: caller.role.to_string(),
        action: action.into(),
        target: target.into(),
        before,
        after,
        outcome: AuditOutcome::Done,
        message: "stored while the daemon was not running".into(),
    };
    crate::api::audit::record(store, entry);
}

/// The table.
pub(super) fn render(policies: &[PolicyView], output: &Output) -> String {
    let mut table = output.table(&["PRIORITY", "POLICY", "MATCH", "PREFERS", "STICKY", "FROM", "PACKETS"]);
    for view in policies {
        let policy = &view.policy;
        let matches: Vec<String> = policy.matches.iter().map(describe).collect();
        let name = |value: serde_json::Result<serde_json::Value>| {
            value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
        };
        let mut label = policy.name.clone();
        if policy.class_name() != policy.name {
            label.push_str(&format!("\nclass {}", policy.class_name()));
        }
        let mut prefers = name(serde_json::to_value(policy.preference));
        match policy.mode {
            Mode::Best => {}
            Mode::Balance => prefers.push_str("\nbalanced over paths"),
            Mode::Duplicate => prefers.push_str("\nby two paths"),
        }
        table.add_row(vec![
            number(policy.priority),
            label.into(),
            if matches.is_empty() { "everything".into() } else { matches.join("\n") }.into(),
            prefers.into(),
            name(serde_json::to_value(policy.sticky)).into(),
            match view.source {
                PolicySource::BuiltIn => "built-in",
                PolicySource::File => "file",
                PolicySource::Stored => "stored",
            }
            .into(),
            number(view.packets.map_or_else(|| "-".into(), short)),
        ]);
    }
    output.text(&mut table)
}

/// `tcp, udp port 5060-5061`.
fn describe(alternative: &Match) -> String {
    fn list<T: ToString>(items: &[T]) -> String {
        items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
    let parts = [
        ("", list(&alternative.protocols)),
        ("port ", list(&alternative.ports)),
        ("source port ", list(&alternative.source_ports)),
        ("destination port ", list(&alternative.destination_ports)),
        ("dscp ", list(&alternative.dscp)),
        ("from ", list(&alternative.sources)),
        ("to ", list(&alternative.destinations)),
        ("zone ", alternative.zones.join(", ")),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(_, list)| !list.is_empty()).map(|(word, list)| format!("{word}{list}")).collect();
    if parts.is_empty() { "everything".into() } else { parts.join(" ") }
}

fn render_test(view: &PolicyTestView) -> String {
    match (&view.policy, &view.class, view.rule) {
        (Some(policy), Some(class), Some(rule)) => {
            format!("flow:    {}\npolicy:  {policy} (rule {rule})\nclass:   {class}\n", view.flow)
        }
        _ => format!("flow:    {}\npolicy:  none: the packet is left to the kernel's routes\n", view.flow),
    }
}
