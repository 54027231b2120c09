//! Makes the kernel's rules and routes what they should be.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Plan, RouteKey, RouteTarget, RoutingState, Rule, plan};
use crate::net::netlink::ip_of;
use crate::net::{Error, Network, marks};

/// Makes the kernel's rules and routes what they should be. Keeps nothing: each run looks at the kernel, so that it
/// is safe to repeat and finds after a crash what was left behind.
pub struct RoutingReconciler {
    network: Network,
}

/// A rule that isn't ours, and comes before ours end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRule {
    /// Priority.
    pub priority: u32,
    /// The table that it leads to; 0 if it leads to none.
    pub table: u32,
    /// Whether it is for IPv6.
    pub ipv6: bool,
}

/// What a run did.
#[derive(Debug, Default)]
pub struct RoutingReport {
    /// Steps that were carried out.
    pub changes: usize,
    /// Steps that failed; the next run tries them again.
    pub errors: Vec<Error>,
    /// Routes that were not added because somebody else's holds their place; theirs stays.
    pub conflicts: Vec<RouteKey>,
}

impl RoutingReconciler {
    /// Works over this connection.
    pub fn new(network: Network) -> Self {
        Self { network }
    }

    /// Our rules and routes in the kernel.
    pub async fn observe(&self) -> Result<RoutingState, Error> {
        let rules = self.network.rules().await?.iter().filter_map(rule_of).collect();
        let routes = self.network.routes().await?.iter().filter_map(route_of).collect();
        Ok(RoutingState { rules, routes })
    }

    /// Rules of others, but for the local table's, that come before the last of ours or share its priority: priority and
    /// table. Packets of tunnels may follow them.
    pub async fn earlier_rules(&self) -> Result<Vec<ForeignRule>, Error> {
        let mut found: Vec<ForeignRule> = self.network.rules().await?.iter().filter_map(foreign_rule_of).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    /// Makes the kernel's state `desired`. A step that fails doesn't keep the others from being done.
    pub async fn reconcile(&self, desired: &RoutingState) -> Result<RoutingReport, Error> {
        let plan = plan(&self.observe().await?, desired);
        Ok(self.carry_out(plan).await)
    }

    /// Removes all our rules and routes.
    pub async fn remove_all(&self) -> Result<RoutingReport, Error> {
        self.reconcile(&RoutingState::default()).await
    }

    async fn carry_out(&self, plan: Plan) -> RoutingReport {
        let mut report = RoutingReport::default();
        for (key, target) in plan.add_routes {
            let message = RouteNetlinkMessage::NewRoute(route_message(key, Some(target)));
            match self.network.change(format!("add the {key}"), message, NLM_F_CREATE | NLM_F_EXCL).await {
                Err(error) if error.os_error() == Some(libc::EEXIST) => report.conflicts.push(key),
                done => report.note(done),
            }
        }
        for (key, target) in plan.replace_routes {
            let message = RouteNetlinkMessage::NewRoute(route_message(key, Some(target)));
            report.note(self.network.change(format!("replace the {key}"), message, NLM_F_CREATE | NLM_F_REPLACE).await);
        }
        for rule in plan.add_rules {
            let message = RouteNetlinkMessage::NewRule(rule_message(rule));
            report.note(self.network.change(format!("add the {rule}"), message, NLM_F_CREATE | NLM_F_EXCL).await);
        }
        for rule in plan.remove_rules {
            let message = RouteNetlinkMessage::DelRule(rule_message(rule));
            report.note(self.network.change(format!("remove the {rule}"), message, 0).await);
        }
        for key in plan.remove_routes {
            let message = RouteNetlinkMessage::DelRoute(route_message(key, None));
            report.note(self.network.change(format!("remove the {key}"), message, 0).await);
        }
        report
    }
}

impl RoutingReport {
    fn note(&mut self, done: Result<(), Error>) {
        match done {
            Ok(()) => self.changes += 1,
            // The kernel was faster: a removed interface takes its routes along.
            Err(error) if matches!(error.os_error(), Some(libc::ESRCH | libc::ENOENT)) => {}
            // A kernel without IPv6 needs no IPv6 rules.
            Err(error) if matches!(error.os_error(), Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) => {}
            Err(error) => self.errors.push(error),
        }
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn rule_message(rule: Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.ipv6);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::FwMark(rule.mark),
        RuleAttribute::FwMask(marks::MARK_MASK),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(marks::PROTOCOL)),
    ];
    message
}

/// Our rule in a message of the kernel.
fn rule_of(message: &RuleMessage) -> Option<Rule> {
    let (protocol, rule) = any_rule_of(message);
    marks::is_our_rule(protocol, rule.priority).then_some(rule)
}

fn foreign_rule_of(message: &RuleMessage) -> Option<ForeignRule> {
    let (protocol, rule) = any_rule_of(message);
    let early = rule.priority > 0 && rule.priority <= marks::LAST_PRIORITY;
    let foreign = ForeignRule { priority: rule.priority, table: rule.table, ipv6: rule.ipv6 };
    (early && !marks::is_our_rule(protocol, rule.priority)).then_some(foreign)
}

/// A rule, whoever made it, and its protocol number.
fn any_rule_of(message: &RuleMessage) -> (u8, Rule) {
    let ipv6 = message.header.family == AddressFamily::Inet6;
    let mut rule = Rule { ipv6, priority: 0, mark: 0, table: message.header.table.into() };
    let mut protocol = 0;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(number) => protocol = u8::from(*number),
            _ => {}
        }
    }
    (protocol, rule)
}

/// The message that adds a route, or without a target the one that removes it.
fn route_message(key: RouteKey, target: Option<RouteTarget>) -> RouteMessage {
    let mut message = RouteMessage::default();
    let destination = key.destination;
    message.header.address_family = family(destination.addr().is_ipv6());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.protocol = marks::PROTOCOL.into();
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Table(key.table));
    message.attributes.push(RouteAttribute::Priority(key.metric));
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    match target {
        None => {}
        Some(RouteTarget::Unreachable) => {
            message.header.kind = RouteType::Unreachable;
            message.header.scope = RouteScope::Universe;
        }
        Some(RouteTarget::Device { ifindex, gateway, onlink, source, mtu }) => {
            message.header.kind = RouteType::Unicast;
            message.header.scope = match gateway {
                None if destination.addr().is_ipv4() => RouteScope::Link,
                _ => RouteScope::Universe,
            };
            if onlink {
                message.header.flags |= RouteFlags::Onlink;
            }
            message.attributes.push(RouteAttribute::Oif(ifindex));
            message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
            message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
            message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        }
    }
    message
}

/// Our route in a message of the kernel.
fn route_of(message: &RouteMessage) -> Option<(RouteKey, RouteTarget)> {
    let ipv6 = message.header.address_family == AddressFamily::Inet6;
    let mut table = u32::from(message.header.table);
    let mut network = if ipv6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
    let (mut metric, mut ifindex) = (0, 0);
    let (mut gateway, mut source, mut mtu) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(address) => network = ip_of(address)?,
            RouteAttribute::Oif(index) => ifindex = *index,
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    if !marks::is_our_route(message.header.protocol.into(), table, metric) {
        return None;
    }
    let destination = IpNet::new(network, message.header.destination_prefix_length).ok()?;
    let target = match message.header.kind {
        RouteType::Unreachable => RouteTarget::Unreachable,
        _ => {
            let onlink = message.header.flags.contains(RouteFlags::Onlink);
            RouteTarget::Device { ifindex, gateway, onlink, source, mtu }
        }
    };
    Some((RouteKey { table, destination, metric }, target))
}
