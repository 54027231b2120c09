//! `lan_ingress`.

use etherparse::TcpOptionElement::{MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, WindowScale};
use sdwan_common::abi::*;
use sdwan_common::counters::PassReason;

use crate::load::{Programs, ago, now_ns, privileged};
use crate::mesh::*;
use crate::packets::{Spec, Transport, address};
use crate::run::{Context, OK, Outcome, REDIRECT, run};

struct Case {
    description: &'static str,
    input: Vec<u8>,
    context: Context,
    expected: Outcome,
    passed: Option<PassReason>,
}

/// Goes into a tunnel as `output`.
fn forwarded(description: &'static str, input: &Spec, output: &Spec) -> Case {
    Case {
        description,
        input: input.frame(),
        context: Context::default(),
        expected: Outcome { verdict: REDIRECT, data: output.frame(), mark: 0 },
        passed: None,
    }
}

/// Goes to the stack as it came.
fn left(description: &'static str, input: &Spec, reason: PassReason) -> Case {
    marked(description, input, input, 0, reason)
}

/// Goes to the stack with a mark.
fn marked(description: &'static str, input: &Spec, output: &Spec, mark: u32, reason: PassReason) -> Case {
    Case {
        description,
        input: input.frame(),
        context: Context::default(),
        expected: Outcome { verdict: OK, data: output.frame(), mark },
        passed: Some(reason),
    }
}

fn hop(spec: &Spec) -> Spec {
    spec.clone().with(|spec| spec.ttl -= 1)
}

fn udp() -> Transport {
    Transport::Udp(40_000, 443)
}

fn check(programs: &mut Programs, cases: &[Case]) {
    for case in cases {
        let before = case.passed.map(|reason| programs.passes(reason));
        let outcome = run(programs.program("lan_ingress"), &case.input, case.context);
        assert_eq!(outcome.verdict, case.expected.verdict, "{}: verdict", case.description);
        assert_eq!(outcome.mark, case.expected.mark, "{}: mark", case.description);
        assert_eq!(outcome.data, case.expected.data, "{}: packet", case.description);
        if let (Some(reason), Some(before)) = (case.passed, before) {
            assert_eq!(programs.passes(reason), before + 1, "{}: counter {}", case.description, reason.name());
        }
    }
    assert_eq!(programs.drops(), 0, "nothing is dropped");
}

/// Fixed bytes of an IPv6 packet: extension headers and what follows them.
fn chain(first: u8, headers: &[&[u8]]) -> Spec {
    Spec::v6(Transport::Raw(first)).with(|spec| spec.payload = headers.concat())
}

