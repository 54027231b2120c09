//! The search on one path.
//!
//! ```text
//!            somebody answers,
//!            base gets through            nothing left to try
//!     Base ──────────────────► Searching ──────────────────────► Complete
//!      ▲  │ base doesn't            ▲ ▲        raise timer,          │
//!      │  ▼                         │ └── ICMP, the path came back ──┤
//!      │ Error ── a smaller size ───┘  size in use doesn't get       │
//!      │           was found           through, base does: black hole│
//!      └──────────── nobody answers any more, at any size ◄──────────┘
//! ```
//! Disabled, the fifth state of RFC 8899 section 5.2, is a path without a search.
//!
//! A size counts as too large after several unanswered probes *and* an answer to a smaller one after them: a path that
//! is down altogether says nothing about sizes. A size counts as fitting only when a probe of exactly that size was
//! acknowledged. ICMP changes which size is asked about next, nothing else (RFC 8899 section 4.6).
//!
//! In a black hole every large packet is lost, so a smaller size has to be in use before the right one is known. Which one:
//! the size of an earlier search that found less, if it still gets through (a path that changes between two routes), else
//! the base size, and then each larger size as soon as a probe of it was acknowledged (RFC 8899 section 5.2).
//!
//! RFC 8899 wants probe timers of 1 s at least, for packetization layers that may not know the round-trip time. Ours is
//! measured all the time: once it is known, the timer follows it.

use std::collections::VecDeque;
use std::time::Duration;

use super::state::{Conditions, Report, State};
use super::{How, Known, Settings, base, contact, minimum};
use crate::engine::time::Time;

/// Unanswered probes after which a size is taken for too large (`MAX_PROBES`); more where the path loses many packets.
const MAX_PROBES: u32 = 3;
/// Most of them.
const MOST_PROBES: u32 = 10;
/// Chance that loss alone makes a size look too large.
const MISJUDGED: f64 = 1e-3;
/// Probe timer before the round-trip time is known.
const TIMEOUT: Duration = Duration::from_secs(1);
const TIMEOUT_LEAST: Duration = Duration::from_millis(100);
const TIMEOUT_MOST: Duration = Duration::from_millis(1_500);
/// Answers to one size are waited for no longer than this in all, so that a black hole is found in time.
const PATIENCE: Duration = Duration::from_secs(6);
/// Pauses before somebody who doesn't answer is asked again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);
/// While a search goes on after a black hole, a larger size comes into use when it gains at least this much, bytes: every
/// change is one for the interface and its routes, too.
const STEP: u16 = 64;
/// ICMP may cause a confirmation this often.
const HINT_PAUSE: Duration = Duration::from_secs(1);
/// ICMP messages that one search follows.
const MOST_HINTS: u32 = 4;
/// On metered uplinks everything that repeats is this much slower.
const METERED: u32 = 20;
/// Probes remembered, so that a late answer still counts.
const REMEMBERED: usize = 16;

/// MTUs of real networks, ascending: tunnels in tunnels, PPPoE, mobile, jumbo frames.
const COMMON: [u16; 30] = [
    576, 1000, 1200, 1280, 1300, 1320, 1340, 1360, 1380, 1400, 1420, 1428, 1430, 1440, 1450, 1452, 1454, 1460, 1464,
    1472, 1476, 1480, 1484, 1488, 1492, 1500, 2000, 4352, 4470, 9000,
];

/// Why a size is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Does anybody answer?
    Contact,
    /// Does the base size get through?
    Base,
    /// Does a larger one?
    Grow,
    /// Does the one in use still?
    Confirm,
    /// No probe of `size` was answered: does a smaller one get through?
    Control { of: Doubted, size: u16 },
}

/// Which question stayed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubted {
    Base,
    Grow,
    Confirm,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    purpose: Purpose,
    size: u16,
    lost: u32,
    /// When the probe on its way counts as lost.
    until: Option<Time>,
}

