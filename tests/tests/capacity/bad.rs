//! What forged, replayed, truncated, oversized and foreign packets do: nothing, and they are counted.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sdwan::engine::capacity::schedule::Reason;
use sdwan::engine::capacity::search::{Ended, Plan};
use sdwan::engine::capacity::train::{Bin, TrainReport};
use sdwan::engine::capacity::{Direction, Framing};
use sdwan::measure::capacity::{Event, Failure, Message, PORT, Rule, Verdict};
use sdwan_tests::bed::Namespace;
use sdwan_tests::needs_bed;
use sdwan_tests::wire::{Wire, tunnel};

use crate::plain::judge;

/// A socket in a namespace; on the port of the protocol beside the meter's if `shares`.
fn socket(namespace: &Namespace, local: SocketAddr, shares: bool) -> UdpSocket {
    let make = || {
        let domain = socket2::Domain::for_address(local);
        let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, None)?;
        if shares {
            // Not bound to the interface: the kernel gives what comes in to the meter's socket, which is.
            socket.set_reuse_address(true)?;
        }
        socket.bind(&local.into())?;
        std::io::Result::Ok(UdpSocket::from(socket))
    };
    namespace.run(make).expect("the namespace is entered").expect("the socket is bound")
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Every message there is, with numbers that somebody might guess.
fn forged(session: u64) -> Vec<Vec<u8>> {
    let bins = vec![Bin { received: 10, at_us: 1, delay_us: 5_000_000, other: u32::MAX }; 48];
    let report = TrainReport { train: 0, received: 480, surplus: 0, stopped: true, bins };
    let messages = [
        Message::Accept { passive: u64::MAX },
        Message::Refuse(Reason::Busy),
        Message::Report(report),
        Message::Stop { train: 0 },
        Message::Closed,
        Message::Finish { train: 0 },
        Message::Close(Verdict { capacity: u64::MAX, found: true, solicited: session }),
    ];
    let whole: Vec<Vec<u8>> = messages.iter().map(|message| message.encode(session)).collect();
    let cut = whole.iter().map(|bytes| bytes[..bytes.len() / 2].to_vec());
    let long = whole.iter().map(|bytes| [&bytes[..], &[0; 700]].concat());
    whole.iter().cloned().chain(cut).chain(long).chain([b"hello".to_vec(), vec![0xff; 1_400]]).collect()
}

#[test]
fn forged_foreign_truncated_and_oversized_packets_change_no_estimate_and_are_counted() {
    needs_bed!();
    let mut wire = Wire::new().expect("the line is built");
    wire.limit("b", 20, 16_000).expect("the line is limited");
    wire.limit("a", 200, 64_000).expect("the line is limited");
    let (a, b) = (wire.address("a", PORT), wire.address("b", PORT));
    let hosts = [wire.bed.site("a").namespace().clone(), wire.bed.site("b").namespace().clone()];
    let foreign = socket(&hosts[1], wire.address("b", 0), false);
    let stop = AtomicBool::new(false);
    let before = [&wire.ends[0], &wire.ends[1]].map(|end| load(&end.counters.foreign));
    let outcome = std::thread::scope(|scope| {
        // From the peer's address but another port, all the time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for session in [0, 1, u64::MAX] {
                    for bytes in forged(session) {
                        foreign.send_to(&bytes, a).expect("it is sent");
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = wire.measure(0, Direction::Forward, Plan::default()).expect("a can").expect("a measures");
        stop.store(true, Ordering::Relaxed);
        outcome
    });
    let (error, _) = judge("20 Mbit/s under forgery", &outcome, Wire::truth(20), Duration::from_secs(60));
    assert_eq!(outcome.ended, Ended::Found);
    assert!(error <= 0.15, "{outcome:?}");
    let counted = load(&wire.ends[0].counters.foreign) - before[0];
    assert!(counted > 100, "{counted} were counted");
    foreign.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let answer = foreign.recv_from(&mut [0; 2_000]);
    assert!(answer.is_err(), "nobody else is answered: {answer:?}");
    assert_eq!(load(&wire.ends[0].counters.stray), 0, "what came from {b} was right");
}

#[test]
fn from_the_peer_itself_nonsense_is_counted_and_the_answer_is_no_longer_than_the_question() {
    needs_bed!();
    let mut wire = Wire::new().expect("the line is built");
    let host = wire.bed.site("b").namespace().clone();
    // The peer's own socket is gone: this one is the peer.
    wire.ends[1].meter.reconcile_named(&Default::default());
    std::thread::sleep(Duration::from_millis(700));
    let peer = socket(&host, wire.address("b", PORT), true);
    peer.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let a = wire.address("a", PORT);
    let mut buffer = [0; 2_000];
    let mut sent = 0;
    for session in [0, 7] {
        for bytes in forged(session) {
            peer.send_to(&bytes, a).expect("it is sent");
            sent += 1;
        }
    }
    assert!(peer.recv_from(&mut buffer).is_err(), "nothing of it is answered");
    let counters = &wire.ends[0].counters;
    let start = Instant::now();
    while load(&counters.malformed) + load(&counters.stray) < sent && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(load(&counters.malformed) + load(&counters.stray), sent, "all is counted: {counters:?}");
    // A session that is opened gets answers, none longer than what they answer.
    let mut ask = |message: &Message| {
        let question = message.encode(9);
        peer.send_to(&question, a).expect("it is sent");
        let (length, _) = peer.recv_from(&mut buffer).expect("an answer");
        assert!(length <= question.len(), "{length} bytes for {} of {message:?}", question.len());
        Message::decode(&buffer[..length]).expect("it is a message").1
    };
    assert_eq!(ask(&Message::Open), Message::Accept { passive: 0 });
    let Message::Report(report) = ask(&Message::Finish { train: 3 }) else { panic!("a report was expected") };
    assert_eq!((report.train, report.received), (3, 0));
    let verdict = Verdict { capacity: 5, found: true, solicited: 0 };
    assert_eq!(ask(&Message::Close(verdict)), Message::Closed);
    assert_eq!(ask(&Message::Open), Message::Refuse(Reason::Budget), "the same session again");
    let told = wire.ends[0].events.try_recv().expect("the verdict is told");
    assert!(matches!(told, Event::Told { verdict: Verdict { capacity: 5, .. }, .. }), "{told:?}");
    assert!(wire.ends[0].events.try_recv().is_err(), "once");
}

#[test]
fn a_peer_that_does_not_consent_is_sent_no_train() {
    needs_bed!();
    let mut wire = Wire::new().expect("the line is built");
    let way = wire.ends[1].way;
    for reason in [Reason::Metered, Reason::Unwilling] {
        let rule = Rule { consent: Err(reason), framing: Framing::none(1_500), passive: 0 };
        wire.ends[1].meter.set_rules([((tunnel(), way.peer), rule)].into());
        let host = wire.bed.site("b").namespace().clone();
        let before = host.statistic("isp1", "rx_bytes").expect("the counter is read");
        let failure =
            wire.measure(0, Direction::Forward, Plan::default()).expect("a can").expect_err("b does not want to");
        assert!(matches!(failure, Failure::Refused(other) if other == reason), "{failure}");
        let came = host.statistic("isp1", "rx_bytes").expect("the counter is read") - before;
        assert!(came < 1_000, "{came} bytes came in at b");
    }
}
