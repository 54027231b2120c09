//! Answers to the API's questions. What may take long, such as a scan of the flow table, runs beside the core.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sdwan_common::abi::CopyStats;
use tokio::sync::mpsc;

use super::capacity::CapacityRequest;
use super::core::Core;
use super::dry_run::Proposal;
use super::explain::explain;
use super::names::{Names, touches};
use super::policies;
use super::views;
use crate::api::answer::{test_policy, these};
use crate::api::request::{Changed, FlowFilter, Refusal, Reply, Request};
use crate::api::server::DryRunQuery;
use crate::api::views::{CopiesView, DoneView, DryRunView, Health, PolicyView, StatusView, VERSION};
use crate::config::Inadmissible;
use crate::dataplane::{Reader, XdpState};
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::path::PathState;
use crate::engine::policy::{Mode, Policy};
use crate::engine::types::PathKey;
use crate::engine::uplink_usable;
use crate::measure::clock;

/// Flows looked at for one question.
const FLOW_SCAN: usize = 1 << 20;

pub(super) fn locked(reader: &Arc<Mutex<Reader>>) -> MutexGuard<'_, Reader> {
    reader.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// Answers, now or from a thread of its own. An asker who gave up isn't waited for.
    pub(super) fn answer(&mut self, request: Request) {
        let now = clock::now();
        match request {
            Request::Status(reply) => drop(reply.send(Ok(Box::new(self.status())))),
            Request::Sites(reply) => drop(reply.send(Ok(views::sites(&self.engine, &self.facts, now)))),
            Request::Paths(reply) => {
                let numbers: BTreeMap<PathKey, u32> = self.plane_status.numbers.iter().copied().collect();
                let paths = views::paths(&self.engine, &numbers, Some(&self.reader), now);
                drop(reply.send(Ok(paths)));
            }
            Request::Flows(filter, reply) => self.flows(filter, reply),
            Request::Policies(reply) => drop(reply.send(Ok(self.policy_views()))),
            Request::AddPolicies { policies, replace, reply } => {
                let before = self.stored_policies(policies.iter().map(|policy| policy.name.as_str()));
                let outcome = self.policies.add(&policies, replace, &self.store).map_err(refusal);
                let changed = outcome.map(|()| {
                    let done = self.policies_changed(format!("{} added", these(&policies)));
                    let after = self.stored_policies(policies.iter().map(|policy| policy.name.as_str()));
                    Changed { done, before, after }
                });
                drop(reply.send(changed));
            }
            Request::RemovePolicy(name, reply) => {
                let before = self.stored_policies([name.as_str()]);
                let outcome = self.policies.remove(&name, &self.store).map_err(refusal);
                let changed = outcome.map(|()| {
                    let done = self.policies_changed(format!("policy {name} was removed"));
                    Changed { done, before, after: serde_json::Value::Null }
                });
                drop(reply.send(changed));
            }
            Request::DryRun { policies, query, reply } => self.dry_run(&policies, &query, reply),
            Request::TestPolicy(flow, reply) => drop(reply.send(test_policy(self.engine.compilation(), &flow))),
            Request::Explain(flow, reply) => {
                let names = Names::new(&self.engine, &self.plane_status.numbers);
                let classes = self.config.dataplane.classes;
                let view = explain(&self.engine, &self.reader, &names, classes, &flow, now);
                drop(reply.send(view.map(Box::new)));
            }
            Request::Trace(order, reply) => drop(reply.send(self.trace(&order))),
            Request::Traced(id, after, reply) => drop(reply.send(self.traced(id, after))),
            Request::EndTrace(id, reply) => drop(reply.send(self.stop_trace(id))),
            Request::MeasureMtu(path, reply) => self.measure_mtu(&path, reply),
            Request::Reload(reply) => {
                if let Err(mpsc::error::TrySendError::Full(reply) | mpsc::error::TrySendError::Closed(reply)) =
                    self.outbox.reloads.try_send(reply)
                {
                    drop(reply.send(Err(Refusal::Conflict("a reload is going on already".into()))));
                }
            }
            Request::MeasureCapacity(order, reply) => self.order_capacity(CapacityRequest::Measure(order, reply)),
            Request::CapacityRun(id, reply) => self.order_capacity(CapacityRequest::Run(id, reply)),
            // The core's loop takes this one itself.
            Request::Down(reply) => drop(reply.send(Err(Refusal::Unavailable("the daemon is stopping".into())))),
        }
    }

    fn flows(&self, filter: FlowFilter, reply: Reply<Vec<crate::api::views::FlowView>>) {
        let names = Names::new(&self.engine, &self.plane_status.numbers);
        let scanner = self.scanner.clone();
        tokio::task::spawn_blocking(move || {
            let now = clock::now();
            let keep = |record: &crate::dataplane::FlowRecord| {
                filter.class.as_ref().is_none_or(|class| names.class(record.flow.class) == *class)
                    && filter.site.as_ref().is_none_or(|site| names.goes_to(&record.flow, site))
                    && filter.address.is_none_or(|address| touches(&record.key, address))
            };
            let records = locked(&scanner).flows(FLOW_SCAN, filter.limit.saturating_add(1), keep);
            drop(reply.send(Ok(records.iter().map(|record| names.flow(record, now)).collect())));
        });
    }

    /// The flows are looked at in a thread of its own.
    fn dry_run(&self, policies: &[Policy], query: &DryRunQuery, reply: Reply<Box<DryRunView>>) {
        let compilation = match self.policies.proposed(policies, query.replace, query.remove.as_deref()) {
            Ok(compilation) => compilation,
            Err(error) => return drop(reply.send(Err(refusal(error)))),
        };
        let numbers = &self.plane_status.numbers;
        let proposal = Proposal::new(&self.engine, compilation, numbers, clock::now());
        let (names, scanner, limit) = (Names::new(&self.engine, numbers), self.scanner.clone(), query.limit);
        tokio::task::spawn_blocking(move || {
            let view = proposal.run(&locked(&scanner), &names, FLOW_SCAN, limit, clock::now());
            drop(reply.send(view.map(Box::new)));
        });
    }

    fn policy_views(&self) -> Vec<PolicyView> {
        let compilation = self.engine.compilation();
        let reader = &self.reader;
        let view = |policy: &crate::engine::policy::Policy| {
            let class = compilation.classes.iter().position(|class| class.name == policy.class_name());
            let counters = class.and_then(|class| reader.class_counters(class as u16).ok());
            let copies = class.filter(|_| policy.mode == Mode::Duplicate);
            PolicyView {
                policy: policy.clone(),
                source: self.policies.source(&policy.name),
                packets: counters.map(|counters| counters.packets),
                bytes: counters.map(|counters| counters.bytes),
                copies: copies.and_then(|class| reader.copies(class as u16).ok()).map(copies_view),
            }
        };
        compilation.policies.iter().map(view).collect()
    }

    /// Those of these names that operators added, as the audit log shows them; null when there is none.
    fn stored_policies<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> serde_json::Value {
        let found: Vec<_> = names.into_iter().filter_map(|name| self.policies.stored(name)).collect();
        match found.is_empty() {
            true => serde_json::Value::Null,
            false => serde_json::to_value(found).unwrap_or_default(),
        }
    }

    fn policies_changed(&mut self, message: String) -> DoneView {
        self.engine.set_policies(self.policies.compilation().clone(), clock::now());
        self.event(EngineEvent::new(EventKind::PoliciesChanged, message.clone()));
        DoneView::new(message)
    }

    fn status(&self) -> StatusView {
        let store = self.store.health();
        let discovery = self.outbox.discovery.counters();
        let probes = self.prober.counters();
        let ignored = self.engine.ignored_replies();
        let capacity = &self.outbox.capacity.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        let internal = [
            ("probes_refused_by_kernel", load(&probes.send_failed)),
            ("probe_replies_malformed", load(&probes.malformed)),
            ("probe_replies_foreign", load(&probes.foreign)),
            ("probe_replies_overrun", load(&probes.overrun)),
            ("probe_replies_unknown", ignored.unknown),
            ("probe_replies_duplicate", ignored.duplicate),
            ("probe_replies_implausible", ignored.implausible),
            ("capacity_messages_malformed", load(&capacity.malformed)),
            ("capacity_messages_foreign", load(&capacity.foreign)),
            ("capacity_messages_stray", load(&capacity.stray)),
            ("capacity_messages_refused_by_kernel", load(&capacity.send_failed)),
            ("capacity_messages_overrun", load(&capacity.overrun)),
            ("capacity_requests_refused", load(&capacity.refused)),
            ("announcements_receive_dropped", discovery.receive_dropped),
            ("announcements_transmit_dropped", discovery.transmit_dropped),
            ("store_records_dropped", store.dropped),
        ];
        let refused = crate::trust::verifier::Refusal::ALL
            .iter()
            .map(|reason| (reason.name().to_owned(), discovery.refused_for(*reason)));
        let reader = &self.reader;
        let named = |counters: Result<Vec<(&'static str, u64)>, crate::dataplane::Error>| {
            let counters = counters.unwrap_or_default().into_iter();
            counters.map(|(name, count)| (name.to_owned(), count)).collect::<BTreeMap<String, u64>>()
        };
        let (health, problems) = self.health(&store);
        let mut sites = BTreeMap::from([("active".to_owned(), self.engine.sites().count() as u64)]);
        let inactive = self.facts.iter().filter(|(id, _)| self.engine.site(id).is_none()).count();
        sites.insert("inactive".into(), inactive as u64);
        StatusView {
            version: VERSION,
            health,
            problems,
            daemon_version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: clock::now().since(self.started).as_secs(),
            started_unix_ms: self.started_unix_ms,
            mesh: self.mesh,
            site: self.identity.site,
            site_name: self.identity.name.clone(),
            overlay: Some(self.identity.overlay),
            prefixes: self.identity.prefixes.clone(),
            certificate_expires_unix: Some(self.certificate_expires_unix),
            tunnel_backend: self.tunnel_backend.to_string(),
            fast_path: serde_json::to_value(self.config.dataplane.fast_path)
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
                .unwrap_or_default(),
            attach_mode: match self.plane_status.attached.is_empty() {
                true => "detached".into(),
                false => self.plane_status.mode.into(),
            },
            attached: self.plane_status.attached.clone(),
            uplinks: views::uplinks(&self.engine, &self.config),
            sites,
            paths: views::path_states(&self.engine),
            stalls: self.engine.stalls(),
            decisions: views::decisions(&self.outbox.plane.delays()),
            policies: self.engine.compilation().policies.len() as u64,
            drops: named(reader.drops()),
            drop_rules: self.drop_rules(),
            xdp: self.plane_status.xdp.iter().map(|(interface, state)| (interface.clone(), xdp_text(state))).collect(),
            passes: named(reader.passes()),
            refused_announcements: refused.filter(|(_, count)| *count > 0).collect(),
            api_refused: BTreeMap::new(),
            internal_drops: internal.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
            stamp_reflector: match self.config.stamp.listen.is_empty() {
                true => BTreeMap::new(),
                false => probes.listener.snapshot(),
            },
            mtu_probes: self.outbox.mtu.counters.all().into_iter().map(|(name, count)| (name.into(), count)).collect(),
            store,
        }
    }

    fn drop_rules(&self) -> BTreeMap<String, u64> {
        let rules = &self.config.drops;
        let hits = self.reader.drop_hits(rules.len()).unwrap_or_default();
        rules.iter().map(|rule| rule.name.clone()).zip(hits).collect()
    }

    /// LAN interfaces at which drop rules are wanted and can't be carried out.
    fn rules_not_in_force(&self) -> Vec<String> {
        let ruled = |interface: &str| {
            let ifindex = self.snapshot.link(interface).map(|link| link.ifindex);
            !self.config.drops.is_empty() && self.lan.iter().any(|lan| Some(lan.ifindex) == ifindex)
        };
        let off = self.plane_status.xdp.iter().filter(|(interface, _)| ruled(interface));
        let text = |(interface, state): (&String, &XdpState)| match state {
            XdpState::Native => None,
            XdpState::Off(why) => Some(format!(
                "the drop rules are not in force on {interface}, which takes no XDP program: {why}; use the firewall there"
            )),
        };
        off.filter_map(text).collect()
    }

    fn health(&self, store: &crate::store::StoreHealth) -> (Health, Vec<String>) {
        let mut failing = Vec::new();
        let mut degraded = Vec::new();
        failing.extend(self.plane_status.errors.iter().cloned());
        for site in self.engine.sites() {
            let name = &site.remote().name;
            let in_state =
                |wanted: &[PathState]| site.paths().filter(|(_, path)| wanted.contains(&path.state())).count();
            // A path that never answered may join two lines that don't reach each other: that is nobody's fault.
            let (up, lost) = (in_state(&[PathState::Up]), in_state(&[PathState::Down, PathState::Recovering]));
            match site.paths().len() {
                0 => failing.push(format!("site {name} has no path: neither end has an uplink for one")),
                all if up == 0 => failing.push(format!("none of the {all} paths to site {name} is up: `sdwan paths`")),
                all if lost > 0 => degraded.push(format!("{lost} of {all} paths to site {name} are down")),
                _ => {}
            }
        }
        let uplinks = self.engine.uplinks().iter().filter(|uplink| !uplink_usable(uplink));
        degraded.extend(uplinks.map(|uplink| format!("uplink {} ({}) is down", uplink.name, uplink.interface)));
        let tunnels = self.tunnel_report.tunnels.values().filter_map(|status| status.error.clone());
        degraded.extend(tunnels);
        degraded.extend(store.trouble.iter().cloned());
        degraded.extend(self.clock_doubt.iter().cloned());
        if self.config.tunnel.outer_dscp && !self.marks_outer() {
            degraded.push(
                "tunnel.outer_dscp is on, and the tunnels aren't carried by the kernel's WireGuard: encrypted packets \
                 are not marked"
                    .into(),
            );
        }
        degraded.extend(self.rules_not_in_force());
        let health = match (failing.is_empty(), degraded.is_empty()) {
            (false, _) => Health::Failing,
            (true, false) => Health::Degraded,
            (true, true) => Health::Ok,
        };
        failing.extend(degraded);
        (health, failing)
    }
}

fn refusal(error: policies::Error) -> Refusal {
    match error {
        policies::Error::Inadmissible(Inadmissible::Conflict(text)) => Refusal::Conflict(text),
        policies::Error::Inadmissible(_) | policies::Error::Compile(_) => Refusal::Invalid(error.to_string()),
        policies::Error::NotStored(text) => Refusal::NotFound(text),
        policies::Error::Store(crate::store::StoreError::Conflict(text)) => Refusal::Conflict(text),
        policies::Error::Store(_) => Refusal::Failed(error.to_string()),
    }
}

fn copies_view(stats: CopyStats) -> CopiesView {
    let CopyStats { packets, bytes, alone, unmarked } = stats;
    CopiesView { packets, bytes, alone, unmarked }
}

fn xdp_text(state: &XdpState) -> String {
    match state {
        XdpState::Native => "native".into(),
        XdpState::Off(why) => format!("off: {why}"),
    }
}
