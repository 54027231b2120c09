//! One flow whose packets the programs tell of: `sdwan trace`.
//!
//! Whoever asks comes back every moment, and with that renews the trace. When nobody does, it ends: the core tells the data
//! path, and should the daemon be dead, the filter's own time is over. There is one trace at a time, for there is one filter.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sdwan_common::abi::{
    FlowKey, NO_PATH, TraceFilter, TraceRecord, trace_cause, trace_choice, trace_program, trace_verdict,
};
use sdwan_common::classify::protocol_has_ports;
use sdwan_common::counters::PassReason;

use super::core::Core;
use super::names::Names;
use super::plane::Order;
use crate::api::flow::FlowSpec;
use crate::api::request::Refusal;
use crate::api::views::{DoneView, TraceOrder, TraceView, TracedView, VERSION, VerdictView};
use crate::engine::Time;
use crate::measure::clock;

/// A trace ends when nobody has asked for so long.
const LEASE: Duration = Duration::from_secs(5);
/// Records that wait for whoever asks.
const KEPT: usize = 8_192;
/// Most packets of one answer.
const AT_ONCE: usize = 2_000;

/// The trace that is going on, if one is.
#[derive(Debug, Default)]
pub struct Tracing(Option<Trace>);

#[derive(Debug)]
struct Trace {
    flow: FlowSpec,
    filter: TraceFilter,
    until: Time,
    records: VecDeque<(u64, TraceRecord)>,
    last: u64,
    lost: u64,
    /// By CPU.
    withheld: BTreeMap<u32, u32>,
}

impl Tracing {
    /// Takes what a program told. What is left of an earlier trace concerns nobody.
    pub fn told(&mut self, record: TraceRecord) {
        let Some(trace) = self.0.as_mut().filter(|trace| trace.filter.number == record.number) else { return };
        if trace.records.len() >= KEPT {
            trace.records.pop_front();
            trace.lost += 1;
        }
        trace.last += 1;
        trace.records.push_back((trace.last, record));
        trace.withheld.insert(record.cpu, record.withheld);
    }

    fn begin(&mut self, order: &TraceOrder, now: Time) -> Result<&Trace, Refusal> {
        if let Some(trace) = self.0.as_ref().filter(|trace| now < trace.until) {
            return Err(Refusal::Conflict(format!(
                "a trace of {} is going on, and there is one at a time: try again when it has ended",
                trace.flow
            )));
        }
        let flow = order.flow.key();
        let former = self.0.as_ref().map_or(0, |trace| trace.filter.number);
        // Others guess no number of a trace, and none comes twice in a row.
        let number =
            [rand::random::<u32>(), rand::random(), 1].into_iter().find(|number| ![0, former].contains(number));
        let filter = TraceFilter {
            flow,
            reverse: reversed(&flow),
            until_ns: (now + LEASE).0,
            number: number.unwrap_or(2),
            per_second: order.per_second,
        };
        let flow = FlowSpec { dscp: crate::engine::policy::Dscp(0), zone: None, ..order.flow.clone() };
        Ok(self.0.insert(Trace {
            flow,
            filter,
            until: now + LEASE,
            records: VecDeque::new(),
            last: 0,
            lost: 0,
            withheld: BTreeMap::new(),
        }))
    }

    /// Takes what waits after the packet with this number, and whether the filter is to be written anew.
    fn take(&mut self, id: u32, after: u64, now: Time) -> Result<Taken<'_>, Refusal> {
        let trace = self.0.as_mut().filter(|trace| trace.filter.number == id && now < trace.until);
        let trace = trace.ok_or_else(|| Refusal::NotFound(format!("there is no trace {id}, or it has ended")))?;
        while trace.records.front().is_some_and(|(number, _)| *number <= after) {
            trace.records.pop_front();
        }
        let taken = trace.records.iter().take(AT_ONCE).copied().collect();
        trace.until = now + LEASE;
        // Not with each question: half of the time is enough.
        let renew = trace.filter.until_ns < (now + LEASE / 2).0;
        if renew {
            trace.filter.until_ns = (now + LEASE).0;
        }
        Ok((trace, taken, renew))
    }
}

