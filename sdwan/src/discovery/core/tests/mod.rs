mod net;

use std::net::SocketAddr;
use std::time::Duration;

use self::net::Net;
use crate::discovery::core::{Core, Identity};
use crate::discovery::types::{DiscoveryConfig, DiscoveryEvent, PORT, Removal};
use crate::trust::announcement;
use crate::trust::fixtures::{self, LIFE, Site, T0, at};
use crate::trust::keys::{IdentityKey, Secret};
use crate::trust::persist::MemoryStore;
use crate::trust::revocation::{RevocationList, Revoked};
use crate::trust::verifier::Refusal;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

#[test]
fn three_sites_find_each_other_by_multicast_within_a_second() {
    let mut net = Net::by_multicast(3);
    let took = net.run_until(secs(10), Net::is_complete).expect("they find each other");
    assert!(took < secs(1), "{took:?}");
    net.run(secs(300));
    assert!(net.is_complete());
    assert_eq!(net.all_refused(), 0);
}

#[test]
fn three_sites_find_each_other_by_one_seed_before_any_tunnel_is_up() {
    let mut net = Net::by_seed(3);
    net.tunnels = false;
    let took = net.run_until(secs(10), Net::is_complete).expect("they find each other");
    assert!(took < secs(1), "{took:?}");
    net.run(secs(600));
    assert!(net.is_complete(), "and stay so without tunnels");
    assert_eq!(net.all_refused(), 0);
}

#[test]
fn a_chain_of_seeds_is_enough() {
    let mut net = Net::new();
    for number in 1..=6u8 {
        let seed = [number.saturating_sub(1)];
        net.add(number, false, if number == 1 { &[] } else { &seed });
    }
    let took = net.run_until(secs(10), Net::is_complete).expect("they find each other");
    assert!(took < secs(2), "{took:?}");
}

#[test]
fn two_lans_joined_by_one_site_become_one_mesh() {
    let mut net = Net::by_multicast(3);
    // These two hear no multicast; one of them knows a site of the LAN.
    net.add(4, false, &[2]);
    net.add(5, false, &[4]);
    let took = net.run_until(secs(10), Net::is_complete).expect("they find each other");
    assert!(took < secs(2), "{took:?}");
}

#[test]
fn sites_that_start_one_after_the_other_do_not_wait_for_the_interval() {
    for by_multicast in [true, false] {
        let mut net = if by_multicast { Net::by_multicast(1) } else { Net::by_seed(1) };
        for number in 2..=5 {
            net.run(secs(47));
            net.add(number, by_multicast, if by_multicast { &[] } else { &[1] });
            let took = net.run_until(secs(10), Net::is_complete).expect("the newcomer is found");
            assert!(took < secs(1), "{took:?}");
        }
    }
}

#[test]
fn a_third_of_all_datagrams_may_be_lost() {
    for by_multicast in [true, false] {
        let mut net = if by_multicast { Net::by_multicast(4) } else { Net::by_seed(4) };
        net.loss = 0.33;
        let took = net.run_until(secs(30), Net::is_complete).expect("they find each other");
        assert!(took < secs(6), "{took:?}");
        net.run(secs(1_200));
        assert!(net.is_complete(), "nobody is given up");
        let ups_and_downs = net
            .nodes
            .iter()
            .flat_map(|node| &node.events)
            .filter(|(_, event)| matches!(event, DiscoveryEvent::Inactive { .. }));
        assert_eq!(ups_and_downs.count(), 0);
    }
}

