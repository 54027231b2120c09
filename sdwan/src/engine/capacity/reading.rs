//! What one train says about the bottleneck.
//!
//! Packets leave a bottleneck back to back only while its queue isn't empty, and the one-way delay shows when that is:
//! it grows. The part of a train that was queued is searched by its delay, so that what passes at once (the burst of a
//! token bucket, an idle aggregate) is left out, and a line through its arrivals is the rate.

use serde::{Deserialize, Serialize};

use super::train::{Bin, TrainReport};

/// A delay that grows less than this isn't taken for a queue, s.
const LEAST_GROWTH: f64 = 0.001;
/// Sections that a line needs.
const LEAST_BINS: usize = 4;
/// A receiver that gets less than this share of what was sent is behind a bottleneck.
const FALLS_BEHIND: f64 = 0.95;
/// Losses beyond this, over those that the path always has, are a bottleneck without a queue.
const POLICED: f64 = 0.10;

/// How a train was really sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Packets.
    pub packets: u16,
    /// Outer bytes of each.
    pub size: u16,
    /// Time from the first to the last, ns.
    pub span_ns: u64,
    /// Bytes per second of other traffic that left by the same uplink for other destinations meanwhile, outer packets.
    pub others: Option<u64>,
}

impl Sent {
    /// Rate, bit/s; 0 for less than two packets.
    pub fn rate(&self) -> f64 {
        let bytes = f64::from(self.packets.saturating_sub(1)) * f64::from(self.size);
        if self.span_ns == 0 { 0.0 } else { bytes * 8e9 / self.span_ns as f64 }
    }

    /// Bytes on the underlay.
    pub fn bytes(&self) -> u64 {
        u64::from(self.packets) * u64::from(self.size)
    }
}

/// The queued part of a train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Queued {
    /// Rate of the train's packets in it, bit/s.
    pub rate: f64,
    /// Rate of other traffic on the path in it, bit/s.
    pub other: f64,
    /// Time that it spans, s.
    pub span: f64,
}

/// What a train says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// Rate at which it was sent, bit/s.
    pub sent: f64,
    /// Rate at which it was received as a whole, bit/s.
    pub received: f64,
    /// Rate of other traffic that left by the same uplink, bit/s.
    pub others: f64,
    /// Share of its packets that was lost, 0..=1.
    pub lost: f64,
    /// By how much the delay grew, s.
    pub growth: f64,
    /// Spread of the delay, s; says how much of a growth is chance when nothing was queued.
    pub noise: f64,
    /// Smallest delay, s, against the session's first packet.
    pub delay: f64,
    /// It went faster than the bottleneck.
    pub saturated: bool,
    /// Its queued part, if that is long enough for a line.
    pub queued: Option<Queued>,
    /// Bytes that passed before the queue began to build, beyond what the rate explains: the burst of a token bucket.
    pub burst: f64,
}

/// What a train says. `noise` is the spread of the delay (s) and `loss` the share that is lost when nothing is queued.
/// `None` when less than two sections arrived.
pub fn read(sent: &Sent, report: &TrainReport, noise: f64, loss: f64) -> Option<Reading> {
    let bins = &report.bins;
    if bins.len() < 2 || report.received < 2 || report.received > sent.packets {
        return None;
    }
    let rate = sent.rate();
    let delays: Vec<f64> = bins.iter().map(|bin| f64::from(bin.delay_us) * 1e-6).collect();
    let least = delays.iter().copied().fold(f64::INFINITY, f64::min);
    let tail = delays.len().div_ceil(4);
    let end = delays[delays.len() - tail..].iter().sum::<f64>() / tail as f64;
    let growth = (end - least).max(0.0);
    let spread = delays.iter().map(|delay| delay - least).sum::<f64>() / delays.len() as f64;
    let lost = 1.0 - f64::from(report.received) / f64::from(sent.packets.max(1));
    let duration = sent.span_ns as f64 * 1e-9;
    let threshold = LEAST_GROWTH.max(0.1 * duration).max(3.0 * noise);
    let points = points(sent, bins);
    let last = points[points.len() - 1];
    let whole = points[0].1..last.1;
    let received =
        if whole.end > whole.start { (last.0 - points[0].0) * 8.0 / (whole.end - whole.start) } else { rate };
    let grows = growth > threshold;
    let policed = lost > 2.0 * loss + POLICED;
    let from = if grows {
        // The last section that saw next to no queue; all behind it left the bottleneck back to back.
        let low = least + (0.25 * growth).max(noise);
        delays.iter().rposition(|delay| *delay <= low).map_or(0, |at| at + 1)
    } else if policed {
        let full = f64::from(sent.packets) / super::train::MOST_BINS.min(usize::from(sent.packets)) as f64;
        bins.iter().position(|bin| f64::from(bin.received) < 0.9 * full).map_or(0, |at| at + 1)
    } else {
        bins.len()
    };
    let part = &points[from.min(points.len())..];
    let line = if part.len() >= LEAST_BINS { slope(part) } else { None };
    let queued = line.map(|(train, other)| Queued {
        rate: train * 8.0,
        other: other * 8.0,
        span: part[part.len() - 1].1 - part[0].1,
    });
    let behind = queued.map_or(received, |queued| queued.rate) < FALLS_BEHIND * rate;
    let before = part.first().map_or(0.0, |first| first.0 - queued.map_or(0.0, |queued| queued.rate / 8.0) * first.1);
    Some(Reading {
        sent: rate,
        received,
        others: sent.others.unwrap_or(0) as f64 * 8.0,
        lost,
        growth,
        noise: spread,
        delay: least,
        saturated: (grows || policed) && behind,
        queued: queued.filter(|_| behind),
        burst: before.max(0.0),
    })
}

/// (bytes of the train so far, time s, bytes of other traffic so far) at the end of each section.
fn points(sent: &Sent, bins: &[Bin]) -> Vec<(f64, f64, f64)> {
    let mut bytes = 0.0;
    let mut at = 0.0_f64;
    bins.iter()
        .map(|bin| {
            bytes += f64::from(bin.received) * f64::from(sent.size);
            at = at.max(f64::from(bin.at_us) * 1e-6);
            (bytes, at, f64::from(bin.other))
        })
        .collect()
}

/// Bytes per second of the train, and of other traffic.
fn slope(points: &[(f64, f64, f64)]) -> Option<(f64, f64)> {
    let line: Vec<(f64, f64)> = points.iter().map(|point| (point.0 + point.2, point.1)).collect();
    let total = steady(&line)?;
    let last = points[points.len() - 1];
    let train = last.0 - points[0].0;
    let other = last.2 - points[0].2;
    let share = train / (train + other).max(1.0);
    Some((total * share, total * (1.0 - share)))
}

/// Bytes per second of points (bytes, s), after Theil and Sen: the median over pairs that are far enough apart. A
/// bottleneck, or a receiver, that stood still for a moment and made up for it, which is what schedulers and token
/// buckets do, tilts a line by least squares, and not this one. The noise is in the times.
fn steady(points: &[(f64, f64)]) -> Option<f64> {
    let apart = (points[points.len() - 1].0 - points[0].0) / 3.0;
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (number, from) in points.iter().enumerate() {
        let far = points[number + 1..].iter().filter(|to| to.0 - from.0 >= apart && to.0 > from.0);
        slopes.extend(far.map(|to| (to.1 - from.1) / (to.0 - from.0)));
    }
    slopes.sort_by(f64::total_cmp);
    let middle = slopes.get(slopes.len() / 2).copied()?;
    (middle > 0.0).then(|| 1.0 / middle)
}
