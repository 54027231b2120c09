//! The guard of the tunnel ports, packet by packet.

use etherparse::{IpNumber, Ipv6Header};
use proptest::prelude::*;
use sdwan_common::abi::{Address, Guard, Limit, OtherKey, SessionKey, guard_limit};
use sdwan_common::counters::EarlyDropReason;
use sdwan_common::guard::message;
use sdwan_tests::pace::is_slow;

use crate::load::{Programs, now_ns, privileged};
use crate::packets::{Spec, Transport, address};
use crate::run::{Context, frame, run};

const PASS: u32 = 2;
const DROP: u32 = 1;
const BASE: u16 = 51_820;
/// The tunnel 1-2.
const PORT: u16 = BASE + 10;
const HERE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const THERE: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];

/// A guard of the tunnels 0-0 and 1-2 that allows a source two packets, and all strangers four.
pub fn guarded() -> Programs {
    let mut programs = Programs::load(0);
    // So long that none comes back while a test runs.
    let interval = 1_000_000_000_000;
    let limit = Limit {
        source_interval_ns: interval,
        source_burst_ns: interval,
        total_interval_ns: interval,
        total_burst_ns: 3 * interval,
    };
    let guard = Guard {
        tunnels: 1 | 1 << 10,
        strict_from_ns: 0,
        limits: [limit; guard_limit::COUNT],
        base_port: BASE,
        control_ports: [51_819, BASE + 64],
        padding: 0,
    };
    programs.set("guard", 0, guard);
    for here in HERE {
        programs.hash::<Address, u32>("guard_addresses").insert(address(here), 1, 0).expect("it fits");
    }
    programs
}

pub fn message_of(kind: u32, length: usize, at_4: u32, at_8: u32) -> Vec<u8> {
    let mut bytes = vec![0x77; length.max(12)];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[4..8].copy_from_slice(&at_4.to_be_bytes());
    bytes[8..12].copy_from_slice(&at_8.to_be_bytes());
    bytes.truncate(length);
    bytes
}

/// A datagram from outside.
pub fn from(source: &str, port: u16, payload: Vec<u8>) -> Spec {
    let here = HERE[usize::from(source.contains(':'))];
    Spec::between(source, here, Transport::Udp(40_000, port)).with(|spec| spec.payload = payload)
}

fn verdict(programs: &Programs, data: &[u8]) -> u32 {
    frame(programs.xdp("wan_xdp"), data).verdict
}

/// Why a frame is dropped, if it is; exactly one counter goes up then.
fn refusal(programs: &mut Programs, data: &[u8]) -> Option<EarlyDropReason> {
    let counts = |programs: &mut Programs| -> Vec<u64> {
        (0..EarlyDropReason::ALL.len() as u32).map(|reason| programs.counter("early_drops", reason)).collect()
    };
    let before = counts(programs);
    let outcome = frame(programs.xdp("wan_xdp"), data);
    assert_eq!(outcome.data, data, "no packet is changed");
    let after = counts(programs);
    let risen: Vec<usize> = (0..before.len()).filter(|reason| after[*reason] != before[*reason]).collect();
    match outcome.verdict {
        PASS => assert!(risen.is_empty(), "{risen:?}"),
        DROP => assert_eq!(risen.len(), 1, "{risen:?}"),
        other => panic!("verdict {other}"),
    }
    risen.first().map(|reason| EarlyDropReason::ALL[*reason])
}

/// Sends a datagram out of the uplink, as the kernel or NAT does.
pub fn send(programs: &Programs, source_port: u16, to: &str, to_port: u16, payload: Vec<u8>) {
    let here = HERE[usize::from(to.contains(':'))];
    let spec = Spec::between(here, to, Transport::Udp(source_port, to_port)).with(|spec| spec.payload = payload);
    run(programs.program("uplink_egress"), &spec.frame(), Context::default());
}

