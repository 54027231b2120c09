use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;
use sdwan_common::stamp::{ReflectorPacket, tlv_flag};

use super::question::{Form, Questions};
use super::reading::{Unreadable, read};
use super::*;
use crate::measure::stamp::answer::{AllowedDscp, ClockQuality, Manner, Mode, Seen};
use crate::measure::stamp::key::Key;
use crate::measure::stamp::limits::{Limits, Rates};
use crate::measure::stamp::reflector::{Reflector, Settings};
use crate::measure::stamp::session::directions::Numbering;

const MILLISECOND: u64 = 1_000_000;
const NOW: u64 = 1_800_000_000_000_000_000;
/// How far the reflector's clock is ahead.
const AHEAD: u64 = 3_600_000 * MILLISECOND;
const CLOCK: ClockQuality = ClockQuality { synchronized: true, error_ns: MILLISECOND };

fn form(mode: Mode, key: Option<Key>) -> Form {
    Form { mode, key, session: 77, ptp: false, ask: true, wanted_dscp: 46, size: Some(400) }
}

fn key() -> Key {
    Key::new(&[5; 32]).expect("a key")
}

/// A sender, a reflector whose clock is an hour ahead, and a line between them, in virtual time.
struct Pair {
    questions: Questions,
    session: Session,
    reflector: Reflector,
    limits: Limits,
    now: u64,
}

impl Pair {
    fn new(form: Form, stateless: bool) -> Self {
        let manner = Manner { mode: form.mode, key: form.key.clone(), dscp: AllowedDscp::ANY };
        let settings = Settings {
            manner,
            allowed: Vec::new(),
            rates: Rates::default(),
            stateless,
            refuse_reflectors: true,
            direct_measurement: true,
        };
        Self {
            questions: Questions::new(form).expect("a size that fits"),
            session: Session::new(Duration::from_secs(1)),
            reflector: Reflector::new(settings, 8, Arc::default()),
            limits: Limits::new(Rates::default()),
            now: 0,
        }
    }

    fn ask(&mut self) -> Vec<u8> {
        self.now += 20 * MILLISECOND;
        let mut packet = Vec::new();
        let sequence = self.session.next_sequence();
        let timestamp = self.questions.write(sequence, sequence + 1, CLOCK, NOW + self.now, &mut packet);
        assert_eq!(packet.len(), self.questions.length());
        self.session.sent(timestamp, self.now, NOW + self.now);
        packet
    }

    fn reflect(&mut self, packet: &[u8], there: u64, dwell: u64) -> Vec<u8> {
        let received = NOW + AHEAD + self.now + there;
        let seen = Seen {
            source: SocketAddr::from(([192, 0, 2, 1], 4_000)),
            destination: Some(IpAddr::from([192, 0, 2, 2])),
            port: 862,
            ttl: 250,
            traffic_class: 46 << 2,
            received_unix_ns: received,
        };
        let reply = self
            .reflector
            .handle(packet, &seen, &mut self.limits, CLOCK, self.now, || received + dwell)
            .expect("an answer");
        let (answer, token) = (reply.payload.to_vec(), reply.token);
        self.reflector.sent(token, received + dwell);
        answer
    }

    fn take(&mut self, answer: &[u8], round_trip: u64) -> Result<Sample, Ignored> {
        let reading = read(answer, self.questions.form()).expect("an answer of this session");
        self.session.answered(&Arrived {
            reading,
            at_ns: self.now + round_trip,
            at_unix_ns: NOW + self.now + round_trip,
            ttl: Some(249),
            traffic_class: Some(46 << 2 | 1),
        })
    }

    /// A question and its answer, unless one of them is lost.
    fn exchange(&mut self, there: Option<u64>, dwell: u64, back: Option<u64>) -> Option<Result<Sample, Ignored>> {
        let packet = self.ask();
        let there = there?;
        let answer = self.reflect(&packet, there, dwell);
        back.map(|back| self.take(&answer, there + dwell + back))
    }
}

#[test]
fn the_round_trip_is_without_the_dwell_time_and_delays_have_the_clocks_offset() {
    for (mode, key) in
        [(Mode::Unauthenticated, None), (Mode::Unauthenticated, Some(key())), (Mode::Authenticated, Some(key()))]
    {
        for ptp in [false, true] {
            let mut pair = Pair::new(Form { ptp, ..form(mode, key.clone()) }, false);
            for _ in 0..3 {
                let sample = pair.exchange(Some(7 * MILLISECOND), 2 * MILLISECOND, Some(5 * MILLISECOND));
                let sample = sample.expect("answered").expect("taken");
                assert_eq!(sample.rtt, Duration::from_millis(12));
                assert_eq!(sample.dwell, Duration::from_millis(2));
                assert_eq!(sample.forward_ns, (AHEAD + 7 * MILLISECOND) as i64);
                assert_eq!(sample.backward_ns, 5 * MILLISECOND as i64 - AHEAD as i64);
            }
            let summary = pair.session.summary(CLOCK, ptp);
            assert_eq!((summary.sent, summary.answered, summary.lost), (3, 3, 0));
            assert_eq!(summary.rtt_ms.expect("figures").median, 12.0);
            assert_eq!(summary.variation.expect("variation").forward.jitter_ms, 0.0);
            assert!(summary.one_way_synchronized, "both clocks claim it");
            assert_eq!((summary.ttl.forward, summary.ttl.backward), (Some(250), Some(249)));
            assert_eq!((summary.dscp.forward, summary.dscp.backward), (Some(46), Some(46)));
            let counted = summary.reflector_counted.expect("the reflector counts");
            assert_eq!((counted.received, counted.sent, summary.tlvs), (3, 3, TlvState::Read));
            let ours_alone = ClockQuality { synchronized: false, ..CLOCK };
            assert!(!pair.session.summary(ours_alone, ptp).one_way_synchronized);
        }
    }
}