#[test]
fn a_change_reaches_everybody_at_once_and_as_one_announcement() {
    let mut net = Net::by_seed(4);
    net.run(secs(10));
    let before = net.nodes[3].store.next_own();
    let wire_before = net.wire.len();
    for mtu in 1_300..1_310 {
        let now = net.moment();
        let mut local = net.nodes[3].site.local.clone();
        local.uplinks[0].mtu = mtu;
        net.nodes[3].core.set_local(now, local);
        net.settle(3);
        net.run(millis(3));
    }
    let id = net.nodes[3].site.id();
    let everywhere = |net: &Net| {
        net.nodes[..3].iter().all(|node| node.core.site(id).is_some_and(|site| site.uplinks[0].mtu == 1_309))
    };
    let took = net.run_until(secs(5), everywhere).expect("the change arrives");
    assert!(took < millis(100), "{took:?}");
    assert_eq!(net.nodes[3].store.next_own(), before);
    let distinct: std::collections::BTreeSet<_> =
        net.wire[wire_before..].iter().filter(|(from, _)| *from == 3).map(|(_, bytes)| bytes.clone()).collect();
    let own = |bytes: &[u8]| bytes.windows(32).any(|part| part == net.nodes[3].site.key.public().as_bytes());
    assert_eq!(distinct.iter().filter(|bytes| own(bytes)).count(), 1, "ten changes, one announcement");
}

#[test]
fn a_leave_message_is_known_everywhere_at_once() {
    let mut net = Net::by_seed(4);
    net.run(secs(10));
    let now = net.moment();
    net.nodes[2].core.leave(now);
    net.settle(2);
    net.kill(2);
    let took = net.run_until(secs(10), Net::is_complete).expect("everybody knows");
    assert!(took < millis(100), "{took:?}");
    let id = net.nodes[2].site.id();
    for index in [0, 1, 3] {
        assert!(net.nodes[index].events.iter().any(|(_, event)| *event == DiscoveryEvent::Left { site: id }));
    }
    net.run(secs(300));
    assert!(net.is_complete(), "nobody brings it back");
    net.restart(2);
    let took = net.run_until(secs(10), Net::is_complete).expect("it comes back");
    assert!(took < secs(1), "{took:?}");
}

#[test]
fn a_site_that_dies_is_inactive_after_two_minutes() {
    let mut net = Net::by_multicast(3);
    net.run(secs(20));
    net.kill(1);
    assert_eq!(net.run_until(secs(89), |net| !net.knows(0, 1) || !net.knows(2, 1)), None);
    let took = net.run_until(secs(60), Net::is_complete).expect("it is given up");
    assert!(took <= secs(122 - 89), "{took:?}");
    let id = net.nodes[1].site.id();
    assert!(net.nodes[0].events.iter().any(|(_, event)| *event == DiscoveryEvent::Inactive { site: id }));
}

#[test]
fn islands_give_each_other_up_and_find_each_other_again_without_the_seed() {
    let mut net = Net::by_seed(4);
    net.run(secs(10));
    net.islands = [(2, 1), (3, 1)].into();
    net.run(secs(200));
    assert!(!net.knows(0, 2) && !net.knows(3, 1) && net.knows(0, 1) && net.knows(2, 3));
    // The seed is gone for good; what the others remember of each other must do.
    net.kill(0);
    net.islands.clear();
    net.run(secs(130));
    let took = net.run_until(secs(60), Net::is_complete);
    assert!(took.is_some(), "they find each other again");
}

#[test]
fn a_restart_does_not_wait_for_discovery_and_never_reuses_a_number() {
    let mut net = Net::by_multicast(3);
    net.run(secs(100));
    net.kill(1);
    net.run(secs(3));
    net.restart(1);
    assert!(net.nodes[1].active.len() == 2, "remembered at once");
    net.run(secs(100));
    assert!(net.is_complete());
    assert_eq!(net.all_refused(), 0, "no number was used twice");
}

#[test]
fn a_site_that_lost_its_store_catches_up_with_its_own_numbers() {
    let mut net = Net::by_seed(3);
    net.run(secs(100));
    net.kill(1);
    net.nodes[1].store = MemoryStore::default();
    // Its WireGuard key is new as well, so that the others must hear from it.
    net.nodes[1].site.local.wireguard_key = [77; 32];
    net.restart(1);
    let id = net.nodes[1].site.id();
    let heard = |net: &Net| {
        [0, 2].iter().all(|index| net.nodes[*index].core.site(id).is_some_and(|site| site.wireguard_key == [77; 32]))
    };
    let took = net.run_until(secs(30), heard).expect("the others accept it again");
    assert!(took < secs(2), "{took:?}");
    assert!(net.nodes[1].events.iter().any(|(_, event)| matches!(event, DiscoveryEvent::OwnIdentityElsewhere { .. })));
}