const UDP_BYTES: [u8; 16] = [0x9c, 0x40, 0x01, 0xbb, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn packets_are_forwarded_or_left_to_the_stack_as_the_table_says() {
    if !privileged("packets_are_forwarded_or_left_to_the_stack_as_the_table_says") {
        return;
    }
    let mut programs = mesh();
    let v4 = Spec::v4(udp());
    let v6 = Spec::v6(udp());
    let tcp = |options| Transport::Tcp(40_000, 443, options);
    let tagged = |vlans: &[u16], spec: &Spec| spec.clone().with(|spec| spec.vlans = vlans.to_vec());
    let ttl = |ttl, spec: &Spec| spec.clone().with(|spec| spec.ttl = ttl);
    let cases = [
        forwarded("UDP over IPv4", &v4, &hop(&v4)),
        forwarded("UDP over IPv6", &v6, &hop(&v6)),
        forwarded("TCP over IPv4", &Spec::v4(tcp(None)), &hop(&Spec::v4(tcp(None)))),
        forwarded("TCP over IPv6", &Spec::v6(tcp(None)), &hop(&Spec::v6(tcp(None)))),
        forwarded("ICMP echo", &Spec::v4(Transport::Echo(9)), &hop(&Spec::v4(Transport::Echo(9)))),
        forwarded("ICMPv6 echo", &Spec::v6(Transport::Echo(9)), &hop(&Spec::v6(Transport::Echo(9)))),
        forwarded("a protocol without ports", &Spec::v4(Transport::Raw(47)), &hop(&Spec::v4(Transport::Raw(47)))),
        forwarded("one VLAN tag is taken off", &tagged(&[100], &v4), &hop(&v4)),
        forwarded("two VLAN tags are taken off", &tagged(&[100, 200], &v4), &hop(&v4)),
        forwarded("two VLAN tags are taken off IPv6", &tagged(&[100, 200], &v6), &hop(&v6)),
        left("three VLAN tags are too many", &tagged(&[1, 2, 3], &v4), PassReason::Unparsed),
        forwarded("TTL 2 is the last that is forwarded", &ttl(2, &v4), &ttl(1, &v4)),
        left("TTL 1", &ttl(1, &v4), PassReason::TtlExpired),
        left("TTL 0", &ttl(0, &v4), PassReason::TtlExpired),
        left("hop limit 1", &ttl(1, &v6), PassReason::TtlExpired),
        left("IPv4 options", &v4.clone().with(|spec| spec.options = vec![7, 4, 4, 0]), PassReason::Options),
        left("multicast", &Spec::between("10.1.0.5", "239.1.2.3", udp()), PassReason::Multicast),
        left("broadcast", &Spec::between("10.1.0.5", "255.255.255.255", udp()), PassReason::Multicast),
        left("IPv6 multicast", &Spec::between("fd01::5", "ff02::1", udp()), PassReason::Multicast),
        left("Ethernet broadcast", &v4.clone().with(|spec| spec.mac = [0xff; 6]), PassReason::Multicast),
        left("another host's MAC", &v4.clone().with(|spec| spec.mac = [2, 9, 9, 9, 9, 9]), PassReason::OtherHost),
        left("this site's own prefix", &Spec::between("10.1.0.5", "10.1.9.9", udp()), PassReason::LocalDestination),
        left("nobody's prefix", &Spec::between("10.1.0.5", "192.0.2.1", udp()), PassReason::NoPrefix),
        left("nobody's IPv6 prefix", &Spec::between("fd01::5", "2001:db8::1", udp()), PassReason::NoPrefix),
        left(
            "our overlay address as source",
            &Spec::between(OWN_OVERLAY, "10.2.0.9", udp()),
            PassReason::SpoofedSource,
        ),
        left("nobody's source", &Spec::between("192.0.2.7", "10.2.0.9", udp()), PassReason::SpoofedSource),
        left("another site's source", &Spec::between("10.2.0.7", "10.2.0.9", udp()), PassReason::SpoofedSource),
        left("nobody's IPv6 source", &Spec::between("2001:db8::7", "fd02::9", udp()), PassReason::SpoofedSource),
        forwarded(
            "the class's DSCP is written and ECN kept",
            &Spec::v4(Transport::Udp(40_000, 5060)).with(|spec| spec.tos = 0b01),
            &hop(&Spec::v4(Transport::Udp(40_000, 5060)).with(|spec| spec.tos = VOICE_DSCP << 2 | 0b01)),
        ),
        forwarded(
            "the class's DSCP is written into IPv6 and ECN kept",
            &Spec::v6(Transport::Udp(40_000, 5060)).with(|spec| spec.tos = 0b10),
            &hop(&Spec::v6(Transport::Udp(40_000, 5060)).with(|spec| spec.tos = VOICE_DSCP << 2 | 0b10)),
        ),
        forwarded(
            "a packet as large as the path",
            &v4.clone().with(|spec| spec.payload = vec![1; usize::from(FIBRE_MTU) - 28]),
            &hop(&v4.clone().with(|spec| spec.payload = vec![1; usize::from(FIBRE_MTU) - 28])),
        ),
        {
            let large = v4.clone().with(|spec| spec.payload = vec![1; usize::from(FIBRE_MTU) - 27]);
            marked("a packet larger than the path", &large, &large, FIBRE_MARK, PassReason::TooBig)
        },
        {
            let large = v6.clone().with(|spec| spec.payload = vec![1; usize::from(FIBRE_MTU) - 47]);
            marked("an IPv6 packet larger than the path", &large, &large, FIBRE_MARK, PassReason::TooBig)
        },
        forwarded(
            "MSS is clamped",
            &Spec::v4(tcp(Some(vec![MaximumSegmentSize(1460), SelectiveAcknowledgementPermitted]))),
            &hop(&Spec::v4(tcp(Some(vec![MaximumSegmentSize(FIBRE_MTU - 40), SelectiveAcknowledgementPermitted])))),
        ),
        forwarded(
            "MSS is clamped over IPv6",
            &Spec::v6(tcp(Some(vec![MaximumSegmentSize(1440)]))),
            &hop(&Spec::v6(tcp(Some(vec![MaximumSegmentSize(FIBRE_MTU - 60)])))),
        ),
        forwarded(
            "MSS behind other options at an odd offset is clamped",
            &Spec::v4(tcp(Some(vec![WindowScale(7), Noop, Noop, MaximumSegmentSize(1460), WindowScale(2)]))),
            &hop(&Spec::v4(tcp(Some(vec![
                WindowScale(7),
                Noop,
                Noop,
                MaximumSegmentSize(FIBRE_MTU - 40),
                WindowScale(2),
            ])))),
        ),
        forwarded(
            "a small MSS stays",
            &Spec::v4(tcp(Some(vec![MaximumSegmentSize(536)]))),
            &hop(&Spec::v4(tcp(Some(vec![MaximumSegmentSize(536)])))),
        ),
        forwarded(
            "destination options before UDP",
            &chain(60, &[&[17, 0, 1, 4, 0, 0, 0, 0], &UDP_BYTES]),
            &hop(&chain(60, &[&[17, 0, 1, 4, 0, 0, 0, 0], &UDP_BYTES])),
        ),
        forwarded(
            "routing, authentication and destination options before UDP",
            &chain(
                43,
                &[
                    &[51, 0, 4, 0, 0, 0, 0, 0],
                    &[60, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],
                    &[17, 0, 1, 4, 0, 0, 0, 0],
                    &UDP_BYTES,
                ],
            ),
            &hop(&chain(
                43,
                &[
                    &[51, 0, 4, 0, 0, 0, 0, 0],
                    &[60, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2],
                    &[17, 0, 1, 4, 0, 0, 0, 0],
                    &UDP_BYTES,
                ],
            )),
        ),
        left("hop-by-hop options", &chain(0, &[&[17, 0, 1, 4, 0, 0, 0, 0], &UDP_BYTES]), PassReason::Options),
        left(
            "seven extension headers",
            &chain(60, &[&[60, 0, 1, 4, 0, 0, 0, 0].repeat(6), &[17, 0, 1, 4, 0, 0, 0, 0], &UDP_BYTES]),
            PassReason::Unparsed,
        ),
        left(
            "an extension header that runs past the end",
            &chain(60, &[&[17, 9, 1, 4, 0, 0, 0, 0]]),
            PassReason::Unparsed,
        ),
        left(
            "a UDP header cut short",
            &Spec::v4(Transport::Raw(17)).with(|spec| spec.payload = vec![1, 2, 3]),
            PassReason::Unparsed,
        ),
    ];
    check(&mut programs, &cases);
}

#[test]
fn link_layer_padding_is_cut_off_and_truncated_packets_go_to_the_stack() {
    if !privileged("link_layer_padding_is_cut_off_and_truncated_packets_go_to_the_stack") {
        return;
    }
    let mut programs = mesh();
    let short = Spec::v4(udp()).with(|spec| spec.payload = vec![1; 4]);
    let padded = [short.frame(), vec![0; 14]].concat();
    let outcome = run(programs.program("lan_ingress"), &padded, Context::default());
    assert_eq!(outcome, Outcome { verdict: REDIRECT, data: hop(&short).frame(), mark: 0 });

    let whole = Spec::v4(udp()).frame();
    let mut cut = whole.clone();
    cut.truncate(whole.len() - 1);
    let before = programs.passes(PassReason::Unparsed);
    let outcome = run(programs.program("lan_ingress"), &cut, Context::default());
    assert_eq!((outcome.verdict, outcome.data), (OK, cut));
    assert_eq!(programs.passes(PassReason::Unparsed), before + 1);
}

#[test]
fn later_fragments_follow_the_first_and_unknown_ones_go_to_the_stack() {
    if !privileged("later_fragments_follow_the_first_and_unknown_ones_go_to_the_stack") {
        return;
    }
    let mut programs = mesh();
    // Voice, so that the ports decide about the path.
    let first = Spec::v4(Transport::Udp(40_000, 5060)).with(|spec| (spec.df, spec.fragment) = (false, (0, true)));
    let later = first.clone().with(|spec| spec.fragment = (9, false));
    let after = |spec: &Spec| hop(&spec.clone().with(|spec| spec.tos = VOICE_DSCP << 2));
    let later_v6 = |offset: u16, more: u16| {
        let [high, low] = (offset << 3 | more).to_be_bytes();
        chain(44, &[&[17, 0, high, low, 0, 0, 0, 77], &UDP_BYTES])
    };
    check(
        &mut programs,
        &[
            left("a later fragment whose first was not seen", &later, PassReason::UnknownFragment),
            forwarded("a first fragment", &first, &after(&first)),
            forwarded("its later fragment, of the same class", &later, &after(&later)),
            left(
                "a later fragment of another datagram",
                &later.clone().with(|spec| spec.identification = 8),
                PassReason::UnknownFragment,
            ),
            left("a later IPv6 fragment whose first was not seen", &later_v6(4, 0), PassReason::UnknownFragment),
            forwarded("a first IPv6 fragment", &later_v6(0, 1), &hop(&later_v6(0, 1))),
            forwarded("its later fragment", &later_v6(4, 0), &hop(&later_v6(4, 0))),
            forwarded("an atomic fragment is whole", &later_v6(0, 0), &hop(&later_v6(0, 0))),
        ],
    );
    let key = key("10.1.0.5", "10.2.0.9", 17, 40_000, 5060);
    let flow = programs.flow(&key).expect("one flow for the datagram");
    assert_eq!((flow.packets, flow.path, flow.class), (2, RADIO, VOICE));
}

#[test]
fn a_gso_packet_is_judged_by_its_segments() {
    if !privileged("a_gso_packet_is_judged_by_its_segments") {
        return;
    }
    let mut programs = mesh();
    let spec = Spec::v4(Transport::Tcp(40_000, 443, None)).with(|spec| spec.payload = vec![3; 2_700]);
    // A segment is gso_size and 20 bytes each of IP and TCP.
    for (gso_size, verdict, mark) in [(1_380, REDIRECT, 0), (1_381, OK, FIBRE_MARK)] {
        let outcome = run(programs.program("lan_ingress"), &spec.frame(), Context { gso_size, gso_segs: 2 });
        assert_eq!((outcome.verdict, outcome.mark), (verdict, mark), "segments of {gso_size} bytes");
    }
    let flow = programs.flow(&key("10.1.0.5", "10.2.0.9", 6, 40_000, 443)).expect("a flow");
    assert_eq!(flow.packets, 4, "segments are counted");
}

#[test]
fn without_the_fast_path_packets_are_marked_and_counted_and_rewritten_but_not_forwarded() {
    if !privileged("without_the_fast_path_packets_are_marked_and_counted_and_rewritten_but_not_forwarded") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.fast_path = fast_path::OFF);
    let plain = Spec::v4(udp());
    let voice = Spec::v6(Transport::Udp(40_000, 5060));
    let syn = |mss| Spec::v4(Transport::Tcp(40_000, 443, Some(vec![MaximumSegmentSize(mss)])));
    let off = PassReason::FastPathOff;
    check(
        &mut programs,
        &[
            marked("a packet", &plain, &plain, FIBRE_MARK, off),
            marked(
                "a tagged packet keeps its tag",
                &plain.clone().with(|spec| spec.vlans = vec![5]),
                &plain.clone().with(|spec| spec.vlans = vec![5]),
                FIBRE_MARK,
                off,
            ),
            marked("voice", &voice, &voice.clone().with(|spec| spec.tos = VOICE_DSCP << 2), RADIO_MARK, off),
            marked("a SYN", &syn(1460), &syn(FIBRE_MTU - 40), FIBRE_MARK, off),
        ],
    );
    // Not yet in a tunnel: `tunnel_egress` counts what the stack brings there.
    assert_eq!(sum_stats(&mut programs, FIBRE), PathStats::default());
    let voice: Vec<ClassStats> = programs.per_cpu("class_stats", u32::from(VOICE));
    assert_eq!(
        voice.iter().map(|stats| (stats.packets, stats.flows)).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1)),
        (1, 1)
    );
}