#[test]
fn variation_is_that_of_each_direction() {
    let mut pair = Pair::new(form(Mode::Unauthenticated, None), false);
    for step in 0..200 {
        let there = if step % 2 == 0 { 10 } else { 14 };
        pair.exchange(Some(there * MILLISECOND), 0, Some(5 * MILLISECOND));
    }
    let summary = pair.session.summary(CLOCK, false);
    let variation = summary.variation.expect("variation");
    let change = variation.forward.change_ms.expect("changes");
    assert_eq!((change.min, change.max), (4.0, 4.0));
    assert!((3.9..4.1).contains(&variation.forward.jitter_ms), "{variation:?}");
    assert_eq!(variation.backward.change_ms.expect("changes").max, 0.0);
}

#[test]
fn a_stateless_reflector_is_told_by_its_answers() {
    let mut pair = Pair::new(form(Mode::Unauthenticated, None), true);
    for step in 0..20 {
        let there = (step % 4 != 0).then_some(MILLISECOND);
        pair.exchange(there, 0, Some(MILLISECOND));
    }
    pair.session.expire(u64::MAX);
    let summary = pair.session.summary(CLOCK, false);
    assert_eq!((summary.numbering, summary.loss, summary.lost), (Numbering::Stateless, None, 5));
}

#[test]
fn forged_doubled_and_late_answers_change_no_figure_and_are_counted() {
    let mut pair = Pair::new(form(Mode::Unauthenticated, None), false);
    let packet = pair.ask();
    let answer = pair.reflect(&packet, MILLISECOND, 0);
    let mut forged = answer.clone();
    forged[30] ^= 1;
    assert_eq!(pair.take(&forged, 2 * MILLISECOND), Err(Ignored::Unknown), "it doesn't know our timestamp");
    let mut other = answer.clone();
    other[27] ^= 1;
    assert_eq!(pair.take(&other, 2 * MILLISECOND), Err(Ignored::Unknown), "it answers a question that wasn't asked");
    assert!(pair.take(&answer, 2 * MILLISECOND).is_ok());
    assert_eq!(pair.take(&answer, 3 * MILLISECOND), Err(Ignored::Duplicate));
    let again = pair.reflect(&packet, MILLISECOND, 0);
    assert_eq!(pair.take(&again, 3 * MILLISECOND), Err(Ignored::DuplicateQuestion));
    let packet = pair.ask();
    let late = pair.reflect(&packet, MILLISECOND, 0);
    assert_eq!(pair.take(&late, 1_001 * MILLISECOND), Err(Ignored::Late));
    let counts = pair.session.counts();
    let expected = Counts { sent: 2, answered: 1, lost: 1, late: 1, duplicates: 2, unknown: 2, ..Counts::default() };
    assert_eq!(counts, expected);
    let figures = pair.session.summary(CLOCK, false).rtt_ms.expect("figures");
    assert_eq!((figures.min, figures.max), (2.0, 2.0));
}

#[test]
fn an_answer_whose_times_contradict_each_other_gives_no_round_trip() {
    let mut pair = Pair::new(form(Mode::Unauthenticated, None), false);
    let outcome = pair.exchange(Some(MILLISECOND), 50 * MILLISECOND, None);
    assert_eq!(outcome, None);
    let packet = pair.ask();
    let answer = pair.reflect(&packet, MILLISECOND, 50 * MILLISECOND);
    assert_eq!(pair.take(&answer, 2 * MILLISECOND), Err(Ignored::Implausible), "it took longer than the round trip");
    let summary = pair.session.summary(CLOCK, false);
    assert_eq!((summary.answered, summary.implausible, summary.rtt_ms), (1, 1, None));
}

#[test]
fn a_session_remembers_a_bounded_number_of_questions() {
    let mut session = Session::new(Duration::from_secs(60));
    for number in 0..2 * REMEMBERED as u64 {
        session.sent(Timestamp::default(), number, NOW);
    }
    assert_eq!(session.questions.len(), REMEMBERED);
    assert_eq!(session.counts().lost, REMEMBERED as u64);
    session.expire(u64::MAX);
    assert_eq!((session.counts().lost, session.waits()), (2 * REMEMBERED as u64, false));
}