#[test]
fn a_site_that_lost_its_store_right_after_its_first_start_does_not_wait_for_its_next_number() {
    let mut net = Net::by_multicast(2);
    net.run(secs(6));
    net.kill(1);
    net.nodes[1].store = MemoryStore::default();
    net.nodes[1].site.local.wireguard_key = [77; 32];
    net.restart(1);
    let id = net.nodes[1].site.id();
    let heard = |net: &Net| net.nodes[0].core.site(id).is_some_and(|site| site.wireguard_key == [77; 32]);
    let took = net.run_until(secs(30), heard).expect("the other accepts it again");
    assert!(took < secs(2), "{took:?}");
}

#[test]
fn a_site_that_lost_its_store_is_told_about_the_others_at_once() {
    for (by_multicast, loss) in [(true, 0.0), (false, 0.0), (true, 0.2), (false, 0.2)] {
        for after in [8, 100] {
            let mut net = if by_multicast { Net::by_multicast(4) } else { Net::by_seed(4) };
            // What it was a member of doesn't notice that it is away, and so doesn't greet it when it is back.
            net.run(secs(after));
            net.kill(2);
            net.nodes[2].store = MemoryStore::default();
            net.loss = loss;
            net.restart(2);
            assert!(net.nodes[2].active.is_empty());
            let took = net.run_until(secs(30), Net::is_complete).expect("it knows the others again");
            assert!(took < secs(if loss > 0.0 { 5 } else { 1 }), "{by_multicast}, {loss}, {after}: {took:?}");
        }
    }
}

#[test]
fn old_announcements_that_somebody_repeats_make_nobody_talk() {
    let mut net = Net::by_multicast(3);
    net.run(secs(100));
    let recorded: Vec<_> = net.wire.iter().filter(|(from, _)| *from == 1).map(|(_, bytes)| bytes.clone()).collect();
    let sent = |net: &Net| net.nodes[0].sent;
    let before = sent(&net);
    net.run(secs(60));
    let usual = sent(&net) - before;
    let before = sent(&net);
    let address = SocketAddr::new(Site::underlay_of(2), PORT).to_string();
    for _ in 0..60 {
        net.inject(0, &address, &recorded[0]);
        net.run(secs(1));
    }
    // Each is answered by the newer one, and what its owner says next by a greeting.
    let more = (sent(&net) - before).saturating_sub(usual);
    assert!(more < 60 + 40, "{more} datagrams more than {usual}");
}

#[test]
fn two_machines_with_one_identity_do_not_drive_each_other() {
    let mut net = Net::by_multicast(2);
    net.run(secs(5));
    let twin = net.add(1, true, &[]);
    net.run(secs(120));
    for index in [0, twin] {
        assert!(net.nodes[index].sent < 150, "{} datagrams in two minutes", net.nodes[index].sent);
        let told = net.nodes[index].events.iter();
        assert!(told.clone().any(|(_, event)| matches!(event, DiscoveryEvent::OwnIdentityElsewhere { .. })));
    }
}

#[test]
fn a_recorded_announcement_brings_nobody_back() {
    let mut net = Net::by_multicast(3);
    net.run(secs(5));
    let recorded: Vec<_> = net.wire.iter().filter(|(from, _)| *from == 1).map(|(_, bytes)| bytes.clone()).collect();
    let now = net.moment();
    net.nodes[1].core.leave(now);
    net.settle(1);
    net.kill(1);
    net.run(secs(1));
    let events = net.nodes[0].events.len();
    for bytes in &recorded {
        net.inject(0, "203.0.113.9:51821", bytes);
    }
    net.run(secs(1));
    assert!(!net.knows(0, 1));
    assert!(net.refused(0, Refusal::Replayed) > 0);
    let told = &net.nodes[0].events[events..];
    assert!(told.iter().all(|(_, event)| matches!(event, DiscoveryEvent::Refused { .. })), "{told:?}");
}

