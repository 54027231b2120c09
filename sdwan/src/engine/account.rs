//! For how long a class was served as its SLA asks.
//!
//! What is judged is the path that the class takes, at every decision about it: whether it keeps the bounds at that moment.
//! Time of which nothing is known – before the paths could answer, while the driver did not get to run – counts as nothing.

use std::time::Duration;

use super::time::Time;

/// How a class does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its path keeps the SLA; of a class without bounds: it has a path that is up.
    Kept,
    /// Its path breaks the SLA.
    Broken,
    /// No path is up.
    Without,
}

/// Time by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// For how long the SLA was kept.
    pub kept: Duration,
    /// For how long it was broken.
    pub broken: Duration,
    /// For how long there was no path.
    pub without: Duration,
}

impl Times {
    /// All time that is known of.
    pub fn total(&self) -> Duration {
        self.kept + self.broken + self.without
    }

    /// What came since an earlier reading of the same account; of an account that was begun anew, all of it.
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |now: Duration, then: Duration| now.checked_sub(then);
        match (less(self.kept, earlier.kept), less(self.broken, earlier.broken), less(self.without, earlier.without)) {
            (Some(kept), Some(broken), Some(without)) => Self { kept, broken, without },
            _ => *self,
        }
    }

    fn add(&mut self, verdict: Verdict, time: Duration) {
        match verdict {
            Verdict::Kept => self.kept += time,
            Verdict::Broken => self.broken += time,
            Verdict::Without => self.without += time,
        }
    }
}

/// The account of one class at one site.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account {
    times: Times,
    /// The verdict that holds, and what has been accounted for.
    now: Option<(Verdict, Time)>,
}

impl Account {
    /// All of it up to now.
    pub fn times(&self, now: Time) -> Times {
        let mut times = self.times;
        if let Some((verdict, since)) = self.now {
            times.add(verdict, now.since(since));
        }
        times
    }

    /// From now on it is so; `None`: nobody knows.
    pub(super) fn judge(&mut self, verdict: Option<Verdict>, now: Time) {
        self.times = self.times(now);
        self.now = verdict.map(|verdict| (verdict, now));
    }

    /// Nothing is known of the last `late`.
    pub(super) fn skip(&mut self, late: Duration, now: Time) {
        if let Some((verdict, since)) = self.now {
            self.times.add(verdict, now.since(since).saturating_sub(late));
            self.now = Some((verdict, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn times(kept: u32, broken: u32, without: u32) -> Times {
        Times { kept: SECOND * kept, broken: SECOND * broken, without: SECOND * without }
    }

    #[test]
    fn time_goes_to_the_verdict_that_held_and_unknown_time_to_none() {
        let start = Time(1_000_000_000_000);
        let at = |seconds: u32| start + SECOND * seconds;
        let mut account = Account::default();
        account.judge(None, at(0));
        assert_eq!(account.times(at(5)), times(0, 0, 0), "nothing is known yet");
        account.judge(Some(Verdict::Kept), at(5));
        account.judge(Some(Verdict::Kept), at(7));
        account.judge(Some(Verdict::Broken), at(10));
        assert_eq!(account.times(at(12)), times(5, 2, 0));
        account.judge(Some(Verdict::Without), at(12));
        // A driver that comes a minute late knows of the first three seconds alone.
        account.skip(SECOND * 60, at(75));
        account.judge(Some(Verdict::Kept), at(76));
        assert_eq!(account.times(at(76)), times(5, 2, 4));
        assert_eq!(account.times(at(80)).since(&account.times(at(76))), times(4, 0, 0));
        assert_eq!(times(1, 0, 0).since(&times(5, 2, 4)), times(1, 0, 0), "begun anew");
    }
}
