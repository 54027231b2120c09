extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;

fn timestamps() -> impl Strategy<Value = Timestamp> {
    (any::<u32>(), 0..1_000_000_000u32).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn estimates() -> impl Strategy<Value = ErrorEstimate> {
    any::<u16>().prop_map(ErrorEstimate::from_bits)
}

fn senders() -> impl Strategy<Value = SenderPacket> {
    (any::<u32>(), timestamps(), estimates(), any::<u16>()).prop_map(
        |(sequence, timestamp, error_estimate, session)| SenderPacket { sequence, timestamp, error_estimate, session },
    )
}

proptest! {
    #[test]
    fn a_decoded_sender_packet_is_the_encoded_one(packet in senders()) {
        prop_assert_eq!(SenderPacket::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn a_decoded_reflector_packet_is_the_encoded_one(
        question in senders(),
        sequence: u32,
        received in timestamps(),
        sent in timestamps(),
        ttl: u8,
    ) {
        let answer = ReflectorPacket::answer(&question, sequence, received, sent, ttl);
        prop_assert_eq!(ReflectorPacket::decode(&answer.encode()), Ok(answer));
        prop_assert_eq!(answer.sender_sequence, question.sequence);
    }

    #[test]
    fn a_probe_holds_its_packet_and_its_extension(packet in senders(), flags: u8, detection: u16) {
        let bytes = encode_probe(&packet, Extension { flags, detection });
        prop_assert_eq!(SenderPacket::decode(&bytes), Ok(packet));
        prop_assert_eq!(Extension::decode(&bytes), Some(Extension { flags, detection }));
        let tlvs: Vec<_> = Tlvs::of(&bytes).map(|tlv| (tlv.flags, tlv.kind, tlv.value.len())).collect();
        let unknown = tlv_flag::UNRECOGNIZED;
        let expected = [(unknown, EXTENSION_TYPE, EXTENSION_VALUE_LENGTH), (unknown, direct::TYPE, direct::VALUE_LENGTH)];
        prop_assert_eq!(tlvs, expected);
    }

    #[test]
    fn any_bytes_decode_or_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let whole = bytes.len() >= BASE_LENGTH;
        prop_assert_eq!(SenderPacket::decode(&bytes).is_ok(), whole);
        prop_assert_eq!(ReflectorPacket::decode(&bytes).is_ok(), whole);
        prop_assert!(whole || Extension::decode(&bytes).is_none());
        let mut tlvs = Tlvs::of(&bytes);
        let consumed: usize = tlvs.by_ref().map(|tlv| TLV_HEADER_LENGTH + tlv.value.len()).sum();
        prop_assert_eq!(consumed + tlvs.rest().len(), bytes.len().saturating_sub(BASE_LENGTH));
    }

    #[test]
    fn tlvs_come_back_in_order(values in prop::collection::vec((any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..9)), 0..6)) {
        let mut payload = [0; BASE_LENGTH + 6 * 13];
        let mut end = BASE_LENGTH;
        for (flags, kind, value) in &values {
            end += Tlv { flags: *flags, kind: *kind, value }.encode(&mut payload[end..]).expect("fits");
        }
        let back: Vec<_> = Tlvs::of(&payload[..end]).map(|tlv| (tlv.flags, tlv.kind, tlv.value.to_vec())).collect();
        prop_assert_eq!(back, values);
    }

    #[test]
    fn timestamps_hold_nanoseconds_for_2_to_the_32_seconds(nanoseconds in 0..(1u64 << 32) * 1_000_000_000) {
        prop_assert_eq!(Timestamp::from_unix_ns(nanoseconds).as_unix_ns(), nanoseconds);
    }

    #[test]
    fn an_error_estimate_is_its_bits(bits: u16) {
        prop_assert_eq!(ErrorEstimate::from_bits(bits).to_bits(), bits);
    }
}

#[test]
fn a_sender_packet_looks_as_the_rfc_draws_it() {
    let packet = SenderPacket {
        sequence: 0x0102_0304,
        timestamp: Timestamp { seconds: 0x1112_1314, nanoseconds: 0x2122_2324 },
        error_estimate: ErrorEstimate { synchronized: true, ptp: true, scale: 1, multiplier: 2 },
        session: 0x3132,
    };
    let mut expected = [0; 44];
    expected[..16].copy_from_slice(&[1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24, 0xc1, 2, 0x31, 0x32]);
    assert_eq!(packet.encode(), expected);
}

#[test]
fn a_reflector_packet_looks_as_the_rfc_draws_it() {
    let stamp = |first| Timestamp { seconds: first, nanoseconds: first + 1 };
    let packet = ReflectorPacket {
        sequence: 1,
        timestamp: stamp(2),
        error_estimate: ErrorEstimate::from_bits(4),
        session: 5,
        received: stamp(6),
        sender_sequence: 8,
        sender_timestamp: stamp(9),
        sender_error_estimate: ErrorEstimate::from_bits(11),
        sender_ttl: 12,
    };
    let expected = [
        [0, 0, 0, 1], // sequence
        [0, 0, 0, 2], // T3
        [0, 0, 0, 3],
        [0, 4, 0, 5], // error estimate, SSID
        [0, 0, 0, 6], // T2
        [0, 0, 0, 7],
        [0, 0, 0, 8], // the sender's sequence
        [0, 0, 0, 9], // T1
        [0, 0, 0, 10],
        [0, 11, 0, 0], // its error estimate
        [12, 0, 0, 0], // its TTL
    ];
    assert_eq!(packet.encode(), expected.concat()[..]);
}

#[test]
fn our_error_estimate_is_a_millisecond_of_ptp_without_synchronisation() {
    let ErrorEstimate { synchronized, ptp, scale, multiplier } = ErrorEstimate::OURS;
    assert_eq!((synchronized, ptp), (false, true));
    let seconds = f64::from(multiplier) * f64::from(i32::from(scale) - 32).exp2();
    assert!((0.0009..0.0011).contains(&seconds), "{seconds}");
}

#[test]
fn another_magic_version_type_or_length_is_not_our_extension() {
    let extension = Extension { flags: 1, detection: 0x0203 };
    let good = extension.encode();
    assert_eq!(good[8..], [1, 0, 2, 3, 0, 0, 0, 0]);
    assert_eq!(Extension::from_bytes(&good), Some(extension));
    for at in 1..8 {
        let mut bytes = good;
        bytes[at] ^= 1;
        assert_eq!(Extension::from_bytes(&bytes), None, "byte {at}");
    }
    let mut reflected = good;
    reflected[0] = 0;
    assert_eq!(Extension::from_bytes(&reflected), Some(extension), "the reflector changes the flags");
}

#[test]
fn a_detection_time_is_said_in_hundredths_of_a_second_and_never_shorter_than_it_is() {
    let said = |detection_ns| Extension::new(0, detection_ns).detection_ns();
    assert_eq!(said(0), 0, "it doesn't say");
    assert_eq!(said(1), 10_000_000);
    assert_eq!((said(150_000_000), said(150_000_001)), (150_000_000, 160_000_000));
    assert_eq!(said(u64::MAX), 655_350_000_000, "the most that can be said");
}

#[test]
fn a_tlv_that_does_not_fit_is_not_encoded() {
    let mut out = [7; 8];
    assert_eq!(Tlv { flags: 0, kind: 1, value: &[0; 5] }.encode(&mut out), None);
    assert_eq!(out, [7; 8], "nothing is written");
    assert_eq!(Tlv { flags: 0, kind: 1, value: &[9; 4] }.encode(&mut out), Some(8));
}
