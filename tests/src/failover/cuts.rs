//! Cuts the line that a stream uses, again and again, and looks for the gap in the stream.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan::engine::path::PathState;
use sdwan::measure::clock::unix_ns;

use super::phase;
use crate::bed::{BedError, Cut, Result};
use crate::mesh::Mesh;
use crate::pace::{paced, patience};
use crate::traffic::{UdpReceiver, UdpSender, UdpSpec};

/// UDP port of the stream: one of voice.
pub const PORT: u16 = 16_400;
/// Holds short enough for many cuts in one run.
pub const QUICK_RETURN: &str = "[engine]\nhold_down = \"300ms\"\nhold_down_max = \"300ms\"\n";
/// Packets per second: gaps show to one millisecond.
const RATE: f64 = 1_000.0;
/// Silence that counts as a gap.
const SILENCE: Duration = Duration::from_millis(20);
/// How long a line stays cut at least, and at most if no packet comes by another.
const CUT_FOR: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(10)];
/// From the return of all paths to the next cut.
const BREATH: Duration = Duration::from_millis(300);
/// How long paths may take to come back.
const RETURN: Duration = Duration::from_secs(20);
/// For so long the uplinks' packets are counted to see which one carries the stream.
const LOOK: Duration = Duration::from_millis(150);

/// What to cut, and with whom to wait until the paths are back.
#[derive(Clone, Copy, Debug)]
pub struct Cuts<'a> {
    /// Cuts to make.
    pub count: usize,
    /// How the line is cut.
    pub cut: Cut,
    /// Sites whose daemons live.
    pub alive: &'a [&'a str],
    /// Site that sends the stream, a or b. The line that is cut is always one of site a's.
    pub sender: &'a str,
}

impl Cuts<'static> {
    /// Silent cuts between two sites with living daemons.
    pub fn silent(count: usize) -> Self {
        Self { count, cut: Cut::Silent, alive: &["a", "b"], sender: "a" }
    }
}

/// Gaps of a number of cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gaps(Vec<Duration>);

impl Gaps {
    fn new(mut gaps: Vec<Duration>) -> Self {
        gaps.sort();
        Self(gaps)
    }

    /// The gap that this share of all is at most as long as (nearest rank), 0.0..=1.0.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }

    /// The gap in the middle.
    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    /// Number of gaps.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let ms = |share| self.quantile(share).as_secs_f64() * 1e3;
        format!(
            "{} cuts, gap min {:.0} ms, median {:.0} ms, p90 {:.0} ms, max {:.0} ms",
            self.count(),
            ms(0.0),
            ms(0.5),
            ms(0.9),
            ms(1.0)
        )
    }
}

/// Streams voice between site a and site b and cuts the line in use at site a so many times.
///
/// A gap lasts from the last packet by the old path, which is at most a packet's interval before the cut, to the first by
/// another: never shorter than from the cut on.
///
/// # Errors
/// When the bed fails, the paths don't come back, or more than a quarter of the silent cuts cost no packet: these met a line
/// that the stream had just left, and are made again. A lost carrier that costs none counts as a gap of one packet's
/// interval.
pub fn cut_again_and_again(mesh: &Mesh, cuts: &Cuts) -> Result<Gaps> {
    let other = if cuts.sender == "a" { "b" } else { "a" };
    let (from, to) = (mesh.bed().site(cuts.sender).host(0), mesh.bed().site(other).host(0));
    let receiver = UdpReceiver::with_silence(to, SocketAddr::new(to.v4(), PORT), SILENCE)?;
    let sender = UdpSender::start(from, UdpSpec::new(receiver.local(), paced(RATE)))?;
    sleep(Duration::from_millis(500));
    let mut gaps = Vec::new();
    let mut missed = 0;
    while gaps.len() < cuts.count {
        let uplink = busiest_uplink(mesh, if cuts.sender == "a" { "tx_packets" } else { "rx_packets" })?;
        let link = mesh.bed().link("a", uplink);
        phase::wait(mesh, cuts.sender, cuts.alive.contains(&cuts.sender), gaps.len() + missed)?;
        let start_ns = unix_ns();
        link.cut(cuts.cut)?;
        sleep(patience(CUT_FOR[0]));
        wait_for_packets(&receiver, CUT_FOR[1])?;
        let report = receiver.snapshot(&sender.sent());
        link.restore()?;
        // One that is counted from the last packet before the cut may begin a moment earlier.
        let of_this_cut =
            report.gaps.iter().filter(|gap| gap.lost_packets > 0 && gap.start_ns + 100_000_000 >= start_ns);
        match of_this_cut.map(|gap| gap.length).max() {
            Some(gap) => gaps.push(gap),
            // Acted upon between two packets, or nearly: what the tunnel held back left by the other line.
            None if cuts.cut == Cut::Carrier => gaps.push(Duration::from_secs_f64(1.0 / paced(RATE))),
            // The stream had just left that line.
            None => missed += 1,
        }
        if missed > cuts.count / 4 + 1 {
            let what = format!("{missed} cuts met a line without the stream, {} one with it", gaps.len());
            return Err(BedError::Plan(what));
        }
        return_of_paths(mesh, cuts.alive)?;
        sleep(patience(BREATH));
    }
    let sent = sender.stop()?;
    receiver.finish(&sent, Duration::from_secs(1))?;
    Ok(Gaps::new(gaps))
}

/// Waits until packets arrive.
fn wait_for_packets(receiver: &UdpReceiver, patience: Duration) -> Result<()> {
    let start = Instant::now();
    let before = receiver.received();
    while receiver.received() == before {
        if start.elapsed() > patience {
            let what = "a packet comes by another path".into();
            return Err(BedError::Timeout { what, seconds: patience.as_secs_f64(), last: "none came".into() });
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// All paths must be back, or the next cut would find nowhere to go.
fn return_of_paths(mesh: &Mesh, alive: &[&str]) -> Result<()> {
    for site in alive {
        let expected = mesh.expected_paths(site);
        mesh.gateway(site).wait_for(&format!("all {expected} paths are back"), patience(RETURN), |gateway| {
            let up = gateway.paths()?.iter().filter(|path| path.state == PathState::Up).count();
            Ok(if up == expected { Ok(()) } else { Err(format!("{up} are up")) })
        })?;
    }
    Ok(())
}

/// The uplink of site a that sends more packets. No daemon is asked: it may be dead.
///
/// # Errors
/// When a counter can't be read.
pub fn uplink_in_use(mesh: &Mesh) -> Result<&'static str> {
    busiest_uplink(mesh, "tx_packets")
}

/// The uplink of site a of which this counter rises faster.
fn busiest_uplink(mesh: &Mesh, counter: &str) -> Result<&'static str> {
    let namespace = mesh.gateway("a").namespace();
    let count =
        || -> Result<[u64; 2]> { Ok([namespace.statistic("isp1", counter)?, namespace.statistic("isp2", counter)?]) };
    let before = count()?;
    sleep(patience(LOOK));
    let after = count()?;
    Ok(if after[0] - before[0] > after[1] - before[1] { "isp1" } else { "isp2" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_gaps_that_were_seen() {
        let ms = Duration::from_millis;
        let gaps = Gaps::new((1..=40).rev().map(ms).collect());
        let found = [0.0, 0.5, 0.9, 0.99, 1.0].map(|share| gaps.quantile(share));
        assert_eq!(found, [ms(1), ms(20), ms(36), ms(40), ms(40)]);
        assert_eq!(Gaps::new(vec![ms(7)]).quantile(0.99), ms(7));
    }
}
