//! Path sets: which paths a class takes to a site, in ranks, and when that changes.
//!
//! A class leaves its path at once when the path is down; after a hold when the path breaks the SLA, is degraded, or
//! another one is better by a margin. Nothing else moves it. What a path counts as, and how it is damped when that changes
//! too often, is in `standing.rs`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use sdwan_common::abi::MAX_CANDIDATES;

use super::account::{Account, Verdict};
use super::policy::{ClassSpec, Mode, Sticky};
use super::settings::Settings;
use super::standing::Standing;
use super::time::Time;
use super::types::TunnelKey;

/// How good a path is for a class; lower is better, and decides before the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Up, within the SLA, quality good enough.
    Good,
    /// Up and within the SLA, but degraded.
    Degraded,
    /// Up, but outside the SLA.
    Violating,
    /// Not up.
    Down,
}

/// What the decision rests on, for one path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rated {
    /// The uplink pair.
    pub tunnel: TunnelKey,
    /// How good.
    pub tier: Tier,
    /// Score for the class, 0..=100.
    pub score: f64,
    /// Capacity, bit/s, if known: the weight in balance mode.
    pub capacity: Option<u64>,
    /// It has no room for copies.
    pub full: bool,
    /// Answers should have come by now: it may be dead, too.
    pub doubtful: bool,
}

/// A path in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranked {
    /// The uplink pair.
    pub tunnel: TunnelKey,
    /// Lower is taken first.
    pub rank: u8,
    /// Share within the rank, 1..=65535.
    pub weight: u16,
    /// In duplicate mode: it has no room for copies.
    pub full: bool,
}

/// Why a class moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MoveReason {
    /// It had no path.
    First,
    /// Its path is down.
    Down,
    /// Its path breaks the SLA or is degraded, and another doesn't.
    Worse,
    /// Another path was better by the margin for the hold time.
    Better,
}

impl MoveReason {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::First => "it is the first path that is up",
            Self::Down => "the old path is down",
            Self::Worse => "the old path breaks the SLA or is degraded",
            Self::Better => "it is better by the margin",
        }
    }
}

/// A change of the first path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Path before.
    pub from: Option<TunnelKey>,
    /// Path now.
    pub to: TunnelKey,
    /// Why.
    pub reason: MoveReason,
}

/// The decision for one (site, class), and what it remembers.
#[derive(Clone, Debug, Default)]
pub struct Set {
    candidates: Vec<Ranked>,
    keep_rank: u8,
    first: Option<TunnelKey>,
    /// The first path is that of an earlier daemon, and the paths are only just coming up.
    adopted: bool,
    standings: Vec<Standing>,
    /// Why it is to move, since when, and for how long that must hold.
    challenged: Option<(MoveReason, Time, Duration)>,
    account: Account,
}

impl Set {
    /// The candidates, best rank first.
    pub fn candidates(&self) -> &[Ranked] {
        &self.candidates
    }

    /// A flow on a usable candidate of at most this rank stays there.
    pub fn keep_rank(&self) -> u8 {
        self.keep_rank
    }

    /// The path of rank 0; in balance mode the best one.
    pub fn first(&self) -> Option<TunnelKey> {
        self.first
    }

    /// Takes the path that an earlier daemon had chosen, unless there is one.
    pub fn adopt(&mut self, tunnel: TunnelKey) {
        if self.first.is_none() {
            self.first = Some(tunnel);
            self.adopted = true;
        }
    }

    /// What a path counts as, once it is known.
    pub fn tier(&self, tunnel: TunnelKey) -> Option<Tier> {
        self.standing(tunnel).map(Standing::tier)
    }

    /// For how long the class's path kept the SLA, and for how long not.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Accounts for how the class does from now on. `known`: it can be told at all.
    pub(super) fn judge(&mut self, known: bool, now: Time) {
        let standing = self.first.and_then(|first| self.standing(first));
        // What counts here is the moment, and not what holds make of it for the sake of steering.
        let verdict = match standing.map(Standing::rated) {
            _ if !known => None,
            Some(Tier::Good | Tier::Degraded) => Some(Verdict::Kept),
            Some(Tier::Violating) => Some(Verdict::Broken),
            Some(Tier::Down) | None => Some(Verdict::Without),
        };
        self.account.judge(verdict, now);
    }

