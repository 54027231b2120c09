//! What the probes of one path say: round-trip time, jitter and loss.

mod direct;
mod evidence;
mod histogram;
mod in_flight;
mod jitter;
mod loss;
mod one_way;
mod rtt;
mod span;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Time;
pub use direct::{Counters, DataLoss, DirectLoss};
use in_flight::InFlight;
pub use jitter::Jitter;
pub use loss::{Loss, LossWindow};
pub use one_way::{OneWay, OneWayDelay};
pub use rtt::RoundTrip;
pub use span::{Quantiles, SPANS, Span, SpanQuality};

/// Slices of the loss window that decisions rest on.
const LOSS_SLICES: usize = 20;
/// Slices that the recent loss rests on: the last 1 to 1.5 s of a window of 10 s.
const RECENT_SLICES: usize = 3;
/// Fewer lost than these, and the recent loss may be chance.
const RECENT_LOST: i64 = 4;

/// An answer to a probe. The four stamps are wall-clock times of two machines: only differences taken on one machine
/// are used for durations, so a step of either clock spoils at most one sample of the one-way delay variation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// Sequence number of the probe.
    pub sequence: u32,
    /// Sequence number of the reflector (RFC 8762 section 4.3, stateful).
    pub reflector_sequence: u32,
    /// When the probe left here, ns since 1970 by our clock.
    pub sent_ns: u64,
    /// When it reached the reflector, ns since 1970 by its clock.
    pub reflector_received_ns: u64,
    /// When the answer left the reflector, ns since 1970 by its clock.
    pub reflector_sent_ns: u64,
    /// When the answer came in, ns since 1970 by our clock.
    pub received_ns: u64,
    /// Both ends say that their clocks are synchronised to UTC (S of the error estimates).
    #[serde(default)]
    pub synchronized: bool,
    /// How far the two clocks may differ by what both ends say (the sum of the error estimates), ns.
    #[serde(default)]
    pub clock_error_ns: u64,
}

/// Why an answer changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// No probe in flight has this sequence number: foreign, replayed or far too late.
    Unknown,
    /// This probe was answered before.
    Duplicate,
    /// Its times contradict each other.
    Implausible,
}

/// The numbers of one path at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Smoothed round-trip time without the reflector's dwell time (RFC 6298), once there is one.
    pub rtt: Option<Duration>,
    /// Variation of the round-trip time (RFC 6298 RTTVAR).
    pub rtt_variation: Duration,
    /// Smallest round-trip time of the last minute or two.
    pub rtt_min: Option<Duration>,
    /// Delay variation towards the peer (RFC 3550 section 6.4.1).
    pub jitter_forward: Duration,
    /// Delay variation from the peer.
    pub jitter_backward: Duration,
    /// Loss over the sliding window.
    pub loss: Loss,
    /// Delay per direction, once there is one.
    pub one_way: Option<OneWay>,
    /// Loss of the data itself over the sliding window.
    #[serde(default)]
    pub data_loss: DataLoss,
    /// The worst loss of a direction in the last second or so, 0.0..=1.0; 0 where too few packets were lost to tell it from
    /// chance. It shows a change long before the window does.
    #[serde(default)]
    pub recent_loss: f64,
    /// The worse direction's loss is at least this, by what was counted in the window or in the last second or so,
    /// 0.0..=1.0.
    #[serde(default)]
    pub proven_loss: f64,
}

impl Quality {
    /// The larger of the two directions' jitter.
    pub fn jitter(&self) -> Duration {
        self.jitter_forward.max(self.jitter_backward)
    }

    /// The worst of the loss of probes and of data, 0.0..=1.0.
    pub fn worst_loss(&self) -> f64 {
        self.loss.worst().max(self.data_loss.worst())
    }
}

/// All estimators of one path.
#[derive(Clone, Debug)]
pub struct Estimator {
    next_sequence: u32,
    in_flight: InFlight,
    rtt: RoundTrip,
    forward: Jitter,
    backward: Jitter,
    loss: LossWindow<LOSS_SLICES, i16>,
    one_way: OneWayDelay,
    spans: [Span; SPANS.len()],
}

