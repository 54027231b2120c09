//! What the tunnels should be.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroize;

use crate::engine::types::{SiteId, TunnelKey};

/// Every tunnel that should be there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct DesiredTunnels {
    /// This site's WireGuard private key (X25519).
    pub private_key: [u8; 32],
    /// The tunnels.
    pub tunnels: BTreeMap<TunnelKey, TunnelDesired>,
}

/// One tunnel, hence one WireGuard interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelDesired {
    /// UDP port to listen on, never 0.
    pub listen_port: u16,
    /// Firewall mark of the outer packets.
    pub fwmark: u32,
    /// MTU of the interface, bytes.
    pub mtu: u16,
    /// The peers by their public key (X25519).
    pub peers: BTreeMap<[u8; 32], PeerDesired>,
}

/// One peer: a remote site on this tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerDesired {
    /// The site.
    pub site: SiteId,
    /// Where to send to until the peer is heard from elsewhere. `None`: the site dials us.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes behind the peer: sent to it, and accepted from it.
    pub allowed_ips: Vec<IpNet>,
    /// Interval of keepalives, s. `None` switches them off.
    pub keepalive: Option<u16>,
}

impl DesiredTunnels {
    /// The public key (X25519) that peers know this site by.
    pub fn public_key(&self) -> [u8; 32] {
        PublicKey::from(&StaticSecret::from(self.private_key)).to_bytes()
    }
}

impl fmt::Debug for DesiredTunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DesiredTunnels").field("tunnels", &self.tunnels).finish_non_exhaustive()
    }
}

impl Drop for DesiredTunnels {
    fn drop(&mut self) {
        self.private_key.zeroize();
    }
}