#[test]
fn another_abi_version_leaves_everything_to_the_stack() {
    if !privileged("another_abi_version_leaves_everything_to_the_stack") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.abi_version += 1);
    check(&mut programs, &[left("a packet", &Spec::v4(udp()), PassReason::NotConfigured)]);
}

#[test]
fn a_flow_keeps_its_path_until_an_epoch_changes() {
    if !privileged("a_flow_keeps_its_path_until_an_epoch_changes") {
        return;
    }
    let mut programs = mesh();
    let (frame, key) = (Spec::v4(udp()).frame(), key("10.1.0.5", "10.2.0.9", 17, 40_000, 443));
    let send = |programs: &mut Programs| {
        assert_eq!(run(programs.program("lan_ingress"), &frame, Context::default()).verdict, REDIRECT);
        programs.flow(&key).expect("a flow")
    };
    assert_eq!(send(&mut programs).path, FIBRE);

    // New content under the old epoch: not looked at.
    let mut swapped = path_set(DEFAULT, &[(RADIO, 0), (FIBRE, 1)]);
    programs.set("path_sets", set(DEFAULT), swapped);
    assert_eq!(send(&mut programs).path, FIBRE);

    // The new epoch, with a keep rank that covers the old path: it stays, under the new epoch.
    swapped.keep_rank = 1;
    programs.replace_set(DEFAULT, swapped);
    let flow = send(&mut programs);
    assert_eq!((flow.path, flow.set_epoch, flow.moves), (FIBRE, 2, 0));

    // Without one it moves.
    swapped.keep_rank = 0;
    programs.replace_set(DEFAULT, swapped);
    let flow = send(&mut programs);
    assert_eq!((flow.path, flow.set_epoch, flow.moves, flow.packets), (RADIO, 3, 1, 4));

    // A policy change makes it voice, which is decided without regard to the old class's path.
    programs.set("match_dport", 443, rules(&[0, 1]));
    assert_eq!(send(&mut programs).class, DEFAULT, "before the epoch is raised");
    programs.change("config", 0, |config: &mut Config| config.epoch += 1);
    let flow = send(&mut programs);
    assert_eq!((flow.class, flow.rule, flow.epoch), (VOICE, 0, 2));

    // The destination goes to nobody.
    programs
        .trie::<PrefixEntry>("prefixes")
        .remove(&aya::maps::lpm_trie::Key::new(112, address("10.2.0.0")))
        .expect("remove");
    programs.change("config", 0, |config: &mut Config| config.epoch += 1);
    let outcome = run(programs.program("lan_ingress"), &frame, Context::default());
    assert_eq!(outcome.verdict, OK);
}

