//! Capacity of limited lines, idle and half used, in each direction, beside `iperf3`.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use sdwan::engine::capacity::Direction;
use sdwan::engine::capacity::search::{Ended, Outcome, Plan};
use sdwan::measure::capacity::Failure;

use super::iperf::{Load, iperf};
use super::worst;
use crate::figures::Figures;
use crate::pace::is_slow;
use crate::traffic::{UdpReceiver, UdpSender, UdpSpec};
use crate::wire::{ETHERNET, Wire};

/// Rates, Mbit/s, with the bucket of each, bytes.
const RATES: [(u64, u32); 3] = [(10, 16_000), (100, 64_000), (500, 256_000)];
/// An emulated machine forwards no more than some ten thousand packets a second.
const SLOW_MOST: u64 = 10;
/// A peer takes part no sooner than five seconds after the last time; it is asked again after a pause until then.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: usize = 8;
/// Port of the other traffic, and of iperf3.
const OTHERS_PORT: u16 = 7_000;
const IPERF_PORT: u16 = 5_201;
/// Bytes of the other traffic's IP packets.
const OTHERS_SIZE: usize = 1_000;

/// One measurement.
struct Row {
    mbps: u64,
    half: bool,
    /// From site a, or to it.
    forward: bool,
    outcome: Outcome,
    /// Bytes of IP packets that it put on the line in its direction.
    bytes: u64,
    iperf: Result<f64>,
    /// Share of the other traffic that was lost meanwhile, 0..=1.
    others_lost: Option<f64>,
}

impl Row {
    fn truth(&self) -> f64 {
        Wire::truth(self.mbps)
    }

    /// Percent by which it is wrong; `None` where it is only known to be a lower bound.
    fn error_pct(&self) -> Option<f64> {
        let found = self.outcome.capacity.filter(|_| self.outcome.ended == Ended::Found)?;
        Some((found as f64 / self.truth() - 1.0) * 100.0)
    }

    /// Its bytes in percent of what the line carries in the test interval.
    fn bytes_pct(&self, interval: Duration) -> f64 {
        self.bytes as f64 * 8.0 / (self.truth() * interval.as_secs_f64()) * 100.0
    }
}

/// Adds the figures of the capacity.
///
/// # Errors
/// When the bed can't be built or the meters fail.
pub fn run(figures: &mut Figures) -> Result<()> {
    let mut wire = Wire::new()?;
    let mut rows = Vec::new();
    eprintln!(
        "\n{:9} {:9} {:>10} {:>8} {:>8} {:>8} {:>10}",
        "line", "way", "Mbit/s", "error", "bytes", "took", "iperf3"
    );
    for (mbps, burst) in RATES.into_iter().filter(|(mbps, _)| !is_slow() || *mbps <= SLOW_MOST) {
        for site in ["a", "b"] {
            wire.limit(site, mbps, burst)?;
        }
        for half in [false, true] {
            for end in [0, 1] {
                let row = measure(&mut wire, mbps, half, end)?;
                show(&row);
                rows.push(row);
            }
        }
    }
    add(figures, &rows);
    Ok(())
}

fn measure(wire: &mut Wire, mbps: u64, half: bool, end: usize) -> Result<Row> {
    // What iperf3 left in the queue goes first.
    sleep(PAUSE);
    let others = if half { Some(Others::start(wire, mbps, end)?) } else { None };
    let before = (wire.sent_bytes(end)?, others.as_ref().map_or(0, Others::bytes));
    let outcome = search(wire, end)?;
    let after = (wire.sent_bytes(end)?, others.as_ref().map_or(0, Others::bytes));
    let bytes = (after.0 - before.0).saturating_sub(after.1 - before.1);
    // With the other traffic still there: what iperf3 gets beside it.
    let load = if half { Load::Tcp } else { Load::Udp };
    let server = wire.address(["b", "a"][end], IPERF_PORT);
    let iperf = iperf(wire.namespace(end), wire.namespace(1 - end), server, load, Wire::truth(mbps));
    let others_lost = others.map(Others::stop).transpose()?;
    Ok(Row { mbps, half, forward: end == 0, outcome, bytes, iperf, others_lost })
}

fn search(wire: &mut Wire, end: usize) -> Result<Outcome> {
    let mut outcome = wire.measure(end, Direction::Forward, Plan::default())?;
    for _ in 1..TRIES {
        if !matches!(outcome, Err(Failure::Refused(_))) {
            break;
        }
        sleep(PAUSE);
        outcome = wire.measure(end, Direction::Forward, Plan::default())?;
    }
    outcome.context("the meter failed")
}

