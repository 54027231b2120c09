//! A flow table with many flows in it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bed::Result;
use crate::mesh::Mesh;
use crate::traffic::{UdpSender, UdpSpec};

/// Source addresses that the flows spread over.
const SOURCES: u32 = 200;
/// Packets per second; a machine that can't sends as fast as it can.
const RATE: f64 = 150_000.0;
/// A source port that nothing sends from.
const UNUSED: u16 = 65_001;

/// Opens so many flows from site a to site b by one packet each, as fast as the machine sends them. A packet that finds the
/// tunnel's queue full has opened its flow before. Returns how long it took.
///
/// # Errors
/// When the bed fails.
pub fn fill(mesh: &Mesh, flows: u32) -> Result<Duration> {
    let (a, b) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    let start = Instant::now();
    let spec = UdpSpec {
        source: Some([10, 1, 100, 1].into()),
        sources: SOURCES,
        source_port: 1_024,
        flows,
        size: 60,
        ..UdpSpec::new(SocketAddr::new(b.v4(), 9_000), RATE)
    };
    UdpSender::start(a, spec.packets(flows.into()))?.finish()?;
    Ok(start.elapsed())
}

/// Flows in the table of a site.
///
/// # Errors
/// When the table can't be read.
pub fn flow_count(mesh: &Mesh, site: &str) -> Result<usize> {
    mesh.gateway(site).read_maps(|reader| Ok(reader.flow_count(usize::MAX)))
}

/// The local uplink of site a that a flow of UDP to this port of site b's first host takes when it begins.
///
/// # Errors
/// When the daemon doesn't answer.
pub fn new_flow_on(mesh: &Mesh, port: u16) -> Result<Option<u8>> {
    let (a, b) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    let view = mesh.gateway("a").explain(&format!("{}:{UNUSED}", a.v4()), &format!("{}:{port}", b.v4()), "udp")?;
    let chosen = view.chosen.and_then(|chosen| view.candidates.get(chosen));
    Ok(chosen.map(|candidate| candidate.tunnel.local.get()))
}
