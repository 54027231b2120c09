//! What is dropped at a LAN interface before it is a packet, frame by frame.

use proptest::prelude::*;
use sdwan_common::abi::{LanFilter, ZoneKey, lan_filter_flag};
use sdwan_common::counters::EarlyDropReason;

use crate::load::{Programs, privileged};
use crate::packets::{Spec, Transport};
use crate::run::frame;

const PASS: u32 = 2;
/// The test-run's frames come in at the loopback interface.
const INTERFACE: u32 = 1;
const ALL: u64 = u64::MAX;

fn filtering(flags: u32) -> Programs {
    let mut programs = Programs::load(0);
    ingress(&mut programs, 0, LanFilter { flags, ..LanFilter::default() });
    programs
}

fn ingress(programs: &mut Programs, vlan: u32, filter: LanFilter) {
    let key = ZoneKey { ifindex: INTERFACE, vlan };
    programs.hash::<ZoneKey, LanFilter>("lan_filter").insert(key, filter, 0).expect("it fits");
}

fn refusal(programs: &mut Programs, data: &[u8]) -> Option<EarlyDropReason> {
    let counts = |programs: &mut Programs| -> Vec<u64> {
        (0..EarlyDropReason::ALL.len() as u32).map(|reason| programs.counter("early_drops", reason)).collect()
    };
    let before = counts(programs);
    let outcome = frame(programs.xdp("lan_xdp"), data);
    assert_eq!(outcome.data, data, "no packet is changed");
    let after = counts(programs);
    let risen: Vec<usize> = (0..before.len()).filter(|reason| after[*reason] != before[*reason]).collect();
    assert_eq!(risen.len(), usize::from(outcome.verdict != PASS), "{risen:?}");
    risen.first().map(|reason| EarlyDropReason::ALL[*reason])
}

/// A good packet with some bytes of its IP header changed.
fn changed(spec: &Spec, bytes: &[(usize, u8)]) -> Vec<u8> {
    let mut data = spec.frame();
    let ip = 14 + 4 * spec.vlans.len();
    for (at, value) in bytes {
        data[ip + at] = *value;
    }
    data
}