#[test]
fn one_write_to_paths_moves_every_flow_at_its_next_packet() {
    if !privileged("one_write_to_paths_moves_every_flow_at_its_next_packet") {
        return;
    }
    let mut programs = mesh();
    let specs: Vec<Spec> = (0..100).map(|n| Spec::v4(Transport::Udp(1_000 + n, 443))).collect();
    let key = |n: u16| key("10.1.0.5", "10.2.0.9", 17, 1_000 + n, 443);
    for spec in &specs {
        run(programs.program("lan_ingress"), &spec.frame(), Context::default());
    }
    let before: Vec<Flow> = (0..100).map(|n| programs.flow(&key(n)).expect("a flow")).collect();
    programs.change("paths", FIBRE, |path: &mut Path| path.state = path_state::DOWN);
    for (n, flow) in before.iter().enumerate() {
        assert_eq!(programs.flow(&key(n as u16)).as_ref(), Some(flow), "no flow is touched by the write");
    }
    for (n, spec) in specs.iter().enumerate() {
        run(programs.program("lan_ingress"), &spec.frame(), Context::default());
        let flow = programs.flow(&key(n as u16)).expect("a flow");
        assert_eq!((before[n].path, flow.path, flow.moves), (FIBRE, RADIO, 1));
    }
    // Up again: the flows stay until the set's epoch says otherwise.
    programs.change("paths", FIBRE, |path: &mut Path| path.state = path_state::UP);
    run(programs.program("lan_ingress"), &specs[0].frame(), Context::default());
    assert_eq!(programs.flow(&key(0)).expect("a flow").path, RADIO);
    let moves: u64 =
        programs.per_cpu::<ClassStats>("class_stats", u32::from(DEFAULT)).iter().map(|stats| stats.moves).sum();
    assert_eq!(moves, 100);
    let counts: Vec<(MoveKey, u32)> =
        programs.hash("moves").iter().collect::<Result<_, _>>().expect("the counts can be read");
    let set = before[0].set;
    assert_eq!(counts, [(MoveKey { set, from: FIBRE, to: RADIO }, 100)]);
}

