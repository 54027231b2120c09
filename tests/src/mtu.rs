//! What tests and the bench ask of gateways about path MTUs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sdwan::api::views::{MtuView, PathView};

use crate::bed::Families;
use crate::mesh::Gateway;
use crate::pace::patience;

/// How long a path gets to become as wanted.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes around an inner packet.
pub fn overhead(families: Families) -> u16 {
    if families == Families::V6 { 80 } else { 60 }
}

/// The largest inner packet of the only path of a tunnel. Its interface is made for it, as long as that leaves what IPv6
/// needs; then WireGuard's padding takes its share.
pub fn inner(mtu: u16, families: Families) -> u16 {
    let room = mtu - overhead(families);
    if room >= 1280 { room } else { room / 16 * 16 }
}

/// Waits until all paths of a gateway are as wanted; returns how long that took.
///
/// # Errors
/// When they don't become so, or the daemon has ended.
pub fn wait_for_mtu(gateway: &Gateway, what: &str, wanted: impl Fn(&PathView) -> bool) -> Result<Duration> {
    let start = Instant::now();
    gateway.wait_for(what, patience(PATIENCE), |gateway| {
        let paths = gateway.paths()?;
        let wrong = paths.iter().find(|path| !wanted(path));
        Ok(wrong.map_or(Ok(()), |path| Err(format!("{:?} {} {}", path.underlay_mtu, path.mtu_by, path.mtu))))
    })?;
    Ok(start.elapsed())
}

/// `sdwan measure mtu` on the path by the first uplinks.
///
/// # Errors
/// When the search doesn't end, or nobody answers.
pub fn measure_mtu(gateway: &Gateway, peer: &str) -> Result<MtuView> {
    let view: MtuView = gateway.json(&["measure", "mtu", peer, "0-0"])?;
    ensure!(view.finished && view.contact, "the search of {} did not end well: {view:?}", gateway.name());
    Ok(view)
}

/// The only path of a gateway.
///
/// # Errors
/// When it has another number of paths.
pub fn only_path(gateway: &Gateway) -> Result<PathView> {
    let mut paths = gateway.paths()?;
    ensure!(paths.len() == 1, "{} has {} paths", gateway.name(), paths.len());
    Ok(paths.remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_an_mtu_is_padded_below_what_ipv6_needs() {
        assert_eq!(inner(1500, Families::V4), 1440);
        assert_eq!(inner(1423, Families::V6), 1343);
        assert_eq!(inner(1280, Families::V4), 1216);
        assert_eq!(inner(1280, Families::V6), 1200);
    }
}
