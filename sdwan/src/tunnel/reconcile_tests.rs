use std::time::SystemTime;

use proptest::prelude::*;

use super::*;
use crate::engine::types::{SiteId, UplinkIndex};
use crate::tunnel::fake::FakeBackend;

fn tunnel(local: u8, remote: u8) -> TunnelKey {
    let index = |number| UplinkIndex::new(number).expect("an index");
    TunnelKey { local: index(local), remote: index(remote) }
}

fn endpoint(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

fn peer(site: u8, at: u8, prefixes: &[&str]) -> PeerDesired {
    PeerDesired {
        site: SiteId([site; 16]),
        endpoint: Some(endpoint(at)),
        allowed_ips: prefixes.iter().map(|text| text.parse().expect("a prefix")).collect(),
        keepalive: None,
    }
}

/// Two sites on one tunnel.
fn two_sites() -> DesiredTunnels {
    let peers = [([2; 32], peer(2, 2, &["10.2.0.0/24"])), ([3; 32], peer(3, 3, &["10.3.0.0/24"]))].into();
    let wanted = TunnelDesired { listen_port: 51820, fwmark: 0x5d00_0100, mtu: 1420, peers };
    DesiredTunnels { private_key: [1; 32], tunnels: [(tunnel(0, 0), wanted)].into() }
}

fn bed() -> (FakeBackend, TunnelReconciler) {
    let backend = FakeBackend::default();
    (backend.clone(), TunnelReconciler::new(Box::new(backend)))
}

fn change_peer(desired: &mut DesiredTunnels, key: u8, change: impl FnOnce(&mut PeerDesired)) {
    let tunnel = desired.tunnels.get_mut(&tunnel(0, 0)).expect("the tunnel");
    change(tunnel.peers.get_mut(&[key; 32]).expect("the peer"));
}

fn observed_peer(backend: &FakeBackend, key: u8) -> ObservedPeer {
    backend.state().tunnels[&tunnel(0, 0)].peers[&[key; 32]].clone()
}

#[test]
fn a_tunnel_is_created_configured_and_reported() {
    let (backend, mut reconciler) = bed();
    let report = reconciler.reconcile(&two_sites());
    assert_eq!((report.changes, report.errors.len()), (2, 0));
    assert_eq!(report.interfaces(), [(tunnel(0, 0), 1)].into());
    let state = backend.state();
    let there = &state.tunnels[&tunnel(0, 0)];
    assert!(there.up);
    assert_eq!((there.listen_port, there.fwmark, there.mtu), (51820, 0x5d00_0100, 1420));
    assert_eq!(there.peers.len(), 2);
}

#[test]
fn a_peer_that_moved_by_itself_is_not_sent_back() {
    let (backend, mut reconciler) = bed();
    reconciler.reconcile(&two_sites());
    {
        let mut state = backend.state();
        let peer = state.tunnels.get_mut(&tunnel(0, 0)).expect("there").peers.get_mut(&[2; 32]).expect("there");
        peer.endpoint = Some(endpoint(77));
        peer.last_handshake = Some(SystemTime::now());
    }
    assert_eq!(reconciler.reconcile(&two_sites()).changes, 0);
    assert_eq!(observed_peer(&backend, 2).endpoint, Some(endpoint(77)));
    // The site announces a new address: that is news.
    let mut desired = two_sites();
    change_peer(&mut desired, 2, |peer| peer.endpoint = Some(endpoint(78)));
    reconciler.reconcile(&desired);
    assert_eq!(observed_peer(&backend, 2).endpoint, Some(endpoint(78)));
}

#[test]
fn an_endpoint_that_led_nowhere_for_a_session_lifetime_is_given_up() {
    let (backend, mut reconciler) = bed();
    reconciler.reconcile(&two_sites());
    {
        let mut state = backend.state();
        let peer = state.tunnels.get_mut(&tunnel(0, 0)).expect("there").peers.get_mut(&[2; 32]).expect("there");
        peer.endpoint = Some(endpoint(77));
        peer.last_handshake = SystemTime::now().checked_sub(SESSION_LIFETIME + Duration::from_secs(1));
    }
    reconciler.reconcile(&two_sites());
    assert_eq!(observed_peer(&backend, 2).endpoint, Some(endpoint(2)));
}

#[test]
fn a_restarted_daemon_adopts_what_is_right_and_trusts_a_living_session() {
    let (backend, mut reconciler) = bed();
    reconciler.reconcile(&two_sites());
    {
        let mut state = backend.state();
        let peer = state.tunnels.get_mut(&tunnel(0, 0)).expect("there").peers.get_mut(&[2; 32]).expect("there");
        peer.endpoint = Some(endpoint(77));
        peer.last_handshake = Some(SystemTime::now());
    }
    let mut restarted = TunnelReconciler::new(Box::new(backend.clone()));
    assert_eq!(restarted.reconcile(&two_sites()).changes, 0);
    assert_eq!(observed_peer(&backend, 2).endpoint, Some(endpoint(77)));
}

#[test]
fn a_prefix_that_moves_between_sites_is_never_without_one() {
    let (backend, mut reconciler) = bed();
    reconciler.reconcile(&two_sites());
    let mut desired = two_sites();
    change_peer(&mut desired, 2, |peer| peer.allowed_ips.clear());
    change_peer(&mut desired, 3, |peer| peer.allowed_ips.push("10.2.0.0/24".parse().expect("a prefix")));
    reconciler.reconcile(&desired);
    let peers = backend.state().changes.last().expect("a change").peers.clone();
    assert_eq!(peers.len(), 1, "the former owner loses it without being told: {peers:?}");
    assert!(matches!(peers[0].allowed_ips, AllowedIps::Add(_)));
    assert!(observed_peer(&backend, 2).allowed_ips.is_empty());
    assert_eq!(observed_peer(&backend, 3).allowed_ips.len(), 2);
}

#[test]
fn a_key_that_replaces_another_is_added_before_the_old_one_goes() {
    let (backend, mut reconciler) = bed();
    reconciler.reconcile(&two_sites());
    let mut desired = two_sites();
    let wanted = desired.tunnels.get_mut(&tunnel(0, 0)).expect("there");
    let rotated = wanted.peers.remove(&[2; 32]).expect("there");
    wanted.peers.insert([22; 32], rotated);
    reconciler.reconcile(&desired);
    let peers = backend.state().changes.last().expect("a change").peers.clone();
    let order: Vec<_> = peers.iter().map(|peer| (peer.public_key[0], peer.remove)).collect();
    assert_eq!(order, [(22, false), (2, true)]);
}

#[test]
fn a_tunnel_that_fails_keeps_no_other_from_coming_up_and_says_why() {
    let (backend, mut reconciler) = bed();
    let mut desired = two_sites();
    let second = desired.tunnels[&tunnel(0, 0)].clone();
    desired.tunnels.insert(tunnel(1, 0), second);
    backend.state().fail_after = Some(2);
    let report = reconciler.reconcile(&desired);
    assert_eq!(report.tunnels[&tunnel(0, 0)].error, None);
    let error = report.tunnels[&tunnel(1, 0)].error.as_deref().expect("an error");
    assert!(error.contains("sdw1-0"), "{error}");
}

#[test]
fn a_half_made_interface_is_made_anew_or_removed() {
    let (backend, mut reconciler) = bed();
    backend.state().half_made = vec![tunnel(0, 0), tunnel(5, 5)];
    reconciler.reconcile(&two_sites());
    let state = backend.state();
    assert!(state.half_made.is_empty());
    assert_eq!(state.tunnels.keys().copied().collect::<Vec<_>>(), [tunnel(0, 0)]);
}

#[test]
fn debug_output_has_no_private_key() {
    let mut desired = two_sites();
    desired.private_key = [0xab; 32];
    let text = format!("{desired:?} {:?}", TunnelChange { private_key: Some([0xab; 32]), ..TunnelChange::default() });
    assert!(!text.contains("171") && !text.contains("abab"), "{text}");
}

fn peers() -> impl Strategy<Value = BTreeMap<[u8; 32], PeerDesired>> {
    let prefix = (0..6_u8).prop_map(|number| IpNet::from(std::net::IpAddr::from([10, number, 0, 0])));
    let peer = (
        0..4_u8,
        proptest::option::of(0..3_u8),
        proptest::collection::vec(prefix, 0..4),
        proptest::option::of(0..30_u16),
    );
    let peer = peer.prop_map(|(site, at, allowed_ips, keepalive)| PeerDesired {
        site: SiteId([site; 16]),
        endpoint: at.map(endpoint),
        allowed_ips,
        keepalive,
    });
    proptest::collection::btree_map((0..5_u8).prop_map(|key| [key; 32]), peer, 0..5)
}

fn desired() -> impl Strategy<Value = DesiredTunnels> {
    let key = (0..2_u8, 0..2_u8).prop_map(|(local, remote)| tunnel(local, remote));
    let wanted = (1..3_u16, 0..2_u32, 1280..1283_u16, peers())
        .prop_map(|(listen_port, fwmark, mtu, peers)| TunnelDesired { listen_port, fwmark, mtu, peers });
    let tunnels = proptest::collection::btree_map(key, wanted, 0..4);
    (1..3_u8, tunnels).prop_map(|(key, tunnels)| DesiredTunnels { private_key: [key; 32], tunnels })
}

/// Port, mark, MTU, and the prefixes of each peer.
type Outcome = (u16, u32, u16, BTreeMap<[u8; 32], BTreeSet<IpNet>>);

/// What is there, without what comes and goes by itself.
fn outcome(backend: &FakeBackend) -> BTreeMap<TunnelKey, Outcome> {
    let state = backend.state();
    let tunnels = state.tunnels.iter().map(|(tunnel, there)| {
        let peers = there.peers.iter().map(|(key, peer)| (*key, peer.allowed_ips.clone())).collect();
        (*tunnel, (there.listen_port, there.fwmark, there.mtu, peers))
    });
    tunnels.collect()
}

proptest! {
    #[test]
    fn reconciling_twice_is_reconciling_once(before in desired(), after in desired()) {
        let (backend, mut reconciler) = bed();
        reconciler.reconcile(&before);
        reconciler.reconcile(&after);
        let steps = backend.state().steps;
        let report = reconciler.reconcile(&after);
        prop_assert_eq!(report.changes, 0);
        prop_assert_eq!(backend.state().steps, steps);
    }

    #[test]
    fn a_crash_in_the_middle_is_mended_by_the_next_run(before in desired(), after in desired(), steps in 0..12_usize) {
        let (clean, mut reconciler) = bed();
        reconciler.reconcile(&after);

        let (crashed, mut reconciler) = bed();
        reconciler.reconcile(&before);
        let done = crashed.state().steps;
        crashed.state().fail_after = Some(done + steps);
        reconciler.reconcile(&after);
        crashed.state().fail_after = None;
        let report = TunnelReconciler::new(Box::new(crashed.clone())).reconcile(&after);
        prop_assert!(report.tunnels.values().all(|status| status.error.is_none()));
        prop_assert_eq!(outcome(&crashed), outcome(&clean));
    }
}