/// The trace, records with their numbers, and whether the filter is to be written anew.
type Taken<'a> = (&'a mut Trace, Vec<(u64, TraceRecord)>, bool);

/// The flow as packets of the other direction have it. The identifier of an ICMP echo is the same in its answer.
fn reversed(flow: &FlowKey) -> FlowKey {
    let (source_port, destination_port) = match protocol_has_ports(flow.protocol) {
        true => (flow.destination_port, flow.source_port),
        false => (flow.source_port, flow.destination_port),
    };
    FlowKey { source: flow.destination, destination: flow.source, source_port, destination_port, ..*flow }
}

impl Core {
    /// Begins a trace.
    pub(super) fn trace(&mut self, order: &TraceOrder) -> Result<TraceView, Refusal> {
        let trace = self.tracing.begin(order, clock::now())?;
        let (filter, view) = (trace.filter, view(trace));
        self.order(Order::Trace(Some(Box::new(filter))));
        Ok(view)
    }

    /// What was told since, and goes on.
    pub(super) fn traced(&mut self, id: u32, after: u64) -> Result<TraceView, Refusal> {
        let (trace, taken, renew) = self.tracing.take(id, after, clock::now())?;
        let (filter, view) = (trace.filter, view(trace));
        if renew {
            self.order(Order::Trace(Some(Box::new(filter))));
        }
        let names = Names::new(&self.engine, &self.plane_status.numbers);
        let offset_ns = clock::wall_clock().offset_ns;
        let items = taken.iter().map(|(number, record)| self.traced_view(*number, record, offset_ns, &names)).collect();
        Ok(TraceView { items, ..view })
    }

    /// Ends a trace at its asker's word.
    pub(super) fn stop_trace(&mut self, id: u32) -> Result<DoneView, Refusal> {
        self.tracing.take(id, u64::MAX, clock::now())?;
        self.end_trace();
        Ok(DoneView::new("the trace is ended"))
    }

    /// Ends the trace, if there is one.
    pub(super) fn end_trace(&mut self) {
        if self.tracing.0.take().is_some() {
            self.order(Order::Trace(None));
        }
    }

    /// Ends a trace that nobody asks for any more.
    pub(super) fn expire_trace(&mut self) {
        if self.tracing.0.as_ref().is_some_and(|trace| clock::now() >= trace.until) {
            self.end_trace();
        }
    }

    /// `offset_ns`: from the clock of the programs to Unix time.
    fn traced_view(&self, number: u64, record: &TraceRecord, offset_ns: u64, names: &Names) -> TracedView {
        let path = |number: u32| (number != NO_PATH).then(|| names.flow_path(number));
        let from_lan = record.program == trace_program::LAN_INGRESS;
        // Without a path nothing was decided, or it can't be looked up any more.
        let decided = from_lan && record.path != NO_PATH;
        let link = self.snapshot.links.get(&record.ifindex);
        let mut view = TracedView {
            number,
            time_unix_ns: i64::try_from(record.time_ns.wrapping_add(offset_ns)).unwrap_or(i64::MAX),
            program: program(record.program).into(),
            interface: link.map_or_else(|| record.ifindex.to_string(), |link| link.name.clone()),
            reverse: record.reverse != 0,
            bytes: record.length,
            segments: record.segments,
            ttl: record.ttl,
            syn: record.syn != 0,
            verdict: match record.verdict {
                trace_verdict::FORWARDED => VerdictView::Forwarded,
                trace_verdict::DROPPED => VerdictView::Dropped,
                _ => VerdictView::Stack,
            },
            reason: reason(record),
            decision: decided.then(|| decision(record.cause).0.into()),
            path: path(record.path),
            from_path: path(record.old_path),
            second: path(record.second),
            class: decided.then(|| names.class(record.class)),
            policy: decided.then(|| names.policy(record.rule)).flatten(),
            message: String::new(),
        };
        view.message = message(record, &view, self.why_moved(record, names));
        view
    }

