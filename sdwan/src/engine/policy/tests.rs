use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use sdwan_common::abi::FlowKey;
use sdwan_common::classify::{Facts, classify};

use super::*;

fn key(protocol: u8, source: &str, source_port: u16, destination: &str, destination_port: u16) -> FlowKey {
    let bytes = |text: &str| address_bytes(text.parse::<IpAddr>().expect("the test's addresses are right"));
    FlowKey {
        source: bytes(source),
        destination: bytes(destination),
        source_port,
        destination_port,
        protocol,
        padding: [0; 3],
    }
}

fn policy_of(compilation: &Compilation, key: &FlowKey, dscp: u8, zone: u32) -> Option<String> {
    let rule = classify(&*compilation.rules, &Facts { key, dscp, zone }, compilation.rules.scope)?;
    let policy = compilation.rules.rule(rule)?.policy;
    Some(compilation.policies[usize::from(policy)].name.clone())
}

fn defaults() -> Compilation {
    compile(&default_policies(), &["lan".into()], 64).expect("the defaults compile")
}

#[test]
fn the_defaults_know_their_applications_in_both_directions() {
    let compilation = defaults();
    for (protocol, port, expected) in [
        (17, 5060, "voip-video"),
        (6, 5061, "voip-video"),
        (17, 16384, "voip-video"),
        (17, 32767, "voip-video"),
        (17, 3478, "voip-video"),
        (17, 8810, "voip-video"),
        (17, 27015, "gaming"),
        (17, 3074, "gaming"),
        (6, 20, "bulk"),
        (6, 873, "bulk"),
        (6, 990, "bulk"),
        (17, 873, "default"),
        (6, 443, "default"),
        (17, 53, "default"),
        (6, 16400, "default"),
    ] {
        let there = key(protocol, "10.1.0.5", 40_000, "10.2.0.9", port);
        let back = key(protocol, "10.2.0.9", port, "10.1.0.5", 40_000);
        assert_eq!(policy_of(&compilation, &there, 0, 0).as_deref(), Some(expected), "to port {port}");
        assert_eq!(policy_of(&compilation, &back, 0, 0).as_deref(), Some(expected), "from port {port}");
    }
}

#[test]
fn the_defaults_know_marked_packets_of_any_protocol() {
    let compilation = defaults();
    let icmp = key(1, "10.1.0.5", 7, "10.2.0.9", 0);
    for (dscp, expected) in [(46, "voip-video"), (34, "voip-video"), (8, "bulk"), (0, "default")] {
        assert_eq!(policy_of(&compilation, &icmp, dscp, 0).as_deref(), Some(expected), "DSCP {dscp}");
    }
}

#[test]
fn a_match_on_ports_never_takes_protocols_without_ports() {
    let matches = vec![Match { ports: vec![PortRange(1..=65535)], ..Match::default() }];
    let policy = Policy { name: "all-ports".into(), matches, ..default_policies().remove(0) };
    let compilation = compile(&[policy], &[], 64).expect("it compiles");
    assert_eq!(policy_of(&compilation, &key(1, "10.1.0.1", 0, "10.2.0.1", 0), 0, 0), None);
    assert!(policy_of(&compilation, &key(6, "10.1.0.1", 1, "10.2.0.1", 1), 0, 0).is_some());
}

#[test]
fn wrong_policies_are_refused_with_the_name_of_the_culprit() {
    let base = default_policies();
    let with = |change: &dyn Fn(&mut Policy)| {
        let mut policy = base[3].clone();
        policy.name = "mine".into();
        policy.priority = 5;
        change(&mut policy);
        compile(&[base[0].clone(), policy], &["lan".into()], 64).expect_err("it must be refused").to_string()
    };
    let ports = || vec![PortRange(1..=2)];
    for (text, part) in [
        (with(&|policy| policy.name = "voip-video".into()), "two policies are called \"voip-video\""),
        (with(&|policy| policy.class = Some("voip-video".into())), "\"mine\" and \"voip-video\" assign the class"),
        (
            with(&|policy| {
                policy.matches = vec![Match { ports: ports(), source_ports: ports(), ..Match::default() }];
            }),
            "\"mine\": `ports` stands for both directions",
        ),
        (
            with(&|policy| {
                policy.matches = vec![Match { ports: ports(), protocols: vec![Protocol(1)], ..Match::default() }];
            }),
            "none of its protocols has ports",
        ),
        (
            with(&|policy| policy.matches = vec![Match { zones: vec!["guest".into()], ..Match::default() }]),
            "no LAN interface is in zone \"guest\"; the zones are: lan",
        ),
        (with(&|policy| policy.matches = vec![Match::default(); 513]), "the classifier holds 512"),
    ] {
        assert!(text.contains(part), "{text:?} should contain {part:?}");
    }
}

#[test]
fn ports_protocols_and_dscp_read_as_they_are_written() {
    for text in ["5060", "5060-5061", "1-65535"] {
        assert_eq!(text.parse::<PortRange>().map(|range| range.to_string()).as_deref(), Ok(text));
    }
    for text in ["0", "5-4", "65536", "a", "", "-", "1-"] {
        assert!(text.parse::<PortRange>().is_err(), "{text:?}");
    }
    for value in 0..64 {
        assert_eq!(Dscp(value).to_string().parse(), Ok(Dscp(value)));
    }
    assert!("64".parse::<Dscp>().is_err());
    for value in 0..=255 {
        assert_eq!(Protocol(value).to_string().parse(), Ok(Protocol(value)));
    }
}

