//! The figures of a session, as they are shown.

use sdwan_common::stamp::ErrorEstimate;
use serde::Serialize;

use super::Session;
use super::directions::Numbering;
use super::reading::TlvState;
use super::samples::Figures;
use crate::measure::stamp::answer::ClockQuality;

const MILLISECOND: f64 = 1e6;

/// A pair of directions: towards the reflector, and back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Both<T> {
    /// Towards the reflector.
    pub forward: T,
    /// From the reflector.
    pub backward: T,
}

/// Loss of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Loss {
    /// Packets that were sent, as far as known.
    pub sent: u64,
    /// Packets that were lost.
    pub lost: u64,
    /// Percent.
    pub pct: f64,
}

/// Delay variation of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Variation {
    /// Interarrival jitter by RFC 3550 section 6.4.1, ms.
    pub jitter_ms: f64,
    /// Changes of the delay between neighbours (RFC 3393), magnitude, ms.
    pub change_ms: Option<Figures>,
}

/// An error estimate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The clock is synchronised with UTC, it says.
    pub synchronized: bool,
    /// Format of its timestamps: `ptp` or `ntp`.
    pub format: &'static str,
    /// How far it may be off, ms.
    pub error_ms: f64,
}

impl From<ErrorEstimate> for Estimate {
    fn from(estimate: ErrorEstimate) -> Self {
        Self {
            synchronized: estimate.synchronized,
            format: if estimate.ptp { "ptp" } else { "ntp" },
            error_ms: estimate.error_ns() as f64 / MILLISECOND,
        }
    }
}

/// What the reflector counted by itself (Direct Measurement TLV), modulo 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Packets from us.
    pub received: u32,
    /// Packets to us.
    pub sent: u32,
}

/// DSCP on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Class {
    /// With which questions reached the reflector; only a reflector that knows the Class of Service TLV tells.
    pub forward: Option<u8>,
    /// With which answers came in.
    pub backward: Option<u8>,
    /// The reflector doesn't allow the DSCP that was asked for.
    pub refused: Option<bool>,
}

/// The figures of a session.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Questions sent.
    pub sent: u64,
    /// Questions answered in time.
    pub answered: u64,
    /// Questions that weren't.
    pub lost: u64,
    /// Of all, percent.
    pub lost_pct: f64,
    /// How the reflector numbers; only `stateful` tells directions of a loss.
    pub numbering: Numbering,
    /// Loss by direction; absent where nothing tells it.
    pub loss: Option<Both<Loss>>,
    /// Lost in no known direction.
    pub lost_unknown: u64,
    /// Answers after the timeout.
    pub late: u64,
    /// Answers that came more than once.
    pub duplicates: u64,
    /// Of these, by doubling on the way there, as far as a stateful reflector tells.
    pub duplicated_forward: u64,
    /// Answers that came after one to a younger question.
    pub reordered: u64,
    /// Overtaken by direction, with a stateful reflector.
    pub reordered_by_direction: Option<Both<u64>>,
    /// Packets that were no answer to a question of ours.
    pub unknown: u64,
    /// Answers whose times contradict each other.
    pub implausible: u64,
    /// Round-trip time without the reflector's dwell time, ms.
    pub rtt_ms: Option<Figures>,
    /// The reflector's dwell time, ms.
    pub dwell_ms: Option<Figures>,
    /// Delay variation.
    pub variation: Option<Both<Variation>>,
    /// One-way delay, ms; off by the difference of the clocks.
    pub one_way_ms: Option<Both<Figures>>,
    /// Both clocks claim to be synchronised with UTC: the one-way delay is right within their errors.
    pub one_way_synchronized: bool,
    /// Our clock.
    pub sender_clock: Estimate,
    /// The reflector's clock.
    pub reflector_clock: Option<Estimate>,
    /// TTL or hop limit at the end of the way.
    pub ttl: Both<Option<u8>>,
    /// DSCP at the end of the way.
    pub dscp: Class,
    /// What the reflector counted.
    pub reflector_counted: Option<Counted>,
    /// What became of the TLVs of the last answer.
    pub tlvs: TlvState,
    /// Whether the reflector returns the session identifier (RFC 8972); absent without an answer.
    pub session_returned: Option<bool>,
}

impl Session {
    /// The figures so far. `clock` and `ptp` are what questions say of our clock.
    pub fn summary(&self, clock: ClockQuality, ptp: bool) -> Summary {
        let counts = self.counts;
        let answered = counts.answered > 0;
        let directions = self.directions.lost(counts.lost);
        let pct = |part: u64, whole: u64| if whole > 0 { 100.0 * part as f64 / whole as f64 } else { 0.0 };
        let loss = |lost: u64, sent: u64| Loss { sent, lost, pct: pct(lost, sent) };
        let overtaken = self.directions.overtaken();
        let [there, back] = &self.one_way;
        let one_way = there.figures(MILLISECOND).zip(back.figures(MILLISECOND));
        let variation = |index: usize| Variation {
            jitter_ms: self.variation[index].jitter.jitter().as_secs_f64() * 1e3,
            change_ms: self.variation[index].changes.figures(MILLISECOND),
        };
        let sender = clock.estimate(ptp);
        let latest = &self.latest;
        Summary {
            sent: counts.sent,
            answered: counts.answered,
            lost: counts.lost,
            lost_pct: pct(counts.lost, counts.answered + counts.lost),
            numbering: self.directions.numbering(),
            loss: directions.map(|lost| Both {
                forward: loss(lost.forward, lost.questions),
                backward: loss(lost.backward, lost.answers),
            }),
            lost_unknown: counts.lost.saturating_sub(directions.map_or(0, |lost| lost.forward + lost.backward)),
            late: counts.late,
            duplicates: counts.duplicates,
            duplicated_forward: self.directions.doubled_forward(),
            reordered: overtaken.total,
            reordered_by_direction: (self.directions.numbering() == Numbering::Stateful)
                .then_some(Both { forward: overtaken.forward, backward: overtaken.backward }),
            unknown: counts.unknown,
            implausible: counts.implausible,
            rtt_ms: self.rtt.figures(MILLISECOND),
            dwell_ms: self.dwell.figures(MILLISECOND),
            variation: answered.then(|| Both { forward: variation(0), backward: variation(1) }),
            one_way_ms: one_way.map(|(forward, backward)| Both { forward, backward }),
            one_way_synchronized: sender.synchronized
                && latest.error_estimate.is_some_and(|estimate| estimate.synchronized),
            sender_clock: sender.into(),
            reflector_clock: latest.error_estimate.map(Estimate::from),
            ttl: Both { forward: latest.ttl_forward, backward: latest.ttl_backward },
            dscp: Class {
                forward: latest.class.map(|class| class.seen),
                backward: latest.class_backward.map(|class| class >> 2),
                refused: latest.class.map(|class| class.refused),
            },
            reflector_counted: latest
                .direct
                .map(|counted| Counted { received: counted.reflector_received, sent: counted.reflector_transmitted }),
            tlvs: latest.tlvs,
            session_returned: answered.then_some(latest.knows_session),
        }
    }
}
