use std::collections::BTreeMap;

use clap::{CommandFactory, Parser};

use super::check::{Check, render as render_checks};
use super::output::{Output, age, short};
use super::*;
use crate::api::flow::FlowSpec;
use crate::api::views::*;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::path::PathState;
use crate::engine::policy::default_policies;
use crate::engine::types::{MeshId, SiteId, TunnelKey, UplinkIndex};
use crate::store::StoreHealth;

const PLAIN: fn() -> Output = || Output::for_file(Format::Table);

pub(super) fn tunnel(local: u8, remote: u8) -> TunnelKey {
    TunnelKey { local: UplinkIndex::new(local).unwrap(), remote: UplinkIndex::new(remote).unwrap() }
}

fn counts(items: &[(&str, u64)]) -> BTreeMap<String, u64> {
    items.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// No line may be wider than a terminal of 80 columns.
pub(super) fn fits(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{} columns: {line:?}", line.chars().count());
    }
}

pub(super) fn status() -> StatusView {
    StatusView {
        version: VERSION,
        health: Health::Degraded,
        problems: vec!["uplink lte has no carrier: look at the modem".into()],
        daemon_version: "0.1.0".into(),
        pid: 4711,
        uptime_s: 93_784,
        started_unix_ms: 1_790_000_000_000,
        mesh: MeshId([0x11; 16]),
        site: SiteId([0x22; 16]),
        site_name: "branch-1".into(),
        overlay: Some("100.64.7.1".parse().unwrap()),
        prefixes: vec!["10.1.0.0/24".parse().unwrap(), "2001:db8:1::/64".parse().unwrap()],
        certificate_expires_unix: None,
        tunnel_backend: "userspace".into(),
        fast_path: "both".into(),
        attach_mode: "tcx".into(),
        attached: vec!["eth1".into(), "sdw0-0".into()],
        uplinks: vec![
            UplinkView {
                index: 0,
                name: "fibre".into(),
                interface: "eth0".into(),
                usable: true,
                reason: None,
                addresses: vec!["192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap()],
                gateways: vec!["192.0.2.1".parse().unwrap()],
                mtu: 1500,
                metered: false,
            },
            UplinkView {
                index: 1,
                name: "lte".into(),
                interface: "wwan0".into(),
                usable: false,
                reason: Some("no carrier".into()),
                addresses: vec![],
                gateways: vec![],
                mtu: 1430,
                metered: true,
            },
        ],
        sites: counts(&[("active", 2), ("inactive", 0)]),
        paths: counts(&[("up", 4), ("down", 4)]),
        policies: 4,
        drops: counts(&[("rewrite_failed", 0)]),
        drop_rules: counts(&[("telnet", 7)]),
        xdp: BTreeMap::from([("lan0".into(), "native".into()), ("wan0".into(), "off: not supported".into())]),
        passes: counts(&[("ttl_expired", 12), ("too_big", 12_345)]),
        refused_announcements: counts(&[("bad_signature", 3)]),
        stalls: 0,
        decisions: BTreeMap::new(),
        api_refused: counts(&[("wrong_role", 0)]),
        internal_drops: BTreeMap::new(),
        stamp_reflector: Default::default(),
        mtu_probes: counts(&[("sent", 1_234), ("forged", 0)]),
        store: StoreHealth { ok: true, queued: 7, ..StoreHealth::default() },
    }
}

pub(super) fn path() -> PathView {
    PathView {
        number: Some(3),
        site: SiteId([0x33; 16]),
        site_name: "headquarters".into(),
        tunnel: tunnel(0, 1),
        local_uplink: "fibre".into(),
        remote_uplink: "lte".into(),
        interface: "sdw0-1".into(),
        endpoint: Some("198.51.100.1:51828".into()),
        state: PathState::Up,
        degraded: true,
        since_s: 125,
        score: 48.6,
        rtt_ms: Some(123.456),
        rtt_min_ms: Some(100.0),
        rtt_variation_ms: 5.0,
        jitter_forward_ms: 10.25,
        jitter_backward_ms: 0.5,
        loss_forward_pct: Some(12.5),
        loss_backward_pct: None,
        data_loss_forward_pct: Some(1.5),
        data_loss_forward_packets: 2_000,
        data_loss_backward_pct: None,
        data_loss_backward_packets: 0,
        tcp_rtt_ms: Some(130.5),
        tcp_rtt_min_ms: Some(101.0),
        tcp_rtt_samples: 64,
        mos: Some(2.9),
        mos_by_codec: BTreeMap::from([("g711".into(), 2.9)]),
        one_way: Some(OneWayView { forward_ms: 60.0, backward_ms: 62.5, synchronized: false, error_ms: None }),
        spans: vec![SpanView {
            span_s: 900,
            samples: 18_000,
            rtt_min_ms: 100.0,
            rtt_p50_ms: 120.5,
            rtt_p95_ms: 180.0,
            rtt_p99_ms: 210.0,
            rtt_max_ms: 1_234.5,
            jitter_forward_ms: 9.5,
            jitter_backward_ms: 0.5,
            loss_forward_pct: Some(12.0),
            loss_backward_pct: Some(0.0),
            loss_round_trip_pct: Some(12.0),
        }],
        capacity_bps: Some(20_000_000),
        capacity_how: Some(crate::engine::capacity::How::Declared),
        capacity_age_s: None,
        capacity_backward_bps: Some(50_000_000),
        capacity_backward_how: Some(crate::engine::capacity::How::Measured),
        capacity_backward_age_s: Some(17),
        mtu: 1420,
        mtu_by: Default::default(),
        underlay_mtu: None,
        sent_packets: 1,
        sent_bytes: 2,
        received_packets: 3,
        received_bytes: 4,
        probe_interval_ms: 50.0,
        detection_ms: 160.0,
    }
}

pub(super) fn flow() -> FlowView {
    FlowView {
        source: "2001:db8:1::1234".parse().unwrap(),
        source_port: 40_000,
        destination: "2001:db8:2::9".parse().unwrap(),
        destination_port: 5060,
        protocol: "udp".into(),
        class: "voip-video".into(),
        policy: Some("voip-video".into()),
        path: FlowPathView {
            number: 3,
            site_name: "hq".into(),
            tunnel: Some(tunnel(0, 1)),
            uplinks: "fibre→lte".into(),
        },
        second: None,
        packets: 1_234_567,
        bytes: 9,
        age_s: 3.0,
        idle_s: 0.25,
        moves: 1,
    }
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn status_shows_health_problems_and_only_counters_that_count() {
    let text = status::render(&status(), &PLAIN());
    fits(&text);
    assert_eq!(
        text,
        "\
site:         branch-1 (22222222222222222222222222222222)
mesh:         11111111111111111111111111111111
health:       degraded
              - uplink lte has no carrier: look at the modem
daemon:       0.1.0, process 4711, up 1d2h
overlay:      100.64.7.1
prefixes:     10.1.0.0/24, 2001:db8:1::/64
tunnels:      userspace WireGuard
data path:    tcx on eth1, sdw0-0, fast path both
XDP:          lan0 native, wan0 off: not supported
sites:        2 active
paths:        4 down, 4 up
policies:     4
dropped:      none
drop rules:   7 telnet
to the stack: 12.3k too_big, 12 ttl_expired
refused:      3 bad_signature
MTU probes:   1.2k sent
database:     ok, 7 queued

UPLINK   INTERFACE  STATE             ADDRESSES    GATEWAYS   MTU
0 fibre  eth0       up                192.0.2.2    192.0.2.1  1500
                                      2001:db8::2
1 lte    wwan0      down: no carrier                          1430
"
    );
}

#[test]
fn paths_fit_a_terminal() {
    let down = PathView { state: PathState::Down, degraded: false, rtt_ms: None, score: 0.0, ..path() };
    let text = paths::render(&[path(), down], &PLAIN());
    fits(&text);
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["SITE", "UPLINKS", "STATE", "SCORE", "RTT", "JITTER", "LOSS", "MTU", "SINCE"]);
    assert!(text.contains("degraded") && text.contains("fibre→lte") && text.contains("123.5"), "{text}");
    assert!(text.contains("10.2/0.5") && text.contains("12.5/-") && text.contains("2m5s"), "{text}");
}

#[test]
fn quantiles_are_shown_by_span() {
    let text = paths::render_quantiles(&[path()], &PLAIN());
    let row: Vec<&str> = text.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[2..], ["15m", "100.0", "120.5", "180.0", "210.0", "1234.5", "9.5/0.5", "12.0/0.0"], "{text}");
}