#[test]
fn malformed_packets_are_dropped_under_their_reason_and_good_ones_pass() {
    if !privileged("malformed_packets_are_dropped_under_their_reason_and_good_ones_pass") {
        return;
    }
    let mut programs = filtering(lan_filter_flag::MALFORMED);
    ingress(&mut programs, 7, LanFilter { flags: lan_filter_flag::MALFORMED, ..LanFilter::default() });
    let header = Some(EarlyDropReason::Header);
    let length = Some(EarlyDropReason::Length);
    for vlans in [vec![], vec![7], vec![7, 9]] {
        let v4 = Spec { vlans: vlans.clone(), ..Spec::v4(Transport::Udp(1, 2)) };
        let v6 = Spec { vlans: vlans.clone(), ..Spec::v6(Transport::Udp(1, 2)) };
        let land = |spec: &Spec| Spec { source: spec.destination, ..spec.clone() }.frame();
        let fragment = |offset, more| Spec { fragment: (offset, more), ..v4.clone() }.frame();
        let v6_fragment = |offset: u16| {
            let mut data = Spec { transport: Transport::Raw(44), ..v6.clone() }.frame();
            let at = 14 + 4 * vlans.len() + 40;
            data[at] = 17;
            data[at + 2..at + 4].copy_from_slice(&(offset << 3).to_be_bytes());
            data
        };
        for (what, data, expected) in [
            ("a good one", v4.frame(), None),
            ("a good one", v6.frame(), None),
            ("with options", Spec { options: vec![1; 8], ..v4.clone() }.frame(), None),
            ("version 5", changed(&v4, &[(0, 0x55)]), header),
            ("version 4 as IPv6", changed(&v6, &[(0, 0x45)]), header),
            ("a header of four words", changed(&v4, &[(0, 0x44)]), header),
            ("shorter than its header", changed(&v4, &[(2, 0), (3, 19)]), length),
            ("of no length", changed(&v4, &[(2, 0), (3, 0)]), length),
            ("longer than it is", changed(&v4, &[(2, 5)]), length),
            ("longer than it is", changed(&v6, &[(4, 5)]), length),
            ("padded by Ethernet", [Spec { payload: vec![], ..v4.clone() }.frame(), vec![0; 18]].concat(), None),
            ("from itself", land(&v4), Some(EarlyDropReason::Land)),
            ("from itself", land(&v6), Some(EarlyDropReason::Land)),
            ("the first fragment", fragment(0, true), None),
            ("the last possible one", fragment(8_183, false), None),
            ("beyond the largest packet", fragment(8_190, false), Some(EarlyDropReason::Fragment)),
            ("a fragment", v6_fragment(100), None),
            ("beyond the largest packet", v6_fragment(8_190), Some(EarlyDropReason::Fragment)),
        ] {
            assert_eq!(refusal(&mut programs, &data), expected, "{what}, tags {vlans:?}");
        }
        let ip = 14 + 4 * vlans.len();
        for (data, shortest) in [(v4.frame(), 20), (v6.frame(), 40)] {
            for cut in 0..data.len() - ip {
                let expected = if cut < shortest { header } else { length };
                assert_eq!(refusal(&mut programs, &data[..ip + cut]), expected, "cut off after {cut}, tags {vlans:?}");
            }
        }
    }
    // An ingress that is none of the LAN's, and frames that are not IP.
    let bad = changed(&Spec::v4(Transport::Udp(1, 2)), &[(0, 0x55)]);
    let other = Spec { vlans: vec![8], ..Spec::v4(Transport::Udp(1, 2)) };
    assert_eq!(refusal(&mut programs, &changed(&other, &[(0, 0x55)])), None);
    let mut arp = bad.clone();
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(refusal(&mut programs, &arp), None);
    ingress(&mut programs, 0, LanFilter::default());
    assert_eq!(refusal(&mut programs, &bad), None, "switched off");
}

#[test]
fn sources_that_are_nobodys_are_dropped_on_request_only() {
    if !privileged("sources_that_are_nobodys_are_dropped_on_request_only") {
        return;
    }
    let cases = [
        ("127.0.0.1", "10.2.0.9", true),
        ("224.0.0.5", "10.2.0.9", true),
        ("255.255.255.255", "10.2.0.9", true),
        ("0.1.2.3", "10.2.0.9", true),
        ("0.0.0.0", "255.255.255.255", false),
        ("169.254.1.1", "169.254.1.2", false),
        ("10.1.0.5", "10.2.0.9", false),
        ("::1", "fd02::9", true),
        ("ff02::1", "fd02::9", true),
        ("::ffff:10.1.0.5", "fd02::9", true),
        ("::", "ff02::1:ff00:9", false),
        ("fe80::1", "ff02::1", false),
    ];
    for (flags, on) in [(0, false), (lan_filter_flag::MARTIANS, true)] {
        let mut programs = filtering(flags);
        for (source, destination, martian) in cases {
            let data = Spec::between(source, destination, Transport::Udp(68, 67)).frame();
            let expected = (on && martian).then_some(EarlyDropReason::Martian);
            assert_eq!(refusal(&mut programs, &data), expected, "{source}, {flags}");
        }
    }
}

/// One rule, bit 33: TCP to port 23 from 10.1.0.0/16 and fd01::/16, and another, bit 34: everything to 10.9.0.0/16.
fn ruled() -> Programs {
    let mut programs = Programs::load(0);
    let (telnet, net) = (1_u64 << 33, 1_u64 << 34);
    programs.fill("drop_proto", &(0..256).map(|at| if at == 6 { telnet | net } else { net }).collect::<Vec<u64>>());
    programs.fill("drop_sport", &vec![telnet | net; 65_536]);
    let ports: Vec<u64> = (0..65_536).map(|port| if port == 23 { telnet | net } else { net }).collect();
    programs.fill("drop_dport", &ports);
    for (map, prefix, set) in [
        ("drop_src", "0.0.0.0/0", net),
        ("drop_src", "::/0", net),
        ("drop_src", "10.1.0.0/16", telnet | net),
        ("drop_src", "fd01::/16", telnet | net),
        ("drop_dst", "0.0.0.0/0", telnet),
        ("drop_dst", "::/0", telnet),
        ("drop_dst", "10.9.0.0/16", telnet | net),
    ] {
        programs.insert_prefix(map, prefix, set);
    }
    ingress(&mut programs, 0, LanFilter { rules: ALL, any_port: net, any_protocol: net, flags: 0, padding: 0 });
    programs
}

