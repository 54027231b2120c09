use std::net::SocketAddr;

use proptest::prelude::*;
use sdwan_common::stamp::{ErrorEstimate, SenderPacket, Timestamp};

use super::*;
use crate::measure::stamp::answer::AllowedDscp;
use crate::measure::stamp::key::Key;

const NOW: u64 = 1_800_000_000_000_000_000;
const CLOCK: ClockQuality = ClockQuality { synchronized: false, error_ns: 1_000_000 };

fn settings() -> Settings {
    Settings {
        manner: Manner { mode: Mode::Unauthenticated, key: None, dscp: AllowedDscp::ANY },
        allowed: Vec::new(),
        rates: Rates::default(),
        stateless: false,
        refuse_reflectors: true,
        direct_measurement: true,
    }
}

fn authenticated() -> (Settings, Key) {
    let key = Key::new(&[3; 16]).expect("a key");
    let manner = Manner { mode: Mode::Authenticated, key: Some(key.clone()), dscp: AllowedDscp::ANY };
    (Settings { manner, ..settings() }, key)
}

struct Bench {
    reflector: Reflector,
    limits: Limits,
    now_ns: u64,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let limits = Limits::new(settings.rates);
        Self { reflector: Reflector::new(settings, 8, Arc::default()), limits, now_ns: 0 }
    }

    /// Number of the answer.
    fn ask(&mut self, payload: &[u8], seen: &Seen) -> Result<u32, Refusal> {
        let reply = self.reflector.handle(payload, seen, &mut self.limits, CLOCK, self.now_ns, || NOW)?;
        assert_eq!(reply.payload.len(), payload.len());
        let (token, number) = (reply.token, u32::from_be_bytes(*reply.payload.first_chunk().expect("a number")));
        self.reflector.sent(token, NOW);
        Ok(number)
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.reflector.counters().refused(refusal)
    }
}

fn packet(sequence: u32, sent_ns: u64) -> SenderPacket {
    let timestamp = Timestamp::from_unix_ns(NOW + sent_ns);
    SenderPacket { sequence, timestamp, error_estimate: ErrorEstimate::OURS, session: 9 }
}

fn signed(key: &Key, packet: &SenderPacket) -> Vec<u8> {
    let mut bytes = packet.encode_authenticated();
    key.sign_base(&mut bytes);
    bytes.to_vec()
}

fn seen(source: &str) -> Seen {
    Seen {
        source: source.parse::<SocketAddr>().expect("an address"),
        destination: Some(IpAddr::from([198, 51, 100, 1])),
        port: 862,
        ttl: 64,
        traffic_class: 0,
        received_unix_ns: NOW,
    }
}

#[test]
fn each_session_is_numbered_from_zero() {
    let mut bench = Bench::new(settings());
    for sequence in 0..3 {
        for source in ["192.0.2.1:4000", "192.0.2.1:4001", "[2001:db8::1]:4000"] {
            let question = packet(sequence, u64::from(sequence)).encode();
            assert_eq!(bench.ask(&question, &seen(source)), Ok(sequence));
        }
        let other = SenderPacket { session: 10, ..packet(sequence, u64::from(sequence)) };
        assert_eq!(bench.ask(&other.encode(), &seen("192.0.2.1:4000")), Ok(sequence));
    }
    assert_eq!(bench.ask(&packet(9, 9).encode(), &seen("192.0.2.1:4000")), Ok(3), "three questions were lost");
    assert_eq!(bench.ask(&packet(0, 10).encode(), &seen("192.0.2.1:4000")), Ok(0), "the sender began anew");
}

#[test]
fn a_stateless_reflector_copies_the_number_and_remembers_nothing() {
    let mut bench = Bench::new(Settings { stateless: true, ..settings() });
    for sequence in [5, 5, 3, u32::MAX] {
        assert_eq!(bench.ask(&packet(sequence, 0).encode(), &seen("192.0.2.1:4000")), Ok(sequence));
    }
    assert_eq!(bench.reflector.counters().snapshot().get("repeated"), None);
}

