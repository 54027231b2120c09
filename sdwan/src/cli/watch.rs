//! `--watch`: a listing that is shown again and again.

use std::time::Duration;

use super::{Context, Exit};

/// Most often, and least often, that a listing is shown again, s.
const BOUNDS: std::ops::RangeInclusive<f64> = 0.1..=3_600.0;

/// Options of a command that shows how something is.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Watch {
    /// Show it again and again, every second or so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    watch: Option<Duration>,
}

impl Watch {
    /// Runs `once`, or again and again until it fails. On a terminal each table takes the place of the one before.
    pub(super) async fn run(
        &self,
        context: &Context,
        mut once: impl AsyncFnMut() -> anyhow::Result<Exit>,
    ) -> anyhow::Result<Exit> {
        let Some(pause) = self.watch else { return once().await };
        loop {
            context.output.clear()?;
            once().await?;
            tokio::time::sleep(pause).await;
        }
    }
}

/// A number of seconds within [`BOUNDS`].
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds, such as 0.5".to_owned())?;
    if !BOUNDS.contains(&seconds) {
        return Err(format!("write {} to {} seconds", BOUNDS.start(), BOUNDS.end()));
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_be_fractions_and_have_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["", "x", "0", "-1", "NaN", "1e9"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
