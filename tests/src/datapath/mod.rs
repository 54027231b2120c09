//! What a packet costs, and how many a processor carries: `cargo xtask bench datapath`.

mod back;
mod desired;
mod flat;
mod forward;
mod lane;
mod packets;
mod ratios;
pub mod raw;
mod rounds;
mod single;
mod stage;
mod test_run;
mod ways;
mod wireguard;

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::unistd::Pid;
use sdwan::dataplane::{Dataplane, Reader};
use sdwan_common::abi::{Flow, FlowKey};

use crate::figures::Figures;
use crate::processors::pin;
use packets::{Arrivals, Course, SMALL, outbound, ports};
use stage::Stage;

/// Room for many flows.
const ROOM: u32 = 2_097_152;
/// Flows in the table where there are to be many.
const FLOWS: u64 = 1_048_576;

/// Parts of the bench, each on a stage of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// One packet at a time, by the kernel's test-run.
    Single,
    /// LAN → tunnel, beside what people use instead.
    Forward,
    /// Tunnel → LAN.
    Return,
    /// More flows, new flows, more sites.
    Flat,
    /// TCP through WireGuard.
    Wireguard,
}

/// What to measure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// These parts alone; all when empty.
    pub parts: Vec<Part>,
    /// A userspace WireGuard with its arguments to measure instead of the carried one.
    pub userspace_wireguard: Option<Vec<OsString>>,
}

impl Part {
    const ALL: [Self; 5] = [Self::Single, Self::Forward, Self::Return, Self::Flat, Self::Wireguard];

    fn run(self, figures: &mut Figures, options: &Options) -> Result<()> {
        let run = match self {
            Self::Single => single::run,
            Self::Forward => forward::run,
            Self::Return => back::run,
            Self::Flat => flat::run,
            Self::Wireguard => {
                wireguard::run(figures, options.userspace_wireguard.as_deref());
                return Ok(());
            }
        };
        let stage = Stage::new()?;
        pin(Pid::from_raw(0), 0..1)?;
        if stage.processors == 1 {
            // What handles the packets goes before what sends them, lest most get lost on the way.
            // SAFETY: it takes numbers only. A failure leaves things as they are.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) };
        }
        run(&stage, figures)
    }

    /// Figures of the part, with their units.
    fn figures(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Single => single::names().map(|name| (name, "ns")).collect(),
            Self::Forward => forward::names().map(|name| (name, "packets/s")).collect(),
            Self::Return => back::names().map(|name| (name, "packets/s")).collect(),
            Self::Flat => flat::names(),
            Self::Wireguard => wireguard::names(),
        }
    }
}

/// Runs the bench, all of it or some parts; progress and tables go to standard error. A part that fails leaves its figures
/// without values.
pub fn run(options: &Options) -> Figures {
    let mut figures = Figures::new("datapath");
    let start = Instant::now();
    for part in Part::ALL {
        if !options.parts.is_empty() && !options.parts.contains(&part) {
            missing(&mut figures, part, "this part of the bench wasn't asked for");
            continue;
        }
        eprintln!("{:4.0} s: {part:?}", start.elapsed().as_secs_f64());
        // The namespaces are the thread's, and end with it.
        let outcome = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("datapath".into());
            let thread = thread.spawn_scoped(scope, || part.run(&mut figures, options))?;
            thread.join().unwrap_or_else(|_| Err(anyhow!("the bench panicked")))
        });
        if let Err(error) = outcome {
            eprintln!("the part {part:?} ended early: {error:#}");
            missing(&mut figures, part, &format!("this part of the bench ended early: {error:#}"));
        }
    }
    ratios::add(&mut figures);
    eprintln!("{:4.0} s: done", start.elapsed().as_secs_f64());
    figures
}

/// Says of the figures of a part that aren't there yet why.
fn missing(figures: &mut Figures, part: Part, why: &str) {
    for (name, unit) in part.figures() {
        if !figures.figures().iter().any(|figure| figure.name == name) {
            figures.missing(name, unit, why);
        }
    }
}

/// Opens so many flows: one by a packet, the others as its copies, for packets come faster than the interface's ring bears.
fn fill(stage: &Stage, dataplane: &mut Dataplane, count: u64) -> Result<()> {
    stage.attach(dataplane)?;
    let mut course = Course::new(Arrivals::Uniform(1));
    let mut generator = raw::Generator::new(stage.sender, &outbound(SMALL)).context("the generator")?;
    generator.send(1, || course.next_outbound()).context("send live frames: this needs Linux 5.18")?;
    std::thread::sleep(Duration::from_millis(100));
    stage.detach(dataplane)?;
    let map = Map::LruHashMap(MapData::from_pin(dataplane.layout().map("flows"))?);
    let mut flows: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(map)?;
    let (first, flow) = flows.iter().next().context("no packet has opened a flow")??;
    for number in 0..count {
        let (source_port, destination_port) = ports(number);
        flows.insert(FlowKey { source_port, destination_port, ..first }, flow, 0)?;
    }
    let there = Reader::open(dataplane.layout())?.flow_count(2 * count as usize);
    ensure!(there >= count as usize * 99 / 100, "{there} flows are in the table instead of {count}");
    Ok(())
}
