//! `strftime_now`: the time of day, as Python's `strftime` writes it. In UTC: a server's answers do not depend on
//! where it stands.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment of the calendar.
struct Moment {
    year: i64,
    /// From 1.
    month: usize,
    day: i64,
    /// From Sunday.
    weekday: usize,
    /// Days since the first of January, from 1.
    ordinal: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Moment {
    fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(since).unwrap_or(0);
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Years are counted from March, so that the leap day is the last of one (Howard Hinnant's algorithm).
        let shifted = days + 719_468;
        let (era, of_era) = (shifted / 146_097, shifted % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let from_march = (5 * of_year + 2) / 153;
        let day = of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        let year = year + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let ordinal = if month > 2 { of_year + 60 + i64::from(leap) } else { of_year - 305 };
        Self {
            year,
            month: usize::try_from(month).unwrap_or(1),
            day,
            weekday: usize::try_from((days + 4) % 7).unwrap_or(0),
            ordinal,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn field(&self, letter: char) -> Option<String> {
        let month = MONTHS.get(self.month - 1).copied().unwrap_or_default();
        let weekday = DAYS.get(self.weekday).copied().unwrap_or_default();
        let twelve = if self.hour % 12 == 0 { 12 } else { self.hour % 12 };
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.ordinal),
            'A' => weekday.to_owned(),
            'a' => weekday[..3].to_owned(),
            'w' => self.weekday.to_string(),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{twelve:02}"),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'f' => "000000".to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'D' => format!("{:02}/{:02}/{:02}", self.month, self.day, self.year % 100),
            'T' => format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second),
            'R' => format!("{:02}:{:02}", self.hour, self.minute),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            _ => return None,
        })
    }
}

/// The time in a format; what the format does not know stays as it is. `-` before a letter drops zeros in front.
pub(super) fn strftime(format: &str, time: SystemTime) -> String {
    let moment = Moment::of(time);
    let (mut out, mut rest) = (String::new(), format.chars());
    while let Some(letter) = rest.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut ahead = rest.clone();
        let first = ahead.next();
        let bare = first == Some('-');
        let name = if bare { ahead.next() } else { first };
        let Some(field) = name.and_then(|name| moment.field(name)) else {
            out.push('%');
            continue;
        };
        rest = ahead;
        let short = field.trim_start_matches(['0', ' ']);
        out.push_str(if !bare {
            &field
        } else if short.is_empty() {
            "0"
        } else {
            short
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_python_writes_them() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let written = |format, seconds| strftime(format, at(seconds));
        assert_eq!(written("%d %b %Y", 0), "01 Jan 1970");
        assert_eq!(
            written("%A %-d %B %y %j %% %q", 1_709_164_800),
            "Thursday 29 February 24 060 % %q"
        );
        assert_eq!(written("%F %T %p %I", 1_735_689_599), "2024-12-31 23:59:59 PM 11");
        assert_eq!(written("%j %a", 1_735_689_599), "366 Tue");
        assert_eq!(written("%Y-%m-%d %j", 951_868_800), "2000-03-01 061");
        assert_eq!(written("100%", 0), "100%");
    }
}
