//! The runs.

use std::path::Path;

use crate::case::Case;
use crate::shrink::shrink;
use crate::{Broken, run};

/// Seeds of an ordinary run.
const SEEDS: u64 = 14;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text:?}: {error}")))
}

/// A random case of a seed: from two sites with a few faults to ten with many.
fn small(seed: u64) -> Case {
    Case::random(seed, 2 + (seed % 5) as usize, 0, 1 + seed % 9, 50_000)
}

/// Fails with the smallest case that breaks the same law.
pub fn hold(case: &Case, what: &str) -> (crate::World, crate::Laws) {
    match run(case) {
        Ok(held) => held,
        Err(broken) => {
            let law = broken.law;
            eprintln!(
                "{what}: after {} ms, not true: {law}: {}; looking for a smaller case",
                broken.at_ms, broken.what
            );
            let smaller =
                shrink(case.clone(), |case| matches!(run(case), Err(Broken { law: found, .. }) if found == law));
            let found = run(&smaller).err().unwrap_or(broken);
            let json = serde_json::to_string_pretty(&smaller).expect("a case is plain data");
            panic!("{what}: after {} ms, not true: {law}: {}\n{json}", found.at_ms, found.what);
        }
    }
}

#[test]
fn the_laws_hold_for_random_meshes_and_faults() {
    let seeds = match number("SDWAN_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SDWAN_SIM").unwrap_or(SEEDS),
    };
    let (mut packets, mut probes) = (0, 0);
    for seed in seeds {
        let (world, laws) = hold(&small(seed), &format!("seed {seed}"));
        packets += laws.packets;
        probes += world.probes;
    }
    println!("{packets} packets looked at, {probes} probes");
    assert!(packets > 0 && probes > 0);
}

#[test]
fn what_was_once_broken_holds() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/cases");
    let mut names: Vec<_> =
        std::fs::read_dir(&directory).expect("the cases").map(|entry| entry.expect("an entry").path()).collect();
    names.sort();
    assert!(!names.is_empty());
    for name in names {
        let text = std::fs::read(&name).expect("a case");
        let case: Case = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", name.display()));
        hold(&case, &name.display().to_string());
    }
}
