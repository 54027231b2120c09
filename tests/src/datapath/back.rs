//! Packets per second from the tunnel to the LAN, end to end: ours (lookup in the kernel's routes, redirect to the
//! neighbour) and the kernel's forwarding. Both pay for a program that lets the generator's packets come in at the tunnel,
//! bare, as WireGuard's come.

use anyhow::{Context, Result};

use super::desired::Size;
use super::lane::Lane;
use super::packets::{Course, FEW, LARGE, SMALL, inbound};
use super::raw::{self, PLAN};
use super::rounds::Rounds;
use super::stage::Stage;
use super::ways::Way;
use crate::figures::Figures;

/// The figures: who forwards, and the size of the packets.
const WAYS: [(&str, Way, usize); 4] = [
    ("datapath.return_ours_pps", Way::Ours, SMALL),
    ("datapath.return_kernel_pps", Way::Kernel, SMALL),
    ("datapath.return_ours_1400_pps", Way::Ours, LARGE),
    ("datapath.return_kernel_1400_pps", Way::Kernel, LARGE),
];
/// Packets before each measurement.
const WARM: u32 = PLAN / 8;

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    WAYS.iter().map(|(name, _, _)| *name)
}

/// Measures both in turn.
///
/// # Errors
/// When our data path can't be made, or packets can't be made to come in at the tunnel.
pub fn run(stage: &Stage, figures: &mut Figures) -> Result<()> {
    let feed = raw::redirect_inbound(stage.tunnel).and_then(|program| program.attach(stage.feed));
    let _feed = feed.context("attach a program that redirects: this needs Linux 6.6")?;
    let lane = Lane::inbound(stage)?;
    let mut rounds = Rounds::new(names().collect());
    stage.with([Size::SMALL], |[ours]| {
        rounds.each(|name| {
            let (_, way, size) = WAYS.iter().find(|(known, _, _)| *known == name).expect("every name has a way");
            let mut course = Course::new(FEW);
            way.during(stage, ours, || lane.measure(&inbound(*size), WARM, || course.next_inbound()))
                .map(|carried| carried.rate())
        });
        Ok(())
    })?;
    rounds.into_figures(figures, "packets/s");
    Ok(())
}