#[test]
fn a_silent_path_is_left_and_reported_without_the_daemon() {
    if !privileged("a_silent_path_is_left_and_reported_without_the_daemon") {
        return;
    }
    // Before the mesh, whose heartbeat would be stale after waiting.
    let old = ago(DETECTION_NS + 1_000_000_000);
    let mut programs = mesh();
    let spec = Spec::v4(udp());
    let key = key("10.1.0.5", "10.2.0.9", 17, 40_000, 443);
    run(programs.program("lan_ingress"), &spec.frame(), Context::default());
    programs.change("path_live", FIBRE, |live: &mut PathLive| live.last_reply_ns = old);
    for _ in 0..5 {
        run(programs.program("lan_ingress"), &spec.frame(), Context::default());
        // Look at the silent path again.
        programs.change("path_sets", set(DEFAULT), |set: &mut PathSet| set.epoch += 1);
    }
    assert_eq!(programs.flow(&key).expect("a flow").path, RADIO);
    let events = programs.events();
    let kinds: Vec<u32> = events.iter().map(|event| event.kind).collect();
    use event_kind::{MOVED_FLOW, NEW_FLOW, PATH_SILENT};
    assert_eq!(kinds, [NEW_FLOW, PATH_SILENT, MOVED_FLOW], "silence is told once");
    assert_eq!((events[0].path, events[0].old_path, events[0].flow), (FIBRE, NO_PATH, key));
    assert_eq!(events[1].path, FIBRE);
    assert_eq!((events[2].path, events[2].old_path, events[2].class), (RADIO, FIBRE, DEFAULT));
}