    /// Nothing is known of the time by which the driver came late.
    pub(super) fn stalled(&mut self, late: Duration, now: Time) {
        self.account.skip(late, now);
    }

    /// When a hold ends, if one runs.
    pub fn deadline(&self, settings: &Settings) -> Option<Time> {
        let standings = self.standings.iter().filter_map(|path| path.deadline(settings));
        self.challenged.map(|(_, since, hold)| since + hold).into_iter().chain(standings).min()
    }

    fn standing(&self, tunnel: TunnelKey) -> Option<&Standing> {
        self.standings.iter().find(|path| path.tunnel() == tunnel)
    }

    /// Puts the tiers that count in the place of those of the moment.
    fn stand(&mut self, rated: &mut [Rated], at_once: bool, now: Time, settings: &Settings) {
        self.standings.retain(|known| rated.iter().any(|path| path.tunnel == known.tunnel()));
        for path in rated {
            let standings = &mut self.standings;
            let at = standings.iter().position(|known| known.tunnel() == path.tunnel).unwrap_or_else(|| {
                standings.push(Standing::new(path.tunnel, path.tier, now));
                standings.len() - 1
            });
            standings[at].rate(path.tier, at_once, now, settings);
            path.tier = standings[at].tier();
        }
    }

    /// Decides anew. `settling`: the site has just come up, so that holds don't apply. Returns whether the candidates
    /// changed, and whether the first path did.
    pub fn decide(
        &mut self,
        class: &ClassSpec,
        mut rated: Vec<Rated>,
        settling: bool,
        now: Time,
        settings: &Settings,
    ) -> (bool, Option<Moved>) {
        self.adopted &= settling;
        let at_once = settling && !self.adopted;
        self.stand(&mut rated, at_once, now, settings);
        // Scores in steps, so that noise doesn't reorder the paths behind the first one all the time.
        let order =
            |path: &Rated| (path.tier, -(path.score / settings.switch_margin.max(1.0)).round() as i64, path.tunnel);
        rated.sort_by_key(order);
        let moved = self.choose(&rated, at_once, now, settings);
        if let Some(position) = rated.iter().position(|path| Some(path.tunnel) == self.first) {
            rated[..=position].rotate_right(1);
        }
        let candidates = match class.mode {
            Mode::Best => in_order(&rated, false),
            Mode::Duplicate => in_order(&rated, true),
            Mode::Balance => self.balanced(&rated),
        };
        let keep_rank = match class.sticky {
            Sticky::UntilEnd => self.kept(class, &candidates),
            Sticky::UntilBetter => 0,
        };
        let changed = candidates != self.candidates || keep_rank != self.keep_rank;
        self.candidates = candidates;
        self.keep_rank = keep_rank;
        (changed, moved)
    }

    /// The last rank that flows stay on: what works, and is no worse than the first path or keeps the SLA. Without an SLA,
    /// a degraded path is not good enough.
    fn kept(&self, class: &ClassSpec, candidates: &[Ranked]) -> u8 {
        let tier = |tunnel| self.tier(tunnel).unwrap_or(Tier::Down);
        let enough = if class.sla.is_empty() { Tier::Good } else { Tier::Degraded };
        let enough = candidates.first().map_or(enough, |first| tier(first.tunnel).max(enough));
        let kept = candidates.iter().take_while(|path| tier(path.tunnel) <= enough);
        kept.last().map_or(0, |last| last.rank)
    }

