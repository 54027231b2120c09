//! A session of the sender: what its answers say. No clock, no socket: every call takes the time.
//!
//! | figure | from |
//! |---|---|
//! | round-trip time | (T4 − T1) − (T3 − T2): without the reflector's dwell time |
//! | one-way delay | T2 − T1 and T4 − T3: as good as the two clocks agree |
//! | delay variation | changes of the one-way delay: the clocks' offset cancels out |
//! | loss, doubling, overtaking | [`directions`] |

pub mod directions;
pub mod question;
pub mod reading;
pub mod samples;
pub mod summary;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use sdwan_common::stamp::direct::DirectMeasurement;
use sdwan_common::stamp::tlv::{ClassOfService, TimestampInformation};
use sdwan_common::stamp::{ErrorEstimate, Timestamp};

use crate::engine::estimate::Jitter;
use directions::{Directions, Memory};
use reading::{Reading, TlvState};
use samples::Samples;

/// Questions that are remembered at most, answered or not.
const REMEMBERED: usize = 65_536;
/// An answer that comes after this many timeouts is of no known question.
const FORGOTTEN: u32 = 4;
/// A change of the one-way delay beyond this is a step of a clock.
const CLOCK_STEP_NS: u64 = 10_000_000_000;

/// An answer as it came in, after its form was checked.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// What it says.
    pub reading: Reading,
    /// When it came in, monotonic, ns.
    pub at_ns: u64,
    /// When it came in, T4, ns since 1970 UTC.
    pub at_unix_ns: u64,
    /// TTL or hop limit that it came in with.
    pub ttl: Option<u8>,
    /// DSCP and ECN that it came in with.
    pub traffic_class: Option<u8>,
}

/// Why an answer changed no figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No question like it was sent of late: forged, or far too late.
    Unknown,
    /// The question had been answered with this very number: the network doubled the answer, or it was replayed.
    Duplicate,
    /// The question had been answered with another number: the network doubled the question.
    DuplicateQuestion,
    /// It came after the timeout.
    Late,
    /// Its timestamps are no times, or contradict each other.
    Implausible,
}

/// What one answer says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Sequence number of the question.
    pub sequence: u32,
    /// Sequence number of the answer.
    pub reflector_sequence: u32,
    /// Round-trip time without the dwell time.
    pub rtt: Duration,
    /// Dwell time.
    pub dwell: Duration,
    /// One-way delay there, ns, off by the difference of the clocks.
    pub forward_ns: i64,
    /// One-way delay back, ns, off by the same with the other sign.
    pub backward_ns: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Answered(u32),
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    timestamp: Timestamp,
    sent_ns: u64,
    sent_unix_ns: u64,
    fate: Fate,
}

/// Variation of the delay in one direction.
#[derive(Clone, Debug, Default)]
struct Variation {
    jitter: Jitter,
    previous: Option<(u64, i64)>,
    changes: Samples,
}

impl Variation {
    fn sample(&mut self, sequence: u64, sent_unix_ns: u64, received_unix_ns: u64, delay_ns: i64) {
        self.jitter.sample(sequence as u32, sent_unix_ns, received_unix_ns);
        let previous = self.previous.filter(|(previous, _)| *previous < sequence);
        if let Some((before, delay)) = previous {
            let change = delay_ns.saturating_sub(delay).unsigned_abs();
            // Between neighbours only (RFC 3393): a loss is no variation.
            if before + 1 == sequence && change < CLOCK_STEP_NS {
                self.changes.push(change as i64);
            }
        }
        if previous.is_some() || self.previous.is_none() {
            self.previous = Some((sequence, delay_ns));
        }
    }
}

/// Counts of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Questions sent.
    pub sent: u64,
    /// Questions answered in time.
    pub answered: u64,
    /// Questions that weren't, and whose time is over.
    pub lost: u64,
    /// Answers after the timeout.
    pub late: u64,
    /// Answers that came more than once.
    pub duplicates: u64,
    /// Answers of no known question.
    pub unknown: u64,
    /// Answers whose times contradict each other; they count as answered.
    pub implausible: u64,
}