#[test]
fn whatever_is_refused_changes_nothing_and_is_told_within_bounds() {
    let mut net = Net::by_multicast(2);
    net.run(secs(10));
    let (stored, events) = (net.nodes[0].store.clone(), net.nodes[0].events.len());
    let stored = format!("{stored:?}");
    let mut site = Site::new(9);
    let good = site.announce(1, net.moment());
    let mut flipped = good.clone();
    flipped[300] ^= 4;
    let unsigned = [&good[..good.len() - 64], &[0; 64]].concat();
    let mut other_mesh = good.clone();
    other_mesh[6] ^= 1;
    site.certificate = Site::certify(&site.key, 9, site.local.prefixes.clone(), T0 - 20, T0 - 10);
    let expired = site.announce(1, net.moment());
    let bad = [&vec![7; 1_201][..], &good[..100], &other_mesh, &unsigned, &flipped, &expired, b"x"];
    let sent = net.nodes[0].sent;
    for round in 0..1_000u32 {
        for datagram in bad {
            net.inject(0, &format!("203.0.113.{}:9", round % 2), datagram);
        }
        net.run(millis(2));
    }
    assert!(net.nodes[0].sent - sent <= 2, "strangers get no answer");
    assert_eq!(net.nodes[0].active.len(), 1);
    assert_eq!(format!("{:?}", net.nodes[0].store), stored);
    let told = &net.nodes[0].events[events..];
    // Two seconds, two sources, at most six reasons.
    assert!(told.len() <= 2 * 8 * 3, "{} events", told.len());
    let counted: u64 = told
        .iter()
        .map(|(_, event)| match event {
            DiscoveryEvent::Refused { count, .. } => *count,
            other => panic!("{other:?}"),
        })
        .sum();
    net.run(secs(3));
    let late: u64 = net.nodes[0].events[events + told_len(&net, events, counted)..]
        .iter()
        .map(|(_, event)| if let DiscoveryEvent::Refused { count, .. } = event { *count } else { 0 })
        .sum();
    assert_eq!(counted + late, 7_000, "every refusal is counted in an event");
    assert_eq!(net.all_refused(), 7_000);
}

/// How many of the events after `from` make up this count.
fn told_len(net: &Net, from: usize, mut count: u64) -> usize {
    let mut length = 0;
    for (_, event) in &net.nodes[0].events[from..] {
        if count == 0 {
            break;
        }
        if let DiscoveryEvent::Refused { count: part, .. } = event {
            count -= part;
        }
        length += 1;
    }
    length
}

#[test]
fn a_revocation_given_to_one_site_reaches_all_and_removes_the_revoked() {
    let mut net = Net::by_seed(5);
    net.run(secs(20));
    let id = net.nodes[4].site.id();
    let mut list = RevocationList::default();
    list.revoke(Revoked::Site(id), T0, &fixtures::authority()).unwrap();
    let now = net.moment();
    net.nodes[1].core.add_revocations(now, &list);
    net.settle(1);
    let removed = |net: &Net| (0..4).all(|index| !net.knows(index, 4));
    let took = net.run_until(secs(10), removed).expect("all remove it");
    assert!(took < millis(200), "{took:?}");
    for node in &net.nodes[..4] {
        let event = DiscoveryEvent::Removed { site: id, why: Removal::Revoked };
        assert!(node.events.iter().any(|(_, told)| *told == event));
    }
    assert!(net.nodes[4].events.iter().any(|(_, event)| *event == DiscoveryEvent::OwnCertificateRevoked));
    net.run(secs(300));
    assert!(removed(&net));
    assert!(net.refused(0, Refusal::Revoked) > 0);
    // A site that was away meanwhile learns it when it comes back, and one that restarts remembers it.
    net.add(6, false, &[1]);
    net.restart(2);
    net.run(secs(60));
    assert!(removed(&net) && !net.knows(5, 4) && !net.knows(2, 4));
}

