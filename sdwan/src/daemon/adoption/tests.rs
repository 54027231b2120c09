use super::*;

const INACTIVE: Duration = Duration::from_secs(120);

fn at(milliseconds: u64) -> Time {
    Time(1) + Duration::from_millis(milliseconds)
}

/// A start with tunnels and without memory.
fn regaining() -> Phase {
    Phase::after_recall(true, false, 0, INACTIVE, at(0))
}

#[test]
fn without_tunnels_or_with_a_memory_nothing_is_regained() {
    assert_eq!(Phase::after_recall(false, false, 0, INACTIVE, at(0)), Phase::Running);
    assert_eq!(Phase::after_recall(true, true, 2, INACTIVE, at(0)), Phase::Settling(at(1_000)));
    assert!(matches!(Phase::after_recall(true, true, 0, INACTIVE, at(0)), Phase::Regaining(_)));
    assert!(matches!(Phase::after_recall(true, false, 2, INACTIVE, at(0)), Phase::Regaining(_)));
}

#[test]
fn a_state_without_sites_is_published_only_when_they_would_be_inactive_anyway() {
    let mut phase = regaining();
    for second in 0..120 {
        phase = phase.next(0, true, at(second * 1_000));
        assert!(!phase.knows_sites(), "{second} s");
        assert_eq!(phase.until(), Some(at(120_000)));
    }
    assert_eq!(phase.next(0, true, at(120_000)), Phase::Running);
}

#[test]
fn who_is_heard_gives_the_others_as_much_time_again() {
    let mut phase = regaining();
    for (heard, sites) in [(20_000, 1), (24_999, 2), (29_998, 3)] {
        phase = phase.next(sites, false, at(heard));
        assert_eq!(phase.until(), Some(at(heard + 5_000)));
    }
    // Paths that are up don't say that there are no others.
    phase = phase.next(3, true, at(34_997));
    assert!(!phase.knows_sites());
    phase = phase.next(3, true, at(34_998));
    assert_eq!(phase, Phase::Settling(at(35_998)));
    assert_eq!(phase.next(3, false, at(35_997)), phase);
    assert_eq!(phase.next(3, true, at(35_997)), Phase::Running);
    assert_eq!(phase.next(3, false, at(35_998)), Phase::Running);
}

#[test]
fn a_mesh_in_which_somebody_new_is_always_heard_is_taken_over_nevertheless() {
    let mut phase = regaining();
    for second in 0..120 {
        phase = phase.next(second as usize, false, at(second * 1_000));
        assert!(!phase.knows_sites(), "{second} s");
    }
    assert!(phase.next(120, false, at(120_000)).knows_sites());
}

#[test]
fn what_was_saved_of_a_memory_is_completed_like_one_that_was_lost() {
    let phase = Phase::after_recall(true, false, 2, INACTIVE, at(0));
    assert_eq!(phase.until(), Some(at(5_000)));
    let phase = phase.next(3, false, at(4_000));
    assert_eq!(phase.until(), Some(at(9_000)));
    // Who leaves meanwhile is no news.
    assert_eq!(phase.next(2, false, at(8_000)).until(), Some(at(9_000)));
}