#[test]
fn events_keep_to_their_budget_and_count_what_they_withhold() {
    if !privileged("events_keep_to_their_budget_and_count_what_they_withhold") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.events_per_second = 3);
    for port in 0..40 {
        run(programs.program("lan_ingress"), &Spec::v4(Transport::Udp(port, 443)).frame(), Context::default());
    }
    let budgets: Vec<EventBudget> = programs.per_cpu("event_budget", 0);
    let withheld: u32 = budgets.iter().map(|budget| budget.withheld).sum();
    let told = programs.events().len() as u32;
    assert_eq!(told + withheld, 40);
    // Per CPU and second; the forty packets may meet two of each.
    assert!((3..=12).contains(&told), "{told} events");
}

#[test]
fn while_the_daemon_is_dead_the_peers_probes_decide() {
    if !privileged("while_the_daemon_is_dead_the_peers_probes_decide") {
        return;
    }
    let mut programs = mesh();
    programs.change("config", 0, |config: &mut Config| config.heartbeat_ns = 0);
    let old = ago(2 * DETECTION_NS);
    let mut port = 0;
    // Own probes have stopped, so the replies are old on every path.
    let mut first_choice = |programs: &mut Programs, fibre: PathLive, radio: PathLive, site_ns: u64| {
        programs.set("path_live", FIBRE, PathLive { last_reply_ns: old, ..fibre });
        programs.set("path_live", RADIO, PathLive { last_reply_ns: old, ..radio });
        programs.set("site_live", SITE, SiteLive { last_peer_probe_ns: site_ns, ..SiteLive::default() });
        port += 1;
        let outcome =
            run(programs.program("lan_ingress"), &Spec::v4(Transport::Udp(port, 443)).frame(), Context::default());
        assert_eq!(outcome.verdict, REDIRECT);
        programs.flow(&key("10.1.0.5", "10.2.0.9", 17, port, 443)).expect("a flow").path
    };
    let silent = PathLive::default();
    let heard = |flags| PathLive { last_peer_probe_ns: now_ns(), peer_flags: flags, ..PathLive::default() };
    assert_eq!(first_choice(&mut programs, silent, silent, 0), FIBRE, "both ends silent: the last state stands");
    assert_eq!(first_choice(&mut programs, silent, heard(peer_flag::HEARS), now_ns()), RADIO, "probed on radio only");
    assert_eq!(first_choice(&mut programs, heard(0), heard(peer_flag::HEARS), now_ns()), RADIO, "fibre is one-way");
    assert_eq!(first_choice(&mut programs, heard(1), heard(1), now_ns()), FIBRE, "both are heard both ways");
    // Longer ago than this site's own detection time, on fibre.
    let slow = |said| PathLive { last_peer_probe_ns: old, peer_detection_ns: said, ..heard(1) };
    assert_eq!(first_choice(&mut programs, slow(0), heard(1), now_ns()), RADIO, "fibre is silent");
    let told = 20 * DETECTION_NS;
    assert_eq!(
        first_choice(&mut programs, slow(told), heard(1), now_ns()),
        FIBRE,
        "the peer said that it probes slowly"
    );
    programs.change("paths", FIBRE, |path: &mut Path| path.state = path_state::DOWN);
    assert_eq!(first_choice(&mut programs, silent, silent, 0), RADIO, "down stays down");
    assert_eq!(first_choice(&mut programs, heard(1), silent, now_ns()), FIBRE, "a path that came back is used");
}

