//! Unix milliseconds as the two date forms that the client API writes.
//!
//! `Date` and `Last-Modified` want the fixed-width form of RFC 9110 section 5.6.7; JSON bodies carry
//! RFC 3339 with milliseconds. Neither is ever read back, so nothing here parses.
//!
//! The calendar is Howard Hinnant's `civil_from_days` (proleptic Gregorian, era of 400 years).

/// Last millisecond of the year 9999, where both forms end; later times are shown as this one.
const LAST_MS: u64 = 253_402_300_799_999;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

struct Civil {
    weekday: usize,
    year: u64,
    /// From 1.
    month: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    milli: u64,
}

fn civil(unix_ms: u64) -> Civil {
    let ms = unix_ms.min(LAST_MS);
    let seconds = ms / 1_000;
    let days = seconds / 86_400;
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    Civil {
        weekday: (days % 7) as usize,
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month: month as usize,
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
        hour: seconds / 3_600 % 24,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        milli: ms % 1_000,
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn http_date(unix_ms: u64) -> String {
    let at = civil(unix_ms);
    format!(
        "{}, {:02} {} {:04} {:02}:{:02}:{:02} GMT",
        DAYS[at.weekday],
        at.day,
        MONTHS[at.month - 1],
        at.year,
        at.hour,
        at.minute,
        at.second
    )
}

/// `1994-11-06T08:49:37.000Z`.
pub fn rfc3339(unix_ms: u64) -> String {
    let at = civil(unix_ms);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year, at.month, at.day, at.hour, at.minute, at.second, at.milli
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(http_date(784_111_777_000), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(rfc3339(784_111_777_000), "1994-11-06T08:49:37.000Z");
        assert_eq!(http_date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(rfc3339(951_782_400_123), "2000-02-29T00:00:00.123Z");
        assert_eq!(rfc3339(1_709_164_800_000), "2024-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn the_far_future_stays_four_digits_wide() {
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(http_date(u64::MAX), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
