//! A WireGuard that keeps its state in memory, and fails when a test says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::Error;
use super::backend::{AllowedIps, Backend, BackendKind, ObservedPeer, ObservedTunnel, TunnelChange};
use crate::engine::types::TunnelKey;

/// Shares its state with its clones, so that a test can look and interfere.
#[derive(Clone, Default)]
pub struct FakeBackend(Arc<Mutex<State>>);

#[derive(Default)]
pub struct State {
    /// What is there.
    pub tunnels: BTreeMap<TunnelKey, ObservedTunnel>,
    /// Interfaces that are there but answer to nobody.
    pub half_made: Vec<TunnelKey>,
    /// Steps that changed something.
    pub steps: usize,
    /// Fail every step after this many.
    pub fail_after: Option<usize>,
    /// Every configured change.
    pub changes: Vec<TunnelChange>,
    next_ifindex: u32,
}

impl FakeBackend {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panicked while it held this")
    }
}

impl State {
    fn step(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        if self.fail_after.is_some_and(|most| self.steps >= most) {
            let source = io::Error::from_raw_os_error(libc::EIO);
            return Err(Error::WireGuard { action: "configure", interface: tunnel.interface(), source });
        }
        self.steps += 1;
        Ok(())
    }
}

impl Backend for FakeBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Userspace
    }

    fn list(&mut self) -> Result<Vec<TunnelKey>, Error> {
        let state = self.state();
        Ok(state.tunnels.keys().chain(&state.half_made).copied().collect())
    }

    fn observe(&mut self, tunnel: TunnelKey) -> Result<Option<ObservedTunnel>, Error> {
        Ok(self.state().tunnels.get(&tunnel).cloned())
    }

    fn create(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        let mut state = self.state();
        state.step(tunnel)?;
        state.half_made.retain(|known| *known != tunnel);
        state.next_ifindex += 1;
        let fresh = ObservedTunnel {
            ifindex: state.next_ifindex,
            up: false,
            mtu: 1500,
            private_key: None,
            listen_port: 0,
            fwmark: 0,
            peers: BTreeMap::new(),
        };
        assert!(state.tunnels.insert(tunnel, fresh).is_none(), "{tunnel} was there");
        Ok(())
    }

    fn configure(&mut self, tunnel: TunnelKey, change: &TunnelChange) -> Result<(), Error> {
        let mut state = self.state();
        state.step(tunnel)?;
        state.changes.push(change.clone());
        let known = state.tunnels.get_mut(&tunnel).expect("only what is there is configured");
        known.up = true;
        known.mtu = change.mtu.unwrap_or(known.mtu);
        known.private_key = change.private_key.or(known.private_key);
        known.listen_port = change.listen_port.unwrap_or(known.listen_port);
        known.fwmark = change.fwmark.unwrap_or(known.fwmark);
        for peer in &change.peers {
            if peer.remove {
                assert!(known.peers.remove(&peer.public_key).is_some(), "removed a peer that wasn't there");
                continue;
            }
            let gained = match &peer.allowed_ips {
                AllowedIps::Keep => &[][..],
                AllowedIps::Add(prefixes) | AllowedIps::Replace(prefixes) => prefixes,
            };
            for other in known.peers.values_mut() {
                other.allowed_ips.retain(|prefix| !gained.contains(prefix));
            }
            let entry: &mut ObservedPeer = known.peers.entry(peer.public_key).or_default();
            if matches!(peer.allowed_ips, AllowedIps::Replace(_)) {
                entry.allowed_ips.clear();
            }
            entry.allowed_ips.extend(gained);
            entry.endpoint = peer.endpoint.or(entry.endpoint);
            entry.keepalive = peer.keepalive.or(entry.keepalive).filter(|seconds| *seconds > 0);
        }
        Ok(())
    }

    fn delete(&mut self, tunnel: TunnelKey) -> Result<(), Error> {
        let mut state = self.state();
        state.step(tunnel)?;
        state.half_made.retain(|known| *known != tunnel);
        state.tunnels.remove(&tunnel);
        Ok(())
    }
}
