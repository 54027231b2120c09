//! `sdwan status`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::output::{Output, Tone, age, short, toned};
use super::watch::{Watch, seconds};
use super::{Context, Exit};
use crate::api::client::{Client, ClientError};
use crate::api::views::{Health, StatusView};

/// Between two looks, with `--wait`.
const PAUSE: Duration = Duration::from_millis(250);

/// Options of `sdwan status`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Exits with 0 when everything works, 4 when something needs attention, 3 without a daemon.

Example, at the end of a script that sets a gateway up:
  sdwan status --wait --timeout 120")]
pub(super) struct Args {
    /// Wait until everything works, and show it then
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// With --wait, for at most so many seconds; what is the matter is shown then
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, requires = "wait")]
    timeout: Duration,
    #[command(flatten)]
    watch: Watch,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        if self.wait {
            let status = self.good(&client).await?;
            return show(context, &status);
        }
        self.watch.run(context, async || show(context, &client.status().await?)).await
    }

    /// The first status with which everything works, or the last one before time is up.
    async fn good(&self, client: &Client) -> Result<StatusView, ClientError> {
        let start = Instant::now();
        loop {
            let answer = client.status().await;
            let good = answer.as_ref().is_ok_and(|status| status.health == Health::Ok);
            if good || start.elapsed() + PAUSE > self.timeout {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn show(context: &Context, status: &StatusView) -> anyhow::Result<Exit> {
    context.output.print(status, |output| render(status, output))?;
    Ok(match status.health {
        Health::Ok => Exit::Ok,
        Health::Degraded | Health::Failing => Exit::Degraded,
    })
}

/// The whole screen.
pub(super) fn render(status: &StatusView, output: &Output) -> String {
    let (word, tone) = match status.health {
        Health::Ok => ("ok", Tone::Good),
        Health::Degraded => ("degraded", Tone::Warning),
        Health::Failing => ("failing", Tone::Bad),
    };
    let mut lines: Vec<(&str, String)> = vec![
        ("site", format!("{} ({})", status.site_name, status.site)),
        ("mesh", status.mesh.to_string()),
        ("health", output.paint(word, tone)),
    ];
    lines.extend(status.problems.iter().map(|problem| ("", format!("- {problem}"))));
    let up = age(status.uptime_s);
    lines.push(("daemon", format!("{}, process {}, up {up}", status.daemon_version, status.pid)));
    if let Some(overlay) = status.overlay {
        lines.push(("overlay", overlay.to_string()));
    }
    let prefixes: Vec<String> = status.prefixes.iter().map(ToString::to_string).collect();
    lines.push(("prefixes", or_none(prefixes.join(", "))));
    lines.push(("tunnels", format!("{} WireGuard", status.tunnel_backend)));
    let attached =
        if status.attached.is_empty() { String::new() } else { format!(" on {}", status.attached.join(", ")) };
    lines.push(("data path", format!("{}{attached}, fast path {}", status.attach_mode, status.fast_path)));
    if !status.xdp.is_empty() {
        let states: Vec<String> = status.xdp.iter().map(|(interface, state)| format!("{interface} {state}")).collect();
        lines.push(("XDP", states.join(", ")));
    }
    lines.push(("sites", counts(&status.sites)));
    lines.push(("paths", counts(&status.paths)));
    lines.push(("policies", status.policies.to_string()));
    lines.push(("dropped", counts(&status.drops)));
    if !status.drop_rules.is_empty() {
        lines.push(("drop rules", counts(&status.drop_rules)));
    }
    lines.push(("to the stack", counts(&status.passes)));
    lines.push(("refused", counts(&status.refused_announcements)));
    lines.push(("MTU probes", counts(&status.mtu_probes)));
    if status.api_refused.values().any(|count| *count > 0) {
        lines.push(("API refused", counts(&status.api_refused)));
    }
    if status.internal_drops.values().any(|count| *count > 0) {
        lines.push(("overflowed", counts(&status.internal_drops)));
    }
    if !status.stamp_reflector.is_empty() {
        lines.push(("reflector", counts(&status.stamp_reflector)));
    }
    let store = &status.store;
    let mut text = format!("{}, {} queued", if store.ok { "ok" } else { "in trouble" }, store.queued);
    for (count, what) in [(store.dropped, "dropped"), (store.rejected, "rejected"), (store.errors, "errors")] {
        if count > 0 {
            text.push_str(&format!(", {} {what}", short(count)));
        }
    }
    lines.push(("database", text));
    lines.extend(store.trouble.iter().chain(&store.moved_aside).map(|note| ("", format!("- {note}"))));
    let mut text: String = lines
        .iter()
        .map(|(name, value)| format!("{:14}{value}", if name.is_empty() { String::new() } else { format!("{name}:") }))
        .flat_map(|line| [line.trim_end().to_owned(), "\n".into()])
        .collect();
    text.push('\n');
    text.push_str(&uplinks(status, output));
    text
}

fn uplinks(status: &StatusView, output: &Output) -> String {
    let mut table = output.table(&["UPLINK", "INTERFACE", "STATE", "ADDRESSES", "GATEWAYS", "MTU"]);
    for uplink in &status.uplinks {
        let (state, tone) = match &uplink.reason {
            _ if uplink.usable => ("up".to_owned(), Tone::Good),
            Some(reason) => (format!("down: {reason}"), Tone::Bad),
            None => ("down".to_owned(), Tone::Bad),
        };
        let list =
            |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        table.add_row(vec![
            format!("{} {}", uplink.index, uplink.name).into(),
            uplink.interface.clone().into(),
            toned(state, tone),
            list(&uplink.addresses).into(),
            list(&uplink.gateways).into(),
            uplink.mtu.to_string().into(),
        ]);
    }
    output.text(&mut table)
}

/// `2 up, 1 down`; what is zero is left out.
fn counts(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| format!("{} {name}", short(*count)))
        .collect();
    or_none(parts.join(", "))
}

fn or_none(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}