#[test]
fn what_a_reflector_could_not_read_or_authenticate_is_not_used() {
    let mut pair = Pair::new(form(Mode::Authenticated, Some(key())), false);
    let packet = pair.ask();
    let answer = pair.reflect(&packet, MILLISECOND, 0);
    let form = pair.questions.form().clone();
    let state = |bytes: &[u8]| read(bytes, &form).map(|reading| (reading.state, reading.class.is_some()));
    assert_eq!(state(&answer), Ok((TlvState::Read, true)));
    let changed = |at: usize| {
        let mut bytes = answer.clone();
        bytes[at] ^= tlv_flag::INTEGRITY;
        bytes
    };
    assert_eq!(state(&changed(112)), Ok((TlvState::RefusedByReflector, false)));
    assert_eq!(state(&changed(116)), Ok((TlvState::BadHmac, false)));
    assert_eq!(state(&changed(5)), Err(Unreadable::BadHmac));
    assert_eq!(state(&answer[..111]), Err(Unreadable::Truncated));
    assert_eq!(state(&answer[..112]), Ok((TlvState::Absent, false)));
    assert_eq!(state(&answer[..120]), Ok((TlvState::BadHmac, false)), "the hash is cut off");
    let mut bytes =
        ReflectorPacket::decode_authenticated(&answer).map(|packet| ReflectorPacket { session: 3, ..packet });
    let mut other = bytes.as_mut().expect("a packet").encode_authenticated();
    key().sign_base(&mut other);
    assert_eq!(state(&other), Err(Unreadable::OtherSession));
}

#[test]
fn sizes_that_packets_cannot_have_are_refused_with_those_that_they_can() {
    let sized = |size| Questions::new(Form { size, ..form(Mode::Unauthenticated, None) });
    let least = sized(None).expect("no padding").length();
    assert_eq!(least, 96);
    for size in [least, least + 4, 1_472, crate::measure::stamp::MAXIMUM_PAYLOAD] {
        assert_eq!(sized(Some(size)).map(|questions| questions.length()).ok(), Some(size));
    }
    for size in [0, least - 1, least + 1, least + 3, 9_001] {
        assert!(sized(Some(size)).is_err(), "{size}");
    }
    assert_eq!(
        sized(Some(97)).expect_err("too small").to_string(),
        "packets of 97 bytes are not possible here: use 96 bytes for no padding, or 100 to 9000"
    );
}

proptest! {
    #[test]
    fn loss_delay_and_answers_of_any_line_are_told_as_they_were(
        fates in prop::collection::vec((prop::option::weighted(0.9, 1u64..40), prop::option::weighted(0.9, 1u64..40)), 1..120),
        dwell in 0u64..5,
    ) {
        let mut pair = Pair::new(form(Mode::Unauthenticated, None), false);
        let mut truth = Vec::new();
        let (mut forward, mut backward) = (0, 0);
        for (there, back) in &fates {
            let there = there.map(|there| there * MILLISECOND);
            let back = back.map(|back| back * MILLISECOND);
            match (there, back) {
                (Some(there), Some(back)) => truth.push((there + back) as f64 / 1e6),
                (Some(_), None) => backward += 1,
                (None, _) => forward += 1,
            }
            if let Some(outcome) = pair.exchange(there, dwell * MILLISECOND, back) {
                prop_assert!(outcome.is_ok());
            }
        }
        // A last one that arrives tells the fate of all before.
        pair.exchange(Some(MILLISECOND), 0, Some(MILLISECOND));
        truth.push(2.0);
        pair.session.expire(u64::MAX);
        let summary = pair.session.summary(CLOCK, false);
        prop_assert_eq!(summary.answered as usize, truth.len());
        prop_assert_eq!(summary.lost, forward + backward);
        truth.sort_by(f64::total_cmp);
        let figures = summary.rtt_ms.expect("figures");
        prop_assert_eq!((figures.min, figures.max), (truth[0], truth[truth.len() - 1]));
        prop_assert_eq!(figures.median, truth[truth.len().div_ceil(2) - 1]);
        let loss = summary.loss.filter(|_| forward + backward > 0);
        if let Some(loss) = loss {
            prop_assert_eq!((loss.forward.lost, loss.backward.lost), (forward, backward));
        } else {
            prop_assert!(forward + backward == 0 || truth.len() <= 1, "{:?}", summary);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_and_change_no_figure(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20), keyed: bool, authenticated: bool,
    ) {
        let mode = if authenticated { Mode::Authenticated } else { Mode::Unauthenticated };
        let mut pair = Pair::new(form(mode, (keyed || authenticated).then(key)), false);
        pair.ask();
        for packet in packets {
            if let Ok(reading) = read(&packet, pair.questions.form()) {
                let arrived =
                    Arrived { reading, at_ns: pair.now, at_unix_ns: NOW, ttl: None, traffic_class: None };
                prop_assert_eq!(pair.session.answered(&arrived), Err(Ignored::Unknown));
            }
        }
        prop_assert_eq!(pair.session.counts().answered, 0);
    }
}
