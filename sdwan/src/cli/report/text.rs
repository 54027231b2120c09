//! The report as text, in 80 columns.

use super::super::output::{Output, number, short};
use super::super::when;
use super::{gaps, minute, quality_cells, share, sla, span, up_cells, uplinks};
use crate::api::views::ReportView;

/// Failovers that are listed one by one, the latest ones; JSON and HTML have more.
const LISTED: usize = 10;

/// The whole report.
pub(super) fn render(view: &ReportView, output: &Output) -> String {
    let of = view.site_name.as_ref().map(|name| format!(" of {name}")).unwrap_or_default();
    let length = span((view.until_unix_s - view.since_unix_s) as f64);
    let mut text =
        format!("report{of}: {} to {} UTC ({length})\n", minute(view.since_unix_s), minute(view.until_unix_s));
    gaps(view).iter().for_each(|gap| text.push_str(&format!("note: {gap}\n")));
    for (title, table) in [
        ("providers", providers(view, output)),
        ("paths", paths(view, output)),
        ("classes", classes(view, output)),
        ("failovers", failovers(view, output)),
    ] {
        if let Some(table) = table {
            text.push_str(&format!("\n{title}\n{table}"));
        }
    }
    text
}

fn providers(view: &ReportView, output: &Output) -> Option<String> {
    let headings = ["UPLINK", "UP %", "DOWN", "UNKNOWN", "RTT", "JITTER", "LOSS", "MOS", "SENT", "GOT"];
    let mut table = output.table(&headings);
    for provider in &view.providers {
        let mut row = vec![provider.name.clone().into()];
        row.extend(up_cells(&provider.availability).map(number));
        row.extend(quality_cells(&provider.quality).map(number));
        row.extend([number(short(provider.sent_bytes)), number(short(provider.received_bytes))]);
        table.add_row(row);
    }
    (!view.providers.is_empty()).then(|| output.text(&mut table))
}

fn paths(view: &ReportView, output: &Output) -> Option<String> {
    let mut table =
        output.table(&["SITE", "UPLINKS", "UP %", "DOWN", "UNKNOWN", "FALLS", "RTT", "JITTER", "LOSS", "MOS"]);
    for path in &view.paths {
        let mut row = vec![path.site_name.clone().into(), uplinks(path).into()];
        row.extend(up_cells(&path.availability).map(number));
        row.push(number(path.falls.values().sum::<u64>()));
        row.extend(quality_cells(&path.quality).map(number));
        table.add_row(row);
    }
    (!view.paths.is_empty()).then(|| output.text(&mut table))
}

fn classes(view: &ReportView, output: &Output) -> Option<String> {
    let mut table = output.table(&["SITE", "CLASS", "KEPT %", "BROKEN", "NO PATH", "UNKNOWN", "SLA"]);
    for class in &view.classes {
        let kept = &class.compliance;
        table.add_row(vec![
            class.site_name.clone().into(),
            class.class.clone().into(),
            number(share(kept.compliance_pct)),
            number(span(kept.broken_s)),
            number(span(kept.without_path_s)),
            number(span(kept.unknown_s)),
            sla(class).into(),
        ]);
    }
    (!view.classes.is_empty()).then(|| output.text(&mut table))
}

fn failovers(view: &ReportView, output: &Output) -> Option<String> {
    if view.paths.is_empty() {
        return None;
    }
    if view.moves.is_empty() {
        return Some("none\n".into());
    }
    let mut table = output.table(&["SITE", "LEFT", "TIMES", "CLASSES", "BECAUSE"]);
    for moves in &view.moves {
        table.add_row(vec![
            moves.site_name.clone().into(),
            moves.from.clone().into(),
            number(moves.count),
            moves.classes.join(", ").into(),
            moves.cause.clone().into(),
        ]);
    }
    let mut text = output.text(&mut table);
    let listed = view.failovers.len().saturating_sub(LISTED);
    text.push_str(if listed > 0 { "\nthe latest of them\n" } else { "\neach of them\n" });
    let mut table = output.table(&["TIME", "SITE", "CLASS", "FROM", "TO", "BECAUSE"]);
    for failover in &view.failovers[listed..] {
        table.add_row(vec![
            comfy_table::Cell::new(when::second(failover.time_unix_ns)),
            failover.site_name.clone().into(),
            failover.class.clone().into(),
            failover.from.clone().into(),
            failover.to.clone().into(),
            failover.cause.clone().into(),
        ]);
    }
    text.push_str(&output.text(&mut table));
    Some(text)
}
