//! Periodic records of how paths, uplinks and classes do.
//!
//! What is recorded as down is what was watched and did not answer. A site that falls silent takes its paths along, and is
//! down nonetheless: its paths are recorded on, until it comes back, or leaves for good.

use std::collections::BTreeMap;
use std::time::Duration;

use sdwan_common::abi::PathStats;

use super::core::{Core, RECORD};
use super::views::{milliseconds, percent, tcp_milliseconds};
use crate::dataplane::TcpRttSummary;
use crate::engine::Site;
use crate::engine::Time;
use crate::engine::account::Times;
use crate::engine::capacity::Direction;
use crate::engine::emodel::Codec;
use crate::engine::path::{Path, PathState};
use crate::engine::policy::ClassSpec;
use crate::engine::score::mean_opinion_score;
use crate::engine::types::{PathKey, SiteId, TunnelKey, UplinkIndex};
use crate::measure::clock;
use crate::store::{ClassMetrics, PathMetrics, Record, UplinkMetrics};

/// After a longer pause than this between two records, the daemon did not get to run: of the rest nobody knows.
const PAUSE: Duration = Duration::from_secs(3 * RECORD.as_secs());

/// Sites recorded at a time: no answer waits for more.
const AT_ONCE: usize = 16;

/// A path at the last record, for the differences.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    stats: PathStats,
    up: Duration,
}

/// What was recorded last.
#[derive(Debug, Default)]
pub struct History {
    at: Option<Time>,
    paths: BTreeMap<PathKey, Seen>,
    classes: BTreeMap<(SiteId, String), Times>,
    /// Paths of sites that are silent, as they were.
    absent: BTreeMap<SiteId, Vec<TunnelKey>>,
    round: Option<Round>,
}

/// A record of everything in the making.
#[derive(Debug)]
struct Round {
    began: Time,
    time_unix_s: i64,
    elapsed: Duration,
    sites: std::vec::IntoIter<SiteId>,
    numbers: BTreeMap<PathKey, u32>,
    counters: Vec<PathStats>,
    /// What is recorded so far, for the next record.
    paths: BTreeMap<PathKey, Seen>,
    classes: BTreeMap<(SiteId, String), Times>,
    uplinks: BTreeMap<UplinkIndex, Watched>,
}

impl Round {
    fn note(&mut self, uplink: UplinkIndex, watched: Watched) {
        let entry = self.uplinks.entry(uplink).or_default();
        entry.known = entry.known.max(watched.known);
        entry.up = entry.up.max(watched.up);
    }
}

/// How long something was watched, and up meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Watched {
    known: Duration,
    up: Duration,
}

impl History {
    /// A site has fallen silent.
    pub(super) fn fell_silent(&mut self, site: SiteId) {
        let tunnels = self.paths.keys().filter(|path| path.site == site).map(|path| path.tunnel).collect();
        self.absent.insert(site, tunnels);
    }

    /// A site is there, or is none of the mesh any more.
    pub(super) fn settled(&mut self, site: &SiteId) {
        self.absent.remove(site);
    }

    /// Whether a record is being made.
    pub(super) fn in_work(&self) -> bool {
        self.round.is_some()
    }

    /// How long the time since the last record was that is known of.
    fn elapsed(&self, now: Time) -> Duration {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.since(at));
        if elapsed > PAUSE { RECORD } else { elapsed }
    }
}

