//! The kernel's WireGuard.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use wireguard_control as wg;

use super::backend::{AllowedIps, Backend, BackendKind, ObservedPeer, ObservedTunnel, PeerChange, TunnelChange};
use super::{Error, tunnel_of_interface};
use crate::engine::types::TunnelKey;
use crate::net::{self, link};

/// Kind of a kernel WireGuard interface.
const KIND: &str = "wireguard";
/// Name of the interface that is created to see whether it can be.
const TRIAL: &str = "sdw-trial";
/// The UDP sockets of the calling thread's network namespace.
const UDP_TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
/// Prefixes of one peer in one message: more don't fit a netlink message.
const PREFIXES_PER_MESSAGE: usize = 200;

/// Tunnels by the kernel's WireGuard.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelBackend;

/// Can this kernel create WireGuard interfaces in this network namespace? Loads the module if that is all it takes.
pub fn kernel_has_wireguard() -> Result<bool, Error> {
    if try_to_create()? {
        return Ok(true);
    }
    // The kernel asks for its module by itself; that fails where its `modprobe` isn't at the path it was built with.
    let loaded = Command::new("modprobe").args(["--quiet", KIND]).stdin(Stdio::null()).status();
    if loaded.is_ok_and(|status| status.success()) { try_to_create() } else { Ok(false) }
}

fn try_to_create() -> Result<bool, Error> {
    let created = match link::create_wireguard(TRIAL) {
        Ok(()) => true,
        // Left behind by a crash between the two steps.
        Err(error) if error.os_error() == Some(libc::EEXIST) => true,
        Err(error @ net::Error::Permission { .. }) => return Err(error.into()),
        Err(_) => return Ok(false),
    };
    if let Some(trial) = link::find(TRIAL)? {
        link::delete(TRIAL, trial.ifindex)?;
    }
    Ok(created)
}

impl Backend for KernelBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Kernel
    }

    fn list(&mut self) -> Result<Vec<TunnelKey>, Error> {
        let ours = link::links()?.into_iter().filter(|link| link.kind.as_deref() == Some(KIND));
        Ok(ours.filter_map(|link| tunnel_of_interface(&link.name)).collect())
    }

    fn observe(&mut self, tunnel: TunnelKey) -> Result<Option<ObservedTunnel>, Error> {
        let Some(found) = find(tunnel, KIND)? else { return Ok(None) };
        let interface = tunnel.interface();
        let device = wg::Device::get(&interface_name(&interface)?, wg::Backend::Kernel)
            .map_err(|source| Error::WireGuard { action: "read the configuration of", interface, source })?;
        Ok(Some(observed(&found, device)))
    }

    fn create(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        if find(tunnel, KIND)?.is_some() {
            return Ok(());
        }
        Ok(link::create_wireguard(&tunnel.interface())?)
    }

    fn configure(&mut self, tunnel: TunnelKey, change: &TunnelChange) -> Result<(), Error> {
        let interface = tunnel.interface();
        let Some(found) = find(tunnel, KIND)? else { return self.create(tunnel) };
        check_port(&interface, change)?;
        for update in device_updates(change) {
            update.apply(&interface_name(&interface)?, wg::Backend::Kernel).map_err(|source| {
                match (source.raw_os_error(), change.listen_port) {
                    (Some(libc::EADDRINUSE), Some(port)) => Error::PortInUse { interface: interface.clone(), port },
                    (Some(libc::EPERM), _) => {
                        net::Error::Permission { action: format!("configure {interface}") }.into()
                    }
                    _ => Error::WireGuard { action: "configure", interface: interface.clone(), source },
                }
            })?;
        }
        // WireGuard binds its port when the interface comes up.
        link::set_up(&interface, found.ifindex, change.mtu).map_err(|error| match error.os_error() {
            Some(libc::EADDRINUSE) => {
                Error::PortInUse { interface: interface.clone(), port: change.listen_port.unwrap_or(0) }
            }
            _ => error.into(),
        })
    }

    fn delete(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        match find(tunnel, KIND)? {
            Some(found) => Ok(link::delete(&found.name, found.ifindex)?),
            None => Ok(()),
        }
    }
}

/// The interface of a tunnel. One of another kind is somebody else's.
pub(super) fn find(tunnel: TunnelKey, kind: &str) -> Result<Option<net::snapshot::Link>, Error> {
    let interface = tunnel.interface();
    match link::find(&interface)? {
        Some(link) if link.kind.as_deref() != Some(kind) => {
            let kind = link.kind.unwrap_or_else(|| "hardware".into());
            Err(Error::Foreign { interface, kind })
        }
        found => Ok(found),
    }
}

