//! The probes of one path whose answers may still come: eight bytes each, and one bit for each answer that came lately.

use std::collections::VecDeque;
use std::time::Duration;

use super::Ignored;
use crate::engine::time::Time;

/// Probes that are waited for, 3 s of them at the fastest pace. An answer to an older one counts as lost.
const MOST: usize = 1_024;
/// Room beyond this is given back when three quarters of it are empty, as when a path answers again.
const SPARE: usize = 8;
/// Probes back from the last one whose answers are known, so that another one is told as a duplicate.
const REMEMBERED: u32 = u128::BITS;
/// Bits of the time at which a probe left, in ns: three days, of which a few seconds are needed.
const TIME_BITS: u32 = 48;

/// A probe that is waited for: the lower half of its number, and when it left, ns modulo 2⁴⁸.
#[derive(Clone, Copy, Debug)]
struct Waiting(u64);

impl Waiting {
    fn new(sequence: u32, sent: Time) -> Self {
        Self(u64::from(sequence) << TIME_BITS | sent.0 & ((1 << TIME_BITS) - 1))
    }

    /// By how many numbers it is behind `last`.
    fn behind(self, last: u32) -> u32 {
        u32::from((last as u16).wrapping_sub((self.0 >> TIME_BITS) as u16))
    }

    /// When it left, which is not after `now`; an answer that is read late may have come a little earlier.
    fn sent(self, now: Time) -> Time {
        let ago = (now.0.wrapping_sub(self.0) << (u64::BITS - TIME_BITS)).cast_signed() >> (u64::BITS - TIME_BITS);
        Time(now.0.wrapping_sub(ago.cast_unsigned()))
    }
}

/// The probes of a path, in the order of their numbers, which wrap around.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    /// Number of the last one.
    last: u32,
    waiting: VecDeque<Waiting>,
    /// Which were answered: the lowest bit stands for the last one.
    answered: u128,
}

impl InFlight {
    /// A probe leaves, the one after the last. Returns the number of another that has to make room.
    pub fn sent(&mut self, sequence: u32, now: Time) -> Option<u32> {
        let pushed_out = if self.waiting.len() == MOST { self.pop() } else { None };
        self.answered = self.answered.checked_shl(sequence.wrapping_sub(self.last)).unwrap_or(0);
        self.last = sequence;
        self.waiting.push_back(Waiting::new(sequence, now));
        pushed_out
    }

    /// When a probe left whose answer came at `received`.
    pub fn waiting(&self, sequence: u32, received: Time) -> Result<Time, Ignored> {
        let place = self.place(sequence).ok_or_else(|| {
            let known = 1_u128.checked_shl(self.last.wrapping_sub(sequence)).unwrap_or(0);
            if self.answered & known != 0 { Ignored::Duplicate } else { Ignored::Unknown }
        })?;
        Ok(self.waiting[place].sent(received))
    }

    /// Takes its answer.
    pub fn answered(&mut self, sequence: u32) {
        if let Some(place) = self.place(sequence) {
            self.waiting.remove(place);
            self.answered |= 1_u128.checked_shl(self.last.wrapping_sub(sequence)).unwrap_or(0);
        }
    }

    /// Gives up a probe that left `timeout` ago, if there is one, and returns its number.
    pub fn expire(&mut self, now: Time, timeout: Duration) -> Option<u32> {
        if now.since(self.waiting.front()?.sent(now)) < timeout {
            return None;
        }
        let lost = self.pop();
        let (room, used) = (self.waiting.capacity(), self.waiting.len());
        if room > SPARE && used < room / 4 {
            self.waiting.shrink_to((used * 2).max(SPARE));
        }
        lost
    }

    /// Forgets those from before the latest answer; later ones are on their way. An answer from before the last
    /// [`REMEMBERED`] probes is not after any of them that is waited for.
    pub fn forget_unanswered(&mut self) {
        let latest = self.answered.trailing_zeros();
        if latest < REMEMBERED {
            let last = self.last;
            self.waiting.retain(|probe| probe.behind(last) < latest);
        }
    }

    fn pop(&mut self) -> Option<u32> {
        let probe = self.waiting.pop_front()?;
        Some(self.last.wrapping_sub(probe.behind(self.last)))
    }

    fn place(&self, sequence: u32) -> Option<usize> {
        let behind = self.last.wrapping_sub(sequence);
        self.waiting.binary_search_by(|probe| behind.cmp(&probe.behind(self.last))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_millis(50);

    fn at(probe: u32) -> Time {
        Time(1_000_000_000_000_000) + PACE * probe
    }

    /// Numbers that wrap around after the fifth.
    fn number(probe: u32) -> u32 {
        (u32::MAX - 4).wrapping_add(probe)
    }

    #[test]
    fn numbers_that_wrap_around_are_found_and_duplicates_told() {
        let mut probes = InFlight::default();
        for probe in 0..10 {
            assert_eq!(probes.sent(number(probe), at(probe)), None);
        }
        for probe in [9, 0, 4, 5, 8, 1, 2, 3, 7, 6] {
            assert_eq!(probes.waiting(number(probe), at(12)), Ok(at(probe)));
            probes.answered(number(probe));
            assert_eq!(probes.waiting(number(probe), at(12)), Err(Ignored::Duplicate));
        }
        for unknown in [number(10), number(0).wrapping_sub(1), number(5) + 65_536, number(5).wrapping_sub(65_536)] {
            assert_eq!(probes.waiting(unknown, at(12)), Err(Ignored::Unknown), "{unknown}");
        }
    }

    #[test]
    fn an_answer_that_was_stamped_before_the_probe_left_says_so() {
        let mut probes = InFlight::default();
        probes.sent(0, at(7));
        assert_eq!(probes.waiting(0, at(6)), Ok(at(7)));
    }

    #[test]
    fn what_is_old_is_lost_unless_it_was_answered_or_forgotten() {
        let mut probes = InFlight::default();
        (0..6).for_each(|probe| assert_eq!(probes.sent(probe, at(probe)), None));
        probes.answered(3);
        probes.forget_unanswered();
        assert_eq!(probes.waiting(1, at(6)), Err(Ignored::Unknown), "an answer to a forgotten probe says nothing");
        assert_eq!(probes.waiting(4, at(6)), Ok(at(4)), "what left after the answer is on its way");
        let lost: Vec<u32> = std::iter::from_fn(|| probes.expire(at(5), PACE)).collect();
        assert_eq!(lost, [4]);
        assert_eq!(probes.waiting(5, at(6)), Ok(at(5)));
    }

    #[test]
    fn the_table_is_bounded_and_gives_room_back() {
        let mut probes = InFlight::default();
        let pushed_out: Vec<u32> = (0..200_000).filter_map(|probe| probes.sent(probe, at(probe))).collect();
        assert_eq!(pushed_out.len(), 200_000 - MOST);
        assert_eq!(pushed_out.last(), Some(&(199_999 - MOST as u32)));
        assert_eq!(std::iter::from_fn(|| probes.expire(at(200_100), PACE)).count(), MOST);
        assert!(probes.waiting.capacity() <= 2 * SPARE, "{}", probes.waiting.capacity());
    }
}