/// What was last heard of the reflector and the way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latest {
    /// TTL with which questions reach the reflector.
    pub ttl_forward: Option<u8>,
    /// TTL with which answers come in.
    pub ttl_backward: Option<u8>,
    /// DSCP and ECN with which answers come in.
    pub class_backward: Option<u8>,
    /// What the reflector says of the class of service.
    pub class: Option<ClassOfService>,
    /// What it says of its clock.
    pub timestamps: Option<TimestampInformation>,
    /// What it counted.
    pub direct: Option<DirectMeasurement>,
    /// Its error estimate.
    pub error_estimate: Option<ErrorEstimate>,
    /// What became of its TLVs.
    pub tlvs: TlvState,
    /// Whether it returns the session identifier.
    pub knows_session: bool,
}

/// The state of a session.
#[derive(Clone, Debug)]
pub struct Session {
    timeout: Duration,
    first: u64,
    questions: VecDeque<Question>,
    /// Questions before this one are settled.
    waiting_from: u64,
    counts: Counts,
    rtt: Samples,
    dwell: Samples,
    one_way: [Samples; 2],
    variation: [Variation; 2],
    directions: Directions,
    latest: Latest,
}

impl Session {
    /// `timeout` is after how long a question without an answer is lost.
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            first: 0,
            questions: VecDeque::new(),
            waiting_from: 0,
            counts: Counts::default(),
            rtt: Samples::default(),
            dwell: Samples::default(),
            one_way: Default::default(),
            variation: Default::default(),
            directions: Directions::default(),
            latest: Latest::default(),
        }
    }

    /// Number of the next question: from 0, plus 1 for each (RFC 8762 section 4.2.1).
    pub fn next_sequence(&self) -> u32 {
        self.counts.sent as u32
    }

    /// The next question was sent, with this timestamp.
    pub fn sent(&mut self, timestamp: Timestamp, now_ns: u64, now_unix_ns: u64) {
        self.counts.sent += 1;
        self.questions.push_back(Question {
            timestamp,
            sent_ns: now_ns,
            sent_unix_ns: now_unix_ns,
            fate: Fate::Waiting,
        });
        if self.questions.len() > REMEMBERED {
            self.settle(self.first);
            self.questions.pop_front();
            self.first += 1;
        }
    }

    /// An answer came in.
    ///
    /// # Errors
    /// Why it changes no figure; it is counted.
    pub fn answered(&mut self, arrived: &Arrived) -> Result<Sample, Ignored> {
        self.expire(arrived.at_ns);
        let outcome = self.take(arrived);
        match outcome {
            Err(Ignored::Unknown) => self.counts.unknown += 1,
            Err(Ignored::Late) => self.counts.late += 1,
            Err(Ignored::Duplicate | Ignored::DuplicateQuestion) => self.counts.duplicates += 1,
            Err(Ignored::Implausible) => self.counts.implausible += 1,
            Ok(_) => {}
        }
        outcome
    }

    /// Settles the questions whose time is over.
    pub fn expire(&mut self, now_ns: u64) {
        let timeout = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        let age = |question: &Question| now_ns.saturating_sub(question.sent_ns);
        while let Some(question) = self.questions.get((self.waiting_from - self.first) as usize) {
            if question.fate == Fate::Waiting && age(question) < timeout {
                break;
            }
            self.settle(self.waiting_from);
        }
        let forgotten = timeout.saturating_mul(u64::from(FORGOTTEN));
        while self.first < self.waiting_from && self.questions.front().is_some_and(|question| age(question) > forgotten)
        {
            self.questions.pop_front();
            self.first += 1;
        }
    }

    /// Whether answers are outstanding.
    pub fn waits(&self) -> bool {
        self.counts.answered + self.counts.lost < self.counts.sent
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was heard last.
    pub fn latest(&self) -> &Latest {
        &self.latest
    }

    /// The questions up to this one get their fate; those that wait are lost.
    fn settle(&mut self, index: u64) {
        if index < self.waiting_from {
            return;
        }
        if let Some(question) = self.questions.get_mut((index - self.first) as usize)
            && question.fate == Fate::Waiting
        {
            question.fate = Fate::Lost;
            self.counts.lost += 1;
        }
        self.waiting_from = index + 1;
    }

    fn take(&mut self, arrived: &Arrived) -> Result<Sample, Ignored> {
        let packet = &arrived.reading.packet;
        let offset = packet.sender_sequence.wrapping_sub(self.first as u32) as usize;
        let index = self.first + offset as u64;
        let question = self.questions.get_mut(offset).ok_or(Ignored::Unknown)?;
        // Who doesn't see our packets can't know the timestamp.
        if question.timestamp != packet.sender_timestamp {
            return Err(Ignored::Unknown);
        }
        let again = match question.fate {
            Fate::Lost => return Err(Ignored::Late),
            Fate::Answered(number) if number == packet.sequence => return Err(Ignored::Duplicate),
            Fate::Answered(_) => true,
            Fate::Waiting => false,
        };
        let memory = match arrived.reading.follow_up {
            None => Memory::Untold,
            Some(told) if told.timestamp == Timestamp::default() => Memory::None,
            Some(_) => Memory::Some,
        };
        self.directions.answered(index, packet.sequence, again, memory);
        if again {
            return Err(Ignored::DuplicateQuestion);
        }
        question.fate = Fate::Answered(packet.sequence);
        let question = *question;
        self.counts.answered += 1;
        self.latest = Latest {
            ttl_forward: Some(packet.sender_ttl).filter(|ttl| *ttl > 0),
            ttl_backward: arrived.ttl,
            class_backward: arrived.traffic_class,
            class: arrived.reading.class,
            timestamps: arrived.reading.timestamps,
            direct: arrived.reading.direct,
            error_estimate: Some(packet.error_estimate),
            tlvs: arrived.reading.state,
            knows_session: packet.session != 0,
        };
        self.measure(index, &question, arrived)
    }

    fn measure(&mut self, index: u64, question: &Question, arrived: &Arrived) -> Result<Sample, Ignored> {
        let packet = &arrived.reading.packet;
        let ptp = packet.error_estimate.ptp;
        let read =
            |timestamp: Timestamp| timestamp.as_unix_ns_near(ptp, arrived.at_unix_ns).ok_or(Ignored::Implausible);
        let (received, sent) = (read(packet.received)?, read(packet.timestamp)?);
        let dwell = sent.checked_sub(received).ok_or(Ignored::Implausible)?;
        let elapsed = arrived.at_ns.checked_sub(question.sent_ns).ok_or(Ignored::Implausible)?;
        let rtt = elapsed.checked_sub(dwell).ok_or(Ignored::Implausible)?;
        let forward_ns = difference(received, question.sent_unix_ns);
        let backward_ns = difference(arrived.at_unix_ns, sent);
        self.rtt.push(rtt as i64);
        self.dwell.push(dwell as i64);
        let [forward, backward] = &mut self.one_way;
        forward.push(forward_ns);
        backward.push(backward_ns);
        let [forward, backward] = &mut self.variation;
        forward.sample(index, question.sent_unix_ns, received, forward_ns);
        backward.sample(index, sent, arrived.at_unix_ns, backward_ns);
        Ok(Sample {
            sequence: packet.sender_sequence,
            reflector_sequence: packet.sequence,
            rtt: Duration::from_nanos(rtt),
            dwell: Duration::from_nanos(dwell),
            forward_ns,
            backward_ns,
        })
    }
}

fn difference(later: u64, earlier: u64) -> i64 {
    i64::try_from(i128::from(later) - i128::from(earlier)).unwrap_or(if later > earlier { i64::MAX } else { i64::MIN })
}
