//! Timestamps and durations. All in UTC: the runtime carries no time-zone data, and an offset in a text is honoured
//! when it is read.

use jiff::{SignedDuration, Timestamp, fmt::strtime, tz::TimeZone};

use super::{error::EvalError, value::Value};

/// The longest format of `strftime`, in bytes.
const MAX_FORMAT_BYTES: usize = 256;

/// A part of a timestamp, as CEL names and counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    FullYear,
    /// From 0.
    Month,
    /// Of the month, from 1.
    Date,
    /// From 0, Sunday.
    DayOfWeek,
    /// From 0.
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

/// From a text as of RFC 3339.
pub(crate) fn timestamp_from(text: &str) -> Result<Value, EvalError> {
    // The longest RFC 3339 text with nanoseconds and an offset has 35 bytes.
    (text.len() <= 64).then(|| text.parse::<Timestamp>().ok()).flatten().map(Value::Timestamp).ok_or_else(
        || EvalError::unfit("`timestamp` wants a date and time as of RFC 3339, such as 2026-01-31T12:00:00Z"),
    )
}

/// From seconds since 1970.
pub(crate) fn timestamp_from_seconds(seconds: i64) -> Result<Value, EvalError> {
    Timestamp::from_second(seconds)
        .map(Value::Timestamp)
        .map_err(|_| EvalError::unfit("`timestamp` is given seconds that are out of its range"))
}

/// From a text such as `1h30m`, `1.5s`, `-250ms`: numbers with the units h, m, s, ms, us, ns.
pub(crate) fn duration_from(text: &str) -> Result<Value, EvalError> {
    parse_duration(text).map(Value::Duration).ok_or_else(|| {
        EvalError::unfit("`duration` wants numbers with the units h, m, s, ms, us or ns, such as \"1h30m\"")
    })
}

fn parse_duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut nanos = 0_i128;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let (unit, after) =
            after.split_at(after.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(after.len()));
        rest = after;
        let nanos_a_unit: i128 = match unit {
            "h" => 3_600_000_000_000,
            "m" => 60_000_000_000,
            "s" => 1_000_000_000,
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse::<u32>().ok()?.into() };
        let fraction = fraction.get(..fraction.len().min(9))?;
        let scale = 10_i128.pow(u32::try_from(fraction.len()).ok()?);
        let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse::<u32>().ok()?.into() };
        nanos += whole * nanos_a_unit + fraction * nanos_a_unit / scale;
    }
    let nanos = if negative { -nanos } else { nanos };
    let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
    Some(SignedDuration::new(seconds, i32::try_from(nanos % 1_000_000_000).ok()?))
}

/// Checks a format of `strftime`, so that a mistake in it shows when the expression is compiled.
pub(crate) fn check_format(format: &str) -> Result<(), String> {
    if format.len() > MAX_FORMAT_BYTES {
        return Err(format!("the format is longer than {MAX_FORMAT_BYTES} bytes"));
    }
    render(Timestamp::UNIX_EPOCH, format).map(|_| ()).map_err(|error| format!("the format is wrong: {error}"))
}

/// A timestamp in a checked format.
pub(crate) fn format(time: Timestamp, format: &str) -> Result<String, EvalError> {
    render(time, format)
        .map_err(|error| EvalError::unfit(format!("`strftime` cannot write the time: {error}")))
}

fn render(time: Timestamp, format: &str) -> Result<String, jiff::Error> {
    strtime::format(format, &time.to_zoned(TimeZone::UTC))
}

impl Part {
    /// The part of a timestamp, or the whole of a duration in that unit.
    pub(crate) fn of(self, value: &Value) -> Result<Value, EvalError> {
        let wrong = || EvalError::unfit(format!("a part of a time is asked of {}", value.noun()));
        match value {
            Value::Timestamp(time) => Ok(Value::Int(self.of_timestamp(*time))),
            Value::Duration(duration) => self.of_duration(*duration).map(Value::Int).ok_or_else(wrong),
            _ => Err(wrong()),
        }
    }

    fn of_timestamp(self, time: Timestamp) -> i64 {
        let utc = time.to_zoned(TimeZone::UTC);
        match self {
            Self::FullYear => utc.year().into(),
            Self::Month => i64::from(utc.month()) - 1,
            Self::Date => utc.day().into(),
            Self::DayOfWeek => utc.weekday().to_sunday_zero_offset().into(),
            Self::DayOfYear => i64::from(utc.day_of_year()) - 1,
            Self::Hours => utc.hour().into(),
            Self::Minutes => utc.minute().into(),
            Self::Seconds => utc.second().into(),
            Self::Milliseconds => utc.millisecond().into(),
        }
    }

    fn of_duration(self, duration: SignedDuration) -> Option<i64> {
        match self {
            Self::Hours => Some(duration.as_hours()),
            Self::Minutes => Some(duration.as_mins()),
            Self::Seconds => Some(duration.as_secs()),
            Self::Milliseconds => i64::try_from(duration.as_millis()).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_like_cel_writes_them() {
        for (text, millis) in [
            ("1h30m", 5_400_000),
            ("1.5s", 1_500),
            ("-250ms", -250),
            ("0", 0),
            ("1s1ms", 1_001),
            (".5h", 1_800_000),
        ] {
            assert_eq!(parse_duration(text), Some(SignedDuration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "h", "1x", "1 h", "--1s", "1..5s", ".s", "99999999999h", "1ｈ"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_wrong_format_is_found_before_it_is_used() {
        assert!(check_format("%Y-%m-%d").is_ok());
        assert!(check_format("%!").is_err());
        assert!(check_format(&"x".repeat(300)).is_err());
    }
}
