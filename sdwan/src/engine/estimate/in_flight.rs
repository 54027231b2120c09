//! The probes of one path whose answers may still come, eight bytes each.

use std::collections::VecDeque;
use std::time::Duration;

use super::Ignored;
use crate::engine::time::Time;

/// Probes that are remembered, 3 s of them at the fastest pace. An answer to an older one counts as lost.
const MOST: usize = 1_024;
/// Room beyond this is given back when three quarters of it are empty, as after a change to a slower pace.
const SPARE: usize = 16;

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its answer may come.
    Waiting,
    /// It came; another one would be a duplicate.
    Answered,
    /// Whether it comes or not means nothing any more.
    Forgotten,
}

/// When a probe left, ns of the engine's clock, and its fate in the two lowest bits: their numbers follow each other
/// without a gap, so that a probe's place tells its number.
#[derive(Clone, Copy, Debug)]
struct Slot(u64);

impl Slot {
    fn new(sent: Time, fate: Fate) -> Self {
        Self(sent.0 << 2 | fate as u64)
    }

    fn sent(self) -> Time {
        Time(self.0 >> 2)
    }

    fn fate(self) -> Fate {
        match self.0 & 3 {
            0 => Fate::Waiting,
            1 => Fate::Answered,
            _ => Fate::Forgotten,
        }
    }
}

/// Probes in the order of their numbers, which wrap around.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    /// Number of the oldest.
    first: u32,
    probes: VecDeque<Slot>,
}

impl InFlight {
    /// A probe leaves, the one after the last. Returns the number of another that has to make room and had no answer.
    pub fn sent(&mut self, sequence: u32, now: Time) -> Option<u32> {
        let pushed_out = if self.probes.len() == MOST { self.pop() } else { None };
        if self.probes.is_empty() {
            self.first = sequence;
        }
        self.probes.push_back(Slot::new(now, Fate::Waiting));
        pushed_out
    }

    /// When a probe left whose answer came.
    pub fn waiting(&self, sequence: u32) -> Result<Time, Ignored> {
        let slot = self.probes.get(self.place(sequence)).ok_or(Ignored::Unknown)?;
        match slot.fate() {
            Fate::Waiting => Ok(slot.sent()),
            Fate::Answered => Err(Ignored::Duplicate),
            Fate::Forgotten => Err(Ignored::Unknown),
        }
    }

    /// Takes its answer.
    pub fn answered(&mut self, sequence: u32) {
        let place = self.place(sequence);
        if let Some(slot) = self.probes.get_mut(place) {
            *slot = Slot::new(slot.sent(), Fate::Answered);
        }
    }

    /// Lets go of a probe that left `timeout` ago, if there is one: `Some` of its number if its answer didn't come. Answers
    /// may overtake each other: an answered probe stays until the older ones are settled, so that a duplicate of its answer
    /// is known as one.
    pub fn expire(&mut self, now: Time, timeout: Duration) -> Option<Option<u32>> {
        if now.since(self.probes.front()?.sent()) < timeout {
            return None;
        }
        let lost = self.pop();
        let (room, used) = (self.probes.capacity(), self.probes.len());
        if room > SPARE && used < room / 4 {
            self.probes.shrink_to((used * 2).max(SPARE));
        }
        Some(lost)
    }

    /// Forgets those from before the latest answer that have none; later ones are on their way.
    pub fn forget_unanswered(&mut self) {
        let older = self.probes.iter().rposition(|slot| slot.fate() == Fate::Answered).unwrap_or(0);
        for slot in self.probes.iter_mut().take(older).filter(|slot| slot.fate() == Fate::Waiting) {
            *slot = Slot::new(slot.sent(), Fate::Forgotten);
        }
    }

    fn pop(&mut self) -> Option<u32> {
        let slot = self.probes.pop_front()?;
        let sequence = self.first;
        self.first = sequence.wrapping_add(1);
        (slot.fate() == Fate::Waiting).then_some(sequence)
    }

    fn place(&self, sequence: u32) -> usize {
        sequence.wrapping_sub(self.first) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Duration = Duration::from_millis(50);

    fn at(probe: u32) -> Time {
        Time(1_000_000_000) + PACE * probe
    }

    #[test]
    fn numbers_that_wrap_around_are_found() {
        let mut probes = InFlight::default();
        for number in 0..10 {
            assert_eq!(probes.sent(number_from_the_end(number), at(number)), None);
        }
        for number in (0..10).rev() {
            let sequence = number_from_the_end(number);
            assert_eq!(probes.waiting(sequence), Ok(at(number)));
            probes.answered(sequence);
            assert_eq!(probes.waiting(sequence), Err(Ignored::Duplicate));
        }
        assert_eq!(probes.waiting(number_from_the_end(10)), Err(Ignored::Unknown));
        assert_eq!(probes.waiting(number_from_the_end(0).wrapping_sub(1)), Err(Ignored::Unknown));
    }

    fn number_from_the_end(number: u32) -> u32 {
        (u32::MAX - 4).wrapping_add(number)
    }

    #[test]
    fn what_is_old_is_lost_unless_it_was_answered_or_forgotten() {
        let mut probes = InFlight::default();
        (0..6).for_each(|number| assert_eq!(probes.sent(number, at(number)), None));
        probes.answered(3);
        probes.forget_unanswered();
        assert_eq!(probes.waiting(1), Err(Ignored::Unknown), "an answer to a forgotten probe says nothing");
        assert_eq!(probes.waiting(4), Ok(at(4)), "what left after the answer is on its way");
        let lost: Vec<_> = std::iter::from_fn(|| probes.expire(at(5), PACE)).collect();
        assert_eq!(lost, [None, None, None, None, Some(4)]);
        assert_eq!(probes.waiting(5), Ok(at(5)));
    }

    #[test]
    fn the_table_is_bounded_and_gives_room_back() {
        let mut probes = InFlight::default();
        let pushed_out: Vec<u32> = (0..2_000).filter_map(|number| probes.sent(number, at(number))).collect();
        assert_eq!(pushed_out.len(), 2_000 - MOST);
        assert_eq!(pushed_out.last(), Some(&(1_999 - MOST as u32)));
        assert_eq!(std::iter::from_fn(|| probes.expire(at(5_000), PACE)).count(), MOST);
        assert!(probes.probes.capacity() <= 2 * SPARE, "{}", probes.probes.capacity());
    }
}
