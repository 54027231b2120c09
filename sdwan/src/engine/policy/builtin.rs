//! The four default policies.

use super::{Dscp, Match, Mode, Policy, PortRange, Preference, Protocol, Sla, Sticky};

const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);
/// DSCP of telephony, real-time interactive and low-priority data (RFC 4594).
const EF: u8 = 46;
const CS4: u8 = 32;
const CS1: u8 = 8;

/// `voip-video`, `gaming`, `bulk` and `default`, in this priority.
///
/// RTP's usual range, UDP 16384–32767, contains the games' 27000–28000. The narrower range wins: `voip-video` leaves
/// it out, or no game would ever be classified as one.
///
/// Flows of all four return to the better path once it has held: it is what a line is mended for, and transfers and calls
/// may last for hours on one that is slow or paid by the byte.
pub fn default_policies() -> Vec<Policy> {
    // A call is to be had: one way 150 ms (ITU-T G.114), and what a jitter buffer and loss concealment cope with.
    let call = Sla { latency_ms: Some(300.0), jitter_ms: Some(40.0), loss_pct: Some(2.0), ..Sla::default() };
    let policy = |name: &str, priority, matches, preference, outer_dscp| Policy {
        name: name.into(),
        priority,
        matches,
        class: None,
        preference,
        sla: Sla::default(),
        mode: Mode::Best,
        sticky: Sticky::UntilBetter,
        dscp: None,
        outer_dscp,
    };
    let voice = vec![
        ports(&[TCP, UDP], &[(5060, 5061)]),
        ports(&[UDP], &[(16384, 26999), (28001, 32767), (3478, 3481), (8801, 8810)]),
        dscp(&[46, 34]),
    ];
    vec![
        Policy { sla: call, ..policy("voip-video", 100, voice, Preference::Latency, Some(EF)) },
        policy("gaming", 200, vec![ports(&[UDP], &[(27000, 28000), (3074, 3074)])], Preference::Latency, Some(CS4)),
        policy(
            "bulk",
            300,
            vec![ports(&[TCP], &[(20, 21), (873, 873), (989, 990)]), dscp(&[8])],
            Preference::Throughput,
            Some(CS1),
        ),
        policy("default", u16::MAX, Vec::new(), Preference::Balanced, None),
    ]
}

fn ports(protocols: &[Protocol], ranges: &[(u16, u16)]) -> Match {
    Match {
        protocols: protocols.to_vec(),
        ports: ranges.iter().map(|&(first, last)| PortRange(first..=last)).collect(),
        ..Match::default()
    }
}

fn dscp(values: &[u8]) -> Match {
    Match { dscp: values.iter().copied().map(Dscp).collect(), ..Match::default() }
}
