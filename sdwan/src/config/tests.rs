use std::collections::BTreeSet;

use super::reader::Notes;
use super::*;
use crate::engine::policy::{Match, Preference, compile, default_policies};

fn problems(text: &str) -> Vec<Problem> {
    match parse(Some(Path::new("sdwan.toml")), text, &Options::default()) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => problems.problems,
        Err(error) => panic!("{error}"),
    }
}

fn shown(text: &str) -> String {
    parse(Some(Path::new("sdwan.toml")), text, &Options::default()).unwrap_err().to_string()
}

fn notes_of(text: &str) -> Notes {
    read::read(text, &Options::default()).1
}

#[test]
fn an_empty_file_gives_the_defaults() {
    assert_eq!(parse(None, "", &Options::default()).unwrap(), Config::default());
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    assert_eq!(parse(None, DOCUMENTED_DEFAULTS, &Options::default()).unwrap(), Config::default());
}

/// Uncomments the lines that are examples: `#` directly followed by a key or a table's header.
fn with_examples() -> String {
    let mut text = String::new();
    for line in DOCUMENTED_DEFAULTS.lines() {
        let example =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['));
        text.push_str(example.unwrap_or(line));
        text.push('\n');
    }
    // The policy's zone must be that of an interface.
    text.replace("interfaces = []", "interfaces = [\"eth1\"]")
}

#[test]
fn every_example_in_the_documented_defaults_is_valid() {
    let config = parse(Some(Path::new("docs/sdwan.toml")), &with_examples(), &Options::default());
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.uplinks[0].rate_down, Some(Rate(1_000_000_000)));
    assert_eq!(config.policies[0].matches.len(), 2);
}

#[test]
fn every_key_that_is_read_is_documented() {
    let notes = notes_of(&with_examples());
    let documented: BTreeSet<String> = notes
        .origins
        .keys()
        .map(|key| key.split('.').map(|part| part.split('[').next().unwrap_or("")).collect::<Vec<_>>().join("."))
        .collect();
    // Keys of list elements, which the comment on the list names.
    let in_prose = ["lan.interfaces.name", "lan.interfaces.vlan", "lan.interfaces.zone"];
    for key in notes.known.iter().filter(|key| !in_prose.contains(&key.as_str())) {
        assert!(documented.contains(key), "docs/sdwan.toml doesn't show {key}");
    }
}

#[test]
fn what_is_written_reads_back() {
    let config = parse(None, &with_examples(), &Options::default()).unwrap();
    assert_eq!(parse(None, &config.to_toml(), &Options::default()).unwrap(), config);
    assert_eq!(parse(None, &Config::default().to_toml(), &Options::default()).unwrap(), Config::default());
}

#[test]
fn an_error_shows_file_line_column_key_source_and_remedy() {
    assert_eq!(
        shown("[tunnel]\nlisten_port = 70000\n"),
        "sdwan.toml:2:15: tunnel.listen_port: expected a port in 1..=65472, found integer `70000`\n  \
         |\n2 | listen_port = 70000\n  |               ^^^^^\n1 error in the configuration; nothing was started"
    );
    assert_eq!(
        shown("[site]\nname = \"hq\"\n\n[probe]\nintervall = \"50ms\"\n"),
        "sdwan.toml:5:1: probe.intervall: unknown key `intervall`\n  |\n5 | intervall = \"50ms\"\n  | ^^^^^^^^^\n  \
         = did you mean `interval`?\n1 error in the configuration; nothing was started"
    );
}

#[test]
fn all_errors_are_shown_together_in_the_order_of_the_file() {
    let text = "builtin_policies = 1\n[site]\nnam = \"x\"\n[[uplink]]\nname = \"a\"\n[[uplink]]\nname = \"a\"\n\
                interface = \"eth0\"\nrate_up = \"fast\"\n[probe]\nmissed = 1\n[nonsense]\n";
    let problems = problems(text);
    let found: Vec<(&str, &str)> = problems.iter().map(|p| (p.key.as_str(), p.message.as_str())).collect();
    assert_eq!(
        found,
        [
            ("builtin_policies", "expected true or false, found integer `1`"),
            ("site.nam", "unknown key `nam`"),
            ("uplink[0].interface", "this uplink has none"),
            (
                "uplink[1].rate_up",
                "\"fast\" is not a rate: write a number and a unit (bit, kbit, mbit, gbit), such as 100mbit"
            ),
            ("probe.missed", "1 is out of range"),
            ("nonsense", "unknown key `nonsense`"),
        ]
    );
}

