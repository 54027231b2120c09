//! Delay per direction, from the clocks of both ends. It is worth as much as the clocks agree.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ProbeReply;
use crate::engine::time::Time;

/// The minimum covers between one and two of these: the clocks may drift by 1 ms in so long.
const WINDOW: Duration = Duration::from_secs(10);

/// Delay of each direction, ns: the smallest of the last seconds, which queues touch least. Without synchronised clocks
/// each is off by the clocks' difference, the one as much too large as the other is too small, and may be negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneWay {
    /// Towards the peer, ns.
    pub forward_ns: i64,
    /// From the peer, ns.
    pub backward_ns: i64,
    /// Both ends say that their clocks are synchronised to UTC.
    pub synchronized: bool,
    /// How far off each may be then, by what both ends say of their clocks, ns.
    #[serde(default)]
    pub error_ns: u64,
}

/// Estimator of both directions' delay.
#[derive(Clone, Debug, Default)]
pub struct OneWayDelay {
    start: Time,
    current: Option<OneWay>,
    previous: Option<OneWay>,
}

/// The smaller delay of each direction; synchronised when both are, and as far off as the worse of them.
fn smaller(one: Option<OneWay>, other: Option<OneWay>) -> Option<OneWay> {
    match (one, other) {
        (Some(one), Some(other)) => Some(OneWay {
            forward_ns: one.forward_ns.min(other.forward_ns),
            backward_ns: one.backward_ns.min(other.backward_ns),
            synchronized: one.synchronized && other.synchronized,
            error_ns: one.error_ns.max(other.error_ns),
        }),
        (one, other) => one.or(other),
    }
}

impl OneWayDelay {
    /// Takes an answer.
    pub fn sample(&mut self, reply: &ProbeReply, now: Time) {
        self.turn(now);
        let difference = |later: u64, earlier: u64| {
            i64::try_from(i128::from(later) - i128::from(earlier)).unwrap_or(if later > earlier {
                i64::MAX
            } else {
                i64::MIN
            })
        };
        let sample = OneWay {
            forward_ns: difference(reply.reflector_received_ns, reply.sent_ns),
            backward_ns: difference(reply.received_ns, reply.reflector_sent_ns),
            synchronized: reply.synchronized,
            error_ns: reply.clock_error_ns,
        };
        self.current = smaller(self.current, Some(sample));
    }

    /// The delays now; `None` when there was no answer lately.
    pub fn estimate(&mut self, now: Time) -> Option<OneWay> {
        self.turn(now);
        smaller(self.current, self.previous)
    }

    fn turn(&mut self, now: Time) {
        if now.since(self.start) >= WINDOW {
            let recent = now.since(self.start) < 2 * WINDOW;
            self.previous = self.current.take().filter(|_| recent);
            self.start = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of ends that say more of their clocks' error when they don't claim to be in step.
    fn reply(there_ns: u64, back_ns: u64, ahead_ns: u64, synchronized: bool) -> ProbeReply {
        let sent_ns = 1_700_000_000_000_000_000;
        let reflector_received_ns = sent_ns + there_ns + ahead_ns;
        let reflector_sent_ns = reflector_received_ns + 7;
        ProbeReply {
            sequence: 1,
            reflector_sequence: 1,
            sent_ns,
            reflector_received_ns,
            reflector_sent_ns,
            received_ns: reflector_sent_ns - ahead_ns + back_ns,
            synchronized,
            clock_error_ns: if synchronized { 10 } else { 90 },
        }
    }

    fn at(seconds: u64) -> Time {
        Time(1_000_000_000 * (100 + seconds))
    }

    #[test]
    fn each_direction_has_its_smallest_delay_and_forgets_it_after_a_while() {
        let mut delay = OneWayDelay::default();
        assert_eq!(delay.estimate(at(0)), None);
        delay.sample(&reply(300, 500, 0, true), at(0));
        delay.sample(&reply(200, 700, 0, true), at(1));
        let found = OneWay { forward_ns: 200, backward_ns: 500, synchronized: true, error_ns: 10 };
        assert_eq!(delay.estimate(at(2)), Some(found));
        delay.sample(&reply(400, 400, 0, true), at(21));
        let found = OneWay { forward_ns: 400, backward_ns: 400, synchronized: true, error_ns: 10 };
        assert_eq!(delay.estimate(at(22)), Some(found));
        assert_eq!(delay.estimate(at(99)), None);
    }

    #[test]
    fn a_clock_that_is_ahead_shifts_both_directions_and_no_claim_of_synchronisation_is_made() {
        let mut delay = OneWayDelay::default();
        delay.sample(&reply(200, 500, 1_000, false), at(0));
        delay.sample(&reply(200, 500, 1_000, true), at(0));
        let found = OneWay { forward_ns: 1_200, backward_ns: -500, synchronized: false, error_ns: 90 };
        assert_eq!(delay.estimate(at(1)), Some(found));
    }
}
