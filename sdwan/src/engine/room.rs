//! Room for copies: whether a path can carry, beside its own packets, copies of another path's (duplicate mode).
//!
//! A path whose line is nearly full gets none: they would push out what has no other way. The copies are part of the load,
//! so that it falls when they stop; each time that they were too much they wait longer before they come back.

use std::time::Duration;

use super::time::Time;

/// A path is full when its load is more than this share of its capacity.
const FULL_ABOVE: f64 = 0.85;
/// It has room again when its load is less than this share.
const ROOM_BELOW: f64 = 0.6;
/// For how long it is full at least.
const HOLD: Duration = Duration::from_secs(30);
/// And at most, where copies fill it again and again.
const HOLD_MAX: Duration = Duration::from_secs(1_800);

/// Whether one path has room.
#[derive(Clone, Debug, Default)]
pub struct Room {
    full: bool,
    /// Since when it is full, or isn't.
    since: Time,
    /// How long it was, or is, full the last time.
    hold: Duration,
}

impl Room {
    /// No room.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Takes the share of its capacity that the path carries. Returns whether that changes anything.
    pub fn load(&mut self, share: f64, now: Time) -> bool {
        let lasted = now.since(self.since);
        if !self.full && share > FULL_ABOVE {
            // Who was full a moment ago was so for the copies.
            let again = !self.hold.is_zero() && lasted < self.hold;
            self.hold = if again { (self.hold * 2).min(HOLD_MAX) } else { HOLD };
        } else if !(self.full && share < ROOM_BELOW && lasted >= self.hold) {
            return false;
        }
        self.full = !self.full;
        self.since = now;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds * 1_000_000_000)
    }

    #[test]
    fn a_path_is_full_at_once_and_has_room_again_after_a_while() {
        let mut room = Room::default();
        assert!(!room.load(0.8, at(100)) && !room.is_full());
        assert!(room.load(0.9, at(101)) && room.is_full());
        assert!(!room.load(0.1, at(120)), "not so soon");
        assert!(!room.load(0.7, at(140)), "not at such a load");
        assert!(room.load(0.5, at(141)) && !room.is_full());
    }

    #[test]
    fn copies_that_fill_it_again_and_again_wait_longer_each_time() {
        let mut room = Room::default();
        let (mut now, mut changes) = (1_000, 0);
        // An hour in which copies always are too much: 60 % without them, 100 % with them.
        for _ in 0..3_600 {
            now += 1;
            changes += u32::from(room.load(if room.is_full() { 0.55 } else { 1.0 }, at(now)));
        }
        assert!((2..=14).contains(&changes), "{changes} changes in an hour");
    }
}
