//! WireGuard tunnels: what they should be ([`DesiredTunnels`]), and making them so ([`TunnelReconciler`]) by the
//! kernel's WireGuard or by one that this binary carries.
//!
//! The tunnels outlive the daemon. A restarted one finds them again by name and kind, and leaves what is right alone.

mod backend;
mod desired;
pub mod device;
mod kernel;
mod reconcile;
mod task;
mod userspace;

pub use backend::{
    AllowedIps, Backend, BackendChoice, BackendKind, ObservedPeer, ObservedTunnel, PeerChange, TunnelChange,
    choose_backend, open_backend, remove_all,
};
pub use desired::{DesiredTunnels, PeerDesired, TunnelDesired};
pub use kernel::{KernelBackend, kernel_has_wireguard};
pub use reconcile::{TunnelReconciler, TunnelReport, TunnelStatus};
pub use task::TunnelTask;
pub use userspace::UserspaceBackend;

use std::io;

use crate::engine::types::{TunnelKey, UplinkIndex};
use crate::net;

/// What can go wrong with a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface itself.
    #[error(transparent)]
    Net(#[from] net::Error),
    /// Another interface has the name.
    #[error("{interface} exists and is no tunnel of ours (it is a {kind} interface): rename or remove it")]
    Foreign {
        /// Name.
        interface: String,
        /// Its kind.
        kind: String,
    },
    /// Somebody else has the UDP port.
    #[error(
        "UDP port {port} for {interface} is in use by another program: `ss -ulpn sport = :{port}` names it; stop it or choose another listen port"
    )]
    PortInUse {
        /// Name.
        interface: String,
        /// The port.
        port: u16,
    },
    /// WireGuard took no configuration, or gave none.
    #[error("cannot {action} {interface}: {source}")]
    WireGuard {
        /// What was tried.
        action: &'static str,
        /// Name.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The userspace WireGuard didn't come up.
    #[error("the userspace WireGuard for {interface} did not start: {reason}")]
    Child {
        /// Name.
        interface: String,
        /// Its last words, or what was waited for.
        reason: String,
    },
    /// The kernel's WireGuard was asked for.
    #[error(
        "this kernel has no WireGuard, and `backend` in [tunnel] is \"kernel\": install the module (`apt-get install \
         wireguard`), or set backend = \"auto\""
    )]
    NoKernelWireGuard,
    /// Neither can be used.
    #[error(
        "no TUN device for the userspace WireGuard: {source}; `modprobe tun` loads it, and /dev/net/tun must be there"
    )]
    NoTun {
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The tunnel whose interface has this name.
pub fn tunnel_of_interface(name: &str) -> Option<TunnelKey> {
    let (local, remote) = name.strip_prefix("sdw")?.split_once('-')?;
    let index = |text: &str| text.parse().ok().and_then(UplinkIndex::new);
    let key = TunnelKey { local: index(local)?, remote: index(remote)? };
    // `sdw01-2` is somebody else's.
    (key.interface() == name).then_some(key)
}

#[cfg(test)]
mod fake;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_would_give_are_ours() {
        let key = |local, remote| TunnelKey {
            local: UplinkIndex::new(local).expect("an index"),
            remote: UplinkIndex::new(remote).expect("an index"),
        };
        assert_eq!(tunnel_of_interface("sdw0-7"), Some(key(0, 7)));
        for foreign in ["sdw0-8", "sdw00-1", "sdw+0-1", "sdw0-1-2", "sdw0", "wg0", "xsdw0-1", "sdw0-1 "] {
            assert_eq!(tunnel_of_interface(foreign), None, "{foreign}");
        }
    }
}