#[test]
fn each_bad_input_is_refused_at_its_key() {
    let uplink = |rest: &str| format!("[[uplink]]\nname = \"a\"\ninterface = \"eth0\"\n{rest}");
    let policy = |rest: &str| format!("[[policy]]\nname = \"p\"\npriority = 5\n{rest}");
    let rule = |rest: &str| format!("[[drop]]\nname = \"r\"\n{rest}");
    let table: Vec<(String, &str, &str)> = vec![
        ("[site]\nname = \"Head Quarters\"".into(), "site.name", "can't be the name of a site"),
        (rule(""), "drop[0]", "would drop everything"),
        (rule("sources = [\"10.1.0.5/24\"]"), "drop[0].sources[0]", "has bits set past its length"),
        (rule("protocols = [\"icmp\"]\nsource_ports = [7]"), "drop[0].protocols", "icmp has no ports"),
        (
            rule("sources = [\"10.0.0.0/8\"]\ndestinations = [\"fd00::/8\"]"),
            "drop[0].destinations",
            "different IP versions",
        ),
        (rule("zones = [\"voice\"]"), "drop[0].zones", "no LAN interface is in zone"),
        (
            format!("[lan]\ninterfaces = [\"eth1\"]\n{}", rule("interfaces = [\"eth2\"]")),
            "drop[0].interfaces",
            "eth2 is no interface of the LAN",
        ),
        ("[[drop]]\nname = \"A b\"\nprotocols = [6]".into(), "drop[0].name", "can't be the name of a drop rule"),
        (
            format!("{}\n{}", rule("protocols = [6]"), rule("protocols = [17]")),
            "drop[1].name",
            "there are two drop rules named",
        ),
        (format!("[xdp]\nmode = \"off\"\n{}", rule("protocols = [6]")), "drop[0]", "XDP, which is off"),
        ("[xdp]\nmode = \"generic\"".into(), "xdp.mode", "expected"),
        ("[guard]\nsource_control_pps = 0".into(), "guard.source_control_pps", "out of range"),
        ("[guard]\nlearn = \"2h\"".into(), "guard.learn", "out of range"),
        ("[site]\nid = \"12\"".into(), "site.id", "is not a site id: expected 32 hexadecimal digits"),
        ("[site]\nprefixes = [\"10.1.0.5/24\"]".into(), "site.prefixes[0]", "has bits set past its length"),
        ("[site]\nprefixes = [\"10.1.0.0/33\"]".into(), "site.prefixes[0]", "invalid"),
        ("[site]\nprefixes = [\"10.0.0.0/8\", \"10.1.0.0/16\"]".into(), "site.prefixes[1]", "overlaps 10.0.0.0/8"),
        ("[site]\nprefixes = [\"0.0.0.0/0\"]".into(), "site.prefixes[0]", "can't be a LAN prefix"),
        ("[site]\ndatabase = \"sdwan.db\"".into(), "site.database", "is not an absolute path"),
        ("site = 5".into(), "site", "expected a table, found integer"),
        ("uplink = 5".into(), "uplink", "expected an array, found integer"),
        (uplink("index = 8"), "uplink[0].index", "uplink index 8 is not in 0..=7"),
        (uplink("gateway = [\"192.0.2.1\", \"192.0.2.2\"]"), "uplink[0].gateway", "more than one IPv4 address"),
        (uplink("gateway = \"router\""), "uplink[0].gateway", "invalid IP address syntax"),
        (uplink("rate_up = \"0mbit\""), "uplink[0].rate_up", "a rate of 0 carries nothing"),
        (uplink("[[uplink]]\nname = \"b\"\ninterface = \"eth0\""), "uplink[1].interface", "already uplink \"a\""),
        (uplink("[lan]\ninterfaces = [\"eth0\"]"), "lan.interfaces[0]", "is also uplink \"a\""),
        ("[lan]\ninterfaces = [{ name = \"e\", vlan = 4095 }]".into(), "lan.interfaces[0].vlan", "not a VLAN id"),
        ("[lan]\ninterfaces = [{ vlan = 5 }]".into(), "lan.interfaces[0]", "has no name"),
        ("[lan]\ninterfaces = [{ name = \"e\", zon = \"x\" }]".into(), "lan.interfaces[0].zon", "unknown key `zon`"),
        ("[lan]\ninterfaces = [5]".into(), "lan.interfaces[0]", "found integer"),
        ("[lan]\ninterfaces = [\"a/b\"]".into(), "lan.interfaces[0].name", "can't be the name of an interface"),
        ("[lan]\ninterfaces = [\"sdw0-1\"]".into(), "lan.interfaces[0].name", "one of our own tunnels"),
        ("[tunnel]\nlisten_port = 65500".into(), "tunnel.listen_port", "can't be the base port"),
        ("[tunnel]\nbackend = \"fast\"".into(), "tunnel.backend", "unknown variant `fast`"),
        ("[tunnel]\nmtu = 500".into(), "tunnel.mtu", "can't be the MTU"),
        ("[discovery]\nmulticast_group = \"10.0.0.1\"".into(), "discovery.multicast_group", "not a multicast address"),
        ("[discovery]\nport = 51821".into(), "discovery.port", "would meet the tunnels' ports"),
        ("[tunnel]\nlisten_port = 51800".into(), "tunnel.listen_port", "would meet the tunnels' ports"),
        ("[discovery]\nseeds = [\"a b\"]".into(), "discovery.seeds[0]", "is not a host"),
        ("[discovery]\ninactive_after = \"31s\"".into(), "discovery.inactive_after", "after one lost announcement"),
        ("[probe]\ninterval = \"1ms\"".into(), "probe.interval", "1ms is out of range"),
        ("[probe]\ninterval = 50".into(), "probe.interval", "expected a duration such as \"50ms\", found integer `50`"),
        ("[dataplane]\nflow_sampling = 3".into(), "dataplane.flow_sampling", "not a power of two"),
        ("[dataplane]\nsites = 65536\nclasses = 4096".into(), "dataplane.classes", "path sets"),
        ("[engine]\nswitch_margin = 101".into(), "engine.switch_margin", "101 is out of range"),
        ("[engine]\nhold_down = \"10m\"\nhold_down_max = \"1m\"".into(), "engine.hold_down_max", "1m is out of range"),
        ("[log]\nlevel = \"sdwan=loud\"".into(), "log.level", "is not a level"),
        ("[store]\nmax_size = \"1kib\"".into(), "store.max_size", "out of range"),
        (policy("dscp = 64"), "policy[0].dscp", "64 is not a DSCP"),
        (policy("[[policy]]\nname = \"p\"\npriority = 6"), "policy[1].name", "two policies named \"p\""),
        (policy("color = 1"), "policy[0]", "unknown field `color`"),
        (policy("[[policy.match]]\nports = [\"9-5\"]"), "policy[0].match[0].ports", "is not a port or range"),
        (policy("[[policy.match]]\nports = [5]\nsource_ports = [6]"), "policy[0].match[0].ports", "can't stand beside"),
        (
            policy("[[policy.match]]\nprotocols = [\"icmp\"]\nports = [5]"),
            "policy[0].match[0].protocols",
            "icmp has no ports",
        ),
        (policy("[[policy.match]]\nzones = [\"Guests\"]"), "policy[0].match[0].zones", "name of a zone"),
        (
            policy("[[policy.match]]\nsources = [\"10.0.0.0/8\"]\ndestinations = [\"2001:db8::/32\"]"),
            "policy[0].match[0].destinations",
            "different IP versions",
        ),
        (policy("[[policy.match]]\nzones = [\"guests\"]"), "policy[0].match[0].zones", "no LAN interface is in zone"),
        (policy("mode = \"duplicate\"\n[dataplane]\nfast_path = \"off\""), "policy[0].mode", "can't go by two paths"),
        (policy("sla = { loss_pct = 101 }"), "policy[0].sla.loss_pct", "101 is out of range"),
        (policy("class = \"bulk\""), "policy[0].class", "is that of the policies"),
        ("[[policy]]\nname = \"P!\"\npriority = 1".into(), "policy[0].name", "can't be the name of a policy"),
        ("[[policy]]\nname = \"p\"".into(), "policy[0]", "missing field `priority`"),
        ("a = ".into(), "", "not TOML"),
        ("[site]\n[site]".into(), "", "not TOML"),
    ];
    for (text, key, message) in table {
        let problems = problems(&text);
        let found = problems.iter().any(|p| p.key == key && p.message.contains(message));
        assert!(found, "{text:?}: no problem at {key:?} saying {message:?} in {problems:#?}");
        assert!(
            problems.iter().all(|p| matches!(p.origin, Origin::File(_))),
            "{text:?}: a problem without a place in the file: {problems:#?}"
        );
    }
}

