//! Moments of the monotonic clock as dates, for those who write what workers noted; workers read one clock only.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::text::padded;

/// How long the distance of the two clocks is believed: somebody may set one of them.
const FRESH: Duration = Duration::from_secs(1);

/// Both clocks, read together.
pub struct Dates {
    instant: Instant,
    /// Since 1970.
    wall: Duration,
    /// The second that was spelt last, and how: `2026-11-25T17:00:00`.
    second: u64,
    spelt: Vec<u8>,
}

impl Default for Dates {
    fn default() -> Dates {
        let mut dates = Dates { instant: Instant::now(), wall: Duration::ZERO, second: u64::MAX, spelt: Vec::new() };
        dates.read();
        dates
    }
}

impl Dates {
    /// Read the clocks again, if that is due. Once for each batch of what is written.
    pub fn refresh(&mut self) {
        if self.instant.elapsed() > FRESH {
            self.read();
        }
    }

    fn read(&mut self) {
        self.instant = Instant::now();
        self.wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    }

    /// Since 1970.
    pub fn since_epoch(&self, moment: Instant) -> Duration {
        match moment.checked_duration_since(self.instant) {
            Some(later) => self.wall + later,
            None => self.wall.saturating_sub(self.instant.duration_since(moment)),
        }
    }

    /// As RFC 3339 with microseconds, in UTC.
    pub fn write(&mut self, out: &mut Vec<u8>, moment: Instant) {
        let since = self.since_epoch(moment);
        if since.as_secs() != self.second {
            self.second = since.as_secs();
            self.spelt.clear();
            spell(&mut self.spelt, self.second);
        }
        out.extend_from_slice(&self.spelt);
        padded::<6>(out, since.subsec_micros(), b".");
        out.push(b'Z');
    }
}

/// Date and time of a second since 1970, of the Gregorian calendar (the days as Howard Hinnant counts them).
fn spell(out: &mut Vec<u8>, second: u64) {
    let (days, of_day) = (second / 86_400, (second % 86_400) as u32);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    padded::<4>(out, year as u32, b"");
    padded::<2>(out, month as u32, b"-");
    padded::<2>(out, day as u32, b"-");
    padded::<2>(out, of_day / 3600, b"T");
    padded::<2>(out, of_day / 60 % 60, b":");
    padded::<2>(out, of_day % 60, b":");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for second in [0, 951_782_399, 951_782_400, 1_709_164_800, 1_764_090_000, 4_102_444_799, 13_569_465_600] {
            let mut out = Vec::new();
            spell(&mut out, second);
            let expected = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(second)).to_string();
            assert_eq!(format!("{}Z", String::from_utf8(out).unwrap()), expected);
        }
    }

    #[test]
    fn moments_before_and_after_the_reading_are_dated() {
        let mut dates = Dates::default();
        let (instant, wall) = (dates.instant, dates.wall);
        assert_eq!(dates.since_epoch(instant + Duration::from_secs(3)), wall + Duration::from_secs(3));
        if let Some(before) = instant.checked_sub(Duration::from_millis(1500)) {
            assert_eq!(dates.since_epoch(before), wall - Duration::from_millis(1500));
        }
        let mut out = Vec::new();
        dates.write(&mut out, instant);
        assert_eq!(out.len(), "2026-11-25T17:00:00.000000Z".len());
    }
}
