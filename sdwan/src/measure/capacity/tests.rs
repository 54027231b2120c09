use proptest::prelude::*;

use super::responder::Responder;
use super::wire::{FINISH, LONGEST, Message, Packet, TRAIN, Verdict, WireError};
use super::*;
use crate::engine::capacity::train::{Bin, MOST_BINS, Sample, TrainReport};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 2));
const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(100, 64, 0, 3));
const SECOND: u64 = 1_000_000_000;

fn messages() -> Vec<Message> {
    let bin = Bin { received: 3, at_us: 70_000, delay_us: -5, other: 1_200 };
    let report = TrainReport { train: 4, received: 6, surplus: 1, stopped: true, bins: vec![bin, bin] };
    vec![
        Message::Open,
        Message::Accept { passive: 12_345_678 },
        Message::Refuse(Reason::Metered),
        Message::Train(Packet { train: 1, index: 2, count: 3, sent_ns: 4 }),
        Message::Finish { train: 9 },
        Message::Report(report),
        Message::Stop { train: 2 },
        Message::Close(Verdict { capacity: 10_000_000, found: true, solicited: 77 }),
        Message::Closed,
        Message::Solicit,
    ]
}

#[test]
fn every_message_decodes_to_itself() {
    for message in messages() {
        assert_eq!(Message::decode(&message.encode(42)), Ok((42, message.clone())), "{message:?}");
    }
}

#[test]
fn what_no_sender_writes_is_refused() {
    for message in messages() {
        let bytes = message.encode(1);
        for length in 0..bytes.len() {
            assert!(Message::decode(&bytes[..length]).is_err(), "{length} bytes of {message:?}");
        }
        if !matches!(message, Message::Train(_)) {
            let longer = [&bytes[..], &[0]].concat();
            assert!(Message::decode(&longer).is_err(), "a byte more than {message:?}");
        }
    }
    let open = Message::Open.encode(1);
    let with = |place: usize, value: u8| {
        let mut bytes = open.clone();
        bytes[place] = value;
        Message::decode(&bytes)
    };
    assert_eq!(with(0, b'X'), Err(WireError::Foreign));
    assert_eq!(with(4, 2), Err(WireError::Version));
    assert_eq!(with(5, 99), Err(WireError::Malformed));
    assert_eq!(with(6, 1), Err(WireError::Malformed));
    assert_eq!(Message::decode(&vec![0; LONGEST + 1]), Err(WireError::Oversized));
    for packet in
        [Packet { train: 0, index: 3, count: 3, sent_ns: 0 }, Packet { train: 0, index: 0, count: 0, sent_ns: 0 }]
    {
        assert_eq!(Message::decode(&Message::Train(packet).encode(1)), Err(WireError::Malformed));
    }
}

#[test]
fn no_answer_is_longer_than_its_question() {
    let full = TrainReport {
        received: MOST_BINS as u16,
        bins: vec![Bin { received: 1, ..Bin::default() }; MOST_BINS],
        ..TrainReport::default()
    };
    let length = |message: Message| message.encode(1).len();
    assert!(length(Message::Report(full)) <= length(Message::Finish { train: 0 }));
    assert!(length(Message::Accept { passive: 0 }) <= length(Message::Open));
    assert!(length(Message::Refuse(Reason::Busy)) <= length(Message::Open));
    assert!(length(Message::Closed) <= length(Message::Close(Verdict::default())));
    assert!(length(Message::Accept { passive: 0 }) <= length(Message::Solicit));
    const { assert!(FINISH < 1_200 && TRAIN < 100) };
}

fn train(index: u16, count: u16) -> Message {
    Message::Train(Packet { train: 0, index, count, sent_ns: u64::from(index) * 1_000 })
}

#[test]
fn a_peer_gets_a_report_about_its_own_train_only() {
    let mut responder = Responder::default();
    assert_eq!(responder.may_open(PEER, 1, 0), Ok(()));
    responder.open(PEER, 1, 0);
    assert_eq!(responder.may_open(PEER, 1, 0), Ok(()), "its answer was lost");
    assert_eq!(responder.may_open(OTHER, 2, 0), Err(Reason::Busy));
    for index in 0..10 {
        let at = 5_000 + u64::from(index) * 2_000;
        assert!(!responder.handle(PEER, 1, &train(index, 10), at, at).stray);
        // Replayed, from somebody else, of another session: nothing changes.
        assert!(responder.handle(PEER, 1, &train(index, 10), at, at).stray);
        assert!(responder.handle(OTHER, 1, &train(index, 10), at, at).stray);
        assert!(responder.handle(PEER, 2, &train(index, 10), at, at).stray);
    }
    let finish = Message::Finish { train: 0 };
    assert!(responder.handle(OTHER, 1, &finish, 0, 30_000).answer.is_none());
    let Some(Message::Report(report)) = responder.handle(PEER, 1, &finish, 0, 30_000).answer else {
        panic!("no report")
    };
    assert_eq!((report.received, report.surplus, report.bins.len()), (10, 10, 10));
    assert_eq!(report.bins[9].at_us, 18);
}