#[test]
fn when_every_path_is_down_the_least_bad_one_is_used() {
    if !privileged("when_every_path_is_down_the_least_bad_one_is_used") {
        return;
    }
    let mut programs = mesh();
    for number in [FIBRE, RADIO] {
        programs.change("paths", number, |path: &mut Path| path.state = path_state::DOWN);
    }
    let frame = Spec::v4(udp()).frame();
    let key = key("10.1.0.5", "10.2.0.9", 17, 40_000, 443);
    programs.change("path_live", RADIO, |live: &mut PathLive| live.last_reply_ns += 1_000);
    assert_eq!(run(programs.program("lan_ingress"), &frame, Context::default()).verdict, REDIRECT);
    assert_eq!(programs.flow(&key).expect("a flow").path, RADIO, "heard last");
    programs.change("path_live", FIBRE, |live: &mut PathLive| live.last_reply_ns += 500_000_000);
    run(programs.program("lan_ingress"), &frame, Context::default());
    assert_eq!(programs.flow(&key).expect("a flow").path, RADIO, "not heard late enough after it to move");
    programs.change("path_live", FIBRE, |live: &mut PathLive| live.last_reply_ns += 1_000_000_000);
    run(programs.program("lan_ingress"), &frame, Context::default());
    assert_eq!(programs.flow(&key).expect("a flow").path, FIBRE);

    // Switched off by the operator: not even then. With no candidate left the kernel's routes have the word.
    for number in [FIBRE, RADIO] {
        programs.change("paths", number, |path: &mut Path| path.state = path_state::ADMIN_DOWN);
    }
    check(&mut programs, &[left("all paths switched off", &Spec::v4(udp()), PassReason::NoPathSet)]);
}

pub fn key(source: &str, destination: &str, protocol: u8, source_port: u16, destination_port: u16) -> FlowKey {
    FlowKey {
        source: address(source),
        destination: address(destination),
        source_port,
        destination_port,
        protocol,
        padding: [0; 3],
    }
}

pub fn sum_stats(programs: &mut Programs, path: u32) -> PathStats {
    programs.per_cpu::<PathStats>("path_stats", path).iter().fold(PathStats::default(), |sum, stats| PathStats {
        sent_packets: sum.sent_packets + stats.sent_packets,
        sent_bytes: sum.sent_bytes + stats.sent_bytes,
        received_packets: sum.received_packets + stats.received_packets,
        received_bytes: sum.received_bytes + stats.received_bytes,
    })
}