#[test]
fn what_cannot_be_wireguard_is_dropped_and_everything_else_passes() {
    if !privileged("what_cannot_be_wireguard_is_dropped_and_everything_else_passes") {
        return;
    }
    let mut programs = guarded();
    let garbage = Some(EarlyDropReason::NotWireguard);
    for there in THERE {
        let bad = |kind, length| from(there, PORT, message_of(kind, length, 1, 2));
        for (what, spec, expected) in [
            ("empty", from(there, PORT, vec![]), garbage),
            ("three bytes", from(there, PORT, vec![4, 0, 0]), garbage),
            ("a short initiation", bad(1, 147), garbage),
            ("a long initiation", bad(1, 149), garbage),
            ("data without an authenticator", bad(4, 31), garbage),
            ("reserved bytes", bad(4 | 1 << 16, 64), garbage),
            ("type 5", bad(5, 148), garbage),
            ("a name server's question", from(there, PORT, vec![0; 40]), garbage),
            ("the port of a tunnel that isn't there", from(there, BASE + 1, vec![0; 40]), None),
            ("the port before", from(there, BASE - 2, vec![0; 40]), None),
            (
                "another host",
                Spec { destination: there.parse().expect("an address"), ..from(there, PORT, vec![0; 40]) },
                None,
            ),
            ("TCP", Spec { transport: Transport::Tcp(1, PORT, None), ..from(there, PORT, vec![0; 40]) }, None),
            ("another VLAN", Spec { vlans: vec![7], ..from(there, PORT, vec![0; 40]) }, None),
            ("priority-tagged", Spec { vlans: vec![0xe000], ..from(there, PORT, vec![0; 40]) }, garbage),
        ] {
            assert_eq!(refusal(&mut programs, &spec.frame()), expected, "{there}: {what}");
        }
    }
    let options = from(THERE[0], PORT, vec![0; 40]).with(|spec| spec.options = vec![1; 8]);
    assert_eq!(refusal(&mut programs, &options.frame()), garbage, "behind IP options");
    assert_eq!(refusal(&mut programs, &behind_extensions(vec![0; 40])), garbage, "behind extension headers");
    let whole = from(THERE[0], PORT, vec![0; 40]).frame();
    for length in 14..42 {
        assert_eq!(verdict(&programs, &whole[..length]), PASS, "cut off after {length} bytes");
    }
    programs.change("guard", 0, |guard: &mut Guard| guard.tunnels = 0);
    assert_eq!(verdict(&programs, &whole), PASS, "no tunnel");
}

/// A datagram to the tunnel behind a hop-by-hop and a destination options header.
fn behind_extensions(payload: Vec<u8>) -> Vec<u8> {
    let plain = from(THERE[1], PORT, payload).packet();
    let mut header = Ipv6Header::from_slice(&plain).expect("a header").0;
    header.next_header = IpNumber(0);
    header.payload_length += 16;
    let frame = from(THERE[1], PORT, vec![]).frame();
    let padding = [1, 4, 0, 0, 0, 0];
    [&frame[..14], &header.to_bytes(), &[60, 0], &padding, &[17, 0], &padding, &plain[40..]].concat()
}