/// A naive matcher to hold the compiled rules against: policy by policy, alternative by alternative.
fn naive<'a>(policies: &'a [Policy], facts: &Facts<'_>, zones: &[String]) -> Option<&'a str> {
    let key = facts.key;
    let within = |prefixes: &[IpNet], address: &[u8; 16]| {
        let mapped = std::net::Ipv6Addr::from(*address);
        let address = mapped.to_ipv4_mapped().map_or(IpAddr::V6(mapped), IpAddr::V4);
        prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(&address))
    };
    let has_ports = [6, 17, 33, 132, 136].contains(&key.protocol);
    let in_ports = |ranges: &[PortRange], port: u16| ranges.iter().any(|range| range.0.contains(&port));
    let one = |alternative: &Match| {
        let ports = (alternative.source_ports.is_empty()
            || has_ports && in_ports(&alternative.source_ports, key.source_port))
            && (alternative.destination_ports.is_empty()
                || has_ports && in_ports(&alternative.destination_ports, key.destination_port))
            && (alternative.ports.is_empty()
                || has_ports
                    && (in_ports(&alternative.ports, key.source_port)
                        || in_ports(&alternative.ports, key.destination_port)));
        ports
            && (alternative.protocols.is_empty() || alternative.protocols.contains(&Protocol(key.protocol)))
            && (alternative.dscp.is_empty() || alternative.dscp.contains(&Dscp(facts.dscp)))
            && (alternative.zones.is_empty() || alternative.zones.contains(&zones[facts.zone as usize]))
            && within(&alternative.sources, &key.source)
            && within(&alternative.destinations, &key.destination)
    };
    let mut sorted: Vec<&Policy> = policies.iter().collect();
    sorted.sort_by_key(|policy| (policy.priority, &policy.name));
    let hit = sorted.into_iter().find(|policy| policy.matches.is_empty() || policy.matches.iter().any(one));
    hit.map(|policy| policy.name.as_str())
}

/// Few distinct values, so that rules and packets meet.
fn a_port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(1u16), Just(80), Just(443), Just(5060), Just(65535), 1u16..=65535]
}

fn some_ports() -> impl Strategy<Value = Vec<PortRange>> {
    prop::collection::vec((a_port(), a_port()).prop_map(|(a, b)| PortRange(a.min(b)..=a.max(b))), 0..3)
}

fn a_prefix() -> impl Strategy<Value = IpNet> {
    let texts =
        ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "fd00:1::/32", "::/0"];
    prop::sample::select(texts.to_vec()).prop_map(|text| text.parse().expect("a prefix"))
}

fn a_match() -> impl Strategy<Value = Match> {
    let ports = prop_oneof![
        some_ports().prop_map(|ports| (ports, Vec::new(), Vec::new())),
        (some_ports(), some_ports()).prop_map(|(source, destination)| (Vec::new(), source, destination)),
    ];
    (
        ports,
        prop::collection::vec(prop::sample::select(vec![Protocol(6), Protocol(17)]), 0..2),
        prop::collection::vec((0u8..4).prop_map(Dscp), 0..2),
        prop::collection::vec(a_prefix(), 0..3),
        prop::collection::vec(a_prefix(), 0..3),
        prop::collection::vec(prop::sample::select(vec!["lan".to_owned(), "guest".to_owned()]), 0..2),
    )
        .prop_map(|((ports, source_ports, destination_ports), protocols, dscp, sources, destinations, zones)| {
            Match { protocols, ports, source_ports, destination_ports, dscp, sources, destinations, zones }
        })
}

fn an_address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "10.1.2.3",
        "10.1.2.4",
        "10.1.9.9",
        "10.200.0.1",
        "192.0.2.1",
        "fd00:1::1",
        "fd00:2::1",
        "2001:db8::1",
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn compiled_rules_match_what_the_policies_say(
        matches in prop::collection::vec(prop::collection::vec(a_match(), 0..3), 1..40),
        packets in prop::collection::vec(
            (an_address(), an_address(), a_port(), a_port(), prop::sample::select(vec![1u8, 6, 17]), 0u8..4, 0u32..2),
            64,
        ),
    ) {
        let policies: Vec<Policy> = matches
            .into_iter()
            .enumerate()
            .map(|(number, matches)| Policy {
                name: format!("p{number}"),
                priority: (number % 7) as u16,
                matches,
                ..default_policies().remove(3)
            })
            .collect();
        let zones = ["lan".to_owned(), "guest".to_owned()];
        let compilation = compile(&policies, &zones, 64).expect("random policies compile");
        for (source, destination, source_port, destination_port, protocol, dscp, zone) in packets {
            let ports = if protocol == 1 { (0, 0) } else { (source_port, destination_port) };
            let key = key(protocol, source, ports.0, destination, ports.1);
            let facts = Facts { key: &key, dscp, zone };
            let compiled = policy_of(&compilation, &key, dscp, zone);
            prop_assert_eq!(compiled.as_deref(), naive(&policies, &facts, &zones), "{:?}", facts);
        }
    }
}