#[test]
fn a_verdict_is_taken_once_and_from_its_session_only() {
    let mut responder = Responder::default();
    let verdict = Verdict { capacity: 5, found: true, solicited: 0 };
    let close = Message::Close(verdict);
    assert!(responder.handle(PEER, 1, &close, 0, 0).stray, "nothing is open");
    responder.open(PEER, 1, 0);
    assert!(responder.handle(OTHER, 1, &close, 0, 0).stray);
    let effect = responder.handle(PEER, 1, &close, 0, 0);
    assert_eq!((effect.answer, effect.verdict), (Some(Message::Closed), Some(verdict)));
    let again = responder.handle(PEER, 1, &close, 0, 0);
    assert_eq!((again.answer, again.verdict), (Some(Message::Closed), None), "its answer was lost");
}

#[test]
fn a_peer_that_opens_too_often_or_replays_an_old_session_is_refused() {
    let mut responder = Responder::default();
    responder.open(PEER, 1, 0);
    responder.handle(PEER, 1, &Message::Close(Verdict::default()), 0, SECOND);
    assert_eq!(responder.may_open(PEER, 2, 2 * SECOND), Err(Reason::Budget));
    assert_eq!(responder.may_open(OTHER, 2, 2 * SECOND), Ok(()), "another peer doesn't suffer for it");
    assert_eq!(responder.may_open(PEER, 1, 20 * SECOND), Err(Reason::Budget), "replayed");
    assert_eq!(responder.may_open(PEER, 2, 20 * SECOND), Ok(()));
}

#[test]
fn a_session_that_falls_silent_makes_room() {
    let mut responder = Responder::default();
    responder.open(PEER, 1, 0);
    assert!(responder.is_open(9 * SECOND));
    assert!(!responder.is_open(11 * SECOND));
    assert_eq!(responder.may_open(OTHER, 2, 11 * SECOND), Ok(()));
}

#[test]
fn a_train_whose_delay_rises_is_stopped_once() {
    let mut responder = Responder::default();
    responder.open(PEER, 1, 0);
    responder.handle(PEER, 1, &train(0, 100), 1_000, 1_000);
    let late = 200_000_000;
    assert_eq!(responder.handle(PEER, 1, &train(1, 100), late, late).answer, Some(Message::Stop { train: 0 }));
    assert_eq!(responder.handle(PEER, 1, &train(2, 100), late, late).answer, None);
}

#[test]
fn other_traffic_is_counted_without_the_train_itself() {
    let mut responder = Responder::default();
    responder.open(PEER, 1, 0);
    for index in 0..100_u16 {
        let at = 1_000_000 * (1 + u64::from(index));
        responder.handle(PEER, 1, &train(index, 100), at, at);
        // 1,000 bytes of the train and 2 packets of 125 of others with each packet.
        let rounds = u64::from(index) + 1;
        let (packets, bytes) = (1_000 + rounds * 3, 77_000 + rounds * 1_250);
        responder.counted(Sample { at_ns: at, packets, bytes, inner: 1_000, framing: Framing::none(1_500) });
    }
    let Some(Message::Report(report)) = responder.handle(PEER, 1, &Message::Finish { train: 0 }, 0, SECOND).answer
    else {
        panic!("no report")
    };
    let last = report.bins.last().expect("there are sections");
    assert_eq!(last.other, 99 * 250, "{last:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..1_500)) {
        let _ = Message::decode(&bytes);
        let mut framed = b"SDWB\x01".to_vec();
        framed.extend_from_slice(&bytes);
        if let Ok((session, message)) = Message::decode(&framed)
            && !matches!(message, Message::Train(_))
        {
            prop_assert_eq!(message.encode(session).len(), framed.len());
        }
    }

    /// Whatever a peer sends, the answering side neither panics nor answers with more than it got.
    #[test]
    fn any_sequence_of_messages_is_survived(
        steps in proptest::collection::vec((0u8..6, 0u64..3, any::<u16>(), any::<u16>(), 1u16..2_000, any::<u64>(), any::<u64>()), 0..200)
    ) {
        let mut responder = Responder::default();
        let mut now = 0u64;
        for (kind, session, train, index, count, sent_ns, received) in steps {
            now += 1_000_000;
            let index = index % count;
            let message = match kind {
                0 => {
                    if responder.may_open(PEER, session, now).is_ok() {
                        responder.open(PEER, session, now);
                    }
                    continue;
                }
                1..=3 => Message::Train(Packet { train, index, count, sent_ns }),
                4 => Message::Finish { train },
                _ => Message::Close(Verdict { capacity: sent_ns, found: false, solicited: 0 }),
            };
            let length = message.encode(session).len();
            let framing = Framing::wireguard(60, 1_420);
            responder.counted(Sample { at_ns: received, packets: sent_ns, bytes: received, inner: index, framing });
            let answer = responder.handle(PEER, session, &message, received, now).answer;
            prop_assert!(answer.is_none_or(|answer| answer.encode(session).len() <= length));
        }
    }
}
