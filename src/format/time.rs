//! Times as people read them: RFC 3339, in UTC.

const DAY: u64 = 24 * 60 * 60;
/// The first second that RFC 3339 has no year for.
const YEAR_10000: u64 = 253_402_300_800;
/// Versions are times in milliseconds from here on, in 2001; smaller ones were counted.
const FIRST_TIME: u64 = 1_000_000_000_000;

/// A Unix time in seconds, as `2026-11-29T17:46:37Z`.
pub fn date(seconds: u64) -> String {
    with_fraction(seconds, "")
}

/// The same with a fraction, as `2026-11-29T17:46:37.000Z`, for clients that want one.
pub fn date_with_fraction(seconds: u64) -> String {
    with_fraction(seconds, ".000")
}

/// The version of a ref or of the index, with the time that it was published at: that is what it counts from.
pub fn version(version: u64) -> String {
    match published(version) {
        Some(ms) => {
            let date = with_fraction(ms / 1000, &format!(".{:03}", ms % 1000));
            format!("{version} ({date})")
        }
        None => version.to_string(),
    }
}

/// The time that a version says, in milliseconds, if it can be one.
pub fn published(version: u64) -> Option<u64> {
    (FIRST_TIME..YEAR_10000 * 1000).contains(&version).then_some(version)
}

fn with_fraction(seconds: u64, fraction: &str) -> String {
    if seconds >= YEAR_10000 {
        return "a time after the year 9999".to_owned();
    }
    // Days are counted from 0000-03-01, so that a leap day ends its year; 400 years have 146,097 days.
    let (days, second) = (seconds / DAY + 719_468, seconds % DAY);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (978_307_199, "2000-12-31T23:59:59Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_945_597, "2026-11-29T09:46:37Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (YEAR_10000 - 1, "9999-12-31T23:59:59Z"),
            (YEAR_10000, "a time after the year 9999"),
            (u64::MAX, "a time after the year 9999"),
        ] {
            assert_eq!(date(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn versions_are_times_where_they_can_be() {
        assert_eq!(version(3), "3");
        assert_eq!(version(1_795_945_597_984), "1795945597984 (2026-11-29T09:46:37.984Z)");
        assert_eq!(version((1 << 53) - 1), "9007199254740991");
        assert_eq!((published(FIRST_TIME), published(7)), (Some(FIRST_TIME), None));
    }
}
