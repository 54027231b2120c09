//! A line that goes on working and begins to lose packets.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sdwan::api::views::{EventView, FlowView, Listing};
use sdwan::engine::events::EventKind;

use super::{PATIENCE, PORT, new_flow_on};
use crate::bed::{Bed, Impairment, Provider};
use crate::mesh::{Discovery, Mesh, MeshOptions, UplinkRate};
use crate::pace::{paced, patience};
use crate::traffic::{UdpReceiver, UdpSender, UdpSpec};

/// What the line loses, each way.
const LOSS: f64 = 0.05;
/// Delay of the first line, and of the second one of site a.
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(45);
/// Packets of voice per second: twenty calls.
const RATE: f64 = 1_000.0;
/// Brownouts behind the figure.
const ROUNDS: usize = 3;
/// Rounds at most, with those that don't count.
const MOST_ROUNDS: u16 = 6;
/// When voice has not left by then, it won't.
const GIVE_UP: Duration = Duration::from_secs(20);
/// For so long after voice left the other classes are looked at.
const WATCH: Duration = Duration::from_secs(4);
/// How long voice may take to come back to a line that is whole again.
const RETURN: Duration = Duration::from_secs(90);
/// What it did wrong is soon forgotten, so that voice is soon back.
const FORGIVING: &str = "[engine]\ndamping_half_life = \"5s\"\n";
/// Source port of the first round's stream. Each has one of its own: a call stays where it went.
const SOURCE_PORT: u16 = 40_000;

/// What a brownout did.
#[derive(Clone, Debug, PartialEq)]
pub struct Brownout {
    /// From the first lost packet until voice had left the line.
    pub left_after: Duration,
    /// What was told of other classes that moved meanwhile or within the next seconds.
    pub others: Vec<String>,
    /// Probes enough were lost in a row that the path was taken for dead, which moves all classes. Before its loss is known
    /// that happens in one brownout of thirty.
    pub taken_for_dead: bool,
}

/// A site a whose voice and games prefer its first line, which is quick, and whose other classes the second one, which
/// carries more; a site b with one line, so that no path shares site a's first line with another.
///
/// # Errors
/// When the bed fails.
pub fn voice_and_others() -> Result<Mesh> {
    let mut builder = Bed::builder().sites(["a", "b"]).providers([("isp", Provider::Routed)]);
    builder = builder.uplinks("a", [("isp1", "isp"), ("isp2", "isp")]).uplinks("b", [("wan", "isp")]);
    for (site, uplink, delay) in [("a", "isp1", SHORT), ("a", "isp2", LONG), ("b", "wan", SHORT)] {
        builder = builder.impair(site, uplink, Impairment::delay(delay));
    }
    let rates = [("isp1", 20.0), ("isp2", 100.0), ("wan", 100.0)];
    let rates = rates.map(|(uplink, mbps)| UplinkRate::mbps(uplink, mbps, mbps)).to_vec();
    let discovery = Discovery::Seed("b".into());
    let mesh = Mesh::prepare(
        builder.build()?,
        &MeshOptions { discovery, rates, extra: FORGIVING.into(), ..MeshOptions::default() },
    )?;
    mesh.start_daemons()?;
    mesh.wait_until_up(patience(PATIENCE))?;
    Ok(mesh)
}

/// Begins a stream of voice, lets the first line of site a lose packets until the stream has left it, looks at the other
/// classes, and mends it. `round` is a number that no round before had.
///
/// # Errors
/// When the bed fails, or voice never was on that line or does not leave it.
pub fn brownout(mesh: &Mesh, round: u16) -> Result<Brownout> {
    let (a, b) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    wait_for_new_voice_on(mesh, 0, RETURN)?;
    let receiver = UdpReceiver::start(b, SocketAddr::new(b.v4(), PORT))?;
    let source_port = SOURCE_PORT + round;
    let sender = UdpSender::start(a, UdpSpec { source_port, ..UdpSpec::new(receiver.local(), paced(RATE)) })?;
    let voice_on = |mesh| voice_on(mesh, source_port);
    // Past the holds of whatever moved last.
    sleep(Duration::from_secs(6));
    ensure!(voice_on(mesh)? == Some(0), "voice left its line before anything happened");
    let last = events(mesh)?.iter().map(|event| event.id).max().unwrap_or_default();
    let link = mesh.bed().link("a", "isp1");
    let start = Instant::now();
    link.impair(&Impairment::delay(SHORT).loss(LOSS))?;
    while voice_on(mesh)? == Some(0) {
        ensure!(start.elapsed() < GIVE_UP, "voice stays on a line that loses {LOSS}");
        sleep(Duration::from_millis(20));
    }
    let left_after = start.elapsed();
    sleep(WATCH);
    let since: Vec<EventView> = events(mesh)?.into_iter().filter(|event| event.id > last).collect();
    let taken_for_dead = since.iter().any(|event| event.event.kind == EventKind::PathDown);
    let others = since.into_iter().map(|event| event.event).filter(|event| {
        event.kind == EventKind::ClassMoved && event.class.as_deref().is_some_and(|class| class != "voip-video")
    });
    let others: Vec<String> = others.map(|event| event.message).collect();
    link.impair(&Impairment::delay(SHORT))?;
    receiver.finish(&sender.stop()?, Duration::from_secs(1))?;
    Ok(Brownout { left_after, others, taken_for_dead })
}

/// Times of some brownouts.
pub(super) fn figure(say: impl Fn(&str)) -> Result<Vec<Duration>> {
    let mesh = voice_and_others()?;
    let mut times = Vec::new();
    for round in 0..MOST_ROUNDS {
        let Brownout { left_after, others, taken_for_dead } = brownout(&mesh, round)?;
        say(&format!("voice left after {:.2} s", left_after.as_secs_f64()));
        if taken_for_dead {
            say("so many probes were lost in a row that the path was taken for dead, for all classes: not counted");
            continue;
        }
        if !others.is_empty() {
            bail!("other classes moved, too: {}", others.join("; "));
        }
        times.push(left_after);
        if times.len() == ROUNDS {
            return Ok(times);
        }
    }
    bail!("in {MOST_ROUNDS} rounds the path was so often taken for dead that {} count", times.len());
}

/// The local uplink of the path that voice's flow is on.
fn voice_on(mesh: &Mesh, source_port: u16) -> Result<Option<u8>> {
    let flows = mesh.gateway("a").flows(Some("voip-video"))?;
    let ours = |flow: &&FlowView| (flow.source_port, flow.destination_port) == (source_port, PORT);
    let flow = flows.iter().find(ours).context("the flow is in the table")?;
    Ok(flow.path.tunnel.map(|tunnel| tunnel.local.get()))
}

/// Waits until a flow of voice that begins takes this uplink of site a.
fn wait_for_new_voice_on(mesh: &Mesh, uplink: u8, patience: Duration) -> Result<()> {
    let start = Instant::now();
    while new_flow_on(mesh, PORT)? != Some(uplink) {
        ensure!(start.elapsed() < patience, "voice doesn't come to uplink {uplink}");
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn events(mesh: &Mesh) -> Result<Vec<EventView>> {
    // They reach the database within a second.
    sleep(Duration::from_millis(1_200));
    Ok(mesh.gateway("a").json::<Listing<EventView>>(&["events"])?.items)
}