#[test]
fn sessions_that_this_gateway_began_are_never_limited_wherever_their_packets_come_from() {
    if !privileged("sessions_that_this_gateway_began_are_never_limited_wherever_their_packets_come_from") {
        return;
    }
    for there in THERE {
        let mut programs = guarded();
        // Of an initiation and of a response that leave; the index is that of the sender.
        send(&programs, PORT, there, 51_837, message_of(message::INITIATION, 148, 0x11, 0));
        send(&programs, PORT, there, 51_837, message_of(message::RESPONSE, 92, 0x22, 0x99));
        let moved = if there.contains(':') { "2001:db8:ff::9" } else { "203.0.113.9" };
        for source in [there, moved] {
            for round in 0..100 {
                for (kind, length, at_4, at_8) in
                    [(4, 32, 0x11, 0), (4, 1_452, 0x22, 0), (4, 61, 0x22, 0), (2, 92, 0x99, 0x11), (3, 64, 0x11, 0)]
                {
                    let data = from(source, PORT, message_of(kind, length, at_4, at_8)).frame();
                    assert_eq!(refusal(&mut programs, &data), None, "{source} {kind} {length}, round {round}");
                }
            }
        }
        // The same index at another tunnel, or the peer's own: not ours.
        let spec = |port, index| from(there, port, message_of(4, 64, index, 0)).frame();
        let mut refused = 0;
        for _ in 0..50 {
            refused += u32::from(refusal(&mut programs, &spec(BASE, 0x11)) == Some(EarlyDropReason::Session));
            refused += u32::from(refusal(&mut programs, &spec(PORT, 0x99)) == Some(EarlyDropReason::Session));
        }
        assert_eq!(refused, 98);
        let first = from(there, PORT, message_of(4, 1_400, 0x11, 0)).with(|spec| spec.fragment = (0, true));
        if there == THERE[0] {
            assert_eq!(refusal(&mut programs, &first.frame()), None, "a fragment of a session");
        }
    }
}

