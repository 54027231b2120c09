//! Packets per second from the LAN into the tunnel, end to end: ours, the floor, and what people use instead.

use anyhow::Result;

use super::desired::Size;
use super::lane::Lane;
use super::packets::{Course, LARGE, SMALL, outbound};
use super::raw::PLAN;
use super::rounds::Rounds;
use super::stage::Stage;
use super::ways::Way;
use crate::figures::Figures;

/// The ways that are compared with small packets, with the names of their figures.
const WAYS: [(Way, &str); 8] = [
    (Way::Ours, "datapath.forward_ours_pps"),
    (Way::Floor, "datapath.forward_floor_pps"),
    (Way::CountedFloor, "datapath.forward_floor_counted_pps"),
    (Way::Rules(4), "datapath.forward_iprule4_pps"),
    (Way::Rules(64), "datapath.forward_iprule64_pps"),
    (Way::Flowtable, "datapath.forward_flowtable_pps"),
    (Way::Kernel, "datapath.forward_kernel_pps"),
    (Way::Flower, "datapath.forward_flower_pps"),
];
/// The same with large ones.
const LARGE_WAYS: [(Way, &str); 4] = [
    (Way::Ours, "datapath.forward_ours_1400_pps"),
    (Way::Floor, "datapath.forward_floor_1400_pps"),
    (Way::Rules(64), "datapath.forward_iprule64_1400_pps"),
    (Way::Kernel, "datapath.forward_kernel_1400_pps"),
];
/// Packets before each measurement.
const WARM: u32 = PLAN / 8;

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    WAYS.iter().chain(&LARGE_WAYS).map(|(_, name)| *name)
}

/// Measures all ways in turn.
///
/// # Errors
/// When our data path can't be made.
pub fn run(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let lane = Lane::outbound(stage)?;
    let mut rounds = Rounds::new(names().collect());
    stage.with([Size::SMALL], |[ours]| {
        rounds.each(|name| {
            let small = WAYS.iter().find(|(_, known)| *known == name).map(|(way, _)| (*way, SMALL));
            let large = LARGE_WAYS.iter().find(|(_, known)| *known == name).map(|(way, _)| (*way, LARGE));
            let (way, size) = small.or(large).expect("every name has a way");
            let mut course = Course::new(way.arrivals());
            way.during(stage, ours, || lane.measure(&outbound(size), WARM, || course.next_outbound()))
                .map(|carried| carried.rate())
        });
        Ok(())
    })?;
    rounds.into_figures(figures, "packets/s");
    Ok(())
}