#[test]
fn sites_and_flows_fit_a_terminal_even_with_long_addresses() {
    let site = SiteView {
        id: SiteId([0x33; 16]),
        name: "a-site-with-a-name-of-32-letters".into(),
        state: "active".into(),
        since_s: 3_600,
        overlay: None,
        prefixes: vec!["2001:db8:1234:5678::/64".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        uplinks: vec!["fibre".into()],
        paths_up: 3,
        paths: 4,
        best_score: Some(97.25),
        last_announcement_s: Some(4),
        certificate_expires_unix: None,
    };
    let text = sites::render(&[site], &PLAIN());
    fits(&text);
    assert!(text.contains("3/4") && text.contains("97.2") && text.contains("1h"), "{text}");
    let long = FlowView { source: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(), ..flow() };
    let text = flows::render(&Listing::limited(vec![flow(), long, flow()], 2), &PLAIN());
    fits(&text);
    assert!(text.contains("1.2M") && text.ends_with("… and more: the first 2 are shown, raise --limit\n"), "{text}");
}

#[test]
fn empty_listings_say_what_to_look_at() {
    assert!(sites::render(&[], &PLAIN()).contains("sdwan events"));
    assert!(paths::render(&[], &PLAIN()).contains("sdwan status"));
    assert!(paths::render_quantiles(&[], &PLAIN()).contains("sdwan status"));
    assert_eq!(flows::render(&Listing::complete(vec![]), &PLAIN()), "no flow\n");
}

#[test]
fn policies_show_what_they_match() {
    let views = crate::api::answer::policy_views(&Config::default(), &[]);
    let text = policies::render(&views, &PLAIN());
    fits(&text);
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("voip-video").contains("until-better"), "{text}");
    for part in ["voip-video", "5060-5061", "16384-26999,", "dscp", "everything", "built-in", "throughput", "65535"] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn explain_marks_the_chosen_path_and_says_why() {
    let flow_spec =
        FlowSpec::new("10.1.0.5:40000".parse().unwrap(), "10.2.0.9:5060".parse().unwrap(), "udp".parse().unwrap())
            .unwrap();
    let candidate = |local: &str, rank, state, usable, liveness: &str| CandidateView {
        number: u32::from(rank),
        tunnel: tunnel(rank, 0),
        local_uplink: local.into(),
        remote_uplink: "fibre".into(),
        rank,
        weight: 1,
        state,
        liveness: liveness.into(),
        usable,
        score: 91.0,
        complies: true,
    };
    let view = ExplainView {
        version: VERSION,
        flow: flow_spec.clone(),
        classification: PolicyTestView {
            version: VERSION,
            flow: flow_spec,
            policy: Some("voip-video".into()),
            rule: Some(0),
            class: Some("voip-video".into()),
        },
        prefix: Some("10.2.0.0/24".parse().unwrap()),
        site: Some(SiteId([0x33; 16])),
        site_name: Some("hq".into()),
        candidates: vec![
            candidate("fibre", 0, PathState::Down, false, "silent"),
            candidate("lte", 1, PathState::Up, true, "alive"),
        ],
        chosen: Some(1),
        second: Some(0),
        reason: "the lowest rank with a usable path is 1".into(),
        entry: None,
    };
    let text = explain::render(&view, &PLAIN());
    fits(&text);
    assert_eq!(
        text,
        "\
flow:     10.1.0.5:40000 → 10.2.0.9:5060 udp
policy:   voip-video (rule 0)
class:    voip-video
site:     hq, by prefix 10.2.0.0/24

   UPLINKS      TUNNEL  RANK  WEIGHT  STATE  SCORE  SLA   USABLE
+  fibre→fibre  0-0        0       1  down      91  kept  silent
→  lte→fibre    1-0        1       1  up        91  kept  alive

takes:    lte→fibre (tunnel 1-0)
because:  the lowest rank with a usable path is 1
copies:   fibre→fibre (tunnel 0-0)
in table: no: its first packet would be decided as above
"
    );
}

#[test]
fn events_are_one_line_each() {
    let event = EventView {
        id: 5,
        time_unix_ns: 1_763_889_558_250_000_000,
        event: EngineEvent::new(EventKind::PathDown, "hq fibre→lte is down: no answer to probes"),
    };
    let text = events::render(&Listing { version: VERSION, items: vec![event], truncated: true }, &PLAIN());
    assert_eq!(
        text,
        "… and earlier ones: raise --limit\n\
         2025-11-23 09:19:18.250  path-down            hq fibre→lte is down: no answer to probes\n"
    );
}

#[test]
fn checks_show_their_remedy() {
    let checks = [Check::ok("kernel", "6.18"), Check::failed("bpffs", "is missing", "mount it")];
    assert_eq!(
        render_checks(&checks, &PLAIN()),
        "ok       kernel: 6.18\nFAILED   bpffs: is missing\n         → mount it\n"
    );
}

#[test]
fn every_listing_has_a_version_and_reads_back() {
    let json = serde_json::to_value(Listing::complete(vec![path()])).unwrap();
    assert_eq!((json["version"].as_u64(), json["items"][0]["tunnel"]["remote"].as_u64()), (Some(1), Some(1)));
    let view = PolicyView {
        policy: default_policies().remove(0),
        source: PolicySource::BuiltIn,
        packets: None,
        bytes: None,
        copies: None,
    };
    let text = serde_json::to_string(&view).unwrap();
    assert_eq!(serde_json::from_str::<PolicyView>(&text).unwrap(), view);
    let text = serde_json::to_string(&status()).unwrap();
    assert_eq!(serde_json::from_str::<StatusView>(&text).unwrap(), status());
}

#[test]
fn numbers_are_short() {
    let ages = [(0, "0s"), (59, "59s"), (60, "1m"), (125, "2m5s"), (3_600, "1h"), (90_000, "1d1h"), (86_460, "1d")];
    for (seconds, text) in ages {
        assert_eq!(age(seconds), text);
    }
    assert_eq!([short(999), short(1_000), short(1_234_567)], ["999", "1.0k", "1.2M"]);
}

#[test]
fn a_policy_from_options_is_the_policy_from_a_file() {
    let parse = |arguments: &[&str]| Cli::try_parse_from([&["sdwan", "policies", "add"], arguments].concat());
    assert!(parse(&["erp"]).is_err(), "a priority is required");
    assert!(parse(&["erp", "--priority", "5", "--port", "1", "--source-port", "2"]).is_err());
    assert!(parse(&["--file", "x.toml", "--priority", "5"]).is_err());
    assert!(parse(&["--file", "x.toml"]).is_ok());
    let cli = parse(&[
        "erp",
        "--priority",
        "5",
        "--protocol",
        "tcp,udp",
        "--port",
        "8443,9000-9099",
        "--sla-loss",
        "1",
        "--preference",
        "latency",
        "--mode",
        "balance",
        "--sticky",
        "until-end",
        "--set-dscp",
        "af31",
    ])
    .unwrap();
    let Command::Policies(args) = cli.command else { panic!("another command") };
    let text = "[[policy]]\nname = \"erp\"\npriority = 5\npreference = \"latency\"\nmode = \"balance\"\n\
                sticky = \"until-end\"\ndscp = 26\nsla = { loss_pct = 1 }\n\
                [[policy.match]]\nprotocols = [\"tcp\", \"udp\"]\nports = [8443, \"9000-9099\"]\n";
    let from_file = crate::config::parse_policies(std::path::Path::new("p.toml"), text).unwrap();
    assert_eq!(args.definition().as_ref(), from_file.first());
}

#[test]
fn default_routes_are_read_off_the_kernels_tables() {
    let four = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                eth1\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0\n";
    let zeros = "0".repeat(32);
    let six = format!(
        "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     wwan0\n\
         {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n"
    );
    let found: Vec<String> = check::machine::default_routes(four, &six).into_iter().collect();
    assert_eq!(found, ["eth0", "wwan0"]);
}

#[test]
fn missing_privileges_and_old_kernels_are_named_with_the_remedy() {
    let check = check::machine::privileges("Name:\tx\nCapEff:\t0000000000000000\n");
    assert_eq!(check.finding, "CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF missing");
    assert!(check.remedy.unwrap().contains("run as root"));
    assert!(check::machine::privileges("CapEff:\t000001ffffffffff\n").remedy.is_none());
    let outcome = |release| check::machine::kernel(release).outcome;
    use check::Outcome::*;
    assert_eq!(
        [outcome("6.6.1-x"), outcome("6.1.0-18-amd64"), outcome("6.0.19"), outcome("5.15.0"), outcome("?")],
        [Ok, Warning, Failed, Failed, Warning]
    );
    assert!(check::machine::kernel("5.15.0").remedy.unwrap().contains("install kernel 6.1 or later"));
}

#[test]
fn wide_listings_have_more_columns_and_wrap_nothing() {
    let wide = Output::for_file(Format::Wide);
    let text = paths::render(&[path()], &wide);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("20.0Mbit/s/50.0Mbit/s") && text.contains("198.51.100.1:51828"), "{text}");
    let long = FlowView { source: "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap(), ..flow() };
    let text = flows::render(&Listing::complete(vec![long]), &wide);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("[2001:db8:1111:2222:3333:4444:5555:6666]:40000") && text.contains("0.2s"), "{text}");
    for arguments in
        [&["sdwan", "-o", "text", "paths"][..], &["sdwan", "-o", "wide", "sites"], &["sdwan", "-o", "html", "report"]]
    {
        Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn a_clock_that_nothing_keeps_is_told_with_what_to_do() {
    use super::check::Outcome;
    use crate::measure::stamp::answer::ClockQuality;
    let now = 1_790_000_000_000_000_000;
    let judge =
        |now, synchronized| check::machine::judge_clock(now, ClockQuality { synchronized, error_ns: 12_000_001 });
    assert_eq!(judge(now, true), Check::ok("clock", "is kept, off by 13 ms at most"));
    assert_eq!(judge(now, false).outcome, Outcome::Warning);
    assert!(judge(now, false).remedy.unwrap().contains("chrony"));
    assert_eq!(judge(1_600_000_000_000_000_000, true).outcome, Outcome::Failed);
}
