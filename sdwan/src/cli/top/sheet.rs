//! Tables of what is known: rows of cells that can be sorted and filtered.

use super::super::output::{Tone, age, decimal, short};
use super::super::{flows, output, paths, when};
use super::state::{State, Tab, flow_key, path_key, policy_key};
use crate::api::flow::Endpoint;
use crate::engine::events::EventKind;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub name: &'static str,
    /// Columns of the terminal that it takes at least.
    pub width: u16,
    /// It takes a share of what is left.
    pub grows: bool,
    /// Numbers.
    pub right: bool,
    /// Shown from this width of the terminal on.
    pub from: u16,
}

const fn text(name: &'static str, width: u16) -> Column {
    Column { name, width, grows: true, right: false, from: 0 }
}

const fn word(name: &'static str, width: u16) -> Column {
    Column { name, width, grows: false, right: false, from: 0 }
}

const fn number(name: &'static str, width: u16) -> Column {
    Column { name, width, grows: false, right: true, from: 0 }
}

const fn when_wide(column: Column) -> Column {
    Column { from: 100, ..column }
}

const PATHS: [Column; 12] = [
    text("SITE", 10),
    text("UPLINKS", 12),
    word("STATE", 10),
    number("SCORE", 5),
    number("RTT", 6),
    when_wide(number("JITTER", 11)),
    number("LOSS", 9),
    when_wide(number("MOS", 4)),
    number("OUT", 8),
    number("IN", 8),
    when_wide(number("MTU", 5)),
    when_wide(number("SINCE", 6)),
];

const CLASSES: [Column; 6] = [
    text("POLICY", 16),
    text("CLASS", 14),
    number("PACKETS/S", 9),
    number("RATE", 9),
    number("PACKETS", 9),
    number("BYTES", 9),
];

const FLOWS: [Column; 8] = [
    text("SOURCE", 18),
    text("DESTINATION", 18),
    word("PROTO", 5),
    text("CLASS", 10),
    text("PATH", 14),
    number("RATE", 8),
    when_wide(number("PACKETS", 9)),
    when_wide(number("MOVES", 5)),
];

const EVENTS: [Column; 3] = [word("TIME", 19), word("EVENT", 20), text("WHAT", 30)];

/// The columns of a tab.
pub(super) fn columns(tab: Tab) -> &'static [Column] {
    match tab {
        Tab::Paths => &PATHS,
        Tab::Classes => &CLASSES,
        Tab::Flows => &FLOWS,
        Tab::Events => &EVENTS,
    }
}

/// What a cell is sorted by.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Key {
    Text(String),
    Number(f64),
}

impl Key {
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            // The largest is what one looks for.
            (Self::Number(a), Self::Number(b)) => b.total_cmp(a),
            (Self::Text(_), Self::Number(_)) => std::cmp::Ordering::Less,
            (Self::Number(_), Self::Text(_)) => std::cmp::Ordering::Greater,
        }
    }
}

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    pub text: String,
    pub tone: Tone,
    key: Key,
}

impl Cell {
    fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { key: Key::Text(text.to_lowercase()), text, tone: Tone::Plain }
    }

    fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone, ..Self::text(text) }
    }

    /// A number as it is shown; what there is none of comes last.
    fn number(text: impl Into<String>, value: Option<f64>) -> Self {
        Self { text: text.into(), tone: Tone::Plain, key: Key::Number(value.unwrap_or(f64::NEG_INFINITY)) }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub columns: &'static [Column],
    pub rows: Vec<Vec<Cell>>,
    /// Rows that the filter hides.
    pub hidden: usize,
}