/// The search on one path.
#[derive(Clone, Debug)]
pub struct Search {
    conditions: Conditions,
    state: State,
    known: Known,
    question: Option<Question>,
    /// When the next probe is due, or the answer to the last one.
    due: Time,
    /// Largest size that got through in this search.
    low: u16,
    /// Largest size that isn't known to be too large.
    high: u16,
    /// Once this size got through, its larger neighbour comes next: it is likely to be the MTU.
    edge: Option<u16>,
    tried_max: bool,
    hint: Option<u16>,
    hints: u32,
    hint_at: Option<Time>,
    contact: bool,
    retry: Duration,
    raise_at: Time,
    recent: VecDeque<(u64, u16)>,
    /// What an earlier search found that is smaller than what is in use.
    smaller: Option<u16>,
    began: Time,
    sent: u32,
    unanswered: u32,
    finished: bool,
}

impl Search {
    /// A search that begins now; until it knows better, the path takes what the interfaces do.
    pub fn new(conditions: Conditions, now: Time) -> Self {
        let known = Known { size: conditions.max, how: How::Configured, ipv6: conditions.ipv6 };
        let mut search = Self {
            state: State::Base,
            known,
            question: None,
            due: now,
            low: 0,
            high: conditions.max,
            edge: None,
            tried_max: false,
            hint: None,
            hints: 0,
            hint_at: None,
            contact: false,
            retry: RETRY_FIRST,
            raise_at: now,
            recent: VecDeque::new(),
            smaller: None,
            began: now,
            sent: 0,
            unanswered: 0,
            finished: false,
            conditions,
        };
        search.restart(now);
        search
    }

    /// What is known.
    pub fn known(&self) -> Known {
        self.known
    }

    /// How it goes.
    pub fn report(&self, now: Time) -> Report {
        Report {
            known: self.known,
            state: self.state,
            contact: self.contact,
            sent: self.sent,
            unanswered: self.unanswered,
            took: now.since(self.began),
        }
    }

    /// When there is something to do next.
    pub fn due(&self) -> Time {
        self.due
    }

    /// Whether the search came to an end, for better or worse, since this was last asked.
    pub fn take_finished(&mut self) -> bool {
        std::mem::take(&mut self.finished)
    }

    /// Begins anew: sizes that did not fit may fit now. What is known stays until something else is.
    pub fn restart(&mut self, now: Time) {
        self.began = now;
        (self.sent, self.unanswered) = (0, 0);
        // What was right before is likely to be right again.
        self.hint = Some(self.known.size).filter(|_| self.known.how == How::Searched);
        self.hints = 0;
        self.retry = RETRY_FIRST;
        self.state = State::Base;
        let size = contact(self.conditions.ipv6);
        self.ask(Purpose::Contact, size, now);
    }

    /// Takes new conditions. Other interfaces, or a path that came back, are a reason to look again.
    pub fn set_conditions(&mut self, conditions: Conditions, settings: &Settings, now: Time) {
        let old = std::mem::replace(&mut self.conditions, conditions);
        let new = &self.conditions;
        if (new.ipv6, new.max) != (old.ipv6, old.max) {
            if self.known.how == How::Configured || self.known.size > new.max || new.ipv6 != old.ipv6 {
                self.known = Known { size: new.max, how: How::Configured, ipv6: new.ipv6 };
            }
            self.restart(now);
        } else if new.up_since.is_some() && new.up_since != old.up_since {
            match self.state {
                State::Complete if self.low < self.conditions.max => self.raise(settings, now),
                State::Complete => self.ask(Purpose::Confirm, self.known.size, now),
                State::Searching => {}
                State::Base | State::Error => self.restart(now),
            }
        }
    }

    /// Whether [`Self::probe`] has one.
    pub fn wants_probe(&self, now: Time) -> bool {
        now >= self.due && self.question.is_some_and(|question| question.until.is_none())
    }

    /// Whether the next probe goes on with something that has begun.
    pub fn is_under_way(&self) -> bool {
        self.question.is_some_and(|question| {
            question.lost > 0 || !matches!(question.purpose, Purpose::Contact | Purpose::Confirm)
        })
    }

