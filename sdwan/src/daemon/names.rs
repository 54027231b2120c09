//! Numbers of the data path as people's names, as of one moment.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use sdwan_common::abi::{Flow, FlowKey, NO_PATH, NO_RULE};

use super::desired::{local_uplink_name, remote_uplink_name};
use crate::api::flow::Endpoint;
use crate::api::views::{FlowPathView, FlowView};
use crate::dataplane::FlowRecord;
use crate::engine::policy::{Compilation, Protocol};
use crate::engine::types::{PathKey, SiteId};
use crate::engine::{Engine, Time};

/// A path's names.
#[derive(Clone, Debug)]
pub struct PathNames {
    /// The path.
    pub path: PathKey,
    /// Name of its site.
    pub site_name: String,
    /// Name of the local uplink.
    pub local: String,
    /// Name of the remote uplink.
    pub remote: String,
}

/// Names of everything that the maps know by number.
#[derive(Clone, Debug)]
pub struct Names {
    paths: HashMap<u32, PathNames>,
    compilation: Arc<Compilation>,
}

impl Names {
    /// As the engine has them now.
    pub fn new(engine: &Engine, numbers: &[(PathKey, u32)]) -> Self {
        let named = numbers.iter().filter_map(|(path, number)| {
            let remote = engine.site(&path.site)?.remote();
            let names = PathNames {
                path: *path,
                site_name: remote.name.clone(),
                local: local_uplink_name(engine.uplinks(), path.tunnel),
                remote: remote_uplink_name(remote, path.tunnel),
            };
            Some((*number, names))
        });
        Self { paths: named.collect(), compilation: engine.compilation().clone() }
    }

    /// Names of a path by its number.
    pub fn path(&self, number: u32) -> Option<&PathNames> {
        self.paths.get(&number)
    }

    /// Name of a class.
    pub fn class(&self, class: u16) -> String {
        let known = self.compilation.classes.get(usize::from(class));
        known.map_or_else(|| class.to_string(), |class| class.name.clone())
    }

    /// Name of the policy behind a rule.
    pub fn policy(&self, rule: u16) -> Option<String> {
        if rule == NO_RULE {
            return None;
        }
        let policy = self.compilation.rules.rule(rule)?.policy;
        self.compilation.policies.get(usize::from(policy)).map(|policy| policy.name.clone())
    }

    /// Does a flow go to this site, by name or id?
    pub fn goes_to(&self, flow: &Flow, site: &str) -> bool {
        self.path(flow.path).is_some_and(|names| names.site_name == site || is_id(&names.path.site, site))
    }

    /// A flow for people.
    pub fn flow(&self, record: &FlowRecord, now: Time) -> FlowView {
        let FlowRecord { key, flow } = record;
        let source = Endpoint::from_key(&key.source, key.source_port);
        let destination = Endpoint::from_key(&key.destination, key.destination_port);
        let seconds = |since: u64| now.since(Time(since)).as_secs_f64();
        FlowView {
            source: source.address,
            source_port: source.port,
            destination: destination.address,
            destination_port: destination.port,
            protocol: Protocol(key.protocol).to_string(),
            class: self.class(flow.class),
            policy: self.policy(flow.rule),
            path: self.flow_path(flow.path),
            second: (flow.second != NO_PATH).then(|| self.flow_path(flow.second)),
            packets: flow.packets,
            bytes: flow.bytes,
            age_s: seconds(flow.created_ns),
            idle_s: seconds(flow.last_seen_ns),
            moves: flow.moves,
        }
    }

    /// A path for people.
    pub fn flow_path(&self, number: u32) -> FlowPathView {
        match self.path(number) {
            Some(names) => FlowPathView {
                number,
                site_name: names.site_name.clone(),
                tunnel: Some(names.path.tunnel),
                uplinks: format!("{} → {}", names.local, names.remote),
            },
            None => FlowPathView { number, site_name: "?".into(), tunnel: None, uplinks: "a former path".into() },
        }
    }
}

/// Is this the text of the site's id?
pub fn is_id(site: &SiteId, text: &str) -> bool {
    text.parse() == Ok(*site)
}

/// Does a flow come from or go to this address?
pub fn touches(key: &FlowKey, address: IpAddr) -> bool {
    let bytes = crate::engine::policy::address_bytes(address);
    key.source == bytes || key.destination == bytes
}
