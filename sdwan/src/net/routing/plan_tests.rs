use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::net::marks;

fn rules() -> impl Strategy<Value = BTreeSet<Rule>> {
    let rule = (any::<bool>(), 5000..5008_u32, 0..3_u32, 20_000..20_003_u32);
    let rule = rule.prop_map(|(ipv6, priority, mark, table)| Rule { ipv6, priority, mark, table });
    proptest::collection::btree_set(rule, 0..8)
}

fn routes() -> impl Strategy<Value = BTreeMap<RouteKey, RouteTarget>> {
    let destination = prop_oneof![Just("0.0.0.0/0"), Just("10.0.0.0/8"), Just("::/0"), Just("fd00::/8")];
    let metric = prop_oneof![Just(50_u32), Just(100), Just(marks::UNREACHABLE_METRIC)];
    let key = (20_000..20_002_u32, destination, metric).prop_map(|(table, destination, metric)| RouteKey {
        table,
        destination: destination.parse().expect("a prefix"),
        metric,
    });
    let target = (2..5_u32, proptest::option::of(1280..1500_u32)).prop_map(|(ifindex, mtu)| RouteTarget::Device {
        ifindex,
        gateway: None,
        onlink: false,
        source: None,
        mtu,
    });
    proptest::collection::btree_map(key, prop_oneof![Just(RouteTarget::Unreachable), target], 0..12)
}

fn states() -> impl Strategy<Value = RoutingState> {
    (rules(), routes()).prop_map(|(rules, routes)| RoutingState { rules, routes })
}

/// A step of a plan on a state; the error says which promise the plan broke.
fn carry_out(state: &mut RoutingState, plan: &Plan, steps: usize) -> Result<usize, String> {
    let mut done = 0;
    let mut step = |act: &mut dyn FnMut() -> Result<(), String>| {
        if done < steps {
            done += 1;
            act()?;
        }
        Ok::<_, String>(())
    };
    for (key, target) in &plan.add_routes {
        step(&mut || match state.routes.insert(*key, *target) {
            Some(_) => Err(format!("{key} was there")),
            None => Ok(()),
        })?;
    }
    for (key, target) in &plan.replace_routes {
        step(&mut || state.routes.insert(*key, *target).map(drop).ok_or(format!("{key} was not there")))?;
    }
    for rule in &plan.add_rules {
        step(&mut || if state.rules.insert(*rule) { Ok(()) } else { Err(format!("{rule} was there")) })?;
    }
    for rule in &plan.remove_rules {
        step(&mut || if state.rules.remove(rule) { Ok(()) } else { Err(format!("{rule} was not there")) })?;
    }
    for key in &plan.remove_routes {
        step(&mut || state.routes.remove(key).map(drop).ok_or(format!("{key} was not there")))?;
    }
    Ok(done)
}

proptest! {
    #[test]
    fn a_plan_leads_from_any_state_to_any_other_and_then_there_is_nothing_to_do(from in states(), to in states()) {
        let mut state = from.clone();
        let steps = plan(&from, &to);
        carry_out(&mut state, &steps, usize::MAX).expect("a plan that can be carried out");
        prop_assert_eq!(&state, &to);
        prop_assert!(plan(&state, &to).is_empty());
    }

    #[test]
    fn a_crash_in_the_middle_is_mended_by_the_next_run(from in states(), to in states(), steps in 0..30_usize) {
        let mut state = from.clone();
        carry_out(&mut state, &plan(&from, &to), steps).expect("a plan that can be carried out");
        let rest = plan(&state, &to);
        carry_out(&mut state, &rest, usize::MAX).expect("a plan that can be carried out");
        prop_assert_eq!(&state, &to);
    }

    #[test]
    fn unreachable_comes_first_and_goes_last(from in states(), to in states()) {
        let plan = plan(&from, &to);
        prop_assert!(plan.add_routes.is_sorted_by_key(|(key, _)| std::cmp::Reverse(key.metric)));
        prop_assert!(plan.remove_routes.is_sorted_by_key(|key| key.metric));
    }
}
