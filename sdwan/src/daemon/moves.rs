//! For how many flows a path was left: what the data path counts, told as events.
//!
//! Flows move one by one, each at its next packet, some a moment after a failure and some long after. The programs count
//! them by path set and pair of paths; a scan of these counts, in a thread of its own and only after some flow has moved,
//! gives the differences. The first event about a pair comes when most of its flows have had a packet, each further one
//! after twice the time.

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan_common::abi::MoveKey;
use tokio::sync::mpsc;

use super::answers::locked;
use super::core::Core;
use crate::engine::Time;
use crate::engine::events::{EngineEvent, EventKind};
use crate::engine::types::PathKey;
use crate::measure::clock;

/// How often the data path is asked whether flows have moved.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// From the first flow that moved to the first event.
const FIRST: Duration = Duration::from_secs(2);
/// The longest time between two events about one pair of paths.
const LONGEST: Duration = Duration::from_secs(300);
/// After so long without an event, a move counts as the first.
const FORGET: Duration = Duration::from_secs(900);
/// Most events of one look; the flows of the rest are told with the next.
const MOST: usize = 32;

/// Counts as the data path has them.
pub(super) type Counts = Vec<(MoveKey, u32)>;

/// Flows of a pair of paths that are to be told, or were.
#[derive(Debug)]
struct Account {
    flows: u64,
    /// When the first of them was seen; without any, when the last event was told.
    since: Time,
    wait: Duration,
    told: bool,
}

/// Flows that moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    pair: MoveKey,
    flows: u64,
    /// Others of the same pair were told before.
    more: bool,
}

/// What was counted, and what is to be told.
#[derive(Debug, Default)]
pub struct Moves {
    /// The counts at the last scan, once there was one.
    seen: Option<BTreeMap<MoveKey, u32>>,
    accounts: BTreeMap<MoveKey, Account>,
    /// Flows that had moved, of all classes, when a scan was last begun.
    total: Option<u64>,
}

impl Moves {
    /// Takes counts. Those of the first scan are of an earlier time.
    fn counted(&mut self, counts: &Counts, now: Time) {
        let now_seen: BTreeMap<MoveKey, u32> = counts.iter().copied().collect();
        let Some(former) = self.seen.replace(now_seen) else { return };
        for (pair, count) in counts {
            let flows = match former.get(pair) {
                // Fewer than before: the entry was evicted and begun anew.
                Some(former) if (count.wrapping_sub(*former) as i32) < 0 => *count,
                Some(former) => count.wrapping_sub(*former),
                None => *count,
            };
            if flows == 0 {
                continue;
            }
            let new = Account { flows: 0, since: now, wait: FIRST, told: false };
            let account = self.accounts.entry(*pair).or_insert(new);
            if account.flows == 0 {
                account.since = now;
            }
            account.flows += u64::from(flows);
        }
    }

    /// What is to be told now: at most [`MOST`].
    fn due(&mut self, now: Time) -> Vec<Told> {
        self.accounts.retain(|_, account| account.flows > 0 || now.since(account.since) < FORGET);
        let due = self
            .accounts
            .iter_mut()
            .filter(|(_, account)| account.flows > 0 && now.since(account.since) >= account.wait);
        let told = due.take(MOST).map(|(pair, account)| {
            let told = Told { pair: *pair, flows: account.flows, more: account.told };
            *account = Account { flows: 0, since: now, wait: (account.wait * 2).min(LONGEST), told: true };
            told
        });
        told.collect()
    }
}

impl Core {
    /// Has the counts scanned, if flows have moved since the last time. A scan that is still under way is waited for.
    pub(super) fn look_for_moves(&mut self, into: &mpsc::Sender<Counts>) {
        let now = clock::now();
        for told in self.moves.due(now) {
            self.tell_moves(told);
        }
        let classes = self.engine.compilation().classes.len() as u16;
        let moves = |class| self.reader.class_counters(class).map(|counters| counters.moves);
        // Where the counters can't be read, the scan shows it.
        let total = (0..classes).map(moves).sum::<Result<u64, _>>().ok();
        if total.is_some() && total == self.moves.total {
            return;
        }
        let Ok(permit) = into.clone().try_reserve_owned() else { return };
        self.moves.total = total;
        let scanner = self.scanner.clone();
        tokio::task::spawn_blocking(move || drop(permit.send(locked(&scanner).moves())));
    }

    /// Takes what a scan found.
    pub(super) fn moves_counted(&mut self, counts: &Counts) {
        self.moves.counted(counts, clock::now());
    }