/// What is known of a path since the last record, which was `elapsed` ago.
fn watched(path: &Path, before: Option<&Seen>, elapsed: Duration, now: Time) -> Watched {
    // Of a path that is new, all that there is.
    let since_watched = now.since(path.watched_from());
    let known = if before.is_some() { since_watched.min(elapsed) } else { since_watched };
    let up = path.up_time(now).saturating_sub(before.map_or(Duration::ZERO, |seen| seen.up));
    Watched { known, up: up.min(known) }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Core {
    /// Begins to record the state of each path, uplink and class.
    pub(super) fn record(&mut self) {
        let now = clock::now();
        let numbers: BTreeMap<PathKey, u32> = self.plane_status.numbers.iter().copied().collect();
        let count = numbers.values().map(|number| number + 1).max().unwrap_or(0);
        let sites: Vec<SiteId> = self.engine.sites().map(|site| site.remote().id).collect();
        self.history.round = Some(Round {
            began: now,
            time_unix_s: clock::unix_s(),
            elapsed: self.history.elapsed(now),
            sites: sites.into_iter(),
            counters: self.reader.all_path_stats(count).unwrap_or_default(),
            numbers,
            paths: BTreeMap::new(),
            classes: BTreeMap::new(),
            uplinks: BTreeMap::new(),
        });
    }

    /// Records the next few sites, if a record is being made.
    pub(super) fn record_some(&mut self) {
        let Some(mut round) = self.history.round.take() else { return };
        let now = clock::now();
        let sites: Vec<SiteId> = round.sites.by_ref().take(AT_ONCE).collect();
        // One that is gone meanwhile has no paths.
        for site in sites.iter().filter_map(|id| self.engine.site(id)) {
            self.record_paths(&mut round, site, now);
            self.record_classes(&mut round, site, now);
        }
        if round.sites.len() > 0 {
            self.history.round = Some(round);
            return;
        }
        self.record_absent(&mut round);
        for (uplink, Watched { known, up }) in &round.uplinks {
            let (time_unix_s, uplink) = (round.time_unix_s, *uplink);
            let (known_ms, up_ms) = (whole_ms(*known), whole_ms(*up));
            self.store.record(Record::UplinkMetrics(UplinkMetrics { time_unix_s, uplink, known_ms, up_ms }));
        }
        self.history.classes = round.classes;
        self.history.paths = round.paths;
        self.history.at = Some(round.began);
    }

    fn record_paths(&self, round: &mut Round, site: &Site, now: Time) {
        for (tunnel, path) in site.paths() {
            let key = PathKey { site: site.remote().id, tunnel };
            let number = round.numbers.get(&key).copied();
            let stats = number.and_then(|number| round.counters.get(number as usize).copied()).unwrap_or_default();
            let before = self.history.paths.get(&key);
            let watched = watched(path, before, round.elapsed, now);
            let former = before.map_or(stats, |seen| seen.stats);
            let tcp = self.tcp_rtt(number, now);
            self.store.record(Record::PathMetrics(Box::new(PathMetrics {
                sent_packets: stats.sent_packets.saturating_sub(former.sent_packets),
                sent_bytes: stats.sent_bytes.saturating_sub(former.sent_bytes),
                received_packets: stats.received_packets.saturating_sub(former.received_packets),
                received_bytes: stats.received_bytes.saturating_sub(former.received_bytes),
                ..path_metrics(key, path, watched, &tcp, round.time_unix_s)
            })));
            round.note(tunnel.local, watched);
            round.paths.insert(key, Seen { stats, up: path.up_time(now) });
        }
    }

    /// Records for how long each class was served as its SLA asks.
    fn record_classes(&self, round: &mut Round, site: &Site, now: Time) {
        for (class, set) in self.engine.compilation().classes.iter().zip(site.sets()) {
            let times = set.account().times(now);
            let key = (site.remote().id, class.name.clone());
            let former = self.history.classes.get(&key).copied().unwrap_or_default();
            self.tell_class(round.time_unix_s, key.0, class, times.since(&former));
            round.classes.insert(key, times);
        }
    }

    /// Paths and classes of sites that have fallen silent.
    fn record_absent(&self, round: &mut Round) {
        let (watched, time_unix_s) = (Watched { known: round.elapsed, up: Duration::ZERO }, round.time_unix_s);
        for (site, tunnels) in &self.history.absent {
            for tunnel in tunnels {
                let key = PathKey { site: *site, tunnel: *tunnel };
                self.store.record(Record::PathMetrics(Box::new(absent_metrics(key, watched, time_unix_s))));
                round.note(tunnel.local, watched);
            }
            for class in &self.engine.compilation().classes {
                self.tell_class(time_unix_s, *site, class, Times { without: round.elapsed, ..Times::default() });
            }
        }
    }

    fn tell_class(&self, time_unix_s: i64, site: SiteId, class: &ClassSpec, times: Times) {
        if times.total() >= Duration::from_millis(1) {
            let metrics =
                ClassMetrics { time_unix_s, site, class: class.name.clone(), sla: class.sla.to_string(), times };
            self.store.record(Record::ClassMetrics(Box::new(metrics)));
        }
    }

    fn tcp_rtt(&self, number: Option<u32>, now: Time) -> TcpRttSummary {
        let Some(number) = number else { return TcpRttSummary::default() };
        self.reader.tcp_rtt(number, now).unwrap_or_default()
    }
}

/// The record of a path, without its counters.
fn path_metrics(path: PathKey, state: &Path, watched: Watched, tcp: &TcpRttSummary, time_unix_s: i64) -> PathMetrics {
    let quality = state.quality();
    let data = quality.data_loss;
    let up = state.state() == PathState::Up;
    PathMetrics {
        up,
        score: if up { state.score() } else { 0.0 },
        rtt_ms: quality.rtt.map(milliseconds),
        jitter_forward_ms: milliseconds(quality.jitter_forward),
        jitter_backward_ms: milliseconds(quality.jitter_backward),
        loss_forward_pct: percent(quality.loss.forward, quality.loss.probes),
        loss_backward_pct: percent(quality.loss.backward, quality.loss.probes),
        mos: mean_opinion_score(Codec::G711, quality).filter(|_| up),
        data_loss_forward_pct: percent(data.forward, data.forward_packets),
        data_loss_forward_packets: data.forward_packets,
        data_loss_backward_pct: percent(data.backward, data.backward_packets),
        data_loss_backward_packets: data.backward_packets,
        tcp_rtt_ms: tcp_milliseconds(tcp.median, tcp),
        tcp_rtt_min_ms: tcp_milliseconds(tcp.minimum, tcp),
        capacity_bps: state.capacity(),
        capacity_backward_bps: state.known_capacity().found(Direction::Backward).map(|found| found.bits_per_second),
        ..absent_metrics(path, watched, time_unix_s)
    }
}

/// The record of a path that nobody hears anything of.
fn absent_metrics(path: PathKey, watched: Watched, time_unix_s: i64) -> PathMetrics {
    PathMetrics {
        known_ms: whole_ms(watched.known),
        up_ms: whole_ms(watched.up),
        ..PathMetrics::unmeasured(path, time_unix_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::estimate::ProbeReply;
    use crate::engine::settings::Settings;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(site: u8) -> PathKey {
        let index = |index| UplinkIndex::new(index).expect("a small number");
        PathKey { site: SiteId([site; 16]), tunnel: TunnelKey { local: index(0), remote: index(1) } }
    }

    /// A path that answers from `from` on, and not any more from `until` on.
    fn answer(path: &mut Path, from: Time, until: Time, settings: &Settings) {
        let mut now = from;
        while now < until {
            let sequence = path.probe_sent(now, settings);
            let reply = ProbeReply {
                sequence,
                reflector_sequence: sequence,
                sent_ns: now.0,
                reflector_received_ns: now.0 + 5_000_000,
                reflector_sent_ns: now.0 + 5_000_000,
                received_ns: now.0 + 10_000_000,
                synchronized: false,
                clock_error_ns: 0,
            };
            now = now + Duration::from_millis(10);
            path.reply(&reply, now, settings).expect("a sensible answer");
            now = now + Duration::from_millis(40);
            path.poll(now, settings);
        }
    }

    #[test]
    fn a_path_is_down_only_while_it_was_asked_and_silent() {
        let settings = Settings::default();
        let start = Time(1_000_000_000_000);
        let mut path = Path::new(start, &settings, 1_420, None);
        assert_eq!(watched(&path, None, SECOND, start + SECOND), Watched::default(), "it hasn't been asked for long");
        answer(&mut path, start + SECOND * 2, start + SECOND * 10, &settings);
        let first = watched(&path, None, SECOND * 10, start + SECOND * 10);
        assert_eq!(first.known, first.up, "what came before the first answers is unknown: {first:?}");
        assert!(first.up > SECOND * 7 && first.up < SECOND * 8, "{first:?}");

        let seen = Seen { up: path.up_time(start + SECOND * 10), ..Seen::default() };
        for tenth in 0..100 {
            path.poll(start + SECOND * 10 + SECOND * tenth / 10, &settings);
        }
        let second = watched(&path, Some(&seen), SECOND * 10, start + SECOND * 20);
        assert_eq!(second.known, SECOND * 10);
        assert!(second.up < SECOND, "it was down for nearly all of the ten seconds: {second:?}");
    }

    #[test]
    fn a_path_that_never_answers_is_down_after_a_while() {
        let start = Time(1_000_000_000_000);
        let path = Path::new(start, &Settings::default(), 1_420, None);
        let seen = Seen::default();
        assert_eq!(watched(&path, Some(&seen), SECOND * 10, start + SECOND * 10), Watched::default());
        let later = watched(&path, Some(&seen), SECOND * 10, start + SECOND * 25);
        assert_eq!(later, Watched { known: SECOND * 10, up: Duration::ZERO });
    }

    #[test]
    fn of_a_long_pause_no_more_is_known_than_of_one_record() {
        let start = Time(1_000_000_000_000);
        let history = History { at: Some(start), ..History::default() };
        assert_eq!(history.elapsed(start + SECOND * 11), SECOND * 11);
        assert_eq!(history.elapsed(start + SECOND * 300), RECORD);
        assert_eq!(History::default().elapsed(start), Duration::ZERO);
    }

    #[test]
    fn a_site_that_is_silent_keeps_its_paths_until_it_is_back_or_gone() {
        let mut history = History::default();
        history.paths.insert(key(1), Seen::default());
        history.paths.insert(key(2), Seen::default());
        history.fell_silent(key(1).site);
        assert_eq!(history.absent, BTreeMap::from([(key(1).site, vec![key(1).tunnel])]));
        history.settled(&key(1).site);
        assert!(history.absent.is_empty());
    }
}
