//! What a count of lost packets proves about the loss behind it.

/// Quantile of the normal distribution: one interval in a hundred reaches too high.
const CONFIDENCE: f64 = 2.33;
/// Fewer lost than these prove nothing, however few were sent.
const LEAST_LOST: i64 = 4;

/// The loss is at least this, 0.0..=1.0: the lower end of Wilson's one-sided interval of 99 % (E. B. Wilson, Probable
/// inference, 1927). One probe of twenty is no proof of a loss of 1 %; a tenth of a thousand packets is.
pub fn proven_loss(lost: i64, sent: i64) -> f64 {
    if lost < LEAST_LOST || sent < lost {
        return 0.0;
    }
    let (lost, sent) = (lost as f64, sent as f64);
    let ratio = lost / sent;
    let square = CONFIDENCE * CONFIDENCE;
    let spread = (ratio * (1.0 - ratio) / sent + square / (4.0 * sent * sent)).sqrt();
    ((ratio + square / (2.0 * sent) - CONFIDENCE * spread) / (1.0 + square / sent)).max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_few_lost_probes_are_chance_and_many_are_not() {
        // Ten seconds of probes: 0.4 % of loss loses 3 of them in one window of 25.
        assert_eq!(proven_loss(3, 200), 0.0);
        assert!(proven_loss(4, 200) < 0.01);
        assert!(proven_loss(6, 200) > 0.01);
        // The same share of many packets proves more.
        assert!(proven_loss(5, 500) < 0.01 && proven_loss(50, 5_000) < 0.01);
        assert!(proven_loss(75, 1_500) > 0.035);
    }

    proptest! {
        #[test]
        fn it_is_less_than_what_was_seen_and_grows_with_the_count(lost in 4i64..1_000, sent in 1_000i64..100_000) {
            let proven = proven_loss(lost, sent);
            prop_assert!(proven <= lost as f64 / sent as f64);
            prop_assert!(proven <= proven_loss(lost + 1, sent));
            prop_assert!(proven <= proven_loss(10 * lost, 10 * sent));
        }
    }
}
