use super::*;

fn call(delay_ms: u64, loss: f64) -> Call {
    Call { delay: Duration::from_millis(delay_ms), loss, burst_ratio: 1.0 }
}

/// The rating of a transmission with a delay of so many milliseconds from mouth to ear.
fn transmission(one_way_ms: f64) -> f64 {
    let no = noise();
    let ro = 15.0 - 1.5 * (SLR + no);
    ro - simultaneous(ro, no, one_way_ms) - delay(ro, no, one_way_ms)
}

#[test]
fn the_defaults_of_the_recommendation_give_its_rating() {
    // G.107 clause 7.7: with all defaults R = 93.2.
    assert!((transmission(0.0) - 93.2).abs() < 0.05, "{}", transmission(0.0));
}

#[test]
fn opinion_follows_annex_b() {
    // Table B.1, which has two decimals.
    for (rating, score) in [(90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
        assert!((opinion(rating) - score).abs() < 0.01, "{rating}: {}", opinion(rating));
    }
    assert_eq!(opinion(-5.0), 1.0);
    assert_eq!(opinion(120.0), 4.5);
}

#[test]
fn delay_costs_what_figure_1_of_g_114_shows() {
    // Read from the curve (users very satisfied above 90, satisfied above 80, ...), within its line width.
    for (delay, low, high) in [(100.0, 90.5, 92.5), (150.0, 89.0, 91.0), (200.0, 85.5, 88.5), (300.0, 72.0, 77.0)] {
        let found = transmission(delay);
        assert!((low..high).contains(&found), "{delay} ms: {found}");
    }
    assert!((48.0..58.0).contains(&transmission(500.0)), "{}", transmission(500.0));
}

#[test]
fn loss_costs_what_the_robustness_of_g_113_says() {
    // Ie-eff = Ie + (95 - Ie) · Ppl / (Ppl / BurstR + Bpl), by hand.
    assert_eq!(equipment(Codec::G711, 0.0, 1.0), 0.0);
    assert!((equipment(Codec::G711, 0.01, 1.0) - 3.6398).abs() < 1e-3);
    assert!((equipment(Codec::G711, 0.05, 1.0) - 15.7807).abs() < 1e-3);
    assert_eq!(equipment(Codec::G729, 0.0, 1.0), 11.0);
    assert!((equipment(Codec::G729, 0.02, 1.0) - 19.0).abs() < 1e-9);
    assert!(equipment(Codec::G711, 0.05, 2.0) > equipment(Codec::G711, 0.05, 1.0), "bursts are worse");
}

#[test]
fn codecs_rank_as_they_should_and_nothing_makes_a_call_better() {
    for delay in (0..600).step_by(50) {
        for loss in [0.0, 0.005, 0.02, 0.1, 0.5, 1.0] {
            for codec in Codec::ALL {
                let here = rating(codec, &call(delay, loss));
                assert!(here.is_finite());
                assert!(rating(codec, &call(delay + 50, loss)) <= here + 1e-9, "{codec:?} {delay} {loss}");
                assert!(rating(codec, &call(delay, loss + 0.01)) < here + 1e-9, "{codec:?} {delay} {loss}");
                assert!((1.0..=4.5).contains(&opinion(here)));
            }
            assert!(rating(Codec::G711, &call(delay, loss)) > rating(Codec::G729, &call(delay, loss)));
        }
    }
}
