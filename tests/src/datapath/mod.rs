//! What a packet costs, and how many a processor carries: `cargo xtask bench datapath`.

mod forward;
pub mod raw;
mod stage;
mod test_run;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use nix::unistd::Pid;
use sdwan::dataplane::{Dataplane, Reader};
use sdwan_common::abi::{Flow, FlowKey};

use crate::figures::Figures;
use forward::{Load, Way, rate};
use stage::{Size, Stage, pin};
use test_run::{MANY_POLICIES, MANY_SITES, Ours, middle, udp, yardstick};

/// Rounds in which all ways are measured in turn.
const ROUNDS: usize = 5;
/// Room for many flows.
const ROOM: u32 = 2_097_152;
/// Flows in the table where there are to be many.
const FLOWS: u32 = 1_048_576;

/// Runs the bench; progress goes to standard error.
///
/// # Errors
/// When the place for it can't be made. What fails later is missing from the figures, with the reason.
pub fn run() -> Result<Figures> {
    // The namespaces are the thread's, and end with it.
    let thread = std::thread::Builder::new().name("datapath".into()).spawn(measure)?;
    thread.join().map_err(|_| anyhow::anyhow!("the bench panicked"))?
}

fn measure() -> Result<Figures> {
    let mut figures = Figures::new("datapath");
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4.0} s: {what}", start.elapsed().as_secs_f64());
    let stage = Stage::new()?;
    let processors = std::thread::available_parallelism()?.get();
    pin(Pid::from_raw(0), 0)?;
    say("one packet at a time, by the kernel's test-run");
    add(&mut figures, "datapath.empty_ns", "ns", raw::empty().map_err(Into::into).and_then(|empty| yardstick(&empty)));
    let lookup = raw::lookup_and_redirect(stage.tunnel, Size::SMALL.flows).map_err(Into::into);
    add(&mut figures, "datapath.lookup_ns", "ns", lookup.and_then(|lookup| yardstick(&lookup)));
    single(&stage, &mut figures, say);
    if let Err(error) = end_to_end(&stage, processors, &mut figures, say) {
        for (way, name) in WAYS {
            figures.missing(name, "packets/s", format!("{way:?}: {error:#}"));
        }
    }
    for name in ["datapath.return_ours_pps", "datapath.return_kernel_pps"] {
        figures.missing(name, "packets/s", "the way back is not measured end to end yet");
    }
    figures.missing("datapath.wireguard_ratio", "", "not measured yet");
    say("done");
    Ok(figures)
}

fn add(figures: &mut Figures, name: &str, unit: &str, value: Result<f64>) {
    match value {
        Ok(value) => {
            eprintln!("        {name}: {value:.1} {unit}");
            figures.add(name, value, unit, 1);
        }
        Err(error) => {
            eprintln!("        {name}: {error:#}");
            figures.missing(name, unit, format!("{error:#}"));
        }
    }
}

/// Does something with a data path of a size, and takes it away again.
fn with<T>(stage: &Stage, size: Size, what: impl FnOnce(&mut Dataplane) -> Result<T>) -> Result<T> {
    let mut dataplane = stage.dataplane(size)?;
    let outcome = what(&mut dataplane);
    stage.detach(dataplane)?;
    outcome
}

/// The figures of single packets.
fn single(stage: &Stage, figures: &mut Figures, say: impl Fn(&str)) {
    let hit = |dataplane: &mut Dataplane| Ours::load(stage, dataplane.layout())?.hit(&udp(40_000, 8_191, 60));
    let miss = |dataplane: &mut Dataplane| {
        let ours = Ours::load(stage, dataplane.layout())?;
        Ok(ours.hit(&udp(40_000, 8_191, 60))? + ours.miss_over_hit()?)
    };
    add(figures, "datapath.hit_ns", "ns", with(stage, Size::SMALL, hit));
    add(figures, "datapath.miss_ns", "ns", with(stage, Size::SMALL, miss));
    say("256 policies; 10,000 sites with 40,000 prefixes");
    add(figures, "datapath.miss_256_policies_ns", "ns", with(stage, MANY_POLICIES, miss));
    add(figures, "datapath.hit_10k_sites_ns", "ns", with(stage, MANY_SITES, hit));
    add(figures, "datapath.miss_10k_sites_ns", "ns", with(stage, MANY_SITES, miss));
    say(&format!("{FLOWS} flows"));
    for (name, ports) in [("datapath.hit_1k_flows_ns", (0xf, 63)), ("datapath.hit_1m_flows_ns", (0x3fff, 63))] {
        let load = Load { source_ports: ports.0, destination_ports: ports.1, ..Load::ONE };
        let of_many = |dataplane: &mut Dataplane| {
            fill(stage, dataplane, load)?;
            let ours = Ours::load(stage, dataplane.layout())?;
            let flows = (0..2_000_u32).map(|number| {
                // Scattered over all of them.
                let scattered = number.wrapping_mul(0x9e37_79b1);
                (
                    0x4000 | (scattered >> 16) as u16 & load.source_ports,
                    0x2000 | scattered as u16 & load.destination_ports,
                )
            });
            Ok(ours.hit(&udp(40_000, 8_191, 60))? + ours.cold_over_warm(flows)?)
        };
        add(figures, name, "ns", with(stage, Size { flows: ROOM, ..Size::SMALL }, of_many));
    }
}