    fn tell_moves(&self, told: Told) {
        let Told { pair, flows, more } = told;
        let path = |number: u32| {
            let found = self.plane_status.numbers.iter().find(|(_, known)| *known == number);
            found.map(|(path, _)| *path)
        };
        // Of paths that are no more, nobody wants to know.
        let (Some(from), Some(to)) = (path(pair.from), path(pair.to)) else { return };
        let class = (pair.set % self.config.dataplane.classes.max(1)) as u16;
        let Some(spec) = self.engine.compilation().classes.get(usize::from(class)) else { return };
        self.event(moved_event(&self.engine, (from, to), (class, &spec.name), flows, more));
    }
}

fn moved_event(
    engine: &crate::engine::Engine,
    (from, to): (PathKey, PathKey),
    (class, name): (u16, &str),
    flows: u64,
    more: bool,
) -> EngineEvent {
    let site = engine.site(&to.site);
    let site_name = site.map_or_else(|| to.site.to_string(), |site| site.remote().name.clone());
    let reason = site.and_then(|site| site.why_left(class, from.tunnel, to.tunnel));
    let why = reason.map_or("the data path left the old one by itself", |reason| reason.text());
    let (more, s) = (if more { " more" } else { "" }, if flows == 1 { "" } else { "s" });
    let message = format!(
        "{flows}{more} flow{s} of class {name} to {site_name} moved from path {} to path {}: {why}",
        from.tunnel, to.tunnel
    );
    let mut event = EngineEvent::new(EventKind::FlowsMoved, message).with_path(to);
    event.from_path = Some(from);
    event.class = Some(name.to_owned());
    event.details = serde_json::json!({ "flows": flows, "reason": reason });
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pair(from: u32, to: u32) -> MoveKey {
        MoveKey { set: 3, from, to }
    }

    #[test]
    fn every_flow_that_moves_is_told_once_and_those_before_the_start_are_not() {
        let mut moves = Moves::default();
        let start = Time(1_000_000_000_000);
        let at = |seconds: u32| start + SECOND * seconds;
        moves.counted(&vec![(pair(0, 1), 70)], at(0));
        assert_eq!(moves.due(at(10)), []);
        moves.counted(&vec![(pair(0, 1), 370), (pair(0, 2), 5)], at(10));
        assert_eq!(moves.due(at(11)), [], "most flows have had no packet yet");
        moves.counted(&vec![(pair(0, 1), 382), (pair(0, 2), 5)], at(11));
        let told = |from, to, flows, more| Told { pair: pair(from, to), flows, more };
        assert_eq!(moves.due(at(12)), [told(0, 1, 312, false), told(0, 2, 5, false)]);
        assert_eq!(moves.due(at(60)), [], "each once");
        // The straggler waits longer than the first ones did.
        moves.counted(&vec![(pair(0, 1), 383), (pair(0, 2), 5)], at(60));
        assert_eq!(moves.due(at(63)), []);
        assert_eq!(moves.due(at(64)), [told(0, 1, 1, true)]);
    }

    #[test]
    fn a_count_that_was_evicted_or_wrapped_around_loses_no_flow() {
        let mut moves = Moves::default();
        let now = Time(1_000_000_000_000);
        moves.counted(&vec![(pair(0, 1), 900), (pair(1, 0), u32::MAX - 1)], now);
        moves.counted(&vec![(pair(0, 1), 3), (pair(1, 0), 4)], now);
        let told: Vec<u64> = moves.due(now + FIRST).iter().map(|told| told.flows).collect();
        assert_eq!(told, [3, 6]);
    }

    #[test]
    fn flows_that_dribble_make_few_events_and_many_pairs_are_told_in_turns() {
        let mut moves = Moves::default();
        let start = Time(1_000_000_000_000);
        moves.counted(&Counts::new(), start);
        let (mut events, mut flows) = (0, 0);
        for second in 1..=3_600u32 {
            moves.counted(&vec![(pair(0, 1), second)], start + SECOND * second);
            for told in moves.due(start + SECOND * second) {
                (events, flows) = (events + 1, flows + told.flows);
            }
        }
        assert!((10..=20).contains(&events), "{events} events in an hour");
        assert!(flows >= 3_200, "{flows}");

        let many = (0..100).map(|set| (MoveKey { set, from: 7, to: 8 }, 1)).collect();
        let now = start + SECOND * 3_700;
        moves.counted(&many, now);
        let turns: Vec<usize> = (0..4).map(|_| moves.due(now + FIRST).len()).collect();
        assert_eq!(turns.iter().sum::<usize>(), 100, "{turns:?}");
        assert!(turns.iter().all(|turn| *turn <= MOST), "{turns:?}");
    }
}
