extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::abi::{Candidate, NO_PATH};

const GOOD: Option<CandidateState> = Some(CandidateState { usable: true, heard_ns: 0 });

fn bad(heard_ns: u64) -> Option<CandidateState> {
    Some(CandidateState { usable: false, heard_ns })
}

fn set(keep_rank: u8, candidates: &[(u32, u8, u16)]) -> PathSet {
    let mut set = PathSet { count: candidates.len() as u8, keep_rank, ..PathSet::default() };
    for (slot, (path, rank, weight)) in set.candidates.iter_mut().zip(candidates) {
        *slot = Candidate { path: *path, weight: *weight, rank: *rank, flags: 0 };
    }
    set
}

fn key(number: u32) -> FlowKey {
    let mut key = FlowKey { source_port: number as u16, destination_port: 443, protocol: 6, ..FlowKey::default() };
    key.source[12..].copy_from_slice(&(0x0a01_0000 | number >> 12).to_be_bytes());
    key.destination[12..].copy_from_slice(&0x0a02_0009u32.to_be_bytes());
    key
}

/// How many of so many flows each path gets.
fn spread(set: &PathSet, flows: u32) -> Vec<f64> {
    let mut counts = [0u32; 64];
    for number in 0..flows {
        let selection = select(set, NO_PATH, flow_hash(&key(number)), |_| GOOD).expect("all are good");
        counts[selection.path as usize] += 1;
    }
    set.candidates[..usize::from(set.count)]
        .iter()
        .map(|candidate| f64::from(counts[candidate.path as usize]))
        .collect()
}

#[test]
fn flows_spread_by_weight_within_five_percent() {
    const FLOWS: u32 = 100_000;
    let cases: [&[u16]; 6] = [&[1, 1], &[3, 1], &[1, 2, 3, 4], &[100, 10], &[1; 8], &[65_535, 32_768, 16_384, 16_384]];
    for weights in cases {
        let candidates: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (3 * n as u32, 0, *weight)).collect();
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        for (weight, count) in weights.iter().zip(spread(&set(0, &candidates), FLOWS)) {
            let expected = f64::from(FLOWS) * f64::from(*weight) / total;
            // Five percent of the share itself, not of all flows.
            assert!((count - expected).abs() < expected * 0.05, "{weights:?}: {count} instead of {expected}");
        }
    }
}

#[test]
fn a_weight_of_zero_counts_as_one() {
    let counts = spread(&set(0, &[(1, 0, 0), (2, 0, 1)]), 20_000);
    assert!((counts[0] / counts[1] - 1.0).abs() < 0.05, "{counts:?}");
}

#[test]
fn a_lower_rank_with_a_usable_path_comes_first() {
    let set = set(0, &[(1, 0, 1), (2, 1, 60_000), (3, 2, 60_000)]);
    for hash in 0..200 {
        let choose = |unusable: &[u32]| {
            let state = |path| if unusable.contains(&path) { bad(9) } else { GOOD };
            select(&set, NO_PATH, mix(hash), state).expect("a path")
        };
        assert_eq!(choose(&[]), Selection { path: 1, reason: Reason::Ranked });
        assert_eq!(choose(&[1]), Selection { path: 2, reason: Reason::Ranked });
        assert_eq!(choose(&[1, 2]).path, 3);
        assert_eq!(choose(&[1, 2, 3]).reason, Reason::LeastBad);
    }
}

#[test]
fn a_flow_keeps_a_usable_path_up_to_the_keep_rank() {
    let set = set(1, &[(1, 0, 1), (2, 1, 1), (3, 2, 1)]);
    let choose = |current| select(&set, current, 5, |_| GOOD).expect("a path");
    assert_eq!(choose(2), Selection { path: 2, reason: Reason::Kept });
    assert_eq!(choose(1), Selection { path: 1, reason: Reason::Kept });
    assert_eq!(choose(3), Selection { path: 1, reason: Reason::Ranked }, "beyond the keep rank");
    assert_eq!(choose(9), Selection { path: 1, reason: Reason::Ranked }, "no candidate any more");
    let unusable = select(&set, 2, 5, |path| if path == 2 { bad(1) } else { GOOD }).expect("a path");
    assert_eq!(unusable.path, 1);
}

