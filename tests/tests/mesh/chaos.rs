//! A short stretch of what `cargo xtask bench chaos` does for as long as you like.

use std::time::Duration;

use sdwan_tests::chaos;
use sdwan_tests::needs_bed;

/// Another seed to run instead.
const VARIABLE: &str = "SDWAN_CHAOS_SEED";
/// One whose first minute has nearly everything in it.
const SEED: u64 = 11;
const LENGTH: Duration = Duration::from_secs(75);

#[test]
fn every_gap_has_a_cause_that_allows_it_while_everything_goes_wrong() {
    needs_bed!();
    let seed = std::env::var(VARIABLE).map_or(SEED, |text| text.parse().expect("a seed is a number"));
    let outcome = chaos::run(seed, LENGTH, |what| println!("{what}")).expect("the faults can be made");
    println!("{outcome}");
    assert!(outcome.sent > 10_000 && !outcome.made.is_empty(), "{outcome}");
    assert!(outcome.is_good(), "{outcome}");
}