#[test]
fn options_stand_over_the_file_and_are_named_in_errors() {
    let options = Options {
        site_name: Some("hq".into()),
        listen_port: Some(51000),
        database: Some("/tmp/x.db".into()),
        state_dir: Some("/srv/sdwan".into()),
        interface: vec!["wan=eth5".parse().unwrap(), "eth6".parse().unwrap()],
        lan: vec!["guests=eth7".parse().unwrap()],
        seed: vec!["hq.example.net:999".parse().unwrap()],
        ..Options::default()
    };
    let text = "[site]\nname = \"other\"\n[[uplink]]\nname = \"lte\"\ninterface = \"eth6\"\nmetered = true\n";
    let config = parse(None, text, &options).unwrap();
    assert_eq!(config.site.name.as_deref(), Some("hq"));
    assert_eq!(config.site.lock, Path::new("/srv/sdwan/lock"));
    assert_eq!(config.site.database, Path::new("/tmp/x.db"));
    assert_eq!(config.tunnel.listen_port, 51000);
    assert_eq!((config.uplinks[0].name.as_str(), config.uplinks[0].interface.as_str()), ("wan", "eth5"));
    assert_eq!((config.uplinks[1].name.as_str(), config.uplinks[1].metered), ("lte", true));
    assert_eq!(config.lan.interfaces[0].zone, "guests");
    assert_eq!(config.discovery.seeds[0].port, Some(999));

    let bad = Options { listen_port: Some(65535), ..Options::default() };
    let error = parse(None, "", &bad).unwrap_err().to_string();
    assert!(error.starts_with("option --listen-port: tunnel.listen_port: 65535 can't be the base port\n"), "{error}");
}

