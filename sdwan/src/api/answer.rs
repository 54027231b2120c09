//! Answers that need no more than the configuration and the policies: the daemon gives them, and the other commands
//! themselves while it isn't running.

use sdwan_common::classify::{Facts, classify};

use super::flow::FlowSpec;
use super::request::Refusal;
use super::views::{PolicySource, PolicyTestView, PolicyView, VERSION};
use crate::config::{Config, effective_policies};
use crate::engine::policy::{Compilation, Policy};

/// `policy "crm" is`, or `policies "crm", "backup" are`: the beginning of a sentence about what was done to them.
pub fn these(policies: &[Policy]) -> String {
    let names: Vec<String> = policies.iter().map(|policy| format!("{:?}", policy.name)).collect();
    match names.len() {
        1 => format!("policy {} is", names.concat()),
        _ => format!("policies {} are", names.join(", ")),
    }
}

/// Which policy does a flow match? The classifier is the kernel's.
pub fn test_policy(compilation: &Compilation, flow: &FlowSpec) -> Result<PolicyTestView, Refusal> {
    let zone = match &flow.zone {
        None => 0,
        Some(name) => compilation.zones.iter().position(|zone| zone == name).ok_or_else(|| {
            let message = format!("there is no zone {name:?}; the zones are: {}", compilation.zones.join(", "));
            Refusal::NotFound(message)
        })?,
    };
    let key = flow.key();
    let facts = Facts { key: &key, dscp: flow.dscp.0, zone: zone as u32 };
    let number = classify(&*compilation.rules, &facts, compilation.rules.scope);
    let rule = number.and_then(|number| compilation.rules.rule(number));
    Ok(PolicyTestView {
        version: VERSION,
        flow: flow.clone(),
        policy: rule.and_then(|rule| compilation.policies.get(usize::from(rule.policy))).map(|p| p.name.clone()),
        rule: rule.and(number),
        class: rule.and_then(|rule| compilation.classes.get(usize::from(rule.class))).map(|class| class.name.clone()),
    })
}

/// The policies that apply, in their order, and where each comes from. Without counters.
pub fn policy_views(config: &Config, stored: &[Policy]) -> Vec<PolicyView> {
    let named = |policies: &[Policy], name: &str| policies.iter().any(|policy| policy.name == name);
    effective_policies(config.builtin_policies, &config.policies, stored)
        .into_iter()
        .map(|policy| {
            let source = if named(stored, &policy.name) {
                PolicySource::Stored
            } else if named(&config.policies, &policy.name) {
                PolicySource::File
            } else {
                PolicySource::BuiltIn
            };
            PolicyView { policy, source, packets: None, bytes: None, copies: None }
        })
        .collect()
}
