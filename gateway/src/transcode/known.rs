//! The texts of well-known types: times, spans and field masks (google/protobuf/*.proto, "JSON Mapping").

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST_SECOND: i64 = -62_135_596_800;
const LAST_SECOND: i64 = 253_402_300_799;
/// Some 10,000 years.
const LONGEST_S: i64 = 315_576_000_000;
const BILLION: i32 = 1_000_000_000;
const DAY_S: i64 = 86_400;

/// Seconds and nanoseconds of an RFC 3339 time.
pub(super) fn timestamp(text: &str) -> Option<(i64, i32)> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| digits(bytes.get(from..to)?);
    let is = |at: usize, byte: u8| (bytes.get(at) == Some(&byte)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        is(at, byte)?;
    }
    if !(1..=12).contains(&month)
        || !(1..=month_days(year, month)).contains(&day)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let mut rest = &text[19..];
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
        nanos = fraction_nanos(&fraction[..length])?;
        rest = &fraction[length..];
    }
    let offset = match rest.as_bytes() {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 3_600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second - offset;
    (FIRST_SECOND..=LAST_SECOND).contains(&seconds).then_some((seconds, nanos))
}

/// Writes an RFC 3339 time with 0, 3, 6 or 9 digits of a second; `None` when it is out of range.
pub(super) fn write_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    if !(FIRST_SECOND..=LAST_SECOND).contains(&seconds) || !(0..BILLION).contains(&nanos) {
        return None;
    }
    let (day, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
    let (year, month, day) = date(day);
    padded(out, year, 4);
    for (mark, value) in
        [(b'-', month), (b'-', day), (b'T', second / 3_600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        out.push(mark);
        padded(out, value, 2);
    }
    write_nanos(out, nanos);
    out.push(b'Z');
    Some(())
}

/// Seconds and nanoseconds of a span like `-1.5s`; both have its sign.
pub(super) fn duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    if whole.is_empty() || whole.len() > 12 {
        return None;
    }
    let (seconds, nanos) = (digits(whole.as_bytes())?, fraction.map_or(Some(0), fraction_nanos)?);
    if seconds > LONGEST_S || (seconds == LONGEST_S && nanos > 0) {
        return None;
    }
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Writes a span with 0, 3, 6 or 9 digits of a second; `None` when it is out of range.
pub(super) fn write_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Option<()> {
    let mixed = (seconds < 0 && nanos > 0) || (seconds > 0 && nanos < 0);
    if !(-LONGEST_S..=LONGEST_S).contains(&seconds) || nanos.unsigned_abs() >= BILLION.unsigned_abs() || mixed {
        return None;
    }
    if seconds < 0 || nanos < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(seconds.unsigned_abs().to_string().as_bytes());
    write_nanos(out, nanos.abs());
    out.push(b's');
    Some(())
}

/// The paths of a field mask as they are declared.
pub(super) fn field_mask(text: &str) -> Option<Vec<String>> {
    let paths = text.split(',').filter(|path| !path.is_empty());
    let snake = |path: &str| {
        let mut snake = String::with_capacity(path.len() + 4);
        for letter in path.chars() {
            match letter {
                'A'..='Z' => {
                    snake.push('_');
                    snake.push(letter.to_ascii_lowercase());
                }
                '_' => return None,
                _ => snake.push(letter),
            }
        }
        Some(snake)
    };
    paths.map(snake).collect()
}

/// One path as it is written; `None` when it would not read back.
pub(super) fn mask_path(path: &str) -> Option<String> {
    let mut camel = String::with_capacity(path.len());
    let mut letters = path.chars();
    while let Some(letter) = letters.next() {
        match letter {
            'A'..='Z' => return None,
            '_' => camel.push(letters.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
            _ => camel.push(letter),
        }
    }
    Some(camel)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0_i64, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn fraction_nanos(fraction: &str) -> Option<i32> {
    if fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let value = i32::try_from(digits(fraction.as_bytes())?).ok()?;
    Some(value * 10_i32.pow(9 - u32::try_from(fraction.len()).ok()?))
}

fn write_nanos(out: &mut Vec<u8>, nanos: i32) {
    let (value, width) = match nanos {
        0 => return,
        _ if nanos % 1_000_000 == 0 => (nanos / 1_000_000, 3),
        _ if nanos % 1_000 == 0 => (nanos / 1_000, 6),
        _ => (nanos, 9),
    };
    out.push(b'.');
    padded(out, i64::from(value), width);
}

fn padded(out: &mut Vec<u8>, mut value: i64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for place in out[start..].iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01, over eras of 400 years that begin in March (H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans_read_as_the_mapping_says() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", Some((0, 0))),
            ("2026-01-31T12:00:00.5Z", Some((1_769_860_800, 500_000_000))),
            ("1969-12-31T23:59:59.999999999Z", Some((-1, 999_999_999))),
            ("1970-01-01T08:00:01+08:00", Some((1, 0))),
            ("0001-01-01T00:00:00Z", Some((FIRST_SECOND, 0))),
            ("9999-12-31T23:59:59.999999999Z", Some((LAST_SECOND, 999_999_999))),
            ("2024-02-29T00:00:00Z", Some((1_709_164_800, 0))),
            ("2023-02-29T00:00:00Z", None),
            ("0000-01-01T00:00:00Z", None),
            ("0001-01-01T00:00:00+00:01", None),
            ("1970-01-01t00:00:00Z", None),
            ("1970-01-01T00:00:00z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01 00:00:00Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-01-01T00:00:60Z", None),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T00:00:00.1234567890Z", None),
            ("1970-1-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text), expected, "{text}");
        }
        for (text, expected) in [
            ("0s", Some((0, 0))),
            ("1.5s", Some((1, 500_000_000))),
            ("-1.000000001s", Some((-1, -1))),
            ("-0.5s", Some((0, -500_000_000))),
            ("315576000000s", Some((LONGEST_S, 0))),
            ("315576000000.000000001s", None),
            ("1", None),
            ("s", None),
            (".5s", None),
            ("1.s", None),
            ("+1s", None),
            ("1e3s", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn what_was_written_reads_back() {
        for seconds in [FIRST_SECOND, -86_401, -1, 0, 951_782_400, 1_709_164_800, LAST_SECOND] {
            for nanos in [0, 1, 1_000, 1_000_000, 999_999_999] {
                let mut out = Vec::new();
                write_timestamp(&mut out, seconds, nanos).unwrap();
                assert_eq!(timestamp(std::str::from_utf8(&out).unwrap()), Some((seconds, nanos)));
                let (seconds, nanos) = (seconds % LONGEST_S, if seconds < 0 { -nanos } else { nanos });
                out.clear();
                write_duration(&mut out, seconds, nanos).unwrap();
                assert_eq!(duration(std::str::from_utf8(&out).unwrap()), Some((seconds, nanos)));
            }
        }
        assert!(write_timestamp(&mut Vec::new(), LAST_SECOND + 1, 0).is_none());
        assert!(write_duration(&mut Vec::new(), 1, -1).is_none());
        assert_eq!(field_mask("a.bC,d").unwrap(), ["a.b_c", "d"]);
        assert!(field_mask("a_b").is_none() && mask_path("a_3").is_none() && mask_path("aB").is_none());
        assert_eq!(mask_path("a_b.c_d").as_deref(), Some("aB.cD"));
    }
}