/// Traffic at half the rate of the line.
struct Others {
    sender: UdpSender,
    receiver: UdpReceiver,
}

impl Others {
    fn start(wire: &Wire, mbps: u64, end: usize) -> Result<Self> {
        let receiver = UdpReceiver::start(wire.namespace(1 - end), wire.address(["b", "a"][end], OTHERS_PORT))?;
        let rate = mbps as f64 * 1e6 / 2.0 / (8.0 * (OTHERS_SIZE as f64 + ETHERNET as f64));
        let spec = UdpSpec { size: OTHERS_SIZE, ..UdpSpec::new(receiver.local(), rate) };
        let sender = UdpSender::start(wire.namespace(end), spec)?;
        sleep(Duration::from_millis(500));
        Ok(Self { sender, receiver })
    }

    /// Bytes of IP packets so far.
    fn bytes(&self) -> u64 {
        self.sender.sent().flows.iter().sum::<u64>() * OTHERS_SIZE as u64
    }

    /// Ends it; the share that was lost.
    fn stop(self) -> Result<f64> {
        let sent = self.sender.stop()?;
        Ok(self.receiver.finish(&sent, Duration::from_secs(1))?.loss())
    }
}

fn show(row: &Row) {
    let found = row.outcome.capacity.map_or_else(|| "-".to_owned(), |rate| format!("{:.3}", rate as f64 / 1e6));
    let error = row.error_pct().map_or_else(|| "-".to_owned(), |error| format!("{error:+.2} %"));
    let bytes = format!("{:.3} %", row.bytes_pct(Plan::default().interval));
    let iperf = match &row.iperf {
        Ok(rate) => format!("{:.3}", rate / 1e6),
        Err(error) => format!("failed: {error:#}"),
    };
    let line = format!("{}{}", row.mbps, if row.half { ", half" } else { "" });
    let way = if row.forward { "a to b" } else { "b to a" };
    let took = format!("{:.1} s", row.outcome.took.as_secs_f64());
    eprintln!("{line:9} {way:9} {found:>10} {error:>8} {bytes:>8} {took:>8} {iperf:>10}");
    if row.outcome.ended != Ended::Found {
        eprintln!("          {}", row.outcome.ended.text());
    }
    if let Some(lost) = row.others_lost {
        eprintln!("          the other traffic lost {:.3} %, iperf3's time included", lost * 100.0);
    }
}

fn add(figures: &mut Figures, rows: &[Row]) {
    let errors = |half: bool| -> Vec<f64> {
        rows.iter().filter(|row| row.half == half).filter_map(Row::error_pct).map(f64::abs).collect()
    };
    let why = "no line could be filled: this machine doesn't send fast enough";
    worst(figures, "accuracy.capacity_err_pct", "%", &errors(false), why);
    worst(figures, "accuracy.capacity_half_err_pct", "%", &errors(true), why);
    let bytes: Vec<f64> = rows.iter().map(|row| row.bytes_pct(Plan::default().interval)).collect();
    worst(figures, "accuracy.capacity_bytes_pct", "%", &bytes, why);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mbps: u64, half: bool, capacity: f64, ended: Ended) -> Row {
        let outcome = Outcome {
            ended,
            capacity: Some(capacity as u64),
            share: None,
            spread: 0.0,
            readings: 5,
            trains: 9,
            bytes: 0,
            took: Duration::from_secs(5),
        };
        let bytes = (Wire::truth(mbps) / 8.0 * 60.0 * 0.008) as u64;
        Row { mbps, half, forward: true, outcome, bytes, iperf: Ok(1.0), others_lost: None }
    }

    #[test]
    fn the_worst_error_counts_whatever_its_sign_and_a_lower_bound_is_none() {
        let rows = [
            row(10, false, Wire::truth(10) * 0.97, Ended::Found),
            row(100, false, Wire::truth(100) * 1.02, Ended::Found),
            row(500, false, Wire::truth(500) * 0.5, Ended::SenderLimited),
            row(10, true, Wire::truth(10) * 1.06, Ended::Found),
        ];
        let mut figures = Figures::new("accuracy");
        add(&mut figures, &rows);
        let values: Vec<_> = figures.figures().iter().map(|figure| (figure.value, figure.n)).collect();
        assert_eq!(values, [(Some(3.0), 2), (Some(6.0), 1), (Some(0.8), 4)]);
    }
}
