//! Duplicate mode: which paths have room for copies.

use super::*;

/// Uplinks of 100 and 10 Mbit/s; voice in duplicate mode.
fn world() -> World {
    let mut policies = default_policies();
    policies[0].mode = Mode::Duplicate;
    let mut world = World::new(1, policies);
    let declared = |number, rate| LocalUplink { rate_up: Some(rate), ..local_uplink(number) };
    world.engine.handle(Input::Uplinks(vec![declared(0, 100_000_000), declared(1, 10_000_000)]), world.now);
    world.run(ms(5_000));
    world.engine.take_changes();
    world
}

/// What the four paths carry, bit/s.
fn load(world: &mut World, loads: [(TunnelKey, u64); 4]) {
    let loads = loads.map(|(tunnel, load)| (PathKey { site: site_id(1), tunnel }, load));
    world.engine.handle(Input::Load(loads.into()), world.now);
}

fn full(world: &World, class: usize) -> BTreeSet<TunnelKey> {
    let site = world.engine.site(&site_id(1)).expect("the site is active");
    site.sets()[class].candidates().iter().filter(|path| path.full).map(|path| path.tunnel).collect()
}

#[test]
fn the_paths_of_a_line_that_is_nearly_full_take_no_copies() {
    let mut world = world();
    // Neither path is full by itself, and their line is.
    let busy =
        [(tunnel(0, 0), 50_000_000), (tunnel(0, 1), 10_000_000), (tunnel(1, 0), 5_000_000), (tunnel(1, 1), 4_000_000)];
    load(&mut world, busy);
    let changes = world.engine.take_changes();
    assert!(changes.sets.contains(&(site_id(1), VOICE)), "the data path is told: {:?}", changes.sets);
    assert_eq!(full(&world, usize::from(VOICE)), BTreeSet::from([tunnel(1, 0), tunnel(1, 1)]));
    assert!(full(&world, 1).is_empty(), "a class in another mode has no copies, and its flows need not decide anew");
    assert!(!changes.sets.contains(&(site_id(1), 1)), "{:?}", changes.sets);

    // Less load, and some patience.
    let quiet = busy.map(|(tunnel, load)| (tunnel, load / 2));
    load(&mut world, quiet);
    assert_eq!(full(&world, usize::from(VOICE)).len(), 2, "not at once");
    world.run(ms(31_000));
    load(&mut world, quiet);
    assert!(full(&world, usize::from(VOICE)).is_empty());
}

#[test]
fn a_line_of_unknown_rate_has_room() {
    let mut policies = default_policies();
    policies[0].mode = Mode::Duplicate;
    let mut world = World::new(1, policies);
    world.run(ms(5_000));
    let all = [tunnel(0, 0), tunnel(0, 1), tunnel(1, 0), tunnel(1, 1)].map(|tunnel| (tunnel, 10_000_000_000));
    load(&mut world, all);
    assert!(full(&world, usize::from(VOICE)).is_empty());
}
