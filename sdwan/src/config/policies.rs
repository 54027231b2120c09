//! What makes a policy valid, and which policies apply together.

use std::collections::BTreeMap;

use sdwan_common::abi::MAX_RULES;
use sdwan_common::classify::protocol_has_ports;

use super::Config;
use crate::engine::policy::{Compilation, CompileError, Match, Policy, Sla, compile, default_policies};

/// Something wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {remedy}")]
pub struct PolicyProblem {
    /// Key within the policy, such as `match[0].ports`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// The policies that apply, in their order: the built-in ones unless they are switched off or replaced by one of the
/// same name, the file's, and the stored ones (`sdwan policies add`). Of two with one name the later source wins.
pub fn effective_policies(builtin: bool, file: &[Policy], stored: &[Policy]) -> Vec<Policy> {
    let defaults = if builtin { default_policies() } else { Vec::new() };
    let mut by_name = BTreeMap::new();
    for policy in defaults.iter().chain(file).chain(stored) {
        by_name.insert(policy.name.as_str(), policy);
    }
    let mut policies: Vec<Policy> = by_name.into_values().cloned().collect();
    policies.sort_by(|a, b| (a.priority, &a.name).cmp(&(b.priority, &b.name)));
    policies
}

/// Rules of the classifier that these policies take: one for each alternative, two where it says `ports`.
pub fn rule_count(policies: &[Policy]) -> usize {
    let rules = |alternative: &Match| if alternative.ports.is_empty() { 1 } else { 2 };
    policies.iter().map(|policy| policy.matches.iter().map(rules).sum::<usize>().max(1)).sum()
}

/// Why a policy can't be added to those that apply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inadmissible {
    /// The policy itself, or all of them together, are wrong.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("{0}")]
    Conflict(String),
}

/// May these policies be stored, all together? Returns what is stored then, and what applies then compiles to. `stored`
/// are those stored so far; one of the same name stands in the way unless `replace` says otherwise.
///
/// # Errors
/// Names the policy, and says what is wrong and what to do.
pub fn admit_policies(
    config: &Config,
    stored: &[Policy],
    policies: &[Policy],
    replace: bool,
) -> Result<(Vec<Policy>, Compilation), Inadmissible> {
    let invalid = |name: &str, text: String| Inadmissible::Invalid(format!("policy {name:?}: {text}"));
    if policies.is_empty() {
        return Err(Inadmissible::Invalid("there is no policy to add".into()));
    }
    let mut after = stored.to_vec();
    for (position, policy) in policies.iter().enumerate() {
        let name = &policy.name;
        let problems = validate_policy(policy);
        if !problems.is_empty() {
            let texts: Vec<String> = problems.iter().map(|problem| format!("{}: {problem}", problem.key)).collect();
            return Err(invalid(name, texts.join("\n")));
        }
        if policies.iter().take(position).any(|other| other.name == *name) {
            return Err(invalid(name, "it is there twice".into()));
        }
        if config.policies.iter().any(|other| other.name == *name) {
            return Err(Inadmissible::Conflict(format!(
                "policy {name:?} is defined in the configuration file: change it there, or use another name"
            )));
        }
        if !replace && stored.iter().any(|other| other.name == *name) {
            return Err(Inadmissible::Conflict(taken(name)));
        }
        after.retain(|other| other.name != *name);
        after.push(policy.clone());
    }
    let compilation = compile_with(config, &after).map_err(|error| Inadmissible::Invalid(error.to_string()))?;
    Ok((after, compilation))
}

/// What the built-in policies, the file's and these stored ones compile to.
pub fn compile_with(config: &Config, stored: &[Policy]) -> Result<Compilation, CompileError> {
    let all = effective_policies(config.builtin_policies, &config.policies, stored);
    compile(&all, &config.zones(), config.dataplane.classes as usize)
}

/// That a stored policy has this name already, and what to do.
pub fn taken(name: &str) -> String {
    format!("there is a stored policy {name:?} already: use --replace, or `sdwan policies remove {name}` first")
}

/// What is wrong with one policy by itself.
pub fn validate_policy(policy: &Policy) -> Vec<PolicyProblem> {
    let mut problems = Vec::new();
    let mut problem = |key: &str, message: String, remedy: &str| {
        problems.push(PolicyProblem { key: key.into(), message, remedy: remedy.into() });
    };
    let names = "use 1 to 32 of the characters a-z, 0-9 and -";
    if !is_name(&policy.name) {
        problem("name", format!("{:?} can't be the name of a policy", policy.name), names);
    }
    if policy.class.as_ref().is_some_and(|class| !is_name(class)) {
        problem("class", format!("{:?} can't be the name of a class", policy.class_name()), names);
    }
    if policy.dscp.is_some_and(|dscp| dscp > 63) {
        problem("dscp", format!("{} is not a DSCP", policy.dscp.unwrap_or(0)), "write a number in 0..=63");
    }
    if let Some(dscp) = policy.outer_dscp.filter(|dscp| *dscp > 63) {
        problem("outer_dscp", format!("{dscp} is not a DSCP"), "write a number in 0..=63");
    }
    for (index, alternative) in policy.matches.iter().enumerate() {
        validate_match(&format!("match[{index}]"), alternative, &mut problem);
    }
    validate_sla(&policy.sla, &mut problem);
    problems
}

