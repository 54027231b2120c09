//! Cut lines under a class in duplicate mode: each packet goes by two paths, and none may be lost.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use sdwan::api::views::FlowView;

use crate::bed::{BedError, Cut, Result};
use crate::mesh::Mesh;
use crate::pace::{paced, patience};
use crate::traffic::{Report, UdpReceiver, UdpSender, UdpSpec};

/// UDP and TCP port of what goes twice.
pub const TWICE: u16 = 7_000;
/// The policy for it.
pub const TWICE_POLICY: &str =
    "[[policy]]\nname = \"twice\"\npriority = 50\nmode = \"duplicate\"\nmatch = [{ ports = [7000] }]\n";
/// Packets per second.
const RATE: f64 = 1_000.0;
/// How long a line stays cut: longer than it takes to leave it.
const CUT_FOR: Duration = Duration::from_millis(600);
/// How long paths may take to come back.
const RETURN: Duration = Duration::from_secs(30);
/// From the return of the paths to the next cut: flows look for a better second path every 0.1 s.
const BREATH: Duration = Duration::from_millis(400);

/// Streams from site a to an address of site b's host and cuts one of the lines of the flow's first path in turn: the one at
/// site a, the one at site b. Returns what became of the stream.
///
/// # Errors
/// When the bed fails, the paths don't come back, or the flow has no second path, or one that shares a line with the first.
pub fn cut_under_copies(mesh: &Mesh, to: IpAddr, cuts: usize) -> Result<Report> {
    let (a, b) = (mesh.bed().site("a").host(0), mesh.bed().site("b").host(0));
    let receiver = UdpReceiver::start(b, SocketAddr::new(to, TWICE))?;
    let sender = UdpSender::start(a, UdpSpec::new(receiver.local(), paced(RATE)))?;
    sleep(Duration::from_millis(500));
    for round in 0..cuts {
        let flow = twice(mesh, to)?;
        let apart = match (flow.path.tunnel, flow.second.as_ref().and_then(|second| second.tunnel)) {
            (Some(first), Some(second)) if first.local != second.local && first.remote != second.remote => first,
            _ => {
                return Err(BedError::Plan(format!(
                    "its packets don't go by two paths without a common line: {flow:?}"
                )));
            }
        };
        let (site, uplink) = [("a", apart.local), ("b", apart.remote)][round % 2];
        let link = mesh.bed().link(site, ["isp1", "isp2"][usize::from(uplink.get())]);
        link.cut(Cut::Silent)?;
        sleep(patience(CUT_FOR));
        link.restore()?;
        mesh.wait_until_up(patience(RETURN))?;
        sleep(patience(BREATH));
    }
    let sent = sender.stop()?;
    receiver.finish(&sent, Duration::from_secs(1))
}

/// The flow that goes twice to an address, as site a has it.
///
/// # Errors
/// When it isn't in the table.
pub fn twice(mesh: &Mesh, to: IpAddr) -> Result<FlowView> {
    let flows = mesh.gateway("a").flows(Some("twice"))?;
    let latest = flows.into_iter().filter(|flow| flow.destination == to).min_by(|a, b| a.idle_s.total_cmp(&b.idle_s));
    latest.ok_or_else(|| BedError::Plan("no flow that goes twice is in the table".into()))
}
