//! Numbers to the letter: an integer may be written as 5, "5", 5.0 or 5e0, and must be exact.

/// The most digits of an integer that is looked at; 64 bits have 20.
const MAX_DIGITS: usize = 40;

/// The value of a JSON number, if it is an integer.
pub(super) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let value = if digits.len() <= 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // No number of JSON begins with a zero and goes on.
        let leading = digits.len() > 1 && digits.starts_with('0');
        (!digits.is_empty() && !leading)
            .then(|| digits.bytes().fold(0, |value, digit| value * 10 + i128::from(digit - b'0')))?
    } else {
        scaled(digits)?
    };
    Some(if negative { -value } else { value })
}

/// A number with a point or an exponent.
fn scaled(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix('+').unwrap_or(exponent).parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) =
        mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || (whole.len() > 1 && whole.starts_with('0')) || fraction.is_some_and(|digits| !plain(digits)) {
        return None;
    }
    let fraction = fraction.unwrap_or_default().trim_end_matches('0');
    let (whole, mut exponent) =
        (whole.trim_start_matches('0'), exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?);
    let mut digits = format!("{whole}{fraction}");
    while exponent < 0 && digits.ends_with('0') {
        digits.pop();
        exponent += 1;
    }
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let scale = usize::try_from(exponent).ok()?;
    if digits.len() + scale > MAX_DIGITS - 2 {
        return None;
    }
    digits.parse::<i128>().ok()?.checked_mul(10_i128.checked_pow(u32::try_from(scale).ok()?)?)
}

/// A JSON number, `NaN`, `Infinity` or `-Infinity` in a string; none of the other spellings that Rust reads.
pub(super) fn is_double(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    matches!(text, "NaN" | "Infinity" | "-Infinity")
        || (digits.starts_with(|first: char| first.is_ascii_digit())
            && digits.ends_with(|last: char| last.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_integer_may_be_written_in_many_ways() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("18446744073709551615", Some(i128::from(u64::MAX))),
            ("-9223372036854775808", Some(i128::from(i64::MIN))),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("1e3", Some(1_000)),
            ("1E+3", Some(1_000)),
            ("1.5e1", Some(15)),
            ("150e-1", Some(15)),
            ("0.0", Some(0)),
            ("0e999999999", Some(0)),
            ("1.50", None),
            ("1e-1", None),
            ("1e999999999", None),
            ("1e99999999999", None),
            ("00", None),
            ("01.0", None),
            ("", None),
            ("-", None),
            (" 1", None),
            ("+1", None),
            ("1.", None),
            (".5", None),
            ("0x1", None),
            ("1_0", None),
            ("NaN", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
        for (text, expected) in [
            ("1", true),
            ("-1.5e3", true),
            ("NaN", true),
            ("-Infinity", true),
            ("inf", false),
            ("nan", false),
            ("+1", false),
            (".5", false),
            ("1.", false),
            (" 1", false),
            ("", false),
        ] {
            assert_eq!(is_double(text), expected, "{text}");
        }
    }
}
