//! How fast a path is probed, and how long its silence is borne.

use std::time::Duration;

use super::{Path, PathState};
use crate::engine::settings::Settings;
use crate::engine::time::Time;

/// The most that delay variation adds to the detection time, unless twice the probes' share is more.
const VARIATION_MOST: Duration = Duration::from_millis(300);
/// How likely it may be that a path that only loses packets is taken for dead, per probe: at the default pace once in an hour
/// or two.
const BY_CHANCE: f64 = 1e-5;
/// Answers are waited for at least and at most so long, whatever the RTT was so far: it may have risen.
const ANSWER_WITHIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// The data path is told detection times in steps of this part of what the probes' pace makes of them: 10 ms of 150, 2 ms of
/// 30.
const STEPS: u32 = 15;
/// After this long without an answer a path is probed slowly.
const DEAD_AFTER: Duration = Duration::from_secs(30);

impl Path {
    /// The pace that detection reckons with.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Pace of the probes.
    pub fn pace(&self) -> Duration {
        self.pace
    }

    /// Sets the pace of the probes. A path that has been dead for [`DEAD_AFTER`] gets the slow one. Returns the time to
    /// the next probe: before the first longer one, the detection time must have reached the data path.
    pub fn set_pace(&mut self, pace: Duration, now: Time, settings: &Settings) -> Duration {
        let dead = matches!(self.state, PathState::Starting | PathState::Down)
            && now.since(self.since) >= DEAD_AFTER
            && self.answers_in_row == 0;
        let former = self.pace;
        self.pace = if dead { pace.max(settings.dead_interval) } else { pace };
        if self.patience < self.pace {
            self.patience = self.pace;
            self.follow_detection(settings);
        }
        if self.pace != former {
            self.answers_at_pace = 0;
        }
        self.pace.min(former)
    }

    /// After how long without an answer the path is down: the missed probes, and room for the delay variation. Answers
    /// follow each other at the probes' pace however long the RTT is, so that the RTT itself is not in it.
    ///
    /// The variation is the larger of RFC 6298's, which follows slow changes, and three times the jitter of both
    /// directions, which is steadier and as much as independent delays of two answers differ at most. On a path that loses
    /// packets, more of them must be missed in a row.
    pub fn detection(&self, settings: &Settings) -> Duration {
        let base = self.patience * self.missed(settings);
        let jitter = self.quality.jitter_forward + self.quality.jitter_backward;
        base + (self.quality.rtt_variation * 4).max(jitter * 3).min(VARIATION_MOST.max(base * 2))
    }

    /// So many answers missing in a row are no chance, given what the path loses anyway.
    fn missed(&self, settings: &Settings) -> u32 {
        let least = settings.missed.max(1);
        let loss = self.quality.loss.round_trip.max(self.quality.recent_loss);
        let in_a_row = if loss > 0.0 && loss < 1.0 { (BY_CHANCE.ln() / loss.ln()).ceil() } else { 0.0 };
        (in_a_row as u32).clamp(least, 2 * least)
    }

    /// After how long without an answer the data path leaves the path: [`Self::detection`], rounded up in [`STEPS`], and once
    /// raised not lowered before it has fallen by a quarter. A jitter estimate that breathes is no change.
    pub fn told_detection(&self, settings: &Settings) -> Duration {
        self.detection_in_steps(settings).max(self.told_detection)
    }

    /// Has [`Self::told_detection`] follow. Has it grown, so that the data path must hear of it now, lest it leave a path that
    /// lives?
    pub fn follow_detection(&mut self, settings: &Settings) -> bool {
        let now = self.detection_in_steps(settings);
        let grew = now > self.told_detection;
        if grew || now < self.told_detection * 3 / 4 {
            self.told_detection = now;
        }
        grew
    }

    fn detection_in_steps(&self, settings: &Settings) -> Duration {
        let step = (self.patience * settings.missed.max(1) / STEPS).max(Duration::from_millis(1));
        let steps = self.detection(settings).as_nanos().div_ceil(step.as_nanos());
        step * u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// Do we hear the peer on this path? Goes into each probe. A daemon that has just started can't tell before the first
    /// answers could be there, and mustn't say that it doesn't: a peer whose own daemon is away, too, would leave the path.
    pub fn hears(&self, now: Time, settings: &Settings) -> bool {
        match self.last_answer {
            None => now.since(self.since) <= ANSWER_WITHIN[0],
            Some(_) => !self.silent_for(now, self.detection(settings)),
        }
    }

    /// No answer for half of the detection time: more than one is missing, though the path is not taken for dead yet.
    pub fn doubtful(&self, now: Time, settings: &Settings) -> bool {
        self.silent_for(now, self.detection(settings) / 2)
    }

    /// No answer for longer than `bound`, though the driver was there to read one.
    pub(super) fn silent_for(&self, now: Time, bound: Duration) -> bool {
        self.last_answer.is_none_or(|answer| now.since(answer) > bound + self.stall.excuse(answer))
    }

    /// After how long an unanswered probe is lost.
    pub(super) fn probe_timeout(&self, settings: &Settings) -> Duration {
        let [least, most] = ANSWER_WITHIN;
        match self.quality.rtt.filter(|_| self.state == PathState::Up) {
            Some(rtt) => (rtt + self.quality.rtt_variation * 4 + self.detection(settings)).clamp(least, most),
            None => most,
        }
    }
}