    /// Size of the probe that is due, if one is; the caller sends it with this sequence number.
    pub fn probe(&mut self, sequence: u64, now: Time) -> Option<u16> {
        if now < self.due {
            return None;
        }
        let timeout = self.timeout();
        let question = self.question.as_mut().filter(|question| question.until.is_none())?;
        question.until = Some(now + timeout);
        let size = question.size;
        self.due = now + timeout;
        self.sent = self.sent.saturating_add(1);
        if self.recent.len() >= REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((sequence, size));
        Some(size)
    }

    /// Lets time pass. Afterwards a probe may be due.
    pub fn poll(&mut self, settings: &Settings, now: Time) {
        if now < self.due {
            return;
        }
        match &mut self.question {
            Some(question) if question.until.is_some_and(|until| until <= now) => {
                question.until = None;
                question.lost += 1;
                self.unanswered = self.unanswered.saturating_add(1);
                let question = *question;
                if question.lost >= self.most_probes_of(&question) {
                    self.unanswered_question(question, now);
                }
            }
            Some(_) => {}
            None => match self.state {
                State::Base | State::Error => {
                    let size = contact(self.conditions.ipv6);
                    self.ask(Purpose::Contact, size, now);
                }
                State::Complete if now >= self.raise_at && self.low < self.conditions.max => self.raise(settings, now),
                State::Complete | State::Searching => self.ask(Purpose::Confirm, self.known.size, now),
            },
        }
    }

    /// The kernel refused to send a probe of this size: it is lost already.
    pub fn refused(&mut self, sequence: u64, now: Time) {
        if self.recent.back().is_some_and(|(last, _)| *last == sequence)
            && let Some(question) = &mut self.question
            && question.until.is_some()
        {
            // Not at once: what the kernel refuses now it may take in a moment.
            question.until = Some(now + TIMEOUT_LEAST);
            self.due = now + TIMEOUT_LEAST;
        }
    }

    /// An authentic acknowledgement. `false`: nothing of the kind was asked, and nothing changed.
    pub fn acknowledged(&mut self, sequence: u64, size: u16, settings: &Settings, now: Time) -> bool {
        let Some(index) = self.recent.iter().position(|probe| *probe == (sequence, size)) else { return false };
        self.recent.remove(index);
        self.contact = true;
        self.retry = RETRY_FIRST;
        match self.question {
            Some(question) if question.size == size => {
                self.question = None;
                self.answered(question, settings, now);
            }
            // Late answers: the size fits after all.
            Some(Question { purpose: Purpose::Control { of: Doubted::Confirm, size: doubted }, .. })
                if size >= doubted =>
            {
                self.complete(settings, now);
            }
            _ if self.state == State::Searching && size > self.low => {
                self.low = size;
                if size > self.high {
                    self.high = self.conditions.max;
                }
                self.grow(settings, now);
            }
            _ => {}
        }
        true
    }

    /// ICMP says that a packet was too large and that `mtu` is the largest (0: it doesn't say). Anybody can forge that.
    /// `false`: it is not followed.
    pub fn too_big(&mut self, mtu: u16, settings: &Settings, now: Time) -> bool {
        if mtu < minimum(self.conditions.ipv6) {
            return false;
        }
        match (self.state, self.question) {
            (State::Searching, Some(Question { purpose: Purpose::Grow, size, until: Some(_), .. }))
                if mtu >= self.low && mtu < size && size > self.low + 1 && self.hints < MOST_HINTS =>
            {
                self.hints += 1;
                // What got through already needn't be asked again, only what is larger.
                self.edge = (mtu == self.low).then_some(mtu);
                self.hint = Some(mtu);
                self.grow(settings, now);
                true
            }
            (State::Complete, question) if mtu < self.known.size => {
                let pause = self.hint_at.is_some_and(|at| now.since(at) < HINT_PAUSE);
                let confirming = question.is_some_and(|question| question.purpose == Purpose::Confirm);
                if pause || (question.is_some() && !confirming) {
                    return false;
                }
                self.hint_at = Some(now);
                self.hint = Some(mtu);
                if !confirming {
                    self.ask(Purpose::Confirm, self.known.size, now);
                }
                true
            }
            _ => false,
        }
    }

