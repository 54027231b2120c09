use proptest::prelude::*;
use sdwan_common::stamp::direct::DirectMeasurement;
use sdwan_common::stamp::tlv::{ClassOfService, kind};
use sdwan_common::stamp::{ReflectorPacket, Tlv, Tlvs, tlv_flag};

use super::*;

const NOW: u64 = 1_800_000_000_000_000_000;

fn key() -> Key {
    Key::new(&[7; 32]).expect("a key")
}

fn manner(mode: Mode, key: Option<Key>) -> Manner {
    Manner { mode, key, dscp: AllowedDscp::only([0, 46]) }
}

fn seen() -> Seen {
    Seen {
        source: SocketAddr::from(([192, 0, 2, 1], 40_000)),
        destination: Some(IpAddr::from([198, 51, 100, 1])),
        port: 862,
        ttl: 61,
        traffic_class: 10 << 2 | 1,
        received_unix_ns: NOW,
    }
}

fn question(ptp: bool) -> SenderPacket {
    SenderPacket {
        sequence: 5,
        timestamp: Timestamp::in_format(NOW - 1_000_000, ptp),
        error_estimate: ErrorEstimate::of(1_000, false, ptp),
        session: 77,
    }
}

fn base(mode: Mode, ptp: bool) -> Vec<u8> {
    match mode {
        Mode::Unauthenticated => question(ptp).encode().to_vec(),
        Mode::Authenticated => {
            let mut bytes = question(ptp).encode_authenticated();
            key().sign_base(&mut bytes);
            bytes.to_vec()
        }
    }
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4 + value.len()];
    Tlv { flags: tlv_flag::UNRECOGNIZED, kind, value }.encode(&mut bytes).expect("fits");
    bytes
}

fn hmac_over(tlvs: &[u8]) -> Vec<u8> {
    tlv(kind::HMAC, &key().sign_tlvs(5, tlvs))
}

fn answer_to(payload: &[u8], manner: &Manner) -> (Outcome, Vec<u8>) {
    let numbers = Numbers { sequence: 41, direct: Some((9, 8)), last_sent: Some((40, NOW - 7)) };
    let clock = ClockQuality { synchronized: true, error_ns: 1_000_000 };
    let packet = verify(payload, manner).expect("a good question");
    let mut out = Vec::new();
    let seen = seen();
    let circumstances = Circumstances { manner, seen: &seen, numbers: &numbers, clock };
    let outcome = answer(payload, &packet, circumstances, || NOW + 20_000, &mut out);
    (outcome, out)
}

/// The TLVs of the answer to a question with these: flags, type, value.
fn tlvs_of_answer(tlvs: &[u8], mode: Mode, key: Option<Key>) -> (Marks, Vec<(u8, u8, Vec<u8>)>) {
    let payload = [base(mode, true), tlvs.to_vec()].concat();
    let (outcome, answer) = answer_to(&payload, &manner(mode, key));
    assert_eq!(answer.len(), payload.len());
    let all = Tlvs::in_bytes(&answer[mode.base_length()..]);
    (outcome.marks, all.map(|tlv| (tlv.flags, tlv.kind, tlv.value.to_vec())).collect())
}

fn open(tlvs: &[u8]) -> (Marks, Vec<(u8, u8, Vec<u8>)>) {
    tlvs_of_answer(tlvs, Mode::Unauthenticated, None)
}

#[test]
fn the_base_packet_carries_the_reflectors_numbers_and_stamps_in_the_senders_format() {
    for mode in [Mode::Unauthenticated, Mode::Authenticated] {
        for ptp in [false, true] {
            let (_, bytes) = answer_to(&base(mode, ptp), &manner(mode, Some(key())));
            let answer = match mode {
                Mode::Unauthenticated => ReflectorPacket::decode(&bytes),
                Mode::Authenticated => ReflectorPacket::decode_authenticated(&bytes),
            }
            .expect("an answer");
            assert_eq!((answer.sequence, answer.session, answer.sender_ttl), (41, 77, 61));
            assert_eq!(answer.received.as_unix_ns_near(ptp, NOW), Some(NOW));
            assert_eq!(answer.timestamp.as_unix_ns_near(ptp, NOW), Some(NOW + 20_000));
            assert_eq!((answer.error_estimate.ptp, answer.error_estimate.synchronized), (ptp, true));
            let asked = question(ptp);
            assert_eq!((answer.sender_sequence, answer.sender_timestamp), (5, asked.timestamp));
            assert_eq!(answer.sender_error_estimate, asked.error_estimate);
            assert!(mode == Mode::Unauthenticated || key().verifies_base(&bytes));
        }
    }
}