#[test]
fn a_missing_file_is_an_error_only_when_it_was_named() {
    let directory = tempfile::tempdir().unwrap();
    let named = Options { config: Some(directory.path().join("no.toml")), ..Options::default() };
    let error = load(&named).unwrap_err().to_string();
    assert!(error.contains("no.toml: No such file or directory") && error.contains("sdwan config defaults"), "{error}");
}

#[test]
fn a_policy_of_the_file_replaces_the_built_in_one_and_a_stored_one_both() {
    let mine = |preference| Policy { preference, ..default_policies().remove(1) };
    let file = [mine(Preference::Cost)];
    let stored = [mine(Preference::Throughput)];
    let gaming = |policies: Vec<Policy>| policies.into_iter().find(|p| p.name == "gaming").map(|p| p.preference);
    assert_eq!(gaming(effective_policies(true, &[], &[])), Some(Preference::Latency));
    assert_eq!(gaming(effective_policies(true, &file, &[])), Some(Preference::Cost));
    assert_eq!(gaming(effective_policies(true, &file, &stored)), Some(Preference::Throughput));
    assert_eq!(effective_policies(false, &[], &[]), []);
    let order: Vec<u16> = effective_policies(true, &[], &[]).iter().map(|p| p.priority).collect();
    assert!(order.is_sorted());
}

#[test]
fn rules_are_counted_as_the_classifier_holds_them() {
    assert_eq!(rule_count(&default_policies()), 5 + 2 + 3 + 1);
    let match_ports = Match { ports: vec!["5".parse().unwrap()], ..Match::default() };
    let policy = Policy { matches: vec![match_ports; 300], ..default_policies().remove(3) };
    let compiled = compile(&default_policies(), &["lan".into()], 64).unwrap();
    assert_eq!(compiled.rules.rules.len(), rule_count(&default_policies()));
    let problems = validate_policies(&[policy], 64);
    assert!(problems[0].1.message.contains("600 rules"), "{problems:?}");
}

#[test]
fn a_profile_sets_pace_and_detection_and_explicit_values_stand_over_it() {
    let probe = |text: &str| parse(None, text, &Options::default()).unwrap().probe;
    let usual = probe("");
    assert_eq!((usual.profile, usual.interval, usual.missed), (ProbeProfile::Default, Duration::from_millis(50), 3));
    let fast = probe("[probe]\nprofile = \"fast\"\n");
    assert_eq!((fast.interval, fast.missed), (Duration::from_millis(10), 3));
    assert_eq!((fast.idle_interval, fast.budget_pps), (usual.idle_interval, usual.budget_pps));
    let own = probe("[probe]\nmissed = 5\nprofile = \"fast\"\n");
    assert_eq!((own.interval, own.missed), (Duration::from_millis(10), 5));
    let own = probe("[probe]\ninterval = \"20ms\"\nprofile = \"fast\"\n");
    assert_eq!((own.interval, own.missed), (Duration::from_millis(20), 3));
    assert!(shown("[probe]\nprofile = \"faster\"\n").contains("probe.profile"));
}
