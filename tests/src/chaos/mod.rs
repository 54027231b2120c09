//! Everything goes wrong at once, for as long as you like: `cargo xtask bench chaos`.
//!
//! Three sites with two uplinks each, and numbered packets of three classes between them. A seed makes a plan ([`plan`]) of
//! cuts, brownouts, flapping, lost carriers, pulled interfaces, changes of addresses, gateways and NATs, and of daemons that
//! are killed, paused, restarted, reloaded, without room on the disk or with a wrong clock. Afterwards each gap of each
//! stream is held against what went wrong at that moment at its ends ([`gaps`]): one that nothing explains, or that lasts
//! longer than its cause allows, fails the run.

mod faults;
pub mod gaps;
pub mod plan;
mod streams;

use std::fmt;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sdwan::measure::clock::unix_ns;

use crate::clock::WallClock;
use crate::figures::Figures;
use crate::mesh::{Mesh, MeshOptions};
use crate::pace::patience;
use faults::Faults;
use gaps::{Made, StreamGap, Verdict, explain};
use plan::{Abilities, BEHIND_NAT, SITES, SMALL_DISK, Step, plan};
use streams::Stream;

/// Holds short enough for a line to be used again before the next fault.
const SETTINGS: &str = "[engine]\nhold_down = \"500ms\"\nhold_down_max = \"2s\"\n";
/// How long the mesh may take to come up, and to be whole again at the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// MiB of the small disk.
const DISK: u32 = 12;

/// A run that is over.
#[derive(Debug)]
pub struct Outcome {
    seed: u64,
    length: Duration,
    start_ns: u64,
    /// The faults, as they were made.
    pub made: Vec<Made>,
    /// The gaps, in the order of their beginning, with what to make of each.
    pub gaps: Vec<(StreamGap, Verdict)>,
    /// Packets sent by all streams.
    pub sent: u64,
    /// Packets that never arrived.
    pub lost: u64,
    /// What else went wrong: the mesh wasn't whole at the end, a receiver was too slow.
    pub troubles: Vec<String>,
    /// Faults that this machine can't make, with the reasons.
    pub left_out: Vec<String>,
}

/// Runs a seed for so long; `say` is told what happens.
///
/// # Errors
/// When the bed can't be built or refuses a fault, or the mesh doesn't come up.
pub fn run(seed: u64, length: Duration, say: impl Fn(&str)) -> Result<Outcome> {
    let bed = faults::bed()?;
    let mut left_out = Vec::new();
    let nat = bed.link(BEHIND_NAT.0, BEHIND_NAT.1);
    let mut abilities = Abilities { nat: true, clock: true };
    if let Err(reason) = nat.can_map_ports()? {
        abilities.nat = false;
        left_out.push(format!("NAT rebinding: {reason}"));
    } else {
        nat.map_ports(faults::FIRST_PORT)?;
    }
    let options = MeshOptions { extra: SETTINGS.into(), ..MeshOptions::default() };
    let mesh = Mesh::prepare(bed, &options)?;
    mesh.gateway(SMALL_DISK).put_state_on_a_disk(DISK)?;
    let clocks = clocks(&mesh)?;
    if clocks.is_empty() {
        abilities.clock = false;
        left_out.push("wrong clocks: there is no C compiler `cc` whose library the programs take".into());
    }
    for reason in &left_out {
        say(&format!("left out: {reason}"));
    }
    mesh.start_daemons()?;
    mesh.wait_until_up(patience(PATIENCE)).context("the mesh comes up")?;
    let steps = plan(seed, length, abilities);
    say(&format!("seed {seed}: {} faults in {:.0} s", steps.len(), length.as_secs_f64()));
    let streams = streams::start(&mesh)?;
    // Flows and estimates settle.
    sleep(Duration::from_secs(1));
    let (start, start_ns) = (Instant::now(), unix_ns());
    let made = carry_out(&steps, start, start_ns, &mut Faults::new(&mesh, clocks), &say)?;
    sleep((start + length).saturating_duration_since(Instant::now()));
    let mut troubles = Vec::new();
    if let Err(error) = mesh.wait_until_up(patience(PATIENCE)) {
        troubles.push(format!("the mesh isn't whole again: {error}"));
    }
    let mut outcome = Outcome { seed, length, start_ns, made, gaps: Vec::new(), sent: 0, lost: 0, troubles, left_out };
    for stream in streams {
        outcome.take(stream)?;
    }
    outcome.gaps.sort_by_key(|(gap, _)| gap.start_ns);
    Ok(outcome)
}

/// A clock for each daemon; none where they can't be made.
fn clocks(mesh: &Mesh) -> Result<Vec<(&'static str, WallClock)>> {
    let mut clocks = Vec::new();
    for site in SITES {
        if !WallClock::available() {
            return Ok(Vec::new());
        }
        let clock = WallClock::new(mesh.bed().directory(), site)?;
        if !clock.is_seen()? {
            return Ok(Vec::new());
        }
        mesh.gateway(site).set_environment(clock.environment());
        clocks.push((site, clock));
    }
    Ok(clocks)
}