/// The table of the tab that is shown, filtered and sorted.
pub(super) fn sheet(state: &State) -> Sheet {
    let all = match state.tab {
        Tab::Paths => path_rows(state),
        Tab::Classes => class_rows(state),
        Tab::Flows => flow_rows(state),
        Tab::Events => event_rows(state),
    };
    let wanted = state.filter.to_lowercase();
    let before = all.len();
    let matches = |row: &Vec<Cell>| row.iter().any(|cell| cell.text.to_lowercase().contains(&wanted));
    let mut rows: Vec<Vec<Cell>> = all.into_iter().filter(|row| wanted.is_empty() || matches(row)).collect();
    let look = state.look();
    if let Some(column) = look.sort {
        rows.sort_by(|a, b| a[column].key.order(&b[column].key));
    }
    if look.reverse {
        rows.reverse();
    }
    Sheet { columns: columns(state.tab), hidden: before - rows.len(), rows }
}

/// Bytes per second as bits per second.
fn rate(bytes: Option<f64>) -> Cell {
    let bits = bytes.map(|bytes| bytes * 8.0);
    Cell::number(bits.map_or_else(|| "-".into(), |bits| format!("{}b/s", short(bits as u64))), bits)
}

fn count(value: Option<u64>) -> Cell {
    Cell::number(value.map_or_else(|| "-".into(), short), value.map(|value| value as f64))
}

fn measured(value: Option<f64>) -> Cell {
    Cell::number(decimal(value), value)
}

fn both(forward: Option<f64>, backward: Option<f64>) -> Cell {
    let worst = forward.into_iter().chain(backward).reduce(f64::max);
    Cell::number(output::both(forward, backward), worst)
}

fn path_rows(state: &State) -> Vec<Vec<Cell>> {
    let row = |path: &crate::api::views::PathView| {
        let (name, tone) = paths::state(path.state, path.degraded);
        let rates = state.rates.get(&path_key(path));
        vec![
            Cell::text(path.site_name.clone()),
            Cell::text(paths::uplinks(path)),
            Cell::toned(name, tone),
            Cell::number(format!("{:.0}", path.score), Some(path.score)),
            measured(path.rtt_ms),
            both(Some(path.jitter_forward_ms), Some(path.jitter_backward_ms)),
            both(path.loss_forward_pct, path.loss_backward_pct),
            measured(path.mos),
            rate(rates.map(|rates| rates[0])),
            rate(rates.map(|rates| rates[1])),
            Cell::number(path.mtu.to_string(), Some(path.mtu.into())),
            Cell::number(age(path.since_s), Some(path.since_s as f64)),
        ]
    };
    state.data.paths.iter().map(row).collect()
}

fn class_rows(state: &State) -> Vec<Vec<Cell>> {
    let row = |policy: &crate::api::views::PolicyView| {
        let rates = state.rates.get(&policy_key(policy));
        let packets = rates.map(|rates| rates[0]);
        vec![
            Cell::text(policy.policy.name.clone()),
            Cell::text(policy.policy.class_name()),
            Cell::number(packets.map_or_else(|| "-".into(), |rate| short(rate.round() as u64)), packets),
            rate(rates.map(|rates| rates[1])),
            count(policy.packets),
            count(policy.bytes),
        ]
    };
    state.data.policies.iter().map(row).collect()
}

fn flow_rows(state: &State) -> Vec<Vec<Cell>> {
    let row = |flow: &crate::api::views::FlowView| {
        let end = |address, port| Cell::text(Endpoint { address, port }.to_string());
        vec![
            end(flow.source, flow.source_port),
            end(flow.destination, flow.destination_port),
            Cell::text(flow.protocol.clone()),
            Cell::text(flow.class.clone()),
            Cell::text(flows::path(flow).replace('\n', " ")),
            rate(state.rates.get(&flow_key(flow)).map(|rates| rates[1])),
            count(Some(flow.packets)),
            count(Some(flow.moves.into())),
        ]
    };
    state.data.flows.items.iter().map(row).collect()
}

/// The latest first.
fn event_rows(state: &State) -> Vec<Vec<Cell>> {
    let row = |event: &crate::api::views::EventView| {
        let kind: EventKind = event.event.kind;
        vec![
            Cell::text(when::second(event.time_unix_ns)),
            Cell::toned(kind.name(), super::super::events::tone(kind)),
            Cell::text(event.event.message.clone()),
        ]
    };
    state.data.events.iter().rev().map(row).collect()
}