/// Is the new port free? WireGuard itself says so too late or not at all.
///
/// Looked up rather than tried: a socket opened for a trial would live on for a moment in any program that another
/// thread is starting, and be in the way of the WireGuard that asks for the port next.
pub(super) fn check_port(interface: &str, change: &TunnelChange) -> Result<(), Error> {
    let Some(port) = change.listen_port else { return Ok(()) };
    let taken = |table| std::fs::read_to_string(table).is_ok_and(|table| lists_port(&table, port));
    if UDP_TABLES.into_iter().any(taken) {
        return Err(Error::PortInUse { interface: interface.to_owned(), port });
    }
    Ok(())
}

/// Does a table of UDP sockets list one with this local port?
fn lists_port(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&suffix)))
}

pub(super) fn interface_name(interface: &str) -> Result<wg::InterfaceName, Error> {
    interface.parse().map_err(|error: wg::InvalidInterfaceName| Error::WireGuard {
        action: "name",
        interface: interface.to_owned(),
        source: error.into(),
    })
}

/// The updates that carry out a change. Several, where a peer has more prefixes than one message holds.
pub(super) fn device_updates(change: &TunnelChange) -> Vec<wg::DeviceUpdate> {
    if !change.concerns_wireguard() {
        return Vec::new();
    }
    let mut first = wg::DeviceUpdate::new();
    if let Some(key) = change.private_key {
        first = first.set_private_key(wg::Key(key));
    }
    if let Some(mark) = change.fwmark {
        first = first.set_fwmark(mark);
    }
    if let Some(port) = change.listen_port {
        first = first.set_listen_port(port);
    }
    let mut updates = vec![first];
    for peer in &change.peers {
        let mut parts = peer_updates(peer).into_iter();
        if let (Some(part), Some(last)) = (parts.next(), updates.pop()) {
            updates.push(last.add_peer(part));
        }
        updates.extend(parts.map(|part| wg::DeviceUpdate::new().add_peer(part)));
    }
    updates
}

fn peer_updates(peer: &PeerChange) -> Vec<wg::PeerConfigBuilder> {
    let key = wg::Key(peer.public_key);
    let mut first = wg::PeerConfigBuilder::new(&key);
    if peer.remove {
        return vec![first.remove()];
    }
    if let Some(endpoint) = peer.endpoint {
        first = first.set_endpoint(endpoint);
    }
    if let Some(seconds) = peer.keepalive {
        first = first.set_persistent_keepalive_interval(seconds);
    }
    let prefixes = match &peer.allowed_ips {
        AllowedIps::Keep => &[][..],
        AllowedIps::Add(prefixes) => prefixes,
        AllowedIps::Replace(prefixes) => {
            first = first.replace_allowed_ips();
            prefixes
        }
    };
    let add = |builder: wg::PeerConfigBuilder, prefixes: &[IpNet]| {
        prefixes.iter().fold(builder, |builder, prefix| builder.add_allowed_ip(prefix.addr(), prefix.prefix_len()))
    };
    let mut parts = prefixes.chunks(PREFIXES_PER_MESSAGE);
    let mut builders = vec![add(first, parts.next().unwrap_or_default())];
    builders.extend(parts.map(|part| add(wg::PeerConfigBuilder::new(&key), part)));
    builders
}

/// A device as wireguard-control describes it. It leaves a peer that the kernel split over several messages in
/// parts: they are put together here.
pub(super) fn observed(link: &net::snapshot::Link, device: wg::Device) -> ObservedTunnel {
    let mut peers: BTreeMap<[u8; 32], ObservedPeer> = BTreeMap::new();
    device.peers.into_iter().for_each(|part| merge(&mut peers, part));
    ObservedTunnel {
        ifindex: link.ifindex,
        up: link.up,
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        private_key: device.private_key.map(|key| key.0).filter(|key| *key != [0; 32]),
        listen_port: device.listen_port.unwrap_or(0),
        fwmark: device.fwmark.unwrap_or(0),
        peers,
    }
}

fn merge(peers: &mut BTreeMap<[u8; 32], ObservedPeer>, part: wg::PeerInfo) {
    let peer = peers.entry(part.config.public_key.0).or_default();
    peer.endpoint = peer.endpoint.or(part.config.endpoint);
    peer.keepalive = peer.keepalive.or(part.config.persistent_keepalive_interval).filter(|seconds| *seconds > 0);
    let prefixes = part.config.allowed_ips.iter();
    peer.allowed_ips.extend(prefixes.filter_map(|prefix| IpNet::new(prefix.address, prefix.cidr).ok()));
    peer.last_handshake = peer.last_handshake.max(part.stats.last_handshake_time);
    peer.received_bytes = peer.received_bytes.max(part.stats.rx_bytes);
    peer.sent_bytes = peer.sent_bytes.max(part.stats.tx_bytes);
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod tests;
