//! How long traffic stands still when something breaks: `cargo xtask bench failover`.

mod brownout;
mod crashes;
mod cuts;
mod duplicate;
mod flows;
mod phase;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bed::{Bed, Cut};
use crate::figures::Figures;
use crate::mesh::{Mesh, MeshOptions};
pub use brownout::{Brownout, brownout, voice_and_others};
pub use cuts::{Cuts, Gaps, PORT, QUICK_RETURN, cut_again_and_again, uplink_in_use};
pub use duplicate::{TWICE, TWICE_POLICY, cut_under_copies, twice};
pub use flows::{fill, flow_count, new_flow_on};

/// Cuts behind a median and a 99th percentile.
const MANY: usize = 40;
/// Cuts behind a median alone.
const SOME: usize = 20;
/// Flows in the table where there are to be many.
const FLOWS: u32 = 1_000_000;
/// How long a mesh may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs the bench, or only what happens to packets while daemons die, restart and are replaced; progress goes to standard
/// error.
///
/// # Errors
/// When the first bed can't be built. What fails later is missing from the figures, with the reason.
pub fn run(crashes_alone: bool) -> Result<Figures> {
    let mut figures = Figures::new("failover");
    let start = Instant::now();
    let say = |what: &str| eprintln!("{:4.0} s: {what}", start.elapsed().as_secs_f64());
    say("two sites with two uplinks each, the default profile");
    let mesh = mesh_with(QUICK_RETURN)?;
    if crashes_alone {
        crashes::all(&mesh, &mut figures, say);
        return Ok(figures);
    }
    say(&format!("{MANY} silent cuts"));
    both(&mut figures, "failover.default", cut_again_and_again(&mesh, &Cuts::silent(MANY)));
    say(&format!("{SOME} lost carriers"));
    let carrier = Cuts { cut: Cut::Carrier, ..Cuts::silent(SOME) };
    median(&mut figures, "failover.carrier.p50_ms", cut_again_and_again(&mesh, &carrier));
    say(&format!("{SOME} lost carriers of the receiving site"));
    let far = Cuts { sender: "b", ..carrier };
    median(&mut figures, "failover.carrier_far.p50_ms", cut_again_and_again(&mesh, &far));
    for (name, dead, alive) in [("local", "a", "b"), ("remote", "b", "a")] {
        say(&format!("{SOME} silent cuts, the {name} daemon killed"));
        let cuts = Cuts { alive: &[alive], ..Cuts::silent(SOME) };
        let gaps = without(&mesh, dead, || Ok(cut_again_and_again(&mesh, &cuts)?));
        median(&mut figures, &format!("failover.{name}_daemon_dead.p50_ms"), gaps);
    }
    crashes::all(&mesh, &mut figures, say);
    drop(mesh);
    say(&format!("the fast profile, {MANY} silent cuts"));
    let gaps = mesh_with(&format!("[probe]\nprofile = \"fast\"\n\n{QUICK_RETURN}"))
        .and_then(|mesh| Ok(cut_again_and_again(&mesh, &Cuts::silent(MANY))?));
    both(&mut figures, "failover.fast", gaps);
    say(&format!("{FLOWS} flows are opened"));
    median(&mut figures, "failover.million_flows.p50_ms", million(say));
    say("brownouts: 5 % loss on the path of voice");
    match brownout::figure(say) {
        Ok(times) => {
            let worst = times.iter().max().copied().unwrap_or_default();
            figures.add("failover.brownout_s", worst.as_secs_f64(), "s", times.len() as u64);
        }
        Err(error) => figures.missing("failover.brownout_s", "s", format!("{error:#}")),
    }
    say(&format!("{MANY} silent cuts under a class whose packets go by two paths"));
    let twice = mesh_with(&format!("{TWICE_POLICY}{QUICK_RETURN}"))
        .and_then(|mesh| Ok(cut_under_copies(&mesh, mesh.bed().site("b").host(0).v4(), MANY)?));
    let name = "failover.duplicate.lost_packets";
    match twice {
        Ok(report) => {
            eprintln!("        {name}: {} of {}, {} duplicated", report.lost, report.sent, report.duplicated);
            figures.add(name, report.lost as f64, "packets", report.sent);
        }
        Err(error) => figures.missing(name, "packets", format!("{error:#}")),
    }
    say("done");
    Ok(figures)
}

/// Two sites with two uplinks each that are up, with these tables in their configurations.
fn mesh_with(tables: &str) -> Result<Mesh> {
    let options = MeshOptions { extra: tables.into(), ..MeshOptions::default() };
    let mesh = Mesh::prepare(Bed::builder().sites(["a", "b"]).build()?, &options)?;
    mesh.start_daemons()?;
    mesh.wait_until_up(PATIENCE)?;
    // The estimates of the first moments lengthen the detection.
    std::thread::sleep(Duration::from_secs(3));
    Ok(mesh)
}

/// Kills a site's daemon, does something, and starts it again.
fn without<T>(mesh: &Mesh, site: &str, what: impl FnOnce() -> Result<T>) -> Result<T> {
    mesh.gateway(site).kill()?;
    // Its heartbeat has to become stale first: until then it counts as alive.
    std::thread::sleep(Duration::from_secs(1));
    let outcome = what();
    mesh.gateway(site).start()?;
    mesh.wait_until_up(PATIENCE)?;
    outcome
}

fn million(say: impl Fn(&str)) -> Result<Gaps> {
    let mesh = mesh_with(&format!("[dataplane]\nflows = {}\n\n{QUICK_RETURN}", 2 * FLOWS))?;
    let time = fill(&mesh, FLOWS)?;
    let flows = flow_count(&mesh, "a")?;
    anyhow::ensure!(flows as u64 >= u64::from(FLOWS) * 99 / 100, "only {flows} flows are in the table");
    say(&format!("{flows} flows in the table, opened in {:.0} s; {SOME} silent cuts", time.as_secs_f64()));
    Ok(cut_again_and_again(&mesh, &Cuts::silent(SOME))?)
}

fn both<E: Into<anyhow::Error>>(figures: &mut Figures, name: &str, gaps: Result<Gaps, E>) {
    let gaps = gaps.map_err(Into::into);
    for (quantile, share) in [("p50_ms", 0.5), ("p99_ms", 0.99)] {
        quantile_of(figures, &format!("{name}.{quantile}"), share, gaps.as_ref());
    }
}

fn median<E: Into<anyhow::Error>>(figures: &mut Figures, name: &str, gaps: Result<Gaps, E>) {
    quantile_of(figures, name, 0.5, gaps.map_err(Into::into).as_ref());
}

fn quantile_of(figures: &mut Figures, name: &str, share: f64, gaps: Result<&Gaps, &anyhow::Error>) {
    match gaps {
        Ok(gaps) => {
            eprintln!("        {name}: {}", gaps.summary());
            figures.add(name, gaps.quantile(share).as_secs_f64() * 1e3, "ms", gaps.count() as u64);
        }
        Err(error) => {
            eprintln!("        {name}: {error:#}");
            figures.missing(name, "ms", format!("{error:#}"));
        }
    }
}