    /// The timer of one probe.
    fn timeout(&self) -> Duration {
        let Some(rtt) = self.conditions.rtt else { return TIMEOUT };
        let span = rtt.mul_f64(1.5) + self.conditions.variation * 4 + TIMEOUT_LEAST / 2;
        span.clamp(TIMEOUT_LEAST, TIMEOUT_MOST)
    }

    /// Probes after which loss alone is no likely reason for their missing answers.
    fn most_probes(&self) -> u32 {
        let loss = self.conditions.loss.clamp(0.0, 0.9);
        let needed = if loss > 0.0 { (MISJUDGED.ln() / loss.ln()).ceil() as u32 } else { 0 };
        let patience = (PATIENCE.as_secs_f64() / self.timeout().as_secs_f64()) as u32;
        needed.min(patience).clamp(MAX_PROBES, MOST_PROBES)
    }

    /// What only may get through is asked about once: meanwhile large packets vanish.
    fn most_probes_of(&self, question: &Question) -> u32 {
        let is_guess = question.size > self.floor();
        match question.purpose {
            Purpose::Control { of: Doubted::Confirm, .. } if is_guess => 1,
            _ => self.most_probes(),
        }
    }

    fn slower(&self, pause: Duration) -> Duration {
        if self.conditions.metered { pause * METERED } else { pause }
    }

    fn ask(&mut self, purpose: Purpose, size: u16, now: Time) {
        self.question = Some(Question { purpose, size, lost: 0, until: None });
        self.due = now;
    }

    /// The base size, or the largest where the interfaces take even less.
    fn floor(&self) -> u16 {
        base(self.conditions.ipv6).min(self.conditions.max)
    }

    /// A probe of the question's size got through.
    fn answered(&mut self, question: Question, settings: &Settings, now: Time) {
        let floor = self.floor();
        match question.purpose {
            Purpose::Contact => {
                self.high = self.conditions.max;
                (self.edge, self.tried_max) = (None, false);
                self.ask(Purpose::Base, floor, now);
            }
            Purpose::Base | Purpose::Grow => {
                self.low = question.size;
                if self.low >= floor {
                    self.state = State::Searching;
                }
                self.grow(settings, now);
            }
            Purpose::Confirm => self.complete(settings, now),
            // Even the base size is too large.
            Purpose::Control { of: Doubted::Base | Doubted::Confirm, size } if question.size < floor => {
                self.high = size.min(floor) - 1;
                self.below_base(settings, now);
            }
            Purpose::Control { of, size } => {
                self.high = size - 1;
                if of == Doubted::Confirm {
                    self.began = now;
                    self.hints = 0;
                    self.low = question.size;
                    // What ICMP told, or what fitted before, was right, and its larger neighbour will show that.
                    self.edge = Some(question.size).filter(|size| *size > floor);
                    self.hint = None;
                    self.tried_max = true;
                    self.state = State::Searching;
                }
                if self.known.size > self.high {
                    self.publish(self.low.max(self.least()), How::Base);
                }
                self.grow(settings, now);
            }
        }
    }

    /// All probes of a question stayed without an answer.
    fn unanswered_question(&mut self, question: Question, now: Time) {
        let floor = self.floor();
        let smallest = contact(self.conditions.ipv6);
        let control = |of, size| Purpose::Control { of, size };
        match question.purpose {
            Purpose::Base => self.ask(control(Doubted::Base, question.size), smallest, now),
            Purpose::Grow => self.ask(control(Doubted::Grow, question.size), self.low, now),
            Purpose::Confirm => {
                // What ICMP told may be right, or what fitted before: then the path need not fall further than that.
                let usual = self.hint.or(self.smaller);
                let usual = usual.filter(|size| *size >= floor && *size < question.size);
                let size = usual.unwrap_or(if question.size > floor { floor } else { smallest });
                self.ask(control(Doubted::Confirm, question.size), size, now);
            }
            Purpose::Control { of: Doubted::Confirm, size } if question.size > smallest => {
                self.hint = None;
                let smaller = if question.size > floor { floor } else { smallest };
                self.ask(control(Doubted::Confirm, size), smaller, now);
            }
            Purpose::Contact | Purpose::Control { .. } => self.lost_contact(now),
        }
    }