#[test]
fn each_tlv_is_answered_as_the_rfc_says() {
    let direct = DirectMeasurement { sender_transmitted: 6, ..DirectMeasurement::default() };
    let answered = DirectMeasurement { sender_transmitted: 6, reflector_received: 9, reflector_transmitted: 8 };
    let mut follow_up = vec![0, 0, 0, 40];
    let before = Timestamp::from_unix_ns(NOW - 7);
    follow_up.extend_from_slice(&before.seconds.to_be_bytes());
    follow_up.extend_from_slice(&before.nanoseconds.to_be_bytes());
    follow_up.extend_from_slice(&[2, 0, 0, 0]);
    for (kind, value, flags, expected) in [
        (kind::EXTRA_PADDING, vec![1, 2, 3], 0, vec![1, 2, 3]),
        (kind::EXTRA_PADDING, vec![], 0, vec![]),
        (kind::TIMESTAMP_INFORMATION, vec![0; 4], 0, vec![1, 2, 1, 2]),
        (kind::DIRECT_MEASUREMENT, direct.encode()[4..].to_vec(), 0, answered.encode()[4..].to_vec()),
        (kind::ACCESS_REPORT, vec![0x10, 2, 0, 0], 0, vec![0x10, 2, 0, 0]),
        (kind::ACCESS_REPORT, vec![0x30, 2, 0, 0], tlv_flag::UNRECOGNIZED, vec![0x30, 2, 0, 0]),
        (kind::FOLLOW_UP, vec![0; 16], 0, follow_up),
        (kind::LOCATION, vec![0; 4], 0, vec![3, 94, 156, 64]),
        (251, vec![9; 8], tlv_flag::UNRECOGNIZED, vec![9; 8]),
        (0, vec![], tlv_flag::UNRECOGNIZED, vec![]),
    ] {
        let (marks, answer) = open(&tlv(kind, &value));
        assert_eq!(answer, [(flags, kind, expected)], "type {kind}");
        assert_eq!(marks, Marks { unrecognized: flags != 0, ..Marks::default() });
    }
}

#[test]
fn addresses_are_told_by_the_family_of_the_question() {
    let within = [tlv(1, &[0; 8]), tlv(4, &[0; 16]), tlv(7, &[0; 16]), tlv(99, &[5])].concat();
    let (marks, answer) = open(&tlv(kind::LOCATION, &[vec![0; 4], within].concat()));
    assert_eq!((marks, answer[0].0), (Marks::default(), 0));
    let all: Vec<_> = Tlvs::in_bytes(&answer[0].2[4..]).map(|tlv| (tlv.flags, tlv.kind, tlv.value.to_vec())).collect();
    let address = |four: [u8; 4]| [four.to_vec(), vec![0; 12]].concat();
    assert_eq!(
        all,
        [
            (0, 3, vec![0; 8]),
            (0, 5, address([198, 51, 100, 1])),
            (0, 8, address([192, 0, 2, 1])),
            (tlv_flag::UNRECOGNIZED, 99, vec![5]),
        ]
    );
    let (marks, answer) = open(&tlv(kind::LOCATION, &[vec![0; 4], tlv(4, &[0; 3])].concat()));
    assert!(marks.malformed && answer[0].0 == tlv_flag::MALFORMED);
}

#[test]
fn the_class_of_the_answer_is_the_one_asked_for_if_it_is_allowed() {
    for (wanted, refused, dscp) in [(46, false, 46), (0, false, 0), (12, true, 10)] {
        let asked = ClassOfService { wanted, ..ClassOfService::default() };
        let payload = [base(Mode::Unauthenticated, true), tlv(kind::CLASS_OF_SERVICE, &asked.encode())].concat();
        let (outcome, answer) = answer_to(&payload, &manner(Mode::Unauthenticated, None));
        assert_eq!(outcome.dscp, dscp);
        let value = Tlvs::of(&answer).next().expect("it comes back").value.try_into().expect("four bytes");
        assert_eq!(ClassOfService::decode(value), ClassOfService { wanted, seen: 10, ecn: 1, refused });
    }
    let (outcome, _) = answer_to(&base(Mode::Unauthenticated, true), &manner(Mode::Unauthenticated, None));
    assert_eq!(outcome.dscp, 10, "without a wish, that of the question");
}