#[test]
fn each_kind_has_limits_for_a_source_and_for_all_strangers() {
    if !privileged("each_kind_has_limits_for_a_source_and_for_all_strangers") {
        return;
    }
    type Case = (&'static str, u16, Vec<u8>, bool, EarlyDropReason);
    let cases: [Case; 5] = [
        ("initiations", PORT, message_of(1, 148, 1, 0), false, EarlyDropReason::Initiation),
        ("data of no session", PORT, message_of(4, 64, 0xbad, 0), false, EarlyDropReason::Session),
        ("fragments", PORT, message_of(4, 64, 0xbad, 0), true, EarlyDropReason::TunnelFragment),
        ("announcements", 51_819, vec![1; 100], false, EarlyDropReason::Control),
        ("path MTU probes", BASE + 64, vec![1; 68], false, EarlyDropReason::Control),
    ];
    for (what, port, payload, fragment, reason) in cases {
        let mut programs = guarded();
        let spec =
            |source: &str| from(source, port, payload.clone()).with(|spec| spec.fragment = (0, fragment)).frame();
        let passed = |programs: &mut Programs, source: &str, times: usize| {
            let outcomes = (0..times).map(|_| refusal(programs, &spec(source)));
            let outcomes: Vec<_> = outcomes.collect();
            assert!(outcomes.iter().flatten().all(|found| *found == reason), "{what}: {outcomes:?}");
            outcomes.iter().filter(|outcome| outcome.is_none()).count()
        };
        // One source has its burst; what is refused of it costs the others nothing.
        assert_eq!(passed(&mut programs, "198.51.100.7", 50), 2, "{what}");
        assert_eq!(passed(&mut programs, "198.51.100.8", 1), 1, "{what}");
        // Then that of all strangers is used up, whoever they are, and they leave no trace.
        let strangers = (0..200_u8).map(|host| passed(&mut programs, &format!("203.0.113.{host}"), 1));
        assert_eq!(strangers.sum::<usize>(), 1, "{what}");
        let known = programs.hash::<sdwan_common::abi::SourceKey, u64>("guard_sources").iter().count();
        assert_eq!(known, 3, "{what}");
        // Whom a handshake was sent to has his own limit alone.
        send(&programs, PORT, "203.0.113.250", 1, message_of(1, 148, 0xeee, 0));
        assert_eq!(passed(&mut programs, "203.0.113.250", 50), 2, "{what}");
    }
    // Addresses of one /64 are one source.
    let mut programs = guarded();
    let initiation = |host: u16| from(&format!("2001:db8:7::{host:x}"), PORT, message_of(1, 148, 1, 0)).frame();
    let passed = (1..50).filter(|host| refusal(&mut programs, &initiation(*host)).is_none()).count();
    assert_eq!(passed, 2);
}

#[test]
fn a_guard_that_is_new_only_limits_what_it_does_not_recognise() {
    if !privileged("a_guard_that_is_new_only_limits_what_it_does_not_recognise") {
        return;
    }
    let mut programs = guarded();
    programs.change("guard", 0, |guard: &mut Guard| guard.strict_from_ns = now_ns() + 3_600_000_000_000);
    let data = from(THERE[0], PORT, message_of(4, 64, 0xbad, 0)).frame();
    assert!((0..100).all(|_| verdict(&programs, &data) == PASS), "sessions may be older than the guard");
    let garbage = from(THERE[0], PORT, vec![0; 40]).frame();
    let passed = (0..100).filter(|_| verdict(&programs, &garbage) == PASS).count();
    assert_eq!(passed, 2, "and so may be flows of others");
    let initiation = from(THERE[1], PORT, message_of(1, 148, 1, 0)).frame();
    assert_eq!((0..100).filter(|_| verdict(&programs, &initiation) == PASS).count(), 2);
}

#[test]
fn a_flow_that_nat_gave_the_number_of_a_tunnel_port_goes_on() {
    if !privileged("a_flow_that_nat_gave_the_number_of_a_tunnel_port_goes_on") {
        return;
    }
    for there in THERE {
        let mut programs = guarded();
        let answer = |port: u16| {
            let spec = Spec { transport: Transport::Udp(port, PORT), ..from(there, PORT, vec![9; 40]) };
            spec.frame()
        };
        assert_eq!(refusal(&mut programs, &answer(53)), Some(EarlyDropReason::NotWireguard));
        send(&programs, PORT, there, 53, vec![8; 2]);
        assert!((0..100).all(|_| refusal(&mut programs, &answer(53)).is_none()), "{there}");
        assert_eq!(refusal(&mut programs, &answer(54)), Some(EarlyDropReason::NotWireguard), "{there}: another flow");
        let others = programs.hash::<OtherKey, u64>("guard_others").iter().count();
        assert_eq!(others, 1);
    }
    // What is sent from other ports, and WireGuard's own, makes no such entry.
    let mut programs = guarded();
    send(&programs, 5_000, THERE[0], 53, vec![8; 20]);
    send(&programs, PORT, THERE[0], 53, message_of(4, 64, 1, 1));
    assert_eq!(programs.hash::<OtherKey, u64>("guard_others").iter().count(), 0);
    assert_eq!(programs.hash::<SessionKey, u64>("guard_sessions").iter().count(), 0);
}

proptest! {
    // Each case loads the programs, which takes seconds on an emulated machine.
    #![proptest_config(ProptestConfig { cases: if is_slow() { 3 } else { 16 }, ..ProptestConfig::default() })]

    /// Whatever came before, and however the frame is cut: a message of a session passes, and what isn't for a guarded port
    /// does, too.
    #[test]
    fn no_bytes_ever_drop_a_message_of_a_session(
        noise in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..200), any::<u16>(), any::<bool>(), 14_usize..300), 60),
        index in any::<u32>(),
        length in 32_usize..1_400,
    ) {
        if nix::unistd::geteuid().is_root() {
            let programs = guarded();
            send(&programs, PORT, THERE[0], 51_837, message_of(message::INITIATION, 148, index, 0));
            let ours = from(THERE[0], PORT, message_of(4, length, index, 0)).frame();
            for (payload, port, raw, cut) in noise {
                let mut data = from(THERE[0], if port % 3 == 0 { PORT } else { port }, payload.clone()).frame();
                if raw {
                    // Headers of any kind.
                    let end = data.len().min(12 + payload.len());
                    data[12..end].copy_from_slice(&payload[..end - 12]);
                }
                data.truncate(cut.min(data.len()));
                let verdict = verdict(&programs, &data);
                prop_assert!(verdict == PASS || verdict == DROP);
                prop_assert_eq!(frame(programs.xdp("wan_xdp"), &ours).verdict, PASS);
            }
        }
    }
}
