//! The difference between two routing states, as steps in an order that never leaks a packet.

use super::{RouteKey, RouteTarget, RoutingState, Rule};

/// Steps that turn one state into another, in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Routes to add where there is none of ours. Worst metric first: a table ends in `unreachable` before it leads
    /// anywhere.
    pub add_routes: Vec<(RouteKey, RouteTarget)>,
    /// Routes of ours to replace in place.
    pub replace_routes: Vec<(RouteKey, RouteTarget)>,
    /// Rules to add: their tables are complete by then.
    pub add_rules: Vec<Rule>,
    /// Rules to remove.
    pub remove_rules: Vec<Rule>,
    /// Routes to remove. Best metric first: `unreachable` goes last.
    pub remove_routes: Vec<RouteKey>,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What turns `observed` into `desired`.
pub fn plan(observed: &RoutingState, desired: &RoutingState) -> Plan {
    let mut plan = Plan::default();
    for (key, target) in &desired.routes {
        match observed.routes.get(key) {
            None => plan.add_routes.push((*key, *target)),
            Some(known) if known != target => plan.replace_routes.push((*key, *target)),
            Some(_) => {}
        }
    }
    plan.add_routes.sort_by_key(|(key, _)| std::cmp::Reverse(key.metric));
    plan.add_rules = desired.rules.difference(&observed.rules).copied().collect();
    plan.remove_rules = observed.rules.difference(&desired.rules).copied().collect();
    plan.remove_routes = observed.routes.keys().filter(|key| !desired.routes.contains_key(key)).copied().collect();
    plan.remove_routes.sort_by_key(|key| key.metric);
    plan
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
