//! A site that loses an uplink tells its peers.

use super::*;

#[test]
fn a_lost_uplink_is_told_to_each_peer_by_paths_that_are_left_and_once() {
    let mut world = World::new(3, default_policies());
    world.run(ms(5_000));
    world.engine.take_changes();
    let lost = LocalUplink { carrier: false, ..local_uplink(0) };
    world.engine.handle(Input::Uplinks(vec![lost.clone(), local_uplink(1)]), world.now);
    let notices = world.engine.take_changes().notices;
    let told: Vec<(SiteId, TunnelKey)> = notices.iter().map(|notice| (notice.path.site, notice.path.tunnel)).collect();
    let all = (1..=3).flat_map(|site| [tunnel(1, 0), tunnel(1, 1)].map(|tunnel| (site_id(site), tunnel)));
    assert_eq!(told, all.collect::<Vec<_>>());
    assert!(notices.iter().all(|notice| notice.lost == BTreeSet::from([index(0)]) && notice.number == world.now.0));
    // It is still lost, and then it is back.
    world.run(ms(100));
    for now in [LocalUplink { mtu: 1400, ..lost }, local_uplink(0)] {
        world.engine.handle(Input::Uplinks(vec![now, local_uplink(1)]), world.now);
        assert_eq!(world.engine.take_changes().notices, []);
    }
}

#[test]
fn a_peer_that_says_so_loses_the_paths_to_that_uplink_at_once_and_no_other() {
    let mut world = World::new(2, default_policies());
    world.run(ms(5_000));
    let since = world.now;
    let told = Input::UplinksLost { site: site_id(1), uplinks: BTreeSet::from([index(1)]), number: 7 };
    world.engine.handle(told.clone(), world.now);
    for (site, local, remote) in (1..=2).flat_map(|site| [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(l, r)| (site, l, r))) {
        let wanted = if (site, remote) == (1, 1) { PathState::Down } else { PathState::Up };
        assert_eq!(world.state(world.key(site, local, remote)), wanted, "site {site}, {local}-{remote}");
    }
    assert_eq!(world.first(1, VOICE).map(|tunnel| tunnel.remote), Some(index(0)));
    let changes = world.engine.take_changes();
    let why = changes.events.iter().filter(|event| event.message.contains("the peer says that its uplink is down"));
    assert_eq!(why.count(), 2);
    // The lines do live, as after a carrier that was lost for a moment: the next probes show it, and a copy of the notice
    // that took longer changes nothing.
    world.run(ms(100));
    assert_eq!(world.state(world.key(1, 0, 1)), PathState::Recovering);
    world.engine.handle(told, world.now);
    assert_eq!(world.state(world.key(1, 0, 1)), PathState::Recovering);
    world.run(ms(4_000));
    assert_eq!(world.state(world.key(1, 0, 1)), PathState::Up);
    assert!(world.moves_since(since).iter().all(|event| event.site.is_none_or(|site| site == site_id(1))));
}

#[test]
fn answers_that_were_on_their_way_do_not_bring_such_a_path_back() {
    let mut world = World::new(1, default_policies());
    let long = world.key(1, 0, 1);
    world.link(long).rtt = ms(600);
    world.run(ms(5_000));
    assert_eq!(world.state(long), PathState::Up);
    // Nothing that leaves from now on is answered; twelve answers are still to come.
    world.link(long).alive = false;
    let notice = Input::UplinksLost { site: site_id(1), uplinks: BTreeSet::from([index(1)]), number: 1 };
    world.engine.handle(notice, world.now);
    let since = world.now;
    world.run(ms(2_000));
    assert_eq!(world.state(long), PathState::Down);
    let back = |(at, event): &&(Time, EngineEvent)| *at > since && event.kind == EventKind::PathRecovering;
    assert!(!world.events.iter().any(|event| back(&event) && event.1.path == Some(long)));
    world.link(long).alive = true;
    world.run(ms(8_000));
    assert_eq!(world.state(long), PathState::Up);
}
