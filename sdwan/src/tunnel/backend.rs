//! What the reconciler asks of a WireGuard implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::{Error, KernelBackend, UserspaceBackend, device, kernel_has_wireguard};
use crate::engine::types::TunnelKey;

/// A WireGuard implementation.
pub trait Backend: Send {
    /// Which one it is.
    fn kind(&self) -> BackendKind;

    /// Interfaces of ours, whole or half-made.
    fn list(&mut self) -> Result<Vec<TunnelKey>, Error>;

    /// State of a tunnel; `None` when it isn't there or is so broken that it must be created again.
    fn observe(&mut self, tunnel: TunnelKey) -> Result<Option<ObservedTunnel>, Error>;

    /// Creates a tunnel, not configured yet. Clears away the remains of a broken one.
    fn create(&mut self, tunnel: TunnelKey) -> Result<(), Error>;

    /// Changes a tunnel, then brings it up.
    fn configure(&mut self, tunnel: TunnelKey, change: &TunnelChange) -> Result<(), Error>;

    /// Removes a tunnel; one that isn't there is no error.
    fn delete(&mut self, tunnel: TunnelKey) -> Result<(), Error>;
}

/// Which WireGuard carries the tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// The kernel's.
    Kernel,
    /// The one that this binary carries.
    Userspace,
}

/// Which WireGuard the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The kernel's, or where there is none the one that this binary carries.
    #[default]
    Auto,
    /// The kernel's.
    Kernel,
    /// The one that this binary carries.
    Userspace,
}

/// A tunnel as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct ObservedTunnel {
    /// Interface index.
    pub ifindex: u32,
    /// Administratively up.
    pub up: bool,
    /// MTU, bytes.
    pub mtu: u16,
    /// The private key, if it has one.
    pub private_key: Option<[u8; 32]>,
    /// UDP port it listens on, 0 for none.
    pub listen_port: u16,
    /// Firewall mark of the outer packets, 0 for none.
    pub fwmark: u32,
    /// The peers by public key.
    pub peers: BTreeMap<[u8; 32], ObservedPeer>,
}

/// A peer as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedPeer {
    /// Where the peer was last heard from, or where it was said to be.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes behind it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Interval of keepalives, s, if they are on.
    pub keepalive: Option<u16>,
    /// When the last handshake was.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub received_bytes: u64,
    /// Bytes sent to it.
    pub sent_bytes: u64,
}

/// What to change about a tunnel.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TunnelChange {
    /// New private key.
    pub private_key: Option<[u8; 32]>,
    /// New UDP port.
    pub listen_port: Option<u16>,
    /// New firewall mark.
    pub fwmark: Option<u32>,
    /// New MTU, bytes.
    pub mtu: Option<u16>,
    /// Bring it up.
    pub up: bool,
    /// Peers to add, change or remove, in this order.
    pub peers: Vec<PeerChange>,
}

/// What to change about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Remove it; the rest doesn't matter then.
    pub remove: bool,
    /// New endpoint.
    pub endpoint: Option<SocketAddr>,
    /// New keepalive interval, s; 0 switches it off.
    pub keepalive: Option<u16>,
    /// Changes of its prefixes.
    pub allowed_ips: AllowedIps,
}

/// Changes of a peer's prefixes. A prefix that another peer has moves over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowedIps {
    /// None.
    #[default]
    Keep,
    /// These come on top: those there stay in use without a gap.
    Add(Vec<IpNet>),
    /// These instead of those there.
    Replace(Vec<IpNet>),
}

impl ObservedPeer {
    /// Time since the last handshake.
    pub fn handshake_age(&self) -> Option<Duration> {
        self.last_handshake.map(|time| time.elapsed().unwrap_or_default())
    }
}

impl TunnelChange {
    /// Nothing to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Something for WireGuard, not only for the interface.
    pub fn concerns_wireguard(&self) -> bool {
        self.private_key.is_some() || self.listen_port.is_some() || self.fwmark.is_some() || !self.peers.is_empty()
    }
}

impl PeerChange {
    /// No change, for this peer.
    pub fn none(public_key: [u8; 32]) -> Self {
        Self { public_key, remove: false, endpoint: None, keepalive: None, allowed_ips: AllowedIps::Keep }
    }
}

impl BackendKind {
    /// As `sdwan status` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for BackendChoice {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "userspace" => Ok(Self::Userspace),
            _ => Err(format!("{text:?} is no tunnel backend: write auto, kernel or userspace")),
        }
    }
}

/// Keys don't belong into logs.
impl fmt::Debug for ObservedTunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObservedTunnel")
            .field("ifindex", &self.ifindex)
            .field("up", &self.up)
            .field("mtu", &self.mtu)
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Keys don't belong into logs.
impl fmt::Debug for TunnelChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelChange")
            .field("sets_private_key", &self.private_key.is_some())
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("mtu", &self.mtu)
            .field("up", &self.up)
            .field("peers", &self.peers)
            .finish()
    }
}

/// The WireGuard that the operator wants and this machine has. Changes nothing.
pub fn choose_backend(choice: BackendChoice) -> Result<BackendKind, Error> {
    let kernel = choice != BackendChoice::Userspace && kernel_has_wireguard()?;
    if kernel {
        return Ok(BackendKind::Kernel);
    }
    if choice == BackendChoice::Kernel {
        return Err(Error::NoKernelWireGuard);
    }
    device::check_tun().map_err(|source| Error::NoTun { source })?;
    Ok(BackendKind::Userspace)
}

/// Opens what [`choose_backend`] chose. Tunnels that the other one still carries are removed.
///
/// `program` and `arguments` start the userspace WireGuard, the interface name follows; by default this very binary.
pub fn open_backend(kind: BackendKind, program: Option<(PathBuf, Vec<String>)>) -> Result<Box<dyn Backend>, Error> {
    let mut userspace = match program {
        Some((program, arguments)) => UserspaceBackend::new(program, arguments),
        None => UserspaceBackend::default(),
    };
    match kind {
        BackendKind::Kernel => {
            remove_all_of(&mut userspace)?;
            Ok(Box::new(KernelBackend))
        }
        BackendKind::Userspace => {
            remove_all_of(&mut KernelBackend)?;
            Ok(Box::new(userspace))
        }
    }
}

/// Removes every tunnel of ours, whichever WireGuard carries it, and ends the userspace WireGuards: for `sdwan down`.
/// Returns the removed interfaces.
pub fn remove_all() -> Result<Vec<TunnelKey>, Error> {
    let mut removed = remove_all_of(&mut UserspaceBackend::default())?;
    removed.extend(remove_all_of(&mut KernelBackend)?);
    Ok(removed)
}

fn remove_all_of(backend: &mut dyn Backend) -> Result<Vec<TunnelKey>, Error> {
    let tunnels = backend.list()?;
    tunnels.iter().try_for_each(|tunnel| backend.delete(*tunnel))?;
    Ok(tunnels)
}