    fn choose(&mut self, rated: &[Rated], at_once: bool, now: Time, settings: &Settings) -> Option<Moved> {
        let incumbent = rated.iter().find(|path| Some(path.tunnel) == self.first);
        // It carried the flows a moment ago: its first answers are waited for.
        if self.adopted && incumbent.is_some_and(|path| path.tier == Tier::Down) {
            return None;
        }
        // Within a step of the order the score itself decides about the challenger.
        let best_of = |tier: Tier, sure: bool| {
            let paths = rated.iter().filter(|path| path.tier == tier && !(sure && path.doubtful));
            paths.max_by(|a, b| a.score.total_cmp(&b.score).then(b.tunnel.cmp(&a.tunnel)))
        };
        let mut best = best_of(rated.first()?.tier, false)?;
        // A line that is cut takes all of its paths along, one after the other: out of the first into the next would cost as
        // much time again.
        if best.doubtful && incumbent.is_some_and(|path| path.tier == Tier::Down) {
            let usable = rated.iter().filter(|path| path.tier != Tier::Down && !path.doubtful);
            let surest = usable.map(|path| path.tier).min().and_then(|tier| best_of(tier, true));
            best = surest.unwrap_or(best);
        }
        let reason = match incumbent {
            _ if best.tier == Tier::Down => None,
            None => Some(MoveReason::First),
            Some(incumbent) if incumbent.tunnel == best.tunnel => None,
            Some(incumbent) if incumbent.tier == Tier::Down => Some(MoveReason::Down),
            Some(incumbent) if best.tier < incumbent.tier => Some(MoveReason::Worse),
            Some(incumbent) if best.score >= incumbent.score + settings.switch_margin => Some(MoveReason::Better),
            Some(_) => None,
        };
        let Some(reason) = reason else {
            self.challenged = None;
            return None;
        };
        let since = match self.challenged {
            Some((known, since, _)) if known == reason => since,
            _ => now,
        };
        let hold = match (reason, self.standing(best.tunnel)) {
            (MoveReason::Better, Some(standing)) => standing.return_hold(since, settings),
            // What is worse has been so for its hold.
            _ => Duration::ZERO,
        };
        if !at_once && now.since(since) < hold {
            self.challenged = Some((reason, since, hold));
            return None;
        }
        self.challenged = None;
        let from = self.first.replace(best.tunnel);
        if reason == MoveReason::Better
            && let Some(left) = self.standings.iter_mut().find(|path| Some(path.tunnel()) == from)
        {
            left.punish(now, settings);
        }
        Some(Moved { from, to: best.tunnel, reason })
    }

    /// All paths of the best tier share rank 0 by weight; the others follow in order.
    fn balanced(&self, rated: &[Rated]) -> Vec<Ranked> {
        let Some(best_tier) = rated.iter().map(|path| path.tier).min() else { return Vec::new() };
        let (sharing, rest): (Vec<&Rated>, Vec<&Rated>) = rated.iter().partition(|path| path.tier == best_tier);
        let known = sharing.iter().all(|path| path.capacity.is_some());
        let share = |path: &Rated| {
            let capacity = if known { path.capacity.unwrap_or(1) as f64 } else { 1.0 };
            capacity * path.score.max(1.0)
        };
        let largest = sharing.iter().map(|path| share(path)).fold(1.0, f64::max);
        let mut ranked: Vec<Ranked> = sharing
            .iter()
            .map(|path| {
                let weight = (share(path) / largest * 1000.0).round().clamp(1.0, 1000.0) as u16;
                Ranked { tunnel: path.tunnel, rank: 0, weight: self.steady_weight(path.tunnel, weight), full: false }
            })
            .collect();
        ranked.sort_by_key(|path| path.tunnel);
        let rest = rest.iter().enumerate();
        ranked.extend(rest.map(|(at, path)| Ranked {
            tunnel: path.tunnel,
            rank: 1 + at as u8,
            weight: 1,
            full: false,
        }));
        ranked.truncate(MAX_CANDIDATES);
        ranked
    }

    /// The former weight, unless the new one differs by more than a tenth.
    fn steady_weight(&self, tunnel: TunnelKey, weight: u16) -> u16 {
        let former = self.candidates.iter().find(|path| path.tunnel == tunnel && path.rank == 0);
        match former {
            Some(former) if former.weight.abs_diff(weight) <= former.weight / 10 => former.weight,
            _ => weight,
        }
    }
}

fn in_order(rated: &[Rated], copies: bool) -> Vec<Ranked> {
    let ranked = rated.iter().take(MAX_CANDIDATES).enumerate();
    ranked
        .map(|(rank, path)| Ranked { tunnel: path.tunnel, rank: rank as u8, weight: 1, full: copies && path.full })
        .collect()
}

#[cfg(test)]
mod tests;
