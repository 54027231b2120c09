//! The daemon's memory grows with paths, and with nothing else: counted by the allocator, so the same on every machine.

use std::time::Duration;

use sdwan::engine::settings::Settings;
use sdwan_tests::engine::counting::Counting;
use sdwan_tests::engine::memory::measure;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What one path may take, bytes.
const BOUND: f64 = 4096.0;

/// One test: the allocator counts for the whole process.
#[test]
fn a_path_takes_at_most_four_kib_whatever_its_pace() {
    // 100 paths at the default pace, the same in the fast profile, and more than the budget is enough for.
    let default = Settings { idle_interval: Duration::from_millis(50), ..Settings::default() };
    let fast = Settings {
        probe_interval: Duration::from_millis(10),
        idle_interval: Duration::from_millis(10),
        probe_budget: 20_000,
        ..Settings::default()
    };
    let scarce = Settings { probe_budget: 400, ..Settings::default() };
    for (name, sites, settings, minutes) in
        [("default", 25, default, 20), ("fast", 25, fast, 4), ("scarce", 250, scarce, 40)]
    {
        let memory = measure(sites, settings, Duration::from_secs(60 * minutes)).expect("the mesh can be made");
        println!("{name}: {memory:?}");
        assert!(memory.engine > 1_000.0, "{name}: the allocator counts: {memory:?}");
        assert!(memory.whole() <= BOUND, "{name}: {memory:?}");
    }
}
