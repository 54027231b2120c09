//! What comes in, as the core takes it: answers, notices, the network, tunnels, sites, and what the programs tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{debug, warn};

use super::core::Core;
use super::desired;
use super::plane::PlaneStatus;
use super::publish::Extent;
use crate::dataplane::PlaneEvent;
use crate::discovery::DiscoveryEvent;
use crate::engine::Time;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::input::{Gone, Input};
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};
use crate::measure::notice::Noticed;
use crate::measure::{ProbeCounters, Received, clock};
use crate::net::NetSnapshot;
use crate::store::{FlowSample, Record, SiteRecord};
use crate::trust::clock::ClockChange;
use crate::tunnel::TunnelReport;

impl Core {
    pub(super) fn reply(&mut self, received: Received) {
        let Some(&site) = self.overlays.get(&received.source) else {
            debug!(source = %received.source, "an answer to a probe from no known site");
            ProbeCounters::count(&self.prober.counters().foreign);
            return;
        };
        let path = PathKey { site, tunnel: received.tunnel };
        let Received { reply, counters, at, .. } = received;
        self.answered = Some(self.answered.map_or(at, |first| first.min(at)));
        self.engine.handle(Input::ProbeReply { path, reply }, at);
        self.engine.handle(Input::Counted { path, sequence: reply.sequence, counters }, at);
    }

    pub(super) fn noticed(&mut self, noticed: Noticed) {
        let Noticed { source, lost, number } = noticed;
        match self.overlays.get(&source) {
            Some(&site) => self.engine.handle(Input::UplinksLost { site, uplinks: lost, number }, clock::now()),
            None => ProbeCounters::count(&self.prober.counters().foreign),
        }
    }

    pub(super) fn network_changed(&mut self, snapshot: Arc<NetSnapshot>) {
        self.snapshot = snapshot;
        let uplinks = self.snapshot.local_uplinks(&self.specs);
        let lan = desired::lan_ingresses(&self.config, &self.identity, &uplinks, &self.snapshot);
        let lan_changed = lan != self.lan;
        self.lan = lan;
        if uplinks != self.engine.uplinks() {
            self.engine.handle(Input::Uplinks(uplinks), clock::now());
        }
        let multicast = self.config.discovery.multicast_interfaces.as_deref();
        let interfaces = desired::discovery_interfaces(multicast, self.engine.uplinks(), &self.snapshot);
        self.outbox.discovery.set_interfaces(interfaces);
        let base_port = self.config.tunnel.listen_port;
        let announcement =
            desired::announcement(&self.identity, base_port, self.wireguard.public(), self.engine.uplinks());
        if let Err(error) = self.outbox.discovery.set_local(announcement) {
            warn!("what this site has to announce can't be announced: {error}");
        }
        if lan_changed {
            self.publish_soon(Extent::Everything);
        }
    }

    pub(super) fn tunnels_changed(&mut self, report: Arc<TunnelReport>) {
        let troubles: Vec<String> = {
            let error = |report: &TunnelReport, tunnel: &TunnelKey| {
                report.tunnels.get(tunnel).and_then(|status| status.error.clone())
            };
            let failed = report.tunnels.keys().filter_map(|tunnel| {
                let now = error(&report, tunnel)?;
                (error(&self.tunnel_report, tunnel).as_ref() != Some(&now)).then_some(now)
            });
            failed.collect()
        };
        for trouble in troubles {
            self.event(EngineEvent::new(EventKind::TunnelTrouble, trouble));
        }
        let interfaces = report.interfaces();
        let changed = interfaces != self.interfaces;
        self.interfaces = interfaces;
        self.tunnel_report = report;
        let ready: BTreeSet<TunnelKey> = self.prober.reconcile(&self.interfaces);
        self.engine.handle(Input::Tunnels(ready), clock::now());
        if changed {
            self.publish_soon(Extent::Everything);
        }
    }

    pub(super) fn plane_changed(&mut self, status: PlaneStatus) {
        let new: Vec<String> =
            status.errors.iter().filter(|error| !self.plane_status.errors.contains(error)).cloned().collect();
        self.plane_status = status;
        for error in new {
            self.event(EngineEvent::new(EventKind::DataplaneTrouble, error));
        }
    }