/// Makes the faults of a plan at their times, and undoes them.
fn carry_out(
    steps: &[Step],
    start: Instant,
    start_ns: u64,
    faults: &mut Faults<'_>,
    say: &impl Fn(&str),
) -> Result<Vec<Made>> {
    let begins = steps.iter().enumerate().map(|(number, step)| (step.at, false, number));
    let ends = steps.iter().enumerate().map(|(number, step)| (step.end(), true, number));
    let mut timeline: Vec<_> = begins.chain(ends).collect();
    timeline.sort_by_key(|(at, end, number)| (*at, *number, *end));
    let mut made: Vec<Option<Made>> = vec![None; steps.len()];
    for (at, end, number) in timeline {
        sleep((start + at).saturating_duration_since(Instant::now()));
        let step = &steps[number];
        let what = || format!("{} at {}", step.fault.text(), step.place());
        if end {
            faults.undo(step).with_context(|| format!("{} is over", what()))?;
            if let Some(made) = &mut made[number] {
                made.end_ns = unix_ns();
            }
        } else {
            let now_ns = unix_ns();
            say(&format!("{:8.3} s: {}", since(start_ns, now_ns), what()));
            made[number] = Some(Made { step: *step, start_ns: now_ns, end_ns: u64::MAX });
            faults.make(step).with_context(what)?;
        }
    }
    Ok(made.into_iter().flatten().collect())
}

impl Outcome {
    fn take(&mut self, stream: Stream) -> Result<()> {
        let (class, from, to) = (stream.class, stream.from, stream.to);
        let report = stream.finish()?;
        self.sent += report.sent;
        self.lost += report.lost;
        if report.socket_dropped > 0 {
            self.troubles.push(format!("the receiver of {class} {from}→{to} itself lost {}", report.socket_dropped));
        }
        if report.received == 0 {
            self.troubles.push(format!("nothing of {class} {from}→{to} arrived"));
        }
        for gap in report.gaps.into_iter().filter(|gap| gap.lost_packets > 0) {
            let gap = StreamGap { class, from, to, start_ns: gap.start_ns, length: gap.length, lost: gap.lost_packets };
            let verdict = explain(&gap, &self.made);
            self.gaps.push((gap, verdict));
        }
        Ok(())
    }

    /// Whether every gap has a cause that allows it, and nothing else went wrong.
    pub fn is_good(&self) -> bool {
        self.troubles.is_empty() && self.gaps.iter().all(|(_, verdict)| !verdict.is_bad())
    }

    /// How to run the same again.
    pub fn again(&self) -> String {
        let minutes = self.length.as_secs_f64() / 60.0;
        format!("cargo xtask bench chaos -- --seed {} --minutes {minutes:.2}", self.seed)
    }

    /// The figures.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::new("chaos");
        let gaps = self.gaps.len() as u64;
        let count = |bad: fn(&Verdict) -> bool| self.gaps.iter().filter(|(_, verdict)| bad(verdict)).count() as f64;
        figures.add("chaos.seed", self.seed as f64, "", 1);
        figures.add("chaos.faults", self.made.len() as f64, "faults", 1);
        figures.add("chaos.gaps", gaps as f64, "gaps", self.made.len() as u64);
        figures.add("chaos.unexplained_gaps", count(|verdict| *verdict == Verdict::Unexplained), "gaps", gaps);
        figures.add("chaos.too_long_gaps", count(|verdict| matches!(verdict, Verdict::TooLong(..))), "gaps", gaps);
        let longest = self.gaps.iter().map(|(gap, _)| gap.length).max().unwrap_or_default();
        figures.add("chaos.longest_gap_ms", longest.as_secs_f64() * 1e3, "ms", gaps);
        figures.add("chaos.lost_packets", self.lost as f64, "packets", self.sent);
        figures.add("chaos.troubles", self.troubles.len() as f64, "", 1);
        figures
    }
}

impl fmt::Display for Outcome {
    /// One line for each gap, then what is to be known of all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (gap, verdict) in &self.gaps {
            let cause = |made: &Made| {
                let after = since(made.start_ns, gap.start_ns);
                format!("{} {}, {after:+.3} s after its beginning", made.step.place(), made.step.fault.text())
            };
            let cause = match verdict {
                Verdict::Explained(made) => cause(made),
                Verdict::TooLong(made, bound) => {
                    format!("TOO LONG, {} ms are allowed: {}", bound.as_millis(), cause(made))
                }
                Verdict::Unexplained => "UNEXPLAINED".into(),
            };
            let StreamGap { class, from, to, lost, .. } = gap;
            let at = since(self.start_ns, gap.start_ns);
            let ms = gap.length.as_secs_f64() * 1e3;
            writeln!(f, "{at:8.3} s: {class:6} {from}→{to} {ms:5.0} ms, {lost:3} lost: {cause}")?;
        }
        for trouble in &self.troubles {
            writeln!(f, "TROUBLE: {trouble}")?;
        }
        let bad = self.gaps.iter().filter(|(_, verdict)| verdict.is_bad()).count();
        let (faults, gaps, lost, sent) = (self.made.len(), self.gaps.len(), self.lost, self.sent);
        writeln!(f, "{faults} faults, {gaps} gaps, {bad} of them bad; {lost} of {sent} packets lost")?;
        write!(f, "the same again: {}", self.again())
    }
}

/// Seconds between two times in ns.
fn since(from_ns: u64, to_ns: u64) -> f64 {
    to_ns.cast_signed().wrapping_sub(from_ns.cast_signed()) as f64 / 1e9
}