#[test]
fn a_tlv_of_a_wrong_length_ends_the_processing_and_the_rest_comes_back_as_it_was() {
    let rest = tlv(kind::TIMESTAMP_INFORMATION, &[0; 4]);
    for (kind, length) in [
        (kind::LOCATION, 3),
        (kind::TIMESTAMP_INFORMATION, 3),
        (kind::CLASS_OF_SERVICE, 5),
        (kind::DIRECT_MEASUREMENT, 8),
        (kind::ACCESS_REPORT, 0),
        (kind::FOLLOW_UP, 15),
    ] {
        let tlvs = [tlv(kind::EXTRA_PADDING, &[7]), tlv(kind, &vec![0xee; length]), rest.clone()].concat();
        let (marks, answer) = open(&tlvs);
        assert!(marks.malformed);
        // Erratum 8339: this one is zeroed.
        let value = if kind == kind::FOLLOW_UP { vec![0; length] } else { vec![0xee; length] };
        assert_eq!(answer[1], (tlv_flag::MALFORMED, kind, value));
        assert_eq!(answer[2], (tlv_flag::UNRECOGNIZED, kind::TIMESTAMP_INFORMATION, vec![0; 4]));
    }
}

#[test]
fn a_tlv_longer_than_the_packet_is_malformed() {
    for (kind, flags) in
        [(kind::EXTRA_PADDING, tlv_flag::MALFORMED), (99, tlv_flag::MALFORMED | tlv_flag::UNRECOGNIZED)]
    {
        let payload = [base(Mode::Unauthenticated, true), vec![tlv_flag::UNRECOGNIZED, kind, 0, 9, 1, 2]].concat();
        let (outcome, answer) = answer_to(&payload, &manner(Mode::Unauthenticated, None));
        assert!(outcome.marks.malformed);
        assert_eq!(answer[44..], [flags, kind, 0, 9, 1, 2]);
    }
}

#[test]
fn authenticated_tlvs_are_answered_with_a_hash_of_the_answer() {
    let tlvs = [tlv(kind::TIMESTAMP_INFORMATION, &[0; 4]), tlv(kind::EXTRA_PADDING, &[1, 2])].concat();
    let behind = tlv(kind::EXTRA_PADDING, &[3]);
    for mode in [Mode::Authenticated, Mode::Unauthenticated] {
        let payload = [base(mode, true), tlvs.clone(), hmac_over(&tlvs), behind.clone()].concat();
        let (outcome, answer) = answer_to(&payload, &manner(mode, Some(key())));
        assert_eq!(outcome.marks, Marks::default());
        let (start, hash) = (mode.base_length(), mode.base_length() + tlvs.len());
        assert!(key().verifies_tlvs(41, &answer[start..hash], &answer[hash + 4..hash + 20]), "the reflector's number");
        assert!(Tlvs::in_bytes(&answer[start..]).all(|tlv| tlv.flags == 0));
    }
}

#[test]
fn tlvs_that_cannot_be_authenticated_come_back_as_they_were_with_the_flag_i() {
    let asked = tlv(kind::TIMESTAMP_INFORMATION, &[0; 4]);
    let good = hmac_over(&asked);
    let mut forged = good.clone();
    forged[10] ^= 1;
    let authenticated = (Mode::Authenticated, Some(key()));
    let misplaced = [good.clone(), asked.clone()].concat();
    let doubled = [asked.clone(), good.clone(), good.clone()].concat();
    for (what, tlvs, (mode, key)) in [
        ("forged", [asked.clone(), forged.clone()].concat(), authenticated.clone()),
        ("forged in the open", [asked.clone(), forged].concat(), (Mode::Unauthenticated, Some(key()))),
        ("no key", [asked.clone(), good.clone()].concat(), (Mode::Unauthenticated, None)),
        ("misplaced", misplaced, authenticated.clone()),
        ("doubled", doubled, authenticated.clone()),
        ("missing", asked.clone(), authenticated.clone()),
        ("too short", [asked.clone(), tlv(kind::HMAC, &[0; 4])].concat(), authenticated),
    ] {
        let (marks, answer) = tlvs_of_answer(&tlvs, mode, key);
        assert!(marks.integrity, "{what}");
        assert!(answer.iter().all(|(flags, ..)| flags & tlv_flag::INTEGRITY != 0), "{what}: {answer:?}");
        let values = |bytes: &[u8]| Tlvs::in_bytes(bytes).map(|tlv| tlv.value.to_vec()).collect::<Vec<_>>();
        assert_eq!(values(&tlvs), answer.into_iter().map(|(_, _, value)| value).collect::<Vec<_>>(), "{what}");
    }
}