    /// The smallest size that may be in use.
    fn least(&self) -> u16 {
        minimum(self.conditions.ipv6).min(self.conditions.max)
    }

    /// Not even the base size gets through.
    fn below_base(&mut self, settings: &Settings, now: Time) {
        self.state = State::Error;
        self.publish(self.least(), How::Base);
        if self.high < self.least() {
            // Nothing that a search could find: look again later.
            self.finish_without(now);
            return;
        }
        self.low = contact(self.conditions.ipv6);
        (self.edge, self.tried_max) = (None, true);
        self.grow(settings, now);
    }

    fn lost_contact(&mut self, now: Time) {
        self.contact = false;
        self.state = State::Base;
        self.finish_without(now);
    }

    /// Ends without a result; everything is asked anew after a pause that grows.
    fn finish_without(&mut self, now: Time) {
        self.question = None;
        self.finished = true;
        self.due = now + self.slower(self.retry);
        self.retry = (self.retry * 2).min(RETRY_MOST);
    }

    /// Asks about the next larger size, or ends the search.
    fn grow(&mut self, settings: &Settings, now: Time) {
        if self.low < self.high {
            if self.known.how == How::Base && self.low >= self.known.size.saturating_add(STEP) {
                self.publish(self.low, How::Base);
            }
            let size = self.next_size();
            self.ask(Purpose::Grow, size, now);
            return;
        }
        let found = self.low.max(self.least());
        if found > self.known.size && self.known.how == How::Searched {
            self.smaller = Some(self.known.size);
        }
        self.publish(found, How::Searched);
        self.finished = true;
        self.raise_at = now + self.slower(settings.raise);
        self.complete(settings, now);
    }

    /// In `low + 1 ..= high`: what is most likely first, then by halves.
    fn next_size(&mut self) -> u16 {
        let (low, high) = (self.low, self.high);
        if let Some(hint) = self.hint.take().filter(|hint| *hint > low && *hint <= high) {
            self.edge = Some(hint);
            return hint;
        }
        if self.edge == Some(low) {
            return low + 1;
        }
        if !self.tried_max {
            self.tried_max = true;
            return high;
        }
        let common: Vec<u16> = COMMON.into_iter().filter(|size| *size > low && *size <= high).collect();
        match common.get(common.len() / 2) {
            Some(size) => {
                self.edge = Some(*size);
                *size
            }
            None => low + (high - low).div_ceil(2),
        }
    }

    /// Looks whether the path takes more by now: one byte more is enough to see.
    fn raise(&mut self, settings: &Settings, now: Time) {
        self.began = now;
        (self.sent, self.unanswered) = (0, 0);
        self.hints = 0;
        self.hint = None;
        self.state = State::Searching;
        (self.low, self.high) = (self.known.size, self.conditions.max);
        (self.edge, self.tried_max) = (Some(self.low), false);
        self.grow(settings, now);
    }

    /// The size in use is right; it is confirmed from time to time.
    fn complete(&mut self, settings: &Settings, now: Time) {
        self.hint = None;
        self.question = None;
        if self.low < self.floor() {
            self.state = State::Error;
            self.due = now + self.slower(self.retry);
            self.retry = (self.retry * 2).min(RETRY_MOST);
            return;
        }
        self.state = State::Complete;
        self.due = now + self.slower(settings.confirm);
        if self.low < self.conditions.max {
            self.due = self.due.min(self.raise_at.max(now));
        }
    }

    fn publish(&mut self, size: u16, how: How) {
        self.known = Known { size, how, ipv6: self.conditions.ipv6 };
    }
}