    /// Why the flow left its path, as far as the state of the moment tells.
    fn why_moved(&self, record: &TraceRecord, names: &Names) -> Option<&'static str> {
        let (from, to) = (names.path(record.old_path)?.path, names.path(record.path)?.path);
        self.engine.site(&to.site)?.why_left(record.class, from.tunnel, to.tunnel).map(|reason| reason.text())
    }
}

fn view(trace: &Trace) -> TraceView {
    TraceView {
        version: VERSION,
        id: trace.filter.number,
        flow: trace.flow.clone(),
        items: Vec::new(),
        withheld: trace.withheld.values().map(|count| u64::from(*count)).sum(),
        lost: trace.lost,
    }
}

fn program(number: u8) -> &'static str {
    match number {
        trace_program::LAN_INGRESS => "lan_ingress",
        trace_program::TUNNEL_INGRESS => "tunnel_ingress",
        trace_program::TUNNEL_EGRESS => "tunnel_egress",
        _ => "unknown",
    }
}

fn reason(record: &TraceRecord) -> Option<String> {
    if record.verdict != trace_verdict::STACK {
        return None;
    }
    Some(
        PassReason::ALL
            .get(usize::from(record.reason))
            .map_or_else(|| record.reason.to_string(), |reason| reason.name().into()),
    )
}

/// What a decision rested on, by name and in words.
fn decision(cause: u8) -> (&'static str, &'static str) {
    match cause {
        trace_cause::HIT => ("known", "known flow"),
        trace_cause::NEW => ("new", "new flow"),
        trace_cause::EPOCH => ("reclassified", "policies, prefixes or zones changed"),
        trace_cause::SET => ("set-changed", "the paths of its class changed"),
        trace_cause::UNUSABLE => ("path-unusable", "its path can't be used any more"),
        _ => ("unknown", "decided in a way that this version doesn't know"),
    }
}

/// How a path was chosen anew, in words.
fn choice(chosen: u8) -> Option<&'static str> {
    match chosen {
        trace_choice::KEPT => Some("it stays on its path, which is good enough"),
        trace_choice::RANKED => Some("best rank with a usable path"),
        trace_choice::LEAST_BAD => Some("no path is usable, this one was heard last"),
        _ => None,
    }
}