#[test]
fn padding_alone_needs_no_hash_in_an_authenticated_packet() {
    let (marks, answer) = tlvs_of_answer(&tlv(kind::EXTRA_PADDING, &[1; 30]), Mode::Authenticated, Some(key()));
    assert_eq!((marks, answer[0].0), (Marks::default(), 0));
}

#[test]
fn a_base_packet_with_a_wrong_hash_or_without_one_is_refused() {
    let manner = manner(Mode::Authenticated, Some(key()));
    let good = base(Mode::Authenticated, true);
    assert!(verify(&good, &manner).is_ok());
    for at in [0, 50, 95, 96, 111] {
        let mut forged = good.clone();
        forged[at] ^= 0x10;
        assert_eq!(verify(&forged, &manner), Err(Refusal::BadHmac), "byte {at}");
    }
    assert_eq!(verify(&good[..111], &manner), Err(Refusal::Truncated));
    assert_eq!(verify(&base(Mode::Unauthenticated, true), &manner), Err(Refusal::Truncated));
    let unkeyed = Manner { key: None, ..manner };
    assert_eq!(verify(&good, &unkeyed), Err(Refusal::BadHmac), "no key, no trust");
}

/// Bytes that are often nearly right TLVs.
fn nearly_tlvs() -> impl Strategy<Value = Vec<u8>> {
    let one = (0u8..12, prop::collection::vec(any::<u8>(), 0..24), prop::option::weighted(0.2, any::<u16>())).prop_map(
        |(kind, value, length)| {
            let mut bytes = tlv(kind, &value);
            if let Some(length) = length {
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
            }
            bytes
        },
    );
    let tail = prop::collection::vec(any::<u8>(), 0..6);
    (prop::collection::vec(one, 0..8), tail).prop_map(|(all, tail)| [all.concat(), tail].concat())
}

proptest! {
    #[test]
    fn any_tlvs_are_answered_at_the_same_length_and_keep_their_layout(tlvs in nearly_tlvs(), signed: bool, mode: bool, keyed: bool) {
        let mode = if mode { Mode::Authenticated } else { Mode::Unauthenticated };
        let key = (keyed || mode == Mode::Authenticated).then(key);
        let mut tlvs = tlvs;
        if signed {
            tlvs.extend_from_slice(&hmac_over(&tlvs.clone()));
        }
        let payload = [base(mode, false), tlvs.clone()].concat();
        let (outcome, answer) = answer_to(&payload, &manner(mode, key));
        prop_assert_eq!(answer.len(), payload.len());
        let lengths = |bytes: &[u8]| Tlvs::in_bytes(bytes).map(|tlv| tlv.value.len()).collect::<Vec<_>>();
        prop_assert_eq!(lengths(&answer[mode.base_length()..]), lengths(&tlvs));
        let all: Vec<u8> = Tlvs::in_bytes(&answer[mode.base_length()..]).map(|tlv| tlv.flags).collect();
        if outcome.marks.integrity {
            prop_assert!(all.iter().all(|flags| flags & tlv_flag::INTEGRITY != 0));
        } else if !outcome.marks.malformed && !outcome.marks.unrecognized {
            prop_assert!(all.iter().all(|flags| *flags == 0));
        }
    }

    #[test]
    fn any_bytes_are_answered_or_refused_without_a_panic(payload in prop::collection::vec(any::<u8>(), 0..300), mode: bool) {
        let mode = if mode { Mode::Authenticated } else { Mode::Unauthenticated };
        let manner = manner(mode, Some(key()));
        if verify(&payload, &manner).is_ok() {
            let (_, answer) = answer_to(&payload, &manner);
            prop_assert_eq!(answer.len(), payload.len());
        }
    }
}
