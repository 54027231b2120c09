//! Durations and rates as people write them: `50ms`, `2m`, `100mbit`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration, written as a number and a unit: `us`, `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A rate in bit/s, written as a number and a unit: `bit`, `kbit`, `mbit` or `gbit`, decimal as in `tc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// A size in bytes, written as a number and a unit: `kib`, `mib` or `gib`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A quantity that can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}: write a number and a unit ({units}), such as {example}")]
pub struct UnitError {
    text: String,
    what: &'static str,
    units: &'static str,
    example: &'static str,
}

const DURATION_UNITS: [(&str, u64); 6] = [
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
const RATE_UNITS: [(&str, u64); 4] = [("bit", 1), ("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000)];
const SIZE_UNITS: [(&str, u64); 3] = [("kib", 1 << 10), ("mib", 1 << 20), ("gib", 1 << 30)];

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &DURATION_UNITS).map(|ns| Self(Duration::from_nanos(ns))).ok_or_else(|| UnitError {
            text: text.into(),
            what: "a duration",
            units: "us, ms, s, m, h, d",
            example: "50ms",
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        display(f, nanoseconds, &DURATION_UNITS, "s")
    }
}

impl FromStr for Rate {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &RATE_UNITS).map(Self).ok_or_else(|| UnitError {
            text: text.into(),
            what: "a rate",
            units: "bit, kbit, mbit, gbit",
            example: "100mbit",
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, self.0, &RATE_UNITS, "bit")
    }
}

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, &SIZE_UNITS).map(Self).ok_or_else(|| UnitError {
            text: text.into(),
            what: "a size",
            units: "kib, mib, gib",
            example: "512mib",
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        display(f, self.0, &SIZE_UNITS, "kib")
    }
}

/// `"1.5s"` → 1,500,000,000. `None` for anything that isn't a decimal number and a unit, or doesn't fit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let mut value = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    if !fraction.is_empty() {
        let parts = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor);
        let scale = 10u128.pow(fraction.len() as u32);
        if parts % scale != 0 {
            return None;
        }
        value = value.checked_add(u64::try_from(parts / scale).ok()?)?;
    }
    Some(value)
}

/// The largest unit that keeps the number whole.
fn display(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], zero_unit: &str) -> fmt::Result {
    if value == 0 {
        return write!(f, "0{zero_unit}");
    }
    match units.iter().rev().find(|(_, factor)| value.is_multiple_of(*factor)) {
        Some((name, factor)) => write!(f, "{}{name}", value / factor),
        None => {
            let (name, factor) = units[0];
            write!(f, "{}{name}", value as f64 / factor as f64)
        }
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )* };
}

serde_as_text!(Span, Rate, Size);

/// For `#[serde(with = …)]`: a [`Duration`] written as a [`Span`].
pub(crate) mod duration {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        Span(*value).serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_read_as_people_write_them() {
        assert_eq!("50ms".parse(), Ok(Span(Duration::from_millis(50))));
        assert_eq!("1.5 s".parse(), Ok(Span(Duration::from_millis(1500))));
        assert_eq!("2d".parse(), Ok(Span(Duration::from_secs(172_800))));
        assert_eq!("100Mbit".parse(), Ok(Rate(100_000_000)));
        assert_eq!("2.5gbit".parse(), Ok(Rate(2_500_000_000)));
        assert_eq!("512mib".parse(), Ok(Size(512 << 20)));
    }

    #[test]
    fn a_quantity_without_a_unit_or_out_of_range_is_refused() {
        for text in ["50", "", "ms", ".5s", "1.s", "-1s", "1 s s", "99999999999999d", "0.0000001ms"] {
            assert!(text.parse::<Span>().is_err(), "{text:?} was taken for a duration");
        }
        assert_eq!(
            "5".parse::<Rate>().unwrap_err().to_string(),
            "\"5\" is not a rate: write a number and a unit (bit, kbit, mbit, gbit), such as 100mbit"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(microseconds in 0u64..1_000_000_000_000, bits in any::<u64>()) {
            let span = Span(Duration::from_micros(microseconds));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Rate(bits).to_string().parse(), Ok(Rate(bits)));
        }
    }
}
