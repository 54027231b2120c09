//! One path: its estimators and its state.
//!
//! ```text
//!            first answers                 no answer for the detection time, loss > 50 %,
//!  Starting ───────────────► Up ─────────────────────────────────────────────────────────► Down
//!                            ▲  uplink lost                                                  │ answer
//!                            │  answers for the whole hold                                   ▼
//!                            └──────────────────────────────────────────────────────── Recovering
//!                                                                    no answer: back to Down
//! ```
//! A path that never answered stays in `Starting`. Each fall raises a penalty that decays exponentially and lengthens
//! the next hold (the idea of RFC 2439).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::capacity::{Direction, Estimate, Known as KnownCapacity};
use super::estimate::{Counters, DirectLoss, Estimator, Ignored, Loss, ProbeReply, Quality, SpanQuality};
use super::mtu::{How, Known};
use super::penalty::Penalty;
use super::room::Room;
use super::score::{DEGRADED_BELOW, DOWN_ABOVE_LOSS, path_score};
use super::settings::Settings;
use super::stall::Stall;
use super::time::Time;
use super::types::overhead;

mod detection;

/// WireGuard pads to multiples of this, bytes.
const PADDING: u16 = 16;
/// A new path is not held to be down before this: it has not been asked for long enough.
pub const GRACE: Duration = Duration::from_secs(10);

/// State of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    /// Never answered so far.
    Starting,
    /// Answers.
    Up,
    /// Does not answer.
    Down,
    /// Answers again; not used before it has for the hold time.
    Recovering,
}

/// Why a path changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Probes are answered.
    Answers,
    /// No answer within the detection time.
    Silent,
    /// More than half of the probes are lost.
    Loss,
    /// The local uplink has no carrier, no address or no interface.
    UplinkDown,
    /// The tunnel's interface is missing.
    NoTunnel,
    /// The peer says that its uplink is lost.
    FarUplinkDown,
}

impl Cause {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Answers => "probes are answered",
            Self::Silent => "no answer to probes",
            Self::Loss => "more than half of the probes are lost",
            Self::UplinkDown => "the uplink is down",
            Self::NoTunnel => "the tunnel interface is missing",
            Self::FarUplinkDown => "the peer says that its uplink is down",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: PathState,
    /// Now.
    pub to: PathState,
    /// Why.
    pub cause: Cause,
}

/// One path.
#[derive(Clone, Debug)]
pub struct Path {
    state: PathState,
    since: Time,
    /// From when on it counts as down what isn't up.
    watched_from: Time,
    /// How long it was up before its present state.
    up_before: Duration,
    estimator: Estimator,
    direct: DirectLoss,
    last_answer: Option<Time>,
    stall: Stall,
    answers_in_row: u32,
    recovering_since: Time,
    penalty: Penalty,
    pace: Duration,
    /// The pace that detection reckons with: a slower one from before its first probe on, a faster one only when
    /// answers come at it.
    patience: Duration,
    answers_at_pace: u32,
    /// What the data path is told of the detection time at least.
    told_detection: Duration,
    usable_uplink: Result<(), Cause>,
    /// The peer said that its uplink is lost before the probe with this number left: answers to earlier ones were on
    /// their way, and prove nothing.
    proves_from: Option<u32>,
    quality: Quality,
    /// Below the score that is good enough, in whatever state.
    poor: bool,
    /// Whether it was told to be degraded.
    told_degraded: bool,
    capacity: KnownCapacity,
    mtu: u16,
    /// Largest inner packet by the interfaces and the configuration, bytes.
    configured_mtu: u16,
    underlay: Option<Known>,
    room_for_copies: Room,
}