#[test]
fn the_least_bad_path_is_the_one_heard_last_with_a_margin_for_the_flows_own() {
    let set = set(0, &[(1, 0, 1), (2, 1, 1), (3, 1, 1)]);
    let choose = |current, heard: [u64; 3]| {
        let selection = select(&set, current, 5, |path| bad(heard[path as usize - 1])).expect("a path");
        assert_eq!(selection.reason, Reason::LeastBad);
        selection.path
    };
    assert_eq!(choose(NO_PATH, [0, 0, 0]), 1, "none was ever heard: the best rank");
    assert_eq!(choose(NO_PATH, [5, 7, 6]), 2);
    assert_eq!(choose(1, [5, 5 + LEAST_BAD_MARGIN_NS, 0]), 1);
    assert_eq!(choose(1, [5, 6 + LEAST_BAD_MARGIN_NS, 0]), 2);
    assert_eq!(choose(3, [u64::MAX, 0, u64::MAX]), 3, "no overflow");
}

#[test]
fn an_empty_set_or_one_of_strangers_selects_nothing() {
    assert_eq!(select(&set(0, &[]), NO_PATH, 1, |_| GOOD), None);
    assert_eq!(select(&set(0, &[(1, 0, 1), (2, 0, 1)]), 1, 1, |_| None), None);
    assert_eq!(
        select(&set(0, &[(1, 0, 1), (2, 0, 1)]), 1, 1, |path| if path == 2 { GOOD } else { None })
            .map(|found| found.path),
        Some(2)
    );
}

#[test]
fn a_count_beyond_the_candidates_is_no_overrun() {
    let mut many = set(0, &[(1, 0, 1)]);
    many.count = 255;
    assert!(select(&many, NO_PATH, 1, |path| if path == 1 { GOOD } else { None }).is_some());
}

#[test]
fn the_logarithm_is_within_its_error_bound_and_falls() {
    let error = |value: u32| {
        let exact = 32.0 - (f64::from(value) + 1.0).log2();
        (f64::from(negative_log2(value)) / 65_536.0 - exact).abs()
    };
    let mut worst: f64 = 0.0;
    for step in 0..200_000u32 {
        worst = worst.max(error(step.wrapping_mul(21_474)));
        worst = worst.max(error(step));
    }
    worst = worst.max(error(u32::MAX));
    assert!(worst < 0.001, "{worst}");
    let mut last = u32::MAX;
    for step in 0..100_000u32 {
        let cost = negative_log2(step * 42_949);
        assert!(cost <= last && cost >= 1, "at {step}");
        last = cost;
    }
}

#[test]
fn every_bit_of_a_key_changes_the_hash() {
    let base = key(7);
    for byte in 0..16 {
        for bit in 0..8 {
            let (mut one, mut other) = (base, base);
            one.source[byte] ^= 1 << bit;
            other.destination[byte] ^= 1 << bit;
            assert_ne!(flow_hash(&one), flow_hash(&base));
            assert_ne!(flow_hash(&other), flow_hash(&base));
            assert_ne!(flow_hash(&one), flow_hash(&other));
        }
    }
    assert_ne!(flow_hash(&FlowKey { protocol: 17, ..base }), flow_hash(&base));
    assert_ne!(flow_hash(&FlowKey { source_port: 8, ..base }), flow_hash(&base));
    assert_ne!(flow_hash(&FlowKey { destination_port: 80, ..base }), flow_hash(&base));
}

