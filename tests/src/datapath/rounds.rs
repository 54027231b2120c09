//! Things that are measured in turn, so that what disturbs the machine disturbs them all.

use anyhow::Result;

use crate::figures::{Figures, median};
use crate::pace;

/// Rounds; fewer where a machine is emulated, whose clock counts instructions and knows no noise.
const ROUNDS: usize = 5;
const SLOW_ROUNDS: usize = 3;

/// How many rounds there are here.
pub fn count() -> usize {
    if pace::is_slow() { SLOW_ROUNDS } else { ROUNDS }
}

/// Values by name.
pub struct Rounds {
    values: Vec<(&'static str, Result<Vec<f64>, String>)>,
}

impl Rounds {
    /// Figures of these names.
    pub fn new(names: Vec<&'static str>) -> Self {
        Self { values: names.into_iter().map(|name| (name, Ok(Vec::new()))).collect() }
    }

    /// Measures each in every round. One that fails is left out from then on.
    pub fn each(&mut self, mut measure: impl FnMut(&'static str) -> Result<f64>) {
        for _ in 0..count() {
            for (name, values) in &mut self.values {
                let Ok(known) = values else { continue };
                match measure(name) {
                    Ok(value) => known.push(value),
                    Err(error) => *values = Err(format!("{error:#}")),
                }
            }
        }
    }

    /// The medians.
    pub fn into_figures(self, figures: &mut Figures, unit: &str) {
        for (name, values) in self.values {
            let count = values.as_ref().map_or(0, Vec::len) as u64;
            match values.map(|values| median(&values)) {
                Ok(Some(value)) => {
                    eprintln!("        {name}: {value:.1} {unit}");
                    figures.add(name, value, unit, count);
                }
                Ok(None) => figures.missing(name, unit, "no round was measured"),
                Err(error) => {
                    eprintln!("        {name}: {error}");
                    figures.missing(name, unit, error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_in_a_round_has_no_value_and_the_others_have_their_median() {
        let mut rounds = Rounds::new(vec!["datapath.a", "datapath.b"]);
        let mut calls = 0.0;
        rounds.each(|name| {
            calls += 1.0;
            anyhow::ensure!(name == "datapath.a" || calls < 3.0, "it broke");
            Ok(calls)
        });
        let mut figures = Figures::new("datapath");
        rounds.into_figures(&mut figures, "ns");
        let [a, b] = figures.figures() else { panic!("{:?}", figures.figures()) };
        assert_eq!((a.value.is_some(), a.n), (true, ROUNDS as u64));
        assert_eq!((b.value, b.why.as_deref()), (None, Some("it broke")));
    }
}