#[test]
fn a_certificate_that_ends_removes_its_site() {
    let mut net = Net::by_multicast(2);
    net.run(secs(1));
    let now = net.moment();
    let ending = Site::certify(&net.nodes[1].site.key, 2, net.nodes[1].site.local.prefixes.clone(), T0 - 60, T0 + 100);
    net.nodes[1].core.set_certificate(now, ending);
    net.run(secs(98));
    assert!(net.knows(0, 1));
    net.run(secs(3));
    assert!(!net.knows(0, 1));
    let id = net.nodes[1].site.id();
    let event = DiscoveryEvent::Removed { site: id, why: Removal::Expired };
    assert!(net.nodes[0].events.iter().any(|(_, told)| *told == event));
    let now = net.moment();
    let renewed = net.nodes[1].site.certificate.clone();
    assert_eq!(renewed.content.not_after, T0 + LIFE);
    net.nodes[1].core.set_certificate(now, renewed);
    net.run(secs(1));
    assert!(net.knows(0, 1), "a new certificate brings it back");
}

#[test]
fn a_dozen_sites_come_up_and_stay_within_their_traffic() {
    const SITES: u64 = 12;
    for by_multicast in [true, false] {
        let mut net = if by_multicast { Net::by_multicast(SITES as u8) } else { Net::by_seed(SITES as u8) };
        let took = net.run_until(secs(20), Net::is_complete).expect("they find each other");
        assert!(took < secs(5), "{took:?}");
        net.run(secs(30));
        let before: u64 = net.nodes.iter().map(|node| node.sent).sum();
        net.wire.clear();
        net.run(secs(90));
        assert!(net.is_complete());
        let after: u64 = net.nodes.iter().map(|node| node.sent).sum();
        // Each announcement goes to each neighbour, and each receiver passes it on to at most three others.
        let per_site = (after - before) / SITES / 3;
        assert!(per_site < 4 * SITES * 3 / 2, "{per_site} datagrams per site and interval");
        // An announcement that its successor overtook on another way is refused as old; nothing else is.
        assert!(net.all_refused() * 1_000 <= after, "{} of {after} refused", net.all_refused());
    }
}

#[test]
fn a_full_disk_silences_nobody() {
    let site = Site::new(1);
    let identity = Identity {
        mesh: fixtures::mesh(),
        key: IdentityKey::from_secret(&Secret::new([1; 32])),
        certificate: site.certificate.clone(),
        revocations: RevocationList::default(),
    };
    let mut core = Core::new(identity, DiscoveryConfig::default(), 10..12, 1, at(0));
    core.set_links(at(0), [super::Link { ifindex: 1, multicast: true, seeds: false }]);
    core.set_local(at(0), site.local.clone());
    let mut sequences = Vec::new();
    let mut now = 0;
    for _ in 0..10 {
        now += 31_000;
        core.handle_timeout(at(now));
        while let Some(transmit) = core.poll_transmit() {
            let mut reader = crate::trust::wire::Reader::new(&transmit.bytes);
            let header = crate::trust::wire::Header::decode(&mut reader).unwrap();
            sequences.push(announcement::SiteMessage::decode(header, reader).unwrap().sequence);
        }
        core.store_requests();
        core.reservation_failed();
    }
    assert!(sequences.len() >= 10, "it still speaks");
    assert_eq!((sequences.iter().min(), sequences.iter().max()), (Some(&10), Some(&11)), "without a number twice");
    assert!(core.counters().announcements_delayed > 0);
    core.add_numbers(at(now), 500, 10);
    core.handle_timeout(at(now));
    assert!(core.poll_transmit().is_some());
}

#[test]
fn old_numbers_are_answered_with_no_more_than_was_sent_and_not_for_long() {
    let mut net = Net::by_multicast(2);
    let old = net.wire.iter().find(|(from, _)| *from == 1).unwrap().1.clone();
    net.run(secs(100));
    let (sent, bytes) = (net.nodes[0].sent, net.nodes[0].sent_bytes);
    for _ in 0..10_000 {
        net.inject(0, "203.0.113.1:9", &old);
    }
    let answers = net.nodes[0].sent - sent;
    assert!((1..=20).contains(&answers), "{answers} answers");
    assert!(net.nodes[0].sent_bytes - bytes <= answers * old.len() as u64);
}
