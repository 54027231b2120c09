use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::answer::{Datagram, Judge, Verdict};
use super::keys::PeerKeys;
use super::wire::{Kind, Message, authentic};
use super::*;
use crate::engine::Time;
use crate::engine::mtu::{HEADER_LENGTH, headers};
use crate::engine::types::{SiteId, TunnelKey};
use crate::trust::keys::WireGuardKey;

const A: SiteId = SiteId([0xa; 16]);
const B: SiteId = SiteId([0xb; 16]);

fn key(byte: u8) -> WireGuardKey {
    WireGuardKey::from_secret(&Zeroizing::new([byte; 32]))
}

fn index(number: u8) -> UplinkIndex {
    UplinkIndex::new(number).unwrap()
}

fn keys(own: u8, remote: u8) -> PeerKeys {
    PeerKeys::derive(&[key(own)], [key(remote).public()])
}

fn probe(sequence: u64, size: u16) -> Message {
    let uplinks = TunnelKey { local: index(1), remote: index(2) };
    Message { kind: Kind::Probe, from: A, to: B, uplinks, sequence, size }
}

fn judge() -> Judge {
    let mut judge = Judge::new(B);
    judge.set_peers(BTreeMap::from([(A, keys(2, 1))]));
    judge
}

fn source() -> SocketAddr {
    "192.0.2.1:51884".parse().unwrap()
}

fn datagram(header: [u8; HEADER_LENGTH], size: u16) -> Datagram {
    let length = usize::from(size - headers(false));
    Datagram { uplink: index(2), source: source(), header: Some(Box::new(header)), length, fragmented: false }
}

fn count(counters: &MtuCounters, name: &str) -> u64 {
    counters.all().into_iter().find(|(known, _)| *known == name).unwrap().1
}

#[test]
fn both_ends_derive_the_same_key_and_nobody_else_does() {
    let header = probe(7, 1500).encode(&keys(1, 2), None).unwrap();
    assert_eq!(authentic(&header, &keys(2, 1)), Some(0));
    assert_eq!(authentic(&header, &keys(2, 3)), None);
    assert_eq!(authentic(&header, &keys(3, 1)), None);
    // A point of small order would make the key known to everybody.
    assert!(probe(7, 1500).encode(&PeerKeys::derive(&[key(1)], [[0; 32]]), None).is_none());
}

#[test]
fn a_probe_has_the_bytes_that_the_documentation_shows() {
    let header = probe(0x0102_0304_0506_0708, 1423).encode(&keys(1, 2), None).unwrap();
    let text = hex::encode(header);
    let documented = include_str!("../../../../docs/PROTOCOL.md");
    let packed: String = documented.chars().filter(|c| !c.is_whitespace()).collect();
    assert!(packed.contains(&text), "{text}");
}

#[test]
fn during_a_key_rotation_both_keys_are_accepted() {
    let (old, new) = (key(1), key(9));
    let receiver = PeerKeys::derive(&[key(2)], [new.public(), old.public()]);
    for (number, own) in [(0, new), (1, old)] {
        let sender = PeerKeys::derive(&[own], [key(2).public()]);
        let header = probe(7, 1500).encode(&sender, None).unwrap();
        assert_eq!(authentic(&header, &receiver), Some(number));
        // The answer is authenticated by the key of the question.
        let answer = Message { kind: Kind::Acknowledgement, from: B, to: A, ..probe(7, 1500) };
        let answer = answer.encode(&receiver, Some(number)).unwrap();
        assert_eq!(authentic(&answer, &sender), Some(0));
    }
}

#[test]
fn an_authentic_probe_is_answered_once_with_no_more_bytes_than_it_has() {
    let (mut judge, counters) = (judge(), MtuCounters::default());
    let header = probe(7, 1423).encode(&keys(1, 2), None).unwrap();
    let Verdict::Answer(path, answer) = judge.judge(&datagram(header, 1423), &counters, Time(0)) else {
        panic!("it is answered")
    };
    assert_eq!(path, PathKey { site: A, tunnel: TunnelKey { local: index(2), remote: index(1) } });
    assert_eq!(authentic(&answer, &keys(1, 2)), Some(0));
    let told = Message::decode(&answer).unwrap();
    assert_eq!(told, Message { kind: Kind::Acknowledgement, from: B, to: A, ..probe(7, 1423) });
    for sequence in [7, 6, 0] {
        let header = probe(sequence, 1423).encode(&keys(1, 2), None).unwrap();
        assert_eq!(judge.judge(&datagram(header, 1423), &counters, Time(0)), Verdict::Refuse);
    }
    assert_eq!(count(&counters, "replayed"), 3);
    // The smallest question that there is.
    let least = HEADER_LENGTH as u16 + headers(false);
    let header = probe(8, least).encode(&keys(1, 2), None).unwrap();
    assert!(matches!(judge.judge(&datagram(header, least), &counters, Time(0)), Verdict::Answer(..)));
}

