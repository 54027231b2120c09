//! The states of a WireGuard key's replacement, without clock or files.
//!
//! ```text
//! Steady --begin--> Announced --announce time over, `switch` done--> Overlap --overlap over--> Steady
//! ```
//!
//! While *announced*, the site still uses the current key and tells the others the next one, so that each can accept
//! it before it is used. In the *overlap* the site uses the new key and still knows the old one, so that what is under
//! way arrives. Times are Unix seconds, because a rotation outlives a restart of the daemon; a clock that jumps back
//! makes a phase longer, never shorter than its beginning says.

use serde::{Deserialize, Serialize};

/// How long the phases last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationTimes {
    /// The next key is announced for this long before it is used, s. Longer than a site may be silent.
    pub announce_s: u64,
    /// The old key is remembered for this long after the switch, s. At least WireGuard's 180 s (REJECT_AFTER_TIME).
    pub overlap_s: u64,
}

impl Default for RotationTimes {
    fn default() -> Self {
        Self { announce_s: 150, overlap_s: 240 }
    }
}

/// Where the rotation is. Public keys only; the secrets are files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "phase")]
pub enum Phase {
    /// One key.
    Steady,
    /// The next key is announced.
    Announced {
        /// The next key.
        next: [u8; 32],
        /// Since when, Unix time in seconds.
        since: u64,
    },
    /// The new key is in use, the old one remembered.
    Overlap {
        /// The old key.
        old: [u8; 32],
        /// Since when, Unix time in seconds.
        since: u64,
    },
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Put the next key into use on every tunnel, then call [`Rotation::switched`].
    Switch {
        /// The key to use.
        to: [u8; 32],
    },
    /// Delete the old key's file, then call [`Rotation::forgotten`].
    Forget {
        /// The key to delete.
        old: [u8; 32],
    },
}

/// A call that the current phase doesn't allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key rotation is under way already: wait until it ends (`sdwan site show` says when)")]
pub struct RotationUnderWay;

/// The state of a site's WireGuard key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    current: [u8; 32],
    #[serde(flatten)]
    phase: Phase,
    times: RotationTimes,
}

impl Rotation {
    /// One key, no rotation under way.
    pub fn new(current: [u8; 32], times: RotationTimes) -> Self {
        Self { current, phase: Phase::Steady, times }
    }

    /// Starts a rotation to a key whose secret is already safe on disk.
    pub fn begin(&mut self, next: [u8; 32], now_unix: u64) -> Result<(), RotationUnderWay> {
        if self.phase != Phase::Steady || next == self.current {
            return Err(RotationUnderWay);
        }
        self.phase = Phase::Announced { next, since: now_unix };
        Ok(())
    }

    /// What is due. Repeats until the action is reported done, so a crash in between does no harm.
    pub fn due(&self, now_unix: u64) -> Option<Action> {
        if self.deadline().is_none_or(|deadline| now_unix < deadline) {
            return None;
        }
        match self.phase {
            Phase::Steady => None,
            Phase::Announced { next, .. } => Some(Action::Switch { to: next }),
            Phase::Overlap { old, .. } => Some(Action::Forget { old }),
        }
    }

    /// When [`Self::due`] will have something to do, Unix time in seconds.
    pub fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Steady => None,
            Phase::Announced { since, .. } => Some(since.saturating_add(self.times.announce_s)),
            Phase::Overlap { since, .. } => Some(since.saturating_add(self.times.overlap_s)),
        }
    }

    /// The next key is in use. Without effect unless it was announced.
    pub fn switched(&mut self, now_unix: u64) {
        if let Phase::Announced { next, .. } = self.phase {
            self.phase = Phase::Overlap { old: self.current, since: now_unix };
            self.current = next;
        }
    }

    /// The old key is deleted. Without effect unless in the overlap.
    pub fn forgotten(&mut self) {
        if matches!(self.phase, Phase::Overlap { .. }) {
            self.phase = Phase::Steady;
        }
    }

    /// What to announce: the key in use, and the next one.
    pub fn announced(&self) -> ([u8; 32], Option<[u8; 32]>) {
        match self.phase {
            Phase::Announced { next, .. } => (self.current, Some(next)),
            _ => (self.current, None),
        }
    }

    /// Where the rotation is.
    pub fn phase(&self) -> Phase {
        self.phase
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];
    const TIMES: RotationTimes = RotationTimes { announce_s: 100, overlap_s: 200 };

    #[test]
    fn a_key_is_announced_then_used_then_the_old_one_forgotten() {
        let mut rotation = Rotation::new(A, TIMES);
        assert_eq!((rotation.announced(), rotation.due(u64::MAX)), ((A, None), None));
        rotation.begin(B, 1_000).unwrap();
        assert_eq!(rotation.announced(), (A, Some(B)));
        assert_eq!(rotation.due(1_099), None);
        assert_eq!(rotation.due(1_100), Some(Action::Switch { to: B }));
        assert_eq!(rotation.due(1_150), Some(Action::Switch { to: B }), "repeats until it is done");
        rotation.switched(1_150);
        assert_eq!(rotation.announced(), (B, None));
        assert_eq!(rotation.due(1_349), None);
        assert_eq!(rotation.due(1_350), Some(Action::Forget { old: A }));
        rotation.forgotten();
        assert_eq!((rotation.phase(), rotation.deadline()), (Phase::Steady, None));
    }

    #[test]
    fn a_second_rotation_waits_for_the_first() {
        let mut rotation = Rotation::new(A, TIMES);
        rotation.begin(B, 0).unwrap();
        assert_eq!(rotation.begin([3; 32], 1), Err(RotationUnderWay));
        rotation.switched(100);
        assert_eq!(rotation.begin([3; 32], 101), Err(RotationUnderWay));
        rotation.forgotten();
        assert!(rotation.begin(B, 400).is_err(), "the key in use is not a new one");
        rotation.begin([3; 32], 400).unwrap();
    }

    #[test]
    fn calls_out_of_turn_change_nothing() {
        let mut rotation = Rotation::new(A, TIMES);
        rotation.switched(5);
        rotation.forgotten();
        assert_eq!(rotation, Rotation::new(A, TIMES));
    }

    #[test]
    fn it_survives_a_restart() {
        let mut rotation = Rotation::new(A, TIMES);
        rotation.begin(B, 7).unwrap();
        let text = serde_json::to_string(&rotation).unwrap();
        assert_eq!(serde_json::from_str::<Rotation>(&text).unwrap(), rotation);
    }
}