proptest! {
    #[test]
    fn the_loss_of_a_path_moves_only_its_own_flows(
        weights in prop::collection::vec(1u16.., 2..=MAX_CANDIDATES),
        lost in any::<prop::sample::Index>(),
        first: u32,
    ) {
        let candidates: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (n as u32, 0, *weight)).collect();
        let set = set(0, &candidates);
        let lost = lost.index(weights.len()) as u32;
        for number in 0..200u32 {
            let hash = flow_hash(&key(first.wrapping_add(number)));
            let before = select(&set, NO_PATH, hash, |_| GOOD).expect("a path").path;
            let after = select(&set, NO_PATH, hash, |path| if path == lost { bad(0) } else { GOOD }).expect("a path").path;
            prop_assert!(after != lost);
            prop_assert!(before == after || before == lost);
        }
    }

    #[test]
    fn the_order_of_candidates_in_a_rank_does_not_matter(weights in prop::collection::vec(1u16.., 2..=MAX_CANDIDATES), hash: u32) {
        let mut candidates: Vec<_> = weights.iter().enumerate().map(|(n, weight)| (n as u32, 0, *weight)).collect();
        let one = select(&set(0, &candidates), NO_PATH, hash, |_| GOOD);
        candidates.reverse();
        prop_assert_eq!(one, select(&set(0, &candidates), NO_PATH, hash, |_| GOOD));
    }

    #[test]
    fn a_selection_is_a_candidate_and_usable_when_one_is(
        candidates in prop::collection::vec((0u32..20, 0u8..4, any::<u16>()), 0..=MAX_CANDIDATES),
        states in prop::collection::vec((any::<bool>(), any::<bool>(), any::<u64>()), 20),
        current in 0u32..22,
        keep_rank in 0u8..4,
        hash: u32,
    ) {
        let state = |path: u32| {
            let (exists, usable, heard_ns) = states[path as usize];
            exists.then_some(CandidateState { usable, heard_ns })
        };
        let all: Vec<_> = candidates.iter().filter_map(|candidate| Some((candidate, state(candidate.0)?))).collect();
        match select(&set(keep_rank, &candidates), current, hash, state) {
            None => prop_assert!(all.is_empty()),
            Some(found) => {
                prop_assert!(all.iter().any(|(candidate, _)| candidate.0 == found.path));
                let usable: Vec<_> = all.iter().filter(|(_, state)| state.usable).collect();
                prop_assert_eq!(found.reason == Reason::LeastBad, usable.is_empty());
                if found.reason == Reason::Ranked {
                    let best = usable.iter().map(|(candidate, _)| candidate.1).min();
                    prop_assert!(usable.iter().any(|(candidate, _)| candidate.0 == found.path && Some(candidate.1) == best));
                }
                if found.reason == Reason::Kept {
                    prop_assert_eq!(found.path, current);
                }
            }
        }
    }
}

/// Uplinks of four paths between two sites of two uplinks each, as (local, remote).
const UPLINKS: [(u8, u8); 4] = [(0, 0), (0, 1), (1, 0), (1, 1)];

fn second(set: &PathSet, first: u32, usable: [bool; 4]) -> Option<u32> {
    let uplinks = |path: u32| UPLINKS[path as usize];
    select_second(set, first, |path| Some(SecondState::new(usable[path as usize], uplinks(path), uplinks(first))))
}

#[test]
fn copies_take_the_path_that_shares_no_uplink() {
    let set = set(0, &[(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    assert_eq!(second(&set, 0, [true; 4]), Some(3));
    assert_eq!(second(&set, 1, [true; 4]), Some(2));
    assert_eq!(second(&set, 0, [true, true, true, false]), Some(1), "the better of those that share one");
    assert_eq!(second(&set, 0, [true, false, false, false]), None);
}

#[test]
fn copies_leave_out_a_path_without_room_and_the_flows_own() {
    let mut set = set(0, &[(0, 0, 1), (3, 1, 1), (1, 2, 1)]);
    set.candidates[1].flags = candidate_flag::FULL;
    assert_eq!(second(&set, 0, [true; 4]), Some(1));
    set.candidates[2].flags = candidate_flag::FULL;
    assert_eq!(second(&set, 0, [true; 4]), None);
}

#[test]
fn the_same_lines_twice_are_no_second_way() {
    let set = set(0, &[(0, 0, 1), (1, 1, 1)]);
    let answer = select_second(&set, 0, |_| Some(SecondState { usable: true, shared: 2 }));
    assert_eq!(answer, None);
}
