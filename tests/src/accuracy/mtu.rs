//! Path MTU over IPv4 and IPv6, and black holes.

use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use sdwan::engine::mtu::How;

use super::worst;
use crate::bed::{Bed, Families, Impairment, Provider};
use crate::figures::Figures;
use crate::mesh::{Discovery, Mesh, MeshOptions};
use crate::mtu::{PATIENCE, measure_mtu, only_path, wait_for_mtu};
use crate::pace::patience;

/// Sizes of the narrow line: those of PPPoE, of IPv6's minimum, and odd ones.
const SIZES: [u16; 6] = [1400, 1423, 1492, 1280, 1500, 1357];
/// What black holes let through.
const HOLES: [u16; 3] = [1450, 1401, 1333];
/// Black holes begin at different moments between two confirmations.
const PHASE: Duration = Duration::from_millis(1_700);

/// What was found over one family.
#[derive(Debug, Default)]
struct Found {
    /// Largest packets by us and in truth, bytes.
    sizes: Vec<(u16, u16)>,
    /// Times until a black hole was noticed, s.
    holes: Vec<f64>,
}

impl Found {
    fn errors(&self) -> impl Iterator<Item = f64> + '_ {
        self.sizes.iter().map(|(ours, truth)| f64::from(ours.abs_diff(*truth)))
    }
}

/// Adds the figures of the path MTU.
///
/// # Errors
/// When the beds can't be built, or the meshes on them don't come up.
pub fn run(figures: &mut Figures) -> Result<()> {
    eprintln!("\npath MTU and black holes over both families at once");
    let outcomes = scope(|scope| {
        let started = [Families::V4, Families::V6].map(|families| scope.spawn(move || over(families)));
        started.map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("the thread of a family panicked"))))
    });
    let mut found = Vec::new();
    for outcome in outcomes {
        found.push(outcome?);
    }
    let errors: Vec<f64> = found.iter().flat_map(Found::errors).collect();
    let holes: Vec<f64> = found.into_iter().flat_map(|found| found.holes).collect();
    worst(figures, "accuracy.mtu_err_bytes", "bytes", &errors, "no path could be searched");
    worst(figures, "accuracy.blackhole_s", "s", &holes, "no black hole was found");
    Ok(())
}

fn over(families: Families) -> Result<Found> {
    let bed = Bed::builder()
        .sites(["a", "b"])
        .providers([("isp1", Provider::Routed)])
        .families(families)
        .impair("b", "isp1", Impairment::delay_ms(5))
        .build()?;
    let mesh = Mesh::prepare(bed, &MeshOptions { discovery: Discovery::Seed("a".into()), ..MeshOptions::default() })?;
    mesh.start_daemons()?;
    mesh.wait_until_up(patience(PATIENCE))?;
    let searched = |mesh: &Mesh| -> Result<()> {
        for gateway in mesh.gateways() {
            wait_for_mtu(gateway, "every path is searched", |path| path.mtu_by == How::Searched)?;
        }
        Ok(())
    };
    searched(&mesh)?;
    let mut found = Found::default();
    let link = mesh.bed().link("b", "isp1");
    for truth in SIZES {
        // From a a router says that it is too much, from b packets vanish.
        link.set_provider_mtu(truth)?;
        for (site, peer) in [("a", "b"), ("b", "a")] {
            let view = measure_mtu(mesh.gateway(site), peer)?;
            let ours = view.underlay_mtu.context("a search that ended well has a size")?;
            eprintln!(
                "{families:?} from {site}: {ours} bytes, truth {truth}, {} probes in {:.0} ms",
                view.probes, view.took_ms
            );
            found.sizes.push((ours, truth));
        }
    }
    for (number, hole) in HOLES.into_iter().enumerate() {
        link.impair(&Impairment::delay_ms(5))?;
        link.set_provider_mtu(1_500)?;
        for (site, peer) in [("a", "b"), ("b", "a")] {
            let open = measure_mtu(mesh.gateway(site), peer)?.underlay_mtu;
            ensure!(open == Some(1_500), "a line without a black hole carries {open:?}");
        }
        sleep(PHASE * number as u32);
        link.impair(&Impairment { drop_larger_than: Some(hole.into()), ..Impairment::delay_ms(5) })?;
        let start = Instant::now();
        let noticed = |path: &sdwan::api::views::PathView| path.underlay_mtu.is_some_and(|mtu| mtu <= hole);
        wait_for_mtu(mesh.gateway("a"), "the black hole is found", noticed)?;
        let took = start.elapsed().as_secs_f64();
        searched(&mesh)?;
        let ours = only_path(mesh.gateway("a"))?.underlay_mtu.context("the path was searched")?;
        let whole = start.elapsed().as_secs_f64();
        eprintln!(
            "{families:?}: black hole of {hole} bytes noticed after {took:.1} s, {ours} bytes after {whole:.1} s"
        );
        found.sizes.push((ours, hole));
        found.holes.push(took);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_small_is_as_wrong_as_too_large() {
        let found = Found { sizes: vec![(1400, 1400), (1399, 1400), (1402, 1400)], holes: Vec::new() };
        assert_eq!(found.errors().collect::<Vec<_>>(), [0.0, 1.0, 2.0]);
    }
}
