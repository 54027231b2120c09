//! Time in which the driver did not get to run: nothing was sent and nothing read, so silence proves nothing.

use std::time::Duration;

use super::time::Time;

/// For so long after a stall the answers that came in meanwhile are still being read.
const CATCH_UP: Duration = Duration::from_millis(20);

/// The stalls since a path's last answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stall {
    /// Answers are caught up with.
    end: Time,
    /// The answers to the probes that were not sent would have been in by then.
    answered: Time,
    length: Duration,
}

impl Stall {
    /// The driver comes `late` by so much, at `now`. `last_answer` is when the path last answered, `rtt` how long answers
    /// take: what was not sent is missed so much later.
    pub fn add(&mut self, late: Duration, rtt: Duration, now: Time, last_answer: Time) {
        let former = if last_answer < self.answered { self.length } else { Duration::ZERO };
        self.end = now + CATCH_UP;
        self.answered = self.end + rtt;
        self.length = former + late + CATCH_UP;
    }

    /// How much of the time since `last_answer` proves nothing.
    pub fn excuse(&self, last_answer: Time) -> Duration {
        self.length.min(self.answered.since(last_answer))
    }

    /// Whether answers that came in meanwhile may still wait to be read.
    pub fn catching_up(&self, now: Time) -> bool {
        now < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(milliseconds: u64) -> Time {
        Time(0) + MS * milliseconds as u32
    }

    #[test]
    fn without_a_stall_nothing_is_excused() {
        assert_eq!(Stall::default().excuse(at(5)), Duration::ZERO);
        assert!(!Stall::default().catching_up(at(5)));
    }

    #[test]
    fn a_stall_excuses_its_length_and_the_time_to_catch_up_and_no_more_than_passed_since_the_answer() {
        let mut stall = Stall::default();
        stall.add(MS * 300, Duration::ZERO, at(1_000), at(690));
        assert_eq!(stall.excuse(at(690)), MS * 320);
        // Read after the stall, stamped by the kernel during it.
        assert_eq!(stall.excuse(at(950)), MS * 70);
        assert_eq!(stall.excuse(at(1_030)), Duration::ZERO);
        assert!(stall.catching_up(at(1_019)) && !stall.catching_up(at(1_020)));
    }

    #[test]
    fn stalls_without_an_answer_between_them_add_up_and_an_answer_ends_the_sum() {
        let mut stall = Stall::default();
        stall.add(MS * 100, Duration::ZERO, at(1_000), at(890));
        stall.add(MS * 100, Duration::ZERO, at(1_200), at(890));
        assert_eq!(stall.excuse(at(890)), MS * 240);
        stall.add(MS * 100, Duration::ZERO, at(1_500), at(1_300));
        assert_eq!(stall.excuse(at(1_300)), MS * 120);
    }

    #[test]
    fn on_a_long_path_the_answers_are_missed_a_round_trip_later() {
        let mut stall = Stall::default();
        stall.add(MS * 120, MS * 600, at(1_000), at(990));
        // Probes from before the stall were answered until 1,480; then comes the hole.
        assert_eq!(stall.excuse(at(1_480)), MS * 140);
        assert_eq!(stall.excuse(at(1_610)), MS * 10);
        assert!(!stall.catching_up(at(1_020)), "nothing waits to be read any more");
    }
}
