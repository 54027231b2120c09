//! The lines of a mesh, and what faults make of them.

use crate::case::{Case, Fault, FaultKind, UplinkCase};
use crate::random::Random;
use sdwan::engine::Time;

/// Most that a late packet comes late, µs.
const LATEST_US: u64 = 40_000;

/// One line as it is now.
#[derive(Clone, Debug)]
struct Line {
    base: UplinkCase,
    out: bool,
    into: bool,
    loss_ppm: u32,
    delay_us: u64,
    /// When it last began to let nothing through one way or the other, if it doesn't.
    dead_since: Option<Time>,
    /// When it last began to let everything through.
    alive_since: Time,
}

/// All of them.
pub struct Lines {
    lines: Vec<Vec<Line>>,
    late_ppm: u32,
    duplicated_ppm: u32,
    random: Random,
}

/// One end of a path: a site and its uplink.
pub type End = (usize, usize);

impl Lines {
    pub fn new(case: &Case, now: Time) -> Self {
        let line = |base: &UplinkCase| Line {
            base: *base,
            out: true,
            into: true,
            loss_ppm: 0,
            delay_us: 0,
            dead_since: None,
            alive_since: now,
        };
        Self {
            lines: case.sites.iter().map(|site| site.uplinks.iter().map(line).collect()).collect(),
            late_ppm: case.messages.late_ppm,
            duplicated_ppm: case.messages.duplicated_ppm,
            random: Random::new(case.seed),
        }
    }

    /// Sets a site's lines as these faults make them; `broken` of a flapping line says whether it is in its bad half.
    pub fn set<'a>(&mut self, site: usize, faults: impl Iterator<Item = (&'a Fault, bool)>, now: Time) {
        for line in &mut self.lines[site] {
            (line.out, line.into, line.loss_ppm, line.delay_us) = (true, true, 0, 0);
        }
        for (fault, broken) in faults.filter(|(fault, _)| fault.site == site) {
            let Some(line) = self.lines[site].get_mut(fault.uplink) else { continue };
            match fault.kind {
                FaultKind::Cut | FaultKind::Carrier => (line.out, line.into) = (false, false),
                FaultKind::Flap { .. } if broken => (line.out, line.into) = (false, false),
                FaultKind::CutOut => line.out = false,
                FaultKind::CutIn => line.into = false,
                FaultKind::Brownout { loss_ppm, delay_us } => {
                    line.loss_ppm = line.loss_ppm.max(loss_ppm);
                    line.delay_us = line.delay_us.max(delay_us);
                }
                _ => {}
            }
        }
        for line in &mut self.lines[site] {
            match (line.out && line.into, line.dead_since) {
                (false, None) => line.dead_since = Some(now),
                (true, Some(_)) => (line.dead_since, line.alive_since) = (None, now),
                _ => {}
            }
        }
    }

    fn line(&self, end: End) -> Option<&Line> {
        self.lines.get(end.0)?.get(end.1)
    }

    /// Since when nothing gets there and back, if it doesn't.
    pub fn dead_since(&self, a: End, b: End) -> Option<Time> {
        let dead = [self.line(a), self.line(b)].map(|line| line.map_or(Some(Time(0)), |line| line.dead_since));
        dead.into_iter().flatten().min()
    }

    /// Since when packets have been getting there and back.
    pub fn alive_since(&self, a: End, b: End) -> Option<Time> {
        let (a, b) = (self.line(a)?, self.line(b)?);
        (a.dead_since.is_none() && b.dead_since.is_none()).then_some(a.alive_since.max(b.alive_since))
    }

    /// Loss there and back, of both lines, at the moment.
    pub fn lossless(&self, a: End, b: End) -> bool {
        let clean = |end| self.line(end).is_some_and(|line| line.base.loss_ppm == 0 && line.loss_ppm == 0);
        clean(a) && clean(b)
    }

    /// Longest time there and back without a fault's delay, µs.
    pub fn round_trip_us(&self, a: End, b: End) -> u64 {
        let one = |end| self.line(end).map_or(0, |line| line.base.delay_us + line.base.jitter_us + line.delay_us);
        2 * (one(a) + one(b)) + LATEST_US
    }

    /// Sends a packet: how much later each copy of it arrives, µs.
    pub fn send(&mut self, from: End, to: End) -> impl Iterator<Item = u64> + use<> {
        let copies = 1 + usize::from(self.random.chance(self.duplicated_ppm));
        let copies: Vec<u64> = (0..copies).filter_map(|_| self.once(from, to)).collect();
        copies.into_iter()
    }

    fn once(&mut self, from: End, to: End) -> Option<u64> {
        let (a, b) = (self.line(from)?.clone(), self.line(to)?.clone());
        if !a.out || !b.into {
            return None;
        }
        for line in [&a, &b] {
            if self.random.chance(line.base.loss_ppm) || self.random.chance(line.loss_ppm) {
                return None;
            }
        }
        let mut delay = 0;
        for line in [&a, &b] {
            delay += line.base.delay_us + line.delay_us + self.random.below(line.base.jitter_us + 1);
        }
        if self.random.chance(self.late_ppm) {
            delay += self.random.below(LATEST_US);
        }
        Some(delay)
    }

    /// Of so many packets of data, those that get lost on the way.
    pub fn lost(&mut self, from: End, to: End, packets: u32) -> u32 {
        let Some((a, b)) = self.line(from).cloned().zip(self.line(to).cloned()) else { return packets };
        if !a.out || !b.into {
            return packets;
        }
        let losses = [a.base.loss_ppm, a.loss_ppm, b.base.loss_ppm, b.loss_ppm];
        if losses == [0; 4] {
            return 0;
        }
        (0..packets).filter(|_| losses.iter().any(|ppm| self.random.chance(*ppm))).count() as u32
    }

    pub fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}
