//! Takes everything of ours out of the kernel: `sdwan down`, with the daemon or without it.

use std::fmt;
use std::net::IpAddr;

use super::StartError;
use crate::config::Config;
use crate::dataplane::detach_all;
use crate::net::Network;
use crate::net::sysctl::Sysctl;
use crate::trust::state::SiteFiles;
use crate::tunnel;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Tunnel interfaces.
    pub tunnels: usize,
    /// Routes, rules and addresses.
    pub routes: usize,
    /// Kernel settings put back.
    pub settings: usize,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "removed {} tunnels, {} routes, rules and addresses, programs and maps, and put {} kernel settings back",
            self.tunnels, self.routes, self.settings
        )
    }
}

/// Removes tunnels, routes, rules, overlay address, programs and maps, and puts kernel settings back. Nothing of the
/// operator's is touched; safe to repeat, and after a crash.
pub async fn teardown(config: &Config) -> Result<Removed, StartError> {
    let overlay = known_overlay(config);
    // Programs first: packets go back to the stack before its tunnels vanish.
    detach_all(&config.dataplane.bpffs)?;
    let network = Network::connect()?;
    let report = network.remove_all(overlay).await?;
    for error in &report.errors {
        tracing::warn!("{error}");
    }
    let tunnels = tokio::task::spawn_blocking(tunnel::remove_all)
        .await
        .map_err(|error| StartError::System { action: "remove the tunnels", source: error.into() })??;
    let settings = Sysctl::new(&config.site.state_dir).restore()?;
    Ok(Removed { tunnels: tunnels.len(), routes: report.changes, settings: settings.len() })
}

/// This site's overlay address, where its state says so: older kernels can't tell ours from others.
fn known_overlay(config: &Config) -> Option<IpAddr> {
    let state = SiteFiles::new(&config.site.state_dir).load().ok()?;
    Some(state.mesh.overlay_address(state.identity.site()))
}
