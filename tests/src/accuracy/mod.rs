//! What gateways say of their paths, held against lines whose truth is known and against the tools of others:
//! `cargo xtask bench accuracy`.

mod capacity;
mod iperf;
mod lines;
mod look;
mod mtu;
mod tools;

use anyhow::Result;

use crate::figures::{self, Figures};
pub use lines::{CLEAN, Line, STEP, lines};
pub use tools::Reading;

/// Parts of the bench, each on a bed of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Delay, jitter, loss, MOS, and steps of the delay.
    Lines,
    /// Capacity.
    Capacity,
    /// Path MTU and black holes.
    Mtu,
}

impl Part {
    const ALL: [Self; 3] = [Self::Lines, Self::Capacity, Self::Mtu];

    fn run(self, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Lines => look::run(figures),
            Self::Capacity => capacity::run(figures),
            Self::Mtu => mtu::run(figures),
        }
    }

    /// Figures of the part, with their units.
    const fn figures(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Lines => &[
                ("accuracy.rtt_err_us", "us"),
                ("accuracy.jitter_err_pct", "%"),
                ("accuracy.loss_err_z", "sigma"),
                ("accuracy.step_s", "s"),
                ("accuracy.mos_err", "MOS"),
            ],
            Self::Capacity => &[
                ("accuracy.capacity_err_pct", "%"),
                ("accuracy.capacity_half_err_pct", "%"),
                ("accuracy.capacity_bytes_pct", "%"),
            ],
            Self::Mtu => &[("accuracy.mtu_err_bytes", "bytes"), ("accuracy.blackhole_s", "s")],
        }
    }
}

/// Runs the bench, all of it or one part; progress and tables go to standard error. A part that fails leaves its figures
/// without values.
pub fn run(only: Option<Part>) -> Figures {
    let mut figures = Figures::new("accuracy");
    for part in Part::ALL {
        if only.is_some_and(|only| only != part) {
            missing(&mut figures, part, "this part of the bench wasn't asked for");
        } else if let Err(error) = part.run(&mut figures) {
            eprintln!("the part {part:?} ended early: {error:#}");
            missing(&mut figures, part, &format!("this part of the bench ended early: {error:#}"));
        }
    }
    figures
}

/// Says of the figures of a part that aren't there yet why.
fn missing(figures: &mut Figures, part: Part, why: &str) {
    for (name, unit) in part.figures() {
        if !figures.figures().iter().any(|figure| figure.name == *name) {
            figures.missing(name, unit, why);
        }
    }
}

fn median(figures: &mut Figures, name: &str, unit: &str, values: &[f64]) {
    match figures::median(values) {
        Some(value) => figures.add(name, value, unit, values.len() as u64),
        None => figures.missing(name, unit, "nothing gave a value"),
    }
}

/// Adds the largest; `why` there is none.
fn worst(figures: &mut Figures, name: &str, unit: &str, values: &[f64], why: &str) {
    match values.iter().copied().max_by(f64::total_cmp) {
        Some(value) => figures.add(name, value, unit, values.len() as u64),
        None => figures.missing(name, unit, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_ends_early_keeps_what_it_has_and_says_why_the_rest_is_missing() {
        let mut figures = Figures::new("accuracy");
        worst(&mut figures, "accuracy.mtu_err_bytes", "bytes", &[0.0, 3.0, 1.0], "none");
        missing(&mut figures, Part::Mtu, "the bed broke");
        let [first, second] = figures.figures() else { panic!("{:?}", figures.figures()) };
        assert_eq!((first.value, first.n), (Some(3.0), 3));
        assert_eq!((second.name.as_str(), second.value), ("accuracy.blackhole_s", None));
        assert_eq!(second.why.as_deref(), Some("the bed broke"));
    }

    #[test]
    fn nothing_measured_is_no_zero() {
        let mut figures = Figures::new("accuracy");
        worst(&mut figures, "accuracy.capacity_err_pct", "%", &[], "no line was measured");
        median(&mut figures, "accuracy.step_s", "s", &[]);
        assert!(figures.figures().iter().all(|figure| figure.value.is_none() && figure.why.is_some()));
    }
}
