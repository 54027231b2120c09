//! `sdwan events`.

use std::time::Duration;

use super::output::{Output, Tone};
use super::{Context, Exit, Format, when};
use crate::api::client::ClientError;
use crate::api::server::EventsQuery;
use crate::api::views::{EventView, Listing};
use crate::engine::events::EventKind;
use crate::engine::types::SiteId;

/// How often `--follow` asks.
const FOLLOW: Duration = Duration::from_millis(500);

/// Options of `sdwan events`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Times are UTC. Without a daemon, the events are read from its database.

Examples:
  sdwan events --since 10m
  sdwan events --kind path-down,path-up --limit 20
  sdwan events --follow -o json      one JSON object per line")]
pub(super) struct Args {
    /// Go on showing what happens
    #[arg(long, short)]
    follow: bool,
    /// Only events since then: how long ago (10m, 2h, 1d), or 2026-11-23T09:19 (UTC)
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Most events: the latest ones
    #[arg(long, short = 'n', default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// Only events of these kinds
    #[arg(long, value_delimiter = ',', value_name = "KIND", value_parser = kinds())]
    kind: Vec<String>,
    /// Only events about this site
    #[arg(long, value_name = "ID")]
    site: Option<SiteId>,
}

fn kinds() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.name()))
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let since = self.since.as_deref().map(|text| when::parse(text, when::now_ns()));
        let query = EventsQuery {
            since: since.transpose().map_err(anyhow::Error::msg)?,
            after: None,
            kind: self.kind.join(","),
            site: self.site,
            limit: self.limit,
        };
        let client = context.client()?;
        let listing = match client.events(&query).await {
            Err(away @ (ClientError::NotRunning { .. } | ClientError::Gone { .. })) if !self.follow => {
                let (_, database) = context.database(away)?;
                let question = query.to_store().map_err(anyhow::Error::msg)?;
                let listing = query.listing(database.events(&question)?);
                eprintln!("note: no daemon answers; these events are from its database");
                listing
            }
            answer => answer?,
        };
        if !self.follow {
            context.output.print(&listing, |output| render(&listing, output))?;
            return Ok(Exit::Ok);
        }
        let mut last = listing.items.last().map_or(0, |event| event.id);
        show(context, &listing.items)?;
        loop {
            tokio::time::sleep(FOLLOW).await;
            let next = EventsQuery { after: Some(last), limit: 1_000, ..query.clone() };
            let listing = client.events(&next).await?;
            last = listing.items.last().map_or(last, |event| event.id);
            show(context, &listing.items)?;
        }
    }
}

/// Lines that can be read while they come: JSON has one object per line here.
fn show(context: &Context, events: &[EventView]) -> anyhow::Result<()> {
    let mut text = String::new();
    for event in events {
        match context.output.format {
            Format::Json => text.push_str(&serde_json::to_string(event)?),
            _ => text.push_str(&line(event, &context.output)),
        }
        text.push('\n');
    }
    context.output.write(&text)
}

/// The lines.
pub(super) fn render(events: &Listing<EventView>, output: &Output) -> String {
    let mut text = String::new();
    if events.truncated {
        text.push_str("… and earlier ones: raise --limit\n");
    }
    for event in &events.items {
        text.push_str(&line(event, output));
        text.push('\n');
    }
    if events.items.is_empty() {
        text.push_str("no event\n");
    }
    text
}

/// One event on one line.
pub(super) fn line(event: &EventView, output: &Output) -> String {
    let kind = event.event.kind;
    let name = output.paint(&format!("{kind:20}"), tone(kind));
    format!("{}  {name} {}", when::display(event.time_unix_ns), event.event.message)
}

/// What an event means for the operator.
pub(super) fn tone(kind: EventKind) -> Tone {
    match kind {
        EventKind::PathUp | EventKind::SiteUp | EventKind::UplinkUp | EventKind::PathImproved => Tone::Good,
        EventKind::PathDown
        | EventKind::UplinkDown
        | EventKind::SiteInactive
        | EventKind::SiteRemoved
        | EventKind::TunnelTrouble
        | EventKind::DataplaneTrouble
        | EventKind::StoreTrouble => Tone::Bad,
        EventKind::PathDegraded | EventKind::PathSilent | EventKind::AnnouncementRefused => Tone::Warning,
        _ => Tone::Plain,
    }
}