    pub(super) fn discovered(&mut self, event: DiscoveryEvent) {
        let now = clock::now();
        match event {
            DiscoveryEvent::Site { site, announcement } => {
                let facts = self.facts.entry(site.id).or_default();
                facts.name.clone_from(&site.name);
                facts.certificate_expires_unix = Some(announcement.not_after);
                facts.announced = Some(now);
                facts.inactive_since = None;
                let uplinks = site.uplinks.iter().map(|uplink| (uplink.index, uplink.name.clone())).collect();
                self.record_site(site.id, &site.name, "active", site.prefixes.clone(), uplinks);
                self.history.settled(&site.id);
                // Its answers may be here before the next whole state is made.
                self.overlays.insert(site.overlay, site.id);
                self.engine.handle(Input::Site(*site), now);
            }
            DiscoveryEvent::Heard { site } => {
                self.facts.entry(site).or_default().announced = Some(now);
            }
            DiscoveryEvent::Left { site } => self.site_gone(site, Gone::Left, now),
            DiscoveryEvent::Inactive { site } => self.site_gone(site, Gone::Inactive, now),
            DiscoveryEvent::Removed { site, why } => {
                self.site_gone(site, Gone::Removed(why.text().into()), now);
            }
            other => {
                if let DiscoveryEvent::Clock(change) = &other {
                    self.clock_doubt = matches!(change, ClockChange::Doubted(_)).then(|| change.text());
                }
                if let Some(event) = super::refused::event_of(&other) {
                    self.event(event);
                }
            }
        }
    }

    fn site_gone(&mut self, site: SiteId, gone: Gone, now: Time) {
        let facts = self.facts.entry(site).or_default();
        facts.inactive_since = Some(now);
        let name = facts.name.clone();
        let prefixes = self.engine.site(&site).map(|site| site.remote().prefixes.clone()).unwrap_or_default();
        self.record_site(site, &name, "inactive", prefixes, Vec::new());
        match gone {
            Gone::Inactive => self.history.fell_silent(site),
            Gone::Left | Gone::Removed(_) => self.history.settled(&site),
        }
        self.engine.handle(Input::SiteGone { site, gone }, now);
    }

    fn record_site(
        &self,
        id: SiteId,
        name: &str,
        state: &str,
        prefixes: Vec<ipnet::IpNet>,
        uplinks: Vec<(UplinkIndex, String)>,
    ) {
        self.store.record(Record::Site(Box::new(SiteRecord {
            time_unix_s: clock::unix_s(),
            id,
            name: name.into(),
            state: state.into(),
            prefixes,
            uplinks,
        })));
    }

    pub(super) fn plane_event(&mut self, event: PlaneEvent) {
        let path_of = |number: u32| {
            let found = self.plane_status.numbers.iter().find(|(_, known)| *known == number);
            found.map(|(path, _)| *path)
        };
        match event {
            PlaneEvent::NewFlow(record) | PlaneEvent::MovedFlow(record) => {
                let class = self.engine.compilation().classes.get(usize::from(record.class));
                self.store.record(Record::FlowSample(Box::new(FlowSample {
                    time_unix_ns: clock::unix_ns() as i64,
                    key: record.flow,
                    class: class.map_or_else(|| record.class.to_string(), |class| class.name.clone()),
                    path: path_of(record.path),
                    moved: matches!(event, PlaneEvent::MovedFlow(_)),
                })));
            }
            PlaneEvent::PathSilent(record) => {
                if let Some(path) = path_of(record.path) {
                    let name = self.engine.site(&path.site).map(|site| site.remote().name.clone());
                    let message = format!(
                        "the data path left path {} {} by itself: its last answer is too old",
                        name.unwrap_or_default(),
                        path.tunnel
                    );
                    self.event(EngineEvent::new(EventKind::PathSilent, message).with_path(path));
                    self.engine.handle(Input::Silent { path }, clock::now());
                }
            }
        }
    }
}
