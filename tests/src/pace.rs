//! How fast tests may send and how long things may take, where the machine is much slower than what the tests were
//! written on.

use std::sync::OnceLock;
use std::time::Duration;

/// Environment variable with the share of the usual rate, above 0.0 and up to 1.0. Who runs tests in an emulated machine
/// sets it; 1.0 without it.
pub const VARIABLE: &str = "SDWAN_TEST_PACE";

/// The share of their usual rate at which tests send.
///
/// # Panics
/// When [`VARIABLE`] is no such number.
pub fn pace() -> f64 {
    static PACE: OnceLock<f64> = OnceLock::new();
    *PACE.get_or_init(|| {
        let Some(text) = std::env::var_os(VARIABLE) else { return 1.0 };
        let pace = text.to_str().and_then(|text| text.parse().ok()).filter(|pace| *pace > 0.0 && *pace <= 1.0);
        pace.unwrap_or_else(|| panic!("{VARIABLE}={}: it is above 0.0 and up to 1.0", text.display()))
    })
}

/// A rate that would be too much for an emulated machine, at the pace of this one.
pub fn paced(rate: f64) -> f64 {
    rate * pace()
}

/// How long to wait on this machine for what usually takes no longer than `usual`: four times as long on a slow one. For
/// waiting only; what a test measures is held against its own bound everywhere.
pub fn patience(usual: Duration) -> Duration {
    if is_slow() { usual * 4 } else { usual }
}

/// Whether this machine is a slow one.
pub fn is_slow() -> bool {
    pace() < 1.0
}