/// What is wrong with policies as a whole: names that occur twice, classes at odds, too many rules or classes.
/// The number is the index of the policy at fault, `None` when it is all of them.
pub fn validate_policies(policies: &[Policy], class_capacity: u32) -> Vec<(Option<usize>, PolicyProblem)> {
    let mut problems = Vec::new();
    let mut classes: BTreeMap<&str, &Policy> = BTreeMap::new();
    for (index, policy) in policies.iter().enumerate() {
        if policies[..index].iter().any(|other| other.name == policy.name) {
            let message = format!("there are two policies named {:?}", policy.name);
            let remedy = "give each a name of its own".into();
            problems.push((Some(index), PolicyProblem { key: "name".into(), message, remedy }));
        }
        let first = classes.entry(policy.class_name()).or_insert(policy);
        if first.name != policy.name && choice(first) != choice(policy) {
            problems.push((
                Some(index),
                PolicyProblem {
                    key: "class".into(),
                    message: format!(
                        "class {:?} is that of the policies {:?} and {:?}, which differ in preference, sla, mode, \
                         sticky, dscp or outer_dscp",
                        policy.class_name(),
                        first.name,
                        policy.name
                    ),
                    remedy: "make them equal, or give one of the policies another class".into(),
                },
            ));
        }
    }
    if classes.len() > class_capacity as usize {
        problems.push((
            None,
            PolicyProblem {
                key: String::new(),
                message: format!(
                    "the policies assign {} classes, and there is room for {class_capacity}",
                    classes.len()
                ),
                remedy: "raise dataplane.classes, or let policies share a class".into(),
            },
        ));
    }
    let rules = rule_count(policies);
    if rules > MAX_RULES {
        problems.push((
            None,
            PolicyProblem {
                key: String::new(),
                message: format!("the policies compile to {rules} rules, and the classifier holds {MAX_RULES}"),
                remedy: "each alternative of a match is one rule, two with `ports`: merge alternatives, or use \
                         destination_ports"
                    .into(),
            },
        ));
    }
    problems
}

/// Is it a name of a policy, class, zone or uplink?
pub fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Everything that the path set of a class depends on.
fn choice(policy: &Policy) -> impl PartialEq + use<> {
    (policy.preference, policy.sla, policy.mode, policy.sticky, policy.dscp, policy.outer_dscp)
}

fn validate_match(key: &str, alternative: &Match, problem: &mut impl FnMut(&str, String, &str)) {
    let directed = !alternative.source_ports.is_empty() || !alternative.destination_ports.is_empty();
    if !alternative.ports.is_empty() && directed {
        problem(
            &format!("{key}.ports"),
            "ports can't stand beside source_ports or destination_ports".into(),
            "`ports` means either direction: keep it, or the other two",
        );
    }
    if (!alternative.ports.is_empty() || directed)
        && let Some(other) = alternative.protocols.iter().find(|protocol| !protocol_has_ports(protocol.0))
    {
        problem(
            &format!("{key}.protocols"),
            format!("{other} has no ports, and this match names some"),
            "give protocols without ports a [[policy.match]] of their own",
        );
    }
    for zone in &alternative.zones {
        if !is_name(zone) {
            problem(
                &format!("{key}.zones"),
                format!("{zone:?} can't be the name of a zone"),
                "use 1 to 32 of the characters a-z, 0-9 and -",
            );
        }
    }
    let families = |prefixes: &[ipnet::IpNet]| {
        (prefixes.iter().any(|p| p.addr().is_ipv4()), prefixes.iter().any(|p| p.addr().is_ipv6()))
    };
    let (sources, destinations) = (families(&alternative.sources), families(&alternative.destinations));
    let both = !alternative.sources.is_empty() && !alternative.destinations.is_empty();
    if both && !(sources.0 && destinations.0) && !(sources.1 && destinations.1) {
        problem(
            &format!("{key}.destinations"),
            "sources and destinations are of different IP versions, so nothing can match".into(),
            "name prefixes of one IP version in both",
        );
    }
}

fn validate_sla(sla: &Sla, problem: &mut impl FnMut(&str, String, &str)) {
    let bounds = [
        ("latency_ms", sla.latency_ms, 0.0, 60_000.0),
        ("jitter_ms", sla.jitter_ms, 0.0, 60_000.0),
        ("loss_pct", sla.loss_pct, 0.0, 100.0),
        ("bandwidth_mbps", sla.bandwidth_mbps, 0.0, 1_000_000.0),
        ("mos", sla.mos, 1.0, 4.5),
    ];
    for (key, value, least, most) in bounds {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            problem(
                &format!("sla.{key}"),
                format!("{value} is out of range"),
                &format!("write a number in {least}..={most}"),
            );
        }
    }
}
