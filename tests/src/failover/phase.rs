//! Cuts at all moments between two probes. What a cut meets decides how long the gap is: one that comes right after an answer
//! is borne for a whole detection time, one right before the next for an interval less. A few cuts that happen to meet the
//! same moment would tell more of that than of the gateway.

use std::thread::sleep;
use std::time::Duration;

use sdwan::dataplane::Reader;
use sdwan::measure::clock;

use crate::bed::{BedError, Result};
use crate::mesh::Mesh;
use crate::pace::patience;

/// The default pace of probes. Any faster one is a part of it.
const INTERVAL: Duration = Duration::from_millis(50);
/// The golden section, whose multiples are spread evenly over the whole, however many they are.
const SECTION: f64 = 0.618_033_988_749_895;
/// For so long packets are counted to see which path carries the stream.
const LOOK: Duration = Duration::from_millis(150);
/// Paths of a bed are no more than these.
const PATHS: u32 = 64;

/// Waits until the path with most packets at a site was heard a share of the interval ago: another share for each `turn`.
/// `alive`: the site's daemon lives, so that the answers to its own probes count, and else its peer's probes.
///
/// # Errors
/// When the maps can't be read, or nothing was heard.
pub(super) fn wait(mesh: &Mesh, site: &str, alive: bool, turn: usize) -> Result<()> {
    let heard = mesh.gateway(site).read_maps(|reader| heard(reader, alive))?;
    if heard == 0 {
        return Err(BedError::Plan(format!("{site} never heard its peer on the path that carries the stream")));
    }
    let share = INTERVAL.mul_f64((turn as f64 * SECTION).fract());
    let since = u128::from(clock::now().0.saturating_sub(heard)) % INTERVAL.as_nanos();
    let since = Duration::from_nanos(since as u64);
    sleep(if share >= since { share - since } else { share + INTERVAL - since });
    Ok(())
}

/// When the path with most packets was last heard, ns of `CLOCK_MONOTONIC`.
fn heard(reader: &Reader, alive: bool) -> std::result::Result<u64, sdwan::dataplane::Error> {
    let before = reader.all_path_stats(PATHS)?;
    sleep(patience(LOOK));
    let after = reader.all_path_stats(PATHS)?;
    let sent = |number: &usize| after[*number].sent_packets - before[*number].sent_packets;
    let busiest = (0..after.len()).max_by_key(sent).unwrap_or(0);
    let live = reader.path_counters(busiest as u32)?.live;
    Ok(if alive { live.last_reply_ns } else { live.last_peer_probe_ns })
}