#[test]
fn every_reason_to_refuse_has_its_count_and_changes_no_session() {
    let prefixes = ["192.0.2.0/24", "198.51.100.0/24"].map(|text| text.parse().expect("a prefix"));
    let rates = Rates { per_source: Some(20), total: None };
    let mut bench = Bench::new(Settings { allowed: prefixes.to_vec(), rates, ..settings() });
    let good = packet(0, 0).encode();
    assert_eq!(bench.ask(&good, &seen("192.0.2.1:4000")), Ok(0));
    let multicast = Seen { destination: Some(IpAddr::from([224, 0, 0, 1])), ..seen("192.0.2.1:4000") };
    let own_port = Seen { port: 4000, ..seen("192.0.2.1:4000") };
    for (payload, seen, refusal) in [
        (&good[..43], seen("192.0.2.1:4000"), Refusal::Truncated),
        (&[], seen("192.0.2.1:4000"), Refusal::Truncated),
        (&[0; MAXIMUM_PAYLOAD + 1], seen("192.0.2.1:4000"), Refusal::Oversized),
        (&good, seen("203.0.113.1:4000"), Refusal::SourceNotAllowed),
        (&good, seen("[2001:db8::1]:4000"), Refusal::SourceNotAllowed),
        (&good, seen("192.0.2.1:862"), Refusal::ReflectorPort),
        (&good, seen("192.0.2.1:0"), Refusal::ReflectorPort),
        (&good, own_port, Refusal::ReflectorPort),
        (&good, multicast, Refusal::NotUnicast),
    ] {
        let before = bench.refused(refusal);
        assert_eq!(bench.ask(payload, &seen), Err(refusal));
        assert_eq!(bench.refused(refusal), before + 1);
    }
    assert_eq!(bench.ask(&packet(1, 1).encode(), &seen("192.0.2.1:4000")), Ok(1), "the session goes on");
    let mut answered = 0;
    while bench.ask(&packet(0, 0).encode(), &seen("198.51.100.7:1")).is_ok() {
        answered += 1;
    }
    assert_eq!((answered, bench.refused(Refusal::SourceRateLimited)), (20, 1));
    assert_eq!(bench.ask(&packet(2, 2).encode(), &seen("192.0.2.1:4000")), Ok(2), "others keep their share");
}

#[test]
fn a_v4_source_on_a_v6_socket_is_allowed_by_its_v4_prefix() {
    let mut bench = Bench::new(Settings { allowed: vec!["192.0.2.0/24".parse().expect("a prefix")], ..settings() });
    assert_eq!(bench.ask(&packet(0, 0).encode(), &seen("[::ffff:192.0.2.1]:4000")), Ok(0));
}

#[test]
fn forged_and_replayed_packets_change_nothing_in_the_authenticated_mode() {
    let (settings, key) = authenticated();
    let mut bench = Bench::new(settings);
    let from = seen("192.0.2.1:4000");
    let recorded: Vec<_> = (0..3).map(|sequence| signed(&key, &packet(sequence, u64::from(sequence)))).collect();
    for (number, question) in recorded.iter().enumerate() {
        assert_eq!(bench.ask(question, &from), Ok(number as u32));
    }
    for question in &recorded {
        assert_eq!(bench.ask(question, &from), Err(Refusal::Replayed));
    }
    let other = Key::new(&[4; 16]).expect("a key");
    assert_eq!(bench.ask(&signed(&other, &packet(3, 3)), &from), Err(Refusal::BadHmac));
    assert_eq!(bench.ask(&packet(3, 3).encode(), &from), Err(Refusal::Truncated), "unauthenticated");
    assert_eq!(bench.ask(&signed(&key, &packet(3, 3)), &from), Ok(3));
    // The sender begins anew; what was recorded before that stays refused.
    assert_eq!(bench.ask(&signed(&key, &packet(0, 100)), &from), Ok(0));
    assert_eq!(bench.ask(&recorded[2], &from), Err(Refusal::Replayed));
    assert_eq!((bench.refused(Refusal::Replayed), bench.refused(Refusal::BadHmac)), (4, 1));
}

#[test]
fn a_doubled_question_is_answered_with_a_number_of_its_own_in_the_unauthenticated_mode() {
    let mut bench = Bench::new(settings());
    let question = packet(0, 0).encode();
    assert_eq!(bench.ask(&question, &seen("192.0.2.1:4000")), Ok(0));
    assert_eq!(bench.ask(&question, &seen("192.0.2.1:4000")), Ok(1));
    assert_eq!(bench.reflector.counters().snapshot()["repeated"], 1);
}

#[test]
fn any_number_of_sessions_takes_bounded_memory_and_evictions_are_counted() {
    let mut bench = Bench::new(settings());
    for port in 1_000..1_020 {
        assert_eq!(bench.ask(&packet(0, 0).encode(), &seen(&format!("192.0.2.1:{port}"))), Ok(0));
    }
    assert_eq!(bench.reflector.counters().snapshot()["sessions-evicted"], 12);
}

proptest! {
    #[test]
    fn any_packets_are_answered_or_refused_as_too_short(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), 1u16..4), 0..40)
    ) {
        let mut bench = Bench::new(settings());
        for (payload, port) in packets {
            match bench.ask(&payload, &seen(&format!("192.0.2.1:{port}"))) {
                Ok(_) => prop_assert!(payload.len() >= 44),
                Err(refusal) => prop_assert_eq!(refusal, Refusal::Truncated),
            }
        }
    }
}