impl Path {
    /// A path that has not answered yet. `mtu` is the largest inner packet, bytes; `capacity` bit/s, if declared.
    pub fn new(now: Time, settings: &Settings, mtu: u16, capacity: Option<u64>) -> Self {
        Self {
            state: PathState::Starting,
            since: now,
            watched_from: now + GRACE,
            up_before: Duration::ZERO,
            estimator: Estimator::new(settings.loss_window),
            direct: DirectLoss::new(settings.loss_window),
            last_answer: None,
            stall: Stall::default(),
            answers_in_row: 0,
            recovering_since: now,
            penalty: Penalty::new(0.0, now),
            pace: settings.probe_interval,
            patience: settings.probe_interval,
            answers_at_pace: 0,
            told_detection: Duration::ZERO,
            usable_uplink: Ok(()),
            proves_from: None,
            quality: Quality::default(),
            poor: false,
            told_degraded: false,
            capacity: KnownCapacity::declared(capacity),
            mtu,
            configured_mtu: mtu,
            underlay: None,
            room_for_copies: Room::default(),
        }
    }

    /// State now.
    pub fn state(&self) -> PathState {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> Time {
        self.since
    }

    /// From when on it is known whether it is up: its first answers, or a while after it was made.
    pub fn watched_from(&self) -> Time {
        self.watched_from
    }

    /// How long it has been up, altogether.
    pub fn up_time(&self, now: Time) -> Duration {
        let running = if self.state == PathState::Up { now.since(self.since) } else { Duration::ZERO };
        self.up_before + running
    }

    /// Numbers as of the last rating.
    pub fn quality(&self) -> &Quality {
        &self.quality
    }

    /// What it did over longer spans.
    pub fn spans(&self, now: Time) -> Vec<SpanQuality> {
        self.estimator.spans(now)
    }

    /// Score 0..=100 as of the last rating.
    pub fn score(&self) -> f64 {
        path_score(&self.quality)
    }

    /// Up, but below the score that is good enough.
    pub fn degraded(&self) -> bool {
        self.state == PathState::Up && self.poor
    }

    /// Capacity towards the peer, bit/s, if known.
    pub fn capacity(&self) -> Option<u64> {
        self.capacity.forward().map(|(rate, _)| rate)
    }

    /// Takes the share of its capacity that the path carries. Returns whether it has room for copies now and had none
    /// before, or the other way round.
    pub fn load(&mut self, share: f64, now: Time) -> bool {
        self.room_for_copies.load(share, now)
    }

    /// No room for copies of what other paths carry.
    pub fn is_full(&self) -> bool {
        self.room_for_copies.is_full()
    }

    /// All that is known of the capacity.
    pub fn known_capacity(&self) -> &KnownCapacity {
        &self.capacity
    }

    /// Takes a capacity that was found.
    pub fn set_capacity(&mut self, direction: Direction, estimate: Estimate) {
        self.capacity.set(direction, estimate);
    }

    /// Sets the declared rate towards the peer, bit/s.
    pub fn set_declared(&mut self, rate: Option<u64>) {
        self.capacity.declared = rate;
    }

    /// Largest inner packet, bytes.
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Makes the largest inner packet fit a tunnel interface with this MTU, bytes.
    ///
    /// WireGuard pads what is inside to a multiple of 16 bytes, though not beyond the interface's MTU: only on a path that
    /// the interface's MTU is made for may the last packet be of any length.
    pub fn fit_mtu(&mut self, interface: u16) {
        let room = self.room();
        self.mtu = if room >= interface { interface } else { room / PADDING * PADDING };
    }

    /// Sets what the interfaces and the configuration allow for the largest inner packet, bytes.
    pub fn set_configured_mtu(&mut self, mtu: u16) {
        self.configured_mtu = mtu;
    }

    /// What is known of the underlay's MTU by probes.
    pub fn underlay(&self) -> Option<Known> {
        self.underlay
    }

    /// Sets that.
    pub fn set_underlay(&mut self, known: Known) {
        self.underlay = Some(known);
    }

    /// Bytes that fit inside a tunnel packet on this path, padding included.
    pub fn room(&self) -> u16 {
        match self.underlay {
            Some(known) if known.how != How::Configured => {
                self.configured_mtu.min(known.size.saturating_sub(overhead(known.ipv6)))
            }
            _ => self.configured_mtu,
        }
    }

    /// When the last answer came in.
    pub fn last_answer(&self) -> Option<Time> {
        self.last_answer
    }

    /// The driver came `late` by so much: nothing was sent meanwhile, and what was answered is still to be read.
    pub fn stalled(&mut self, late: Duration, now: Time) {
        if let Some(answer) = self.last_answer {
            self.stall.add(late, self.quality.rtt.unwrap_or_default(), now, answer);
        }
    }

    /// A probe leaves; returns its sequence number.
    pub fn probe_sent(&mut self, now: Time, settings: &Settings) -> u32 {
        // Answers that still wait to be read are not lost.
        let timeout = if self.stall.catching_up(now) { Duration::MAX } else { self.probe_timeout(settings) };
        self.estimator.probe_sent(now, timeout)
    }

    /// An answer came in.
    pub fn reply(&mut self, reply: &ProbeReply, now: Time, settings: &Settings) -> Result<Option<Transition>, Ignored> {
        self.estimator.reply(reply, now)?;
        self.direct.accept(reply.sequence);
        self.last_answer = Some(now);
        self.answers_in_row = self.answers_in_row.saturating_add(1);
        self.answers_at_pace = self.answers_at_pace.saturating_add(1);
        if self.answers_at_pace > settings.missed && self.patience != self.pace {
            self.patience = self.pace;
            self.follow_detection(settings);
        }
        if self.state == PathState::Starting && self.answers_in_row == 1 {
            // Nor must what was lost while the tunnel's ends shook hands.
            self.forget_loss(settings);
        }
        let on_its_way = |from: u32| reply.sequence.wrapping_sub(from).cast_signed() < 0;
        if self.usable_uplink.is_err() || self.proves_from.is_some_and(on_its_way) {
            return Ok(None);
        }
        self.proves_from = None;
        Ok(match self.state {
            PathState::Starting if self.answers_in_row >= settings.first_answers => {
                self.go(PathState::Up, Cause::Answers, now)
            }
            PathState::Down => {
                self.recovering_since = now;
                // The outage must not count against the path that came back.
                self.forget_loss(settings);
                self.go(PathState::Recovering, Cause::Answers, now)
            }
            _ => None,
        })
    }

    /// What both ends counted at the probe whose answer came in just now; `None` when an end doesn't count.
    pub fn counted(&mut self, sequence: u32, counters: Option<&Counters>, now: Time) {
        self.direct.sample(sequence, counters, now);
    }

    /// The local uplink or the tunnel came or went.
    pub fn set_uplink(&mut self, usable: Result<(), Cause>, now: Time, settings: &Settings) -> Option<Transition> {
        self.usable_uplink = usable;
        match usable {
            Err(cause) if matches!(self.state, PathState::Up | PathState::Recovering) => {
                self.fall(cause, now, settings)
            }
            _ => None,
        }
    }

    /// The peer says that its uplink is lost. Answers to probes that leave from now on say when it is back.
    pub fn far_uplink_lost(&mut self, now: Time, settings: &Settings) -> Option<Transition> {
        self.proves_from = Some(self.estimator.next_sequence());
        match self.state {
            PathState::Up | PathState::Recovering => self.fall(Cause::FarUplinkDown, now, settings),
            PathState::Starting | PathState::Down => None,
        }
    }

    /// The data path saw no answer for the detection time.
    pub fn silent(&mut self, now: Time, settings: &Settings) -> Option<Transition> {
        if self.state == PathState::Up { self.fall(Cause::Silent, now, settings) } else { None }
    }

    /// Lets time pass: detection, holds.
    pub fn poll(&mut self, now: Time, settings: &Settings) -> Option<Transition> {
        let silent = self.silent_for(now, self.detection(settings));
        if silent {
            self.answers_in_row = 0;
        }
        match self.state {
            PathState::Up if silent => self.fall(Cause::Silent, now, settings),
            PathState::Up if self.lossy() => self.fall(Cause::Loss, now, settings),
            PathState::Recovering if silent => self.go(PathState::Down, Cause::Silent, now),
            PathState::Recovering if self.lossy() => {
                self.recovering_since = now;
                None
            }
            PathState::Recovering if now.since(self.recovering_since) >= self.hold(now, settings) => {
                self.go(PathState::Up, Cause::Answers, now)
            }
            _ => None,
        }
    }

    /// When [`Self::poll`] has something to do next, if nothing comes in.
    pub fn deadline(&self, now: Time, settings: &Settings) -> Option<Time> {
        let patience = self.detection(settings) + Duration::from_nanos(1);
        let silence = self.last_answer.map(|answer| answer + self.stall.excuse(answer) + patience);
        match self.state {
            PathState::Up => silence,
            PathState::Recovering => {
                let up = self.recovering_since + self.hold(now, settings);
                silence.map(|silence| silence.min(up)).or(Some(up))
            }
            PathState::Starting | PathState::Down => None,
        }
    }

    /// Takes new numbers from the estimators. Returns whether the path became degraded or ceased to be.
    pub fn rate(&mut self, now: Time, settings: &Settings) -> bool {
        if self.stall.catching_up(now) {
            return false;
        }
        let timeout = self.probe_timeout(settings);
        self.estimator.expire(now, timeout);
        self.quality = self.estimator.quality(now);
        self.quality.data_loss = self.direct.loss(now);
        self.quality.recent_loss = self.estimator.recent_loss(now).max(self.direct.recent_loss(now));
        self.quality.proven_loss = self.estimator.proven_loss(now).max(self.direct.proven_loss(now));
        // Some hysteresis: a score that sways around the bound is no event.
        let bound = if self.poor { DEGRADED_BELOW + 5.0 } else { DEGRADED_BELOW };
        // A path that is held is rated, too: it comes up as what it is.
        self.poor = path_score(&self.quality) < bound;
        let degraded = self.degraded();
        std::mem::replace(&mut self.told_degraded, degraded) != degraded
    }

    /// How long the path must answer before it is up again.
    pub fn hold(&self, now: Time, settings: &Settings) -> Duration {
        let exponent = (self.penalty.left(now, settings) - 1.0).clamp(0.0, 16.0);
        settings.hold_down.mul_f64(exponent.exp2()).min(settings.hold_down_max.max(settings.hold_down))
    }

    fn forget_loss(&mut self, settings: &Settings) {
        self.estimator.forget_loss(settings.loss_window);
        self.quality.loss = Loss::default();
        self.quality.recent_loss = 0.0;
        self.quality.proven_loss = 0.0;
        self.direct = DirectLoss::new(settings.loss_window);
    }

    fn lossy(&self) -> bool {
        self.quality.loss.probes >= 20 && self.quality.loss.round_trip > DOWN_ABOVE_LOSS
    }

    fn fall(&mut self, cause: Cause, now: Time, settings: &Settings) -> Option<Transition> {
        if self.state == PathState::Up {
            self.penalty = Penalty::new(self.penalty.left(now, settings) + 1.0, now);
        }
        self.told_degraded = false;
        self.go(PathState::Down, cause, now)
    }

    fn go(&mut self, to: PathState, cause: Cause, now: Time) -> Option<Transition> {
        if self.state == to {
            return None;
        }
        let from = std::mem::replace(&mut self.state, to);
        match from {
            PathState::Up => self.up_before += now.since(self.since),
            PathState::Starting => self.watched_from = self.watched_from.min(now),
            PathState::Down | PathState::Recovering => {}
        }
        self.since = now;
        self.answers_in_row = 0;
        Some(Transition { from, to, cause })
    }
}