#[test]
fn rules_drop_what_they_name_and_count_it() {
    if !privileged("rules_drop_what_they_name_and_count_it") {
        return;
    }
    let mut programs = ruled();
    let tcp = |source, destination, port| Spec::between(source, destination, Transport::Tcp(40_000, port, None));
    let rule = Some(EarlyDropReason::Rule);
    let telnet = tcp("10.1.0.5", "10.2.0.9", 23);
    for (what, spec, expected) in [
        ("telnet", telnet.clone(), rule),
        ("telnet", tcp("fd01::5", "fd02::9", 23), rule),
        ("another port", tcp("10.1.0.5", "10.2.0.9", 22), None),
        ("another source", tcp("10.3.0.5", "10.2.0.9", 23), None),
        ("UDP", Spec { transport: Transport::Udp(1, 23), ..telnet.clone() }, None),
        ("a ping into the network", Spec::between("10.1.0.5", "10.9.1.1", Transport::Echo(1)), rule),
        ("a later fragment of telnet", Spec { fragment: (10, false), ..telnet.clone() }, None),
        (
            "a later fragment into the network",
            Spec { fragment: (10, false), ..Spec::between("10.1.0.5", "10.9.1.1", Transport::Udp(1, 2)) },
            rule,
        ),
        ("telnet on a VLAN that has no rules", Spec { vlans: vec![5], ..telnet.clone() }, None),
    ] {
        assert_eq!(refusal(&mut programs, &spec.frame()), expected, "{what}");
    }
    assert_eq!((programs.counter("drop_hits", 33), programs.counter("drop_hits", 34)), (2, 2));
    ingress(
        &mut programs,
        0,
        LanFilter { rules: 1 << 34, any_port: 1 << 34, any_protocol: 1 << 34, flags: 0, padding: 0 },
    );
    assert_eq!(refusal(&mut programs, &telnet.frame()), None, "the rule isn't for this ingress");
    // What can't be told is left to the stack.
    ingress(&mut programs, 0, LanFilter { rules: ALL, any_port: 1 << 34, any_protocol: 1 << 34, flags: 0, padding: 0 });
    let cut = &telnet.frame()[..36];
    assert_eq!(refusal(&mut programs, cut), None, "cut off before the ports");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Of a frame with any bytes, the counter says why it was dropped; and a good packet is never one of them.
    #[test]
    fn any_bytes_have_a_verdict_and_good_packets_pass(
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 14..200), 100),
        payload in proptest::collection::vec(any::<u8>(), 0..1_400),
        ports in any::<(u16, u16)>(),
    ) {
        if nix::unistd::geteuid().is_root() {
            let mut programs = filtering(lan_filter_flag::MALFORMED | lan_filter_flag::MARTIANS);
            for (number, mut data) in frames.into_iter().enumerate() {
                // Most of them look like IP.
                if number % 4 != 0 {
                    data[12..14].copy_from_slice(if number % 2 == 0 { &[8, 0] } else { &[0x86, 0xdd] });
                }
                refusal(&mut programs, &data);
            }
            for spec in [Spec::v4(Transport::Udp(ports.0, ports.1)), Spec::v6(Transport::Tcp(ports.0, ports.1, None))] {
                let spec = spec.with(|spec| spec.payload = payload.clone());
                prop_assert_eq!(refusal(&mut programs, &spec.frame()), None);
            }
        }
    }
}