/// Opens every flow of a load: one by a packet, the others as its copies, for packets come faster than the interface's ring
/// bears.
fn fill(stage: &Stage, dataplane: &mut Dataplane, load: Load) -> Result<()> {
    stage.attach(dataplane)?;
    forward::send(stage, Load { source_ports: 0, destination_ports: 0, ..load }, 1)?;
    let map = Map::LruHashMap(MapData::from_pin(dataplane.layout().map("flows"))?);
    let mut flows: HashMap<MapData, FlowKey, Flow> = HashMap::try_from(map)?;
    let (first, flow) = flows.iter().next().context("no packet has opened a flow")??;
    let mut count = 0;
    for source in 0..=load.source_ports {
        for destination in 0..=load.destination_ports {
            let key = FlowKey {
                source_port: first.source_port | source,
                destination_port: first.destination_port | destination,
                ..first
            };
            flows.insert(key, flow, 0)?;
            count += 1;
        }
    }
    let there = Reader::open(dataplane.layout())?.flow_count(2 * count);
    ensure!(there >= count * 99 / 100, "{there} flows are in the table instead of {count}");
    Ok(())
}

/// The ways that are compared, with the names of their figures.
const WAYS: [(Way, &str); 6] = [
    (Way::Ours, "datapath.forward_ours_pps"),
    (Way::Floor, "datapath.forward_floor_pps"),
    (Way::Rules(4), "datapath.forward_iprule4_pps"),
    (Way::Rules(64), "datapath.forward_iprule64_pps"),
    (Way::Flowtable, "datapath.forward_flowtable_pps"),
    (Way::Kernel, "datapath.forward_kernel_pps"),
];

/// The figures of packets that really go from the LAN into the tunnel.
fn end_to_end(stage: &Stage, processors: usize, figures: &mut Figures, say: impl Fn(&str)) -> Result<()> {
    ensure!(processors >= 2, "the generator needs a processor of its own, and there is one in all");
    stage.handle_on(1)?;
    say(&format!("from the LAN into the tunnel, {ROUNDS} rounds"));
    let mut rates: [Vec<f64>; WAYS.len()] = Default::default();
    let mut failed: [Option<String>; WAYS.len()] = Default::default();
    for _ in 0..ROUNDS {
        for (at, (way, _)) in WAYS.iter().enumerate().filter(|(at, _)| failed[*at].is_none()).collect::<Vec<_>>() {
            let one = match way {
                Way::Ours => with(stage, Size::SMALL, |dataplane| {
                    stage.attach(dataplane)?;
                    rate(stage, *way, way.load())
                }),
                _ => rate(stage, *way, way.load()),
            };
            match one {
                Ok(rate) => rates[at].push(rate),
                Err(error) => failed[at] = Some(format!("{error:#}")),
            }
        }
    }
    for ((rates, failed), (_, name)) in rates.into_iter().zip(failed).zip(WAYS) {
        let count = rates.len() as u64;
        match (failed, middle(rates)) {
            (None, Some(rate)) => {
                eprintln!("        {name}: {rate:.0} packets/s");
                figures.add(name, rate, "packets/s", count);
            }
            (failed, _) => figures.missing(name, "packets/s", failed.context("no round was measured")?),
        }
    }
    let many = with(stage, Size { flows: ROOM, ..Size::SMALL }, |dataplane| {
        fill(stage, dataplane, Load::MANY)?;
        rate(stage, Way::Ours, Load::MANY)
    });
    add(figures, "datapath.forward_ours_1m_flows_pps", "packets/s", many);
    Ok(())
}