#[test]
fn what_is_wrong_in_one_thing_is_refused_and_counted() {
    let good = probe(7, 1423).encode(&keys(1, 2), None).unwrap();
    let refused = |what: &str, datagram: Datagram, counter: &str| {
        let (mut judge, counters) = (judge(), MtuCounters::default());
        assert_eq!(judge.judge(&datagram, &counters, Time(0)), Verdict::Refuse, "{what}");
        assert_eq!(count(&counters, counter), 1, "{what}: {:?}", counters.all());
    };
    refused("truncated", datagram(good, 1422), "malformed");
    refused("oversized", datagram(good, 1424), "malformed");
    refused("too short", Datagram { header: None, ..datagram(good, 90) }, "malformed");
    refused("in fragments", Datagram { fragmented: true, ..datagram(good, 1423) }, "fragmented");
    refused("at another uplink", Datagram { uplink: index(0), ..datagram(good, 1423) }, "foreign");
    let other = |message: Message, own| datagram(message.encode(&keys(own, 2), None).unwrap(), 1423);
    refused("another key", other(probe(7, 1423), 3), "forged");
    refused("for another site", other(Message { to: A, ..probe(7, 1423) }, 1), "foreign");
    refused("from a stranger", other(Message { from: SiteId([9; 16]), ..probe(7, 1423) }, 1), "foreign");
    // Its own question thrown back at its sender.
    let mut sender = Judge::new(A);
    sender.set_peers(BTreeMap::from([(B, keys(1, 2))]));
    let counters = MtuCounters::default();
    let back = Datagram { uplink: index(1), ..datagram(good, 1423) };
    assert_eq!(sender.judge(&back, &counters, Time(0)), Verdict::Refuse);
    assert_eq!(count(&counters, "foreign"), 1);
}

#[test]
fn a_flood_from_one_source_uses_up_its_own_allowance_only() {
    let (mut judge, counters) = (judge(), MtuCounters::default());
    let mut forged = probe(7, 1423).encode(&keys(1, 2), None).unwrap();
    forged[60] ^= 1;
    for number in 0..10_000 {
        let now = Time(0) + Duration::from_micros(number * 100);
        assert_eq!(judge.judge(&datagram(forged, 1423), &counters, now), Verdict::Refuse);
    }
    assert!(count(&counters, "forged") <= 310, "{:?}", counters.all());
    let good = probe(7, 1423).encode(&keys(1, 2), None).unwrap();
    let elsewhere = Datagram { source: "192.0.2.2:51884".parse().unwrap(), ..datagram(good, 1423) };
    assert!(matches!(judge.judge(&elsewhere, &counters, Time(1_000_000_000)), Verdict::Answer(..)));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(sequence: u64, size: u16, pair in 0_u8..64, acknowledgement: bool) {
        let uplinks = TunnelKey { local: index(pair / 8), remote: index(pair % 8) };
        let kind = if acknowledgement { Kind::Acknowledgement } else { Kind::Probe };
        let message = Message { kind, uplinks, ..probe(sequence, size) };
        let header = message.encode(&keys(1, 2), None).unwrap();
        prop_assert_eq!(Message::decode(&header).unwrap(), message);
    }

    #[test]
    fn a_header_with_one_bit_changed_is_refused(bit in 0..HEADER_LENGTH * 8) {
        let (mut judge, counters) = (judge(), MtuCounters::default());
        let mut header = probe(7, 1423).encode(&keys(1, 2), None).unwrap();
        header[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(judge.judge(&datagram(header, 1423), &counters, Time(0)), Verdict::Refuse);
        let refused: u64 = counters.all().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(refused, 1);
    }

    #[test]
    fn random_bytes_are_refused(bytes in prop::array::uniform32(any::<[u8; 3]>()), length in 0_usize..2_000) {
        let (mut judge, counters) = (judge(), MtuCounters::default());
        let mut header = [0; HEADER_LENGTH];
        for (to, from) in header.iter_mut().zip(bytes.iter().flatten()) {
            *to = *from;
        }
        let datagram = Datagram { length, ..datagram(header, 1423) };
        prop_assert_eq!(judge.judge(&datagram, &counters, Time(0)), Verdict::Refuse);
    }
}