impl Estimator {
    /// `window` is the span of the sliding loss window.
    pub fn new(window: Duration) -> Self {
        Self {
            next_sequence: 0,
            in_flight: InFlight::default(),
            rtt: RoundTrip::default(),
            forward: Jitter::default(),
            backward: Jitter::default(),
            loss: LossWindow::new(window),
            one_way: OneWayDelay::default(),
            spans: SPANS.map(Span::new),
        }
    }

    /// A probe leaves now; returns its sequence number. `timeout` is after how long an unanswered probe is lost.
    pub fn probe_sent(&mut self, now: Time, timeout: Duration) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        self.expire(now, timeout);
        if let Some(oldest) = self.in_flight.sent(sequence, now) {
            self.timed_out(oldest, now);
        }
        sequence
    }

    /// Sequence number of the next probe.
    pub fn next_sequence(&self) -> u32 {
        self.next_sequence
    }

    /// An answer came in. `received` is when, on the engine's clock.
    pub fn reply(&mut self, reply: &ProbeReply, received: Time) -> Result<Duration, Ignored> {
        let sent = self.in_flight.waiting(reply.sequence, received)?;
        let dwell = reply.reflector_sent_ns.checked_sub(reply.reflector_received_ns).ok_or(Ignored::Implausible)?;
        let elapsed = received.0.checked_sub(sent.0).ok_or(Ignored::Implausible)?;
        let rtt = Duration::from_nanos(elapsed.checked_sub(dwell).ok_or(Ignored::Implausible)?);
        self.in_flight.answered(reply.sequence);
        self.rtt.sample(rtt, received);
        let forward = self.forward.sample(reply.sequence, reply.sent_ns, reply.reflector_received_ns);
        let backward = self.backward.sample(reply.sequence, reply.reflector_sent_ns, reply.received_ns);
        self.one_way.sample(reply, received);
        self.loss.answered(reply.sequence, reply.reflector_sequence, received);
        for span in &mut self.spans {
            span.answered(rtt, forward, backward, received);
            span.loss_mut().answered(reply.sequence, reply.reflector_sequence, received);
        }
        Ok(rtt)
    }

    /// Counts probes without an answer after `timeout` as lost.
    pub fn expire(&mut self, now: Time, timeout: Duration) {
        while let Some(lost) = self.in_flight.expire(now, timeout) {
            self.timed_out(lost, now);
        }
    }

    /// Starts the loss window, of the span `window`, anew. Probes from before the latest answer that have none are
    /// forgotten; later ones are on their way.
    pub fn forget_loss(&mut self, window: Duration) {
        self.loss = LossWindow::new(window);
        self.in_flight.forget_unanswered();
    }

    /// The numbers now.
    pub fn quality(&mut self, now: Time) -> Quality {
        Quality {
            rtt: self.rtt.smoothed(),
            rtt_variation: self.rtt.variation(),
            rtt_min: self.rtt.minimum(now),
            jitter_forward: self.forward.jitter(),
            jitter_backward: self.backward.jitter(),
            loss: self.loss.loss(now),
            one_way: self.one_way.estimate(now),
            data_loss: DataLoss::default(),
            recent_loss: 0.0,
            proven_loss: 0.0,
        }
    }

    /// The worst loss of a direction in the last second or so, where it tells.
    pub fn recent_loss(&mut self, now: Time) -> f64 {
        self.loss.recent(now, RECENT_SLICES, RECENT_LOST)
    }

    /// What the probes prove of the worse direction's loss.
    pub fn proven_loss(&mut self, now: Time) -> f64 {
        self.loss.proven(now, LOSS_SLICES).max(self.loss.proven(now, RECENT_SLICES))
    }

    /// The numbers of each of [`SPANS`] in which there was an answer.
    pub fn spans(&self, now: Time) -> Vec<SpanQuality> {
        self.spans.iter().filter_map(|span| span.quality(now)).collect()
    }

    fn timed_out(&mut self, sequence: u32, now: Time) {
        self.loss.timed_out(sequence, now);
        self.spans.iter_mut().for_each(|span| span.loss_mut().timed_out(sequence, now));
    }
}
