//! What `cargo xtask demo` shows: three sites with two uplinks each and real traffic of three kinds; the line that
//! carries voice is cut and mended.

mod console;
mod observe;
mod outcome;
mod scene;

use std::thread::sleep;
use std::time::{Duration, Instant};

use sdwan::measure::clock::unix_ns;

use crate::bed::{BedError, Cut, Result};
use crate::figures::Figures;
use crate::mesh::Mesh;

pub use console::Console;
pub use observe::{Class, Observation};
pub use outcome::{Outcome, VoiceReport};
pub use scene::Scene;

/// How long the traffic runs before the cut: classes settle on the paths that suit them.
const BEFORE: Duration = Duration::from_secs(8);
/// How long the line stays cut.
const CUT: Duration = Duration::from_secs(5);
/// How long voice gets to return to its line.
const FAILBACK: Duration = Duration::from_secs(20);
/// How long the mesh gets to come up.
const CONVERGE: Duration = Duration::from_secs(20);
/// How often what happens is shown.
const TICK: Duration = Duration::from_millis(1_000);
/// How often the gateway is asked when something is waited for.
const LOOK: Duration = Duration::from_millis(100);

/// What was asked for on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// Print the figures as JSON on standard output, and everything else on standard error.
    pub json: bool,
    /// Leave the mesh running.
    pub keep: bool,
}

/// Runs the demo. An error is one of the set-up; a mesh that doesn't behave is told in the figures.
pub fn run(options: DemoOptions) -> Result<Figures> {
    let console = Console::new(options.json);
    let start = Instant::now();
    console
        .step("three sites a, b, c, each with two uplinks: isp1 (10 ms, 8 Mbit/s up) and isp2 (40 ms, 30 Mbit/s up)");
    let mesh = scene::build()?;
    console.step("starting a daemon at each site; they find each other by multicast");
    let converged = scene::converge(&mesh, CONVERGE)?;
    console.say(&format!("all tunnels up and the first user packet through after {:.2} s", converged.as_secs_f64()));

    console.step("traffic from a to b: voice (UDP 16400, 50 packets/s), bulk (TCP 873), web (HTTP)");
    let scene = Scene::start(&mesh)?;
    watch(&console, &mesh, &scene, BEFORE);
    let mut outcome = act(&console, &mesh, &scene)?;
    outcome.converged = Some(converged);
    scene.finish(&mut outcome)?;
    outcome.total = start.elapsed();
    console.step("summary");
    for line in outcome.summary() {
        console.say(&line);
    }
    if options.keep {
        keep(&console, mesh)?;
    }
    Ok(outcome.figures())
}

/// Cuts the line that carries voice, and mends it.
fn act(console: &Console, mesh: &Mesh, scene: &Scene) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let before = scene.observe(mesh)?;
    let Some(path) = before.path(Class::Voice).cloned() else {
        return Err(BedError::Plan("no voice flow is in the gateway's table".into()));
    };
    let link = mesh.bed().link("a", &path.local);
    console.step(&format!("cutting {} of site a without a word: packets vanish, the carrier stays", path.local));
    link.cut(Cut::Silent)?;
    outcome.cut_ns = Some(unix_ns());
    let left = |seen: &Observation| seen.path(Class::Voice).filter(|now| now.local != path.local).cloned();
    match look_for(mesh, scene, CUT, left) {
        Some((other, _)) => console.say(&format!("voice goes on by {other}")),
        None => console.say(&format!("voice is still on {}", path.local)),
    }
    watch(console, mesh, scene, CUT);
    outcome.failover = scene.gaps_since(outcome.cut_ns.unwrap_or(0));
    console.say(&outcome.failover_line());

    console.step(&format!("mending {} of site a", path.local));
    link.restore()?;
    outcome.restored_ns = Some(unix_ns());
    let mended = Instant::now();
    let returned = |seen: &Observation| seen.path(Class::Voice).filter(|now| now.local == path.local).cloned();
    let mut found = None;
    while found.is_none() && mended.elapsed() < FAILBACK {
        found = look_for(mesh, scene, TICK, returned);
        console.say(&scene.observe(mesh).map_or_else(|error| error.to_string(), |seen| scene.line(&seen)));
    }
    outcome.failback = found.map(|(_, at)| at - mended);
    match outcome.failback {
        Some(after) => console.say(&format!("voice is back on {} after {:.1} s", path.local, after.as_secs_f64())),
        None => console.say(&format!("voice did not return to {} within {} s", path.local, FAILBACK.as_secs())),
    }
    watch(console, mesh, scene, Duration::from_secs(3));
    Ok(outcome)
}

/// Shows what happens for a while. A gateway that doesn't answer is said so.
fn watch(console: &Console, mesh: &Mesh, scene: &Scene, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        match scene.observe(mesh) {
            Ok(seen) => console.say(&scene.line(&seen)),
            Err(error) => console.say(&format!("gateway a doesn't answer: {error}")),
        }
        sleep(TICK.min(time.saturating_sub(start.elapsed())));
    }
}

fn keep(console: &Console, mesh: Mesh) -> Result<()> {
    let binary = crate::mesh::binary()?;
    let gateway = mesh.gateway("a");
    let host = mesh.bed().site("a").host(0).namespace().clone();
    let (enter, config) = (gateway.namespace().enter_line(), gateway.config());
    let sdwan = format!("{enter} {} --config {}", binary.display(), config.display());
    let entries = mesh.keep()?;
    console.step("the mesh stays up; its namespaces:");
    for line in entries.lines() {
        console.say(line);
    }
    console.step("try:");
    for line in [
        format!("{sdwan} status"),
        format!("{sdwan} paths"),
        format!("{sdwan} flows"),
        format!("{sdwan} explain 10.1.0.2:40000 10.2.0.2:5060 udp"),
        format!("{enter} bpftool map dump name paths"),
        format!("{} ping 10.2.0.2", host.enter_line()),
        "cargo xtask demo -- --clean   # ends it".to_string(),
    ] {
        console.say(&line);
    }
    Ok(())
}

/// Looks at the gateway until something is seen, for at most so long; when it was seen.
fn look_for<T>(
    mesh: &Mesh,
    scene: &Scene,
    patience: Duration,
    find: impl Fn(&Observation) -> Option<T>,
) -> Option<(T, Instant)> {
    let start = Instant::now();
    while start.elapsed() < patience {
        // A gateway that doesn't answer is asked again.
        if let Some(found) = scene.observe(mesh).ok().and_then(|seen| find(&seen)) {
            return Some((found, Instant::now()));
        }
        sleep(LOOK);
    }
    None
}