/// One sentence.
fn message(record: &TraceRecord, view: &TracedView, why_moved: Option<&str>) -> String {
    let mut parts = Vec::new();
    let by = |path: &crate::api::views::FlowPathView| format!("{} {}", path.site_name, path.uplinks);
    if view.decision.is_some() {
        parts.push(decision(record.cause).1.to_owned());
        match (&view.class, &view.policy) {
            (Some(class), Some(policy)) if class != policy => parts.push(format!("class {class} by policy {policy}")),
            (Some(class), _) => parts.push(format!("class {class}")),
            (None, _) => {}
        }
        parts.extend(choice(record.chosen).map(str::to_owned));
        if let Some(from) = &view.from_path {
            parts.push(format!("left {}: {}", by(from), why_moved.unwrap_or("the data path left it by itself")));
        }
    }
    let path = view.path.as_ref().map(by);
    let way = match (record.program, view.verdict) {
        (trace_program::LAN_INGRESS, VerdictView::Forwarded) => {
            format!("into {}", path.unwrap_or_else(|| "a tunnel".into()))
        }
        (trace_program::TUNNEL_EGRESS, VerdictView::Forwarded) => {
            format!("from the stack into {}", path.unwrap_or_else(|| "a tunnel".into()))
        }
        (_, VerdictView::Forwarded) => format!("from {}, to the LAN", path.unwrap_or_else(|| "a tunnel".into())),
        (trace_program::LAN_INGRESS, VerdictView::Stack) => {
            let marked = path.map(|path| format!(", marked for {path}")).unwrap_or_default();
            format!("left to the stack: {}{marked}", view.reason.as_deref().unwrap_or_default())
        }
        (_, VerdictView::Stack) => {
            let from = path.map(|path| format!("from {path}, ")).unwrap_or_default();
            format!("{from}left to the stack: {}", view.reason.as_deref().unwrap_or_default())
        }
        (trace_program::TUNNEL_INGRESS, VerdictView::Dropped) => {
            "dropped: the second copy, or it could not be rewritten".into()
        }
        (_, VerdictView::Dropped) => "dropped: it could not be rewritten".into(),
    };
    parts.push(way);
    parts.extend(view.second.as_ref().map(|second| format!("a copy into {}", by(second))));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn order(source: &str, destination: &str, protocol: &str) -> TraceOrder {
        let end = |text: &str| text.parse().expect("an endpoint");
        let flow = FlowSpec::new(end(source), end(destination), protocol.parse().expect("a protocol"));
        TraceOrder { flow: flow.expect("a flow"), per_second: 100 }
    }

    fn record(trace: u32, cpu: u32, withheld: u32) -> TraceRecord {
        TraceRecord {
            number: trace,
            cpu,
            withheld,
            path: NO_PATH,
            old_path: NO_PATH,
            second: NO_PATH,
            ..TraceRecord::default()
        }
    }

    #[test]
    fn answers_swap_the_ends_and_the_identifier_of_an_echo_stays() {
        let voice = order("10.1.0.5:40000", "10.2.0.9:5060", "udp").flow;
        let back = order("10.2.0.9:5060", "10.1.0.5:40000", "udp").flow;
        assert_eq!(reversed(&voice.key()), back.key());
        let ping = order("[fd01::5]:77", "fd02::9", "icmpv6").flow;
        let answer = order("[fd02::9]:77", "fd01::5", "icmpv6").flow;
        assert_eq!(reversed(&ping.key()), answer.key());
    }

    #[test]
    fn one_trace_at_a_time_is_told_to_who_asks_and_ends_when_nobody_does() {
        let start = Time(1_000_000_000_000);
        let at = |seconds: u32| start + SECOND * seconds;
        let mut tracing = Tracing::default();
        let voice = order("10.1.0.5:40000", "10.2.0.9:5060", "udp");
        let id = tracing.begin(&voice, at(0)).expect("it begins").filter.number;
        let conflict = tracing.begin(&voice, at(4)).expect_err("one at a time").to_string();
        assert!(conflict.contains("10.1.0.5:40000 → 10.2.0.9:5060 udp is going on"), "{conflict}");
        tracing.told(record(id, 0, 3));
        tracing.told(record(id, 1, 4));
        tracing.told(record(id, 0, 5));
        tracing.told(record(id.wrapping_add(1), 0, 99));
        let (trace, taken, renew) = tracing.take(id, 0, at(2)).expect("it goes on");
        assert_eq!(taken.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((view(trace).withheld, view(trace).lost, renew), (9, 0, false));
        let (_, taken, renew) = tracing.take(id, 2, at(4)).expect("it goes on");
        assert_eq!((taken.len(), taken[0].0, renew), (1, 3, true), "what is known already isn't told again");
        assert!(tracing.take(id.wrapping_add(1), 0, at(4)).is_err(), "another's");
        for _ in 0..KEPT + 10 {
            tracing.told(record(id, 0, 5));
        }
        let (trace, taken, _) = tracing.take(id, 3, at(5)).expect("it goes on");
        assert_eq!((trace.lost, taken.len()), (11, AT_ONCE), "the one that was known already went first");
        assert!(tracing.take(id, 3, at(10)).is_err(), "nobody asked for five seconds");
        assert_ne!(tracing.begin(&voice, at(10)).expect("the next one").filter.number, id);
    }
}
