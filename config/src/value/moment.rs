//! Moments as Kubernetes writes them (RFC 3339), for `creationTimestamp`: older objects win. Pure, Cold.

/// Seconds since 1970 and nanoseconds, so that order is that of time whatever the zone it was written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

impl Moment {
    /// Milliseconds since 1970.
    pub(crate) fn milliseconds(self) -> i64 {
        self.seconds * 1_000 + i64::from(self.nanoseconds / 1_000_000)
    }
}

/// Reads `2026-12-31T18:00:00Z`, with a fraction or an offset if there is one.
pub(crate) fn parse(text: &str) -> Result<Moment, String> {
    read(text).ok_or_else(|| format!("{text:?} is not a time (such as 2026-12-31T18:00:00Z)"))
}

fn read(text: &str) -> Option<Moment> {
    let (date_and_time, rest) = text.split_at_checked(19)?;
    let bytes = date_and_time.as_bytes();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(position, byte)| bytes[*position].to_ascii_uppercase() != *byte) {
        return None;
    }
    let number = |start: usize, end: usize| digits(date_and_time.get(start..end)?);
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_in_range = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !is_in_range {
        return None;
    }
    let (nanoseconds, zone) = fraction(rest)?;
    let local = days_from_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Moment { seconds: local - offset_seconds(zone)?, nanoseconds })
}

fn digits(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn fraction(rest: &str) -> Option<(u32, &str)> {
    let Some(after_point) = rest.strip_prefix('.') else {
        return Some((0, rest));
    };
    let length = after_point.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = after_point.split_at(length);
    if !(1..=9).contains(&length) {
        return None;
    }
    format!("{fraction:0<9}").parse().ok().map(|nanoseconds| (nanoseconds, zone))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let sign = if zone.starts_with('+') { 1 } else { -1 };
    let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the proleptic Gregorian calendar, counted in eras of 400 years that begin in March.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(i64, u32)>) {
        assert_eq!(read(text).map(|moment| (moment.seconds, moment.nanoseconds)), expected, "{text}");
    }

    #[test]
    fn moments_are_read_as_rfc_3339_says() {
        check("1970-01-01T00:00:00Z", Some((0, 0)));
        check("2026-12-31T18:00:00Z", Some((1_798_740_000, 0)));
        check("2026-12-31T18:00:00.5z", Some((1_798_740_000, 500_000_000)));
        check("2026-12-31T20:00:00+02:00", Some((1_798_740_000, 0)));
        check("2024-02-29T00:00:00-00:30", Some((1_709_166_600, 0)));
        check("2023-02-29T00:00:00Z", None);
        check("2023-13-01T00:00:00Z", None);
        check("2023-01-01 00:00:00Z", None);
        check("2023-01-01T24:00:00Z", None);
        check("2023-01-01T00:00:00", None);
        check("2023-01-01T00:00:00.Z", None);
        check("2023-01-01T00:00:00+2", None);
        check("2023-01-01T00:00:0é", None);
        check("", None);
    }
}
