//! Points in time as people write and read them.

use std::time::{Duration, SystemTime};

use crate::config::units::Span;

/// Nanoseconds of Unix time, now.
pub(super) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// `2026-11-23 09:19:18.250`, UTC.
pub(super) fn display(unix_ns: i64) -> String {
    let (seconds, nanoseconds) = (unix_ns.div_euclid(1_000_000_000), unix_ns.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}.{:03}", second % 60, nanoseconds / 1_000_000)
}

/// `09:19:18.250123`, UTC.
pub(super) fn microsecond(unix_ns: i64) -> String {
    let second = second(unix_ns);
    let time = second.split_once(' ').map_or(second.as_str(), |(_, time)| time);
    format!("{time}.{:06}", unix_ns.rem_euclid(1_000_000_000) / 1_000)
}

/// `2026-11-23 09:19:18`, UTC.
pub(super) fn second(unix_ns: i64) -> String {
    display(unix_ns).split('.').next().unwrap_or_default().to_owned()
}

/// `2026-11-23 09:19`, UTC.
pub(super) fn minute(unix_ns: i64) -> String {
    let text = second(unix_ns);
    text.rsplit_once(':').map_or(text.clone(), |(minute, _)| minute.to_owned())
}

/// A point in time: a duration ago (`10m`), or `YYYY-MM-DD[THH:MM[:SS]]` in UTC. Nanoseconds of Unix time.
pub(super) fn parse(text: &str, now_ns: i64) -> Result<i64, String> {
    if let Ok(Span(ago)) = text.parse::<Span>() {
        return Ok(now_ns.saturating_sub(i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX)));
    }
    absolute(text).ok_or_else(|| {
        format!(
            "{text:?} is no point in time: write how long ago (10m, 2h, 1d), or 2026-11-23 or 2026-11-23T09:19 (UTC)"
        )
    })
}

fn absolute(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, separator: char| -> Option<Vec<i64>> {
        text.split(separator).map(|part| part.parse::<u32>().ok().map(i64::from)).collect()
    };
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let time = numbers(time, ':')?;
    let (hour, minute, second) = match time[..] {
        [hour, minute] => (hour, minute, 0),
        [hour, minute, second] => (hour, minute, second),
        _ => return None,
    };
    let valid = (1970..=2200).contains(&year) && hour < 24 && minute < 60 && second < 60;
    let days = days(year, month, day);
    if !valid || civil(days) != (year, month, day) {
        return None;
    }
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000_000_000)
}

/// Days since 1970-01-01 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The date of a day since 1970-01-01.
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    // A guess that is at most one too large.
    let mut year = day * 400 / 146_097 + 1;
    while first_of_march(year) > day {
        year -= 1;
    }
    let day_of_year = day - first_of_march(year);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Days from 0000-03-01 to the first of March of a year.
fn first_of_march(year: i64) -> i64 {
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_moments_are_shown_and_read() {
        assert_eq!(display(0), "1970-01-01 00:00:00.000");
        assert_eq!(display(951_782_399_999_000_000), "2000-02-28 23:59:59.999");
        assert_eq!(display(951_782_400_000_000_000), "2000-02-29 00:00:00.000");
        assert_eq!(display(1_709_251_200_000_000_000), "2024-03-01 00:00:00.000");
        assert_eq!(second(1_709_251_261_999_000_000), "2024-03-01 00:01:01");
        assert_eq!(minute(1_709_251_261_999_000_000), "2024-03-01 00:01");
        assert_eq!(microsecond(1_709_251_261_000_450_000), "00:01:01.000450");
        assert_eq!(parse("2000-02-29T00:00Z", 0), Ok(951_782_400_000_000_000));
        assert_eq!(parse("10m", 700_000_000_000), Ok(100_000_000_000));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in ["", "10", "2023-02-29", "2024-13-01", "2024-01-01T24:00", "2024-01", "yesterday", "9-9-9"] {
            assert!(parse(text, 0).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(seconds in 0i64..7_258_000_000) {
            let ns = seconds * 1_000_000_000;
            prop_assert_eq!(parse(display(ns).split('.').next().unwrap(), 0), Ok(ns));
        }
    }
}
