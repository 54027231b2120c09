use std::time::{Duration, UNIX_EPOCH};

use super::*;

fn prefixes(count: usize) -> Vec<IpNet> {
    (0..count).map(|number| IpNet::from(std::net::IpAddr::from([10, (number >> 8) as u8, number as u8, 0]))).collect()
}

#[test]
fn a_change_of_the_interface_alone_does_not_concern_wireguard() {
    assert!(device_updates(&TunnelChange { mtu: Some(1420), up: true, ..TunnelChange::default() }).is_empty());
}

#[test]
fn many_prefixes_of_one_peer_are_split_and_only_the_first_part_replaces() {
    let many = prefixes(2 * PREFIXES_PER_MESSAGE + 1);
    let change = PeerChange { allowed_ips: AllowedIps::Replace(many.clone()), ..PeerChange::none([7; 32]) };
    let parts = peer_updates(&change);
    assert_eq!(parts.len(), 3);
    let replace = peer_updates(&PeerChange { allowed_ips: AllowedIps::Replace(Vec::new()), ..change.clone() });
    assert_eq!(replace.len(), 1, "replacing by nothing is an update too");
    let found: Vec<_> = parts.into_iter().flat_map(|part| part.into_peer_config().allowed_ips).collect();
    let found: Vec<_> = found.iter().map(|ip| IpNet::new(ip.address, ip.cidr).expect("a prefix")).collect();
    assert_eq!(found, many);
    let text = format!("{:?}", device_updates(&TunnelChange { peers: vec![change], ..TunnelChange::default() }));
    assert_eq!(text.matches("replace_allowed_ips: true").count(), 1);
}

#[test]
fn a_peer_that_the_kernel_split_over_messages_is_put_together() {
    let key = wg::Key([7; 32]);
    let part = |prefix: &str, endpoint: Option<&str>, handshake: Option<u64>, bytes: u64| {
        let mut part = wg::PeerInfo::from_public_key(key.clone());
        part.config.endpoint = endpoint.map(|text| text.parse().expect("an endpoint"));
        part.config.allowed_ips = vec![prefix.parse().expect("a prefix")];
        part.stats.last_handshake_time = handshake.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        part.stats.rx_bytes = bytes;
        part
    };
    let parts = [part("10.0.0.0/24", Some("192.0.2.1:51820"), Some(9), 5), part("10.0.1.0/24", None, None, 0)];
    let mut peers: BTreeMap<[u8; 32], ObservedPeer> = BTreeMap::new();
    for part in parts {
        merge(&mut peers, part);
    }
    let peer = &peers[&[7; 32]];
    assert_eq!((peers.len(), peer.allowed_ips.len(), peer.received_bytes), (1, 2, 5));
    assert_eq!(peer.last_handshake, Some(UNIX_EPOCH + Duration::from_secs(9)));
    assert!(peer.endpoint.is_some());
}

#[test]
fn a_port_is_found_in_the_kernels_table_whatever_address_it_is_bound_to() {
    let table = "   sl  local_address rem_address   st tx_queue\n\
                 41: 00000000:CA6C 00000000:0000 07 00000000:00000000\n\
                 42: 0100007F:0035 00000000:CA6D 07 00000000:00000000\n";
    assert!(lists_port(table, 51820) && lists_port(table, 53));
    assert!(!lists_port(table, 51821), "a remote port is nobody's");
}
