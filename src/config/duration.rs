//! Durations as Go programs write them: `1h30m`, `15s`, `250ms`, `1.5h`, `-5s`. Signed, because kube-proxy reads a negative
//! one and then says which field must not be negative.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longer ones would leave the range of the clock, and are typing errors.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// Units in seconds.
const UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// Go's `time.Duration`: nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct GoDuration(i64);

impl GoDuration {
    /// From whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds * 1_000_000_000)
    }

    /// From nanoseconds, as a bare number means them.
    #[must_use]
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self(nanoseconds)
    }

    /// Whether it is 0, which mostly means "not set".
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it is less than 0.
    #[must_use]
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// As a duration of this language; negative ones become 0.
    #[must_use]
    pub fn to_std(self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }
}

impl From<Duration> for GoDuration {
    fn from(duration: Duration) -> Self {
        Self(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
    }
}

impl FromStr for GoDuration {
    type Err = String;

    /// `time.ParseDuration`, and its words for what it cannot read.
    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {text:?}");
        let (negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total = 0.0f64;
        while !rest.is_empty() {
            let Some(digits) = rest.find(|c: char| !c.is_ascii_digit() && c != '.') else {
                return Err(format!("time: missing unit in duration {text:?}"));
            };
            let (number, tail) = rest.split_at(digits);
            let number: f64 = number.parse().map_err(|_| invalid())?;
            let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            };
            total += number * factor;
            rest = tail;
        }
        // Beyond 292 years Go gives up as well.
        let duration = Duration::try_from_secs_f64(total).map_err(|_| invalid())?;
        let nanoseconds = i64::try_from(duration.as_nanos()).map_err(|_| invalid())?;
        Ok(Self(if negative { -nanoseconds } else { nanoseconds }))
    }
}

impl fmt::Display for GoDuration {
    /// `time.Duration.String`: `24h0m0s`, `1m30s`, `250ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let sign = if self.0 < 0 { "-" } else { "" };
        let nanoseconds = self.0.unsigned_abs();
        if nanoseconds < 1_000_000_000 {
            let (unit, size) = match nanoseconds {
                0..1_000 => ("ns", 1),
                1_000..1_000_000 => ("µs", 1_000),
                _ => ("ms", 1_000_000),
            };
            return write!(f, "{sign}{}{unit}", decimal(nanoseconds, size));
        }
        let (minutes, rest) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
        let seconds = decimal(rest, 1_000_000_000);
        match (minutes / 60, minutes % 60) {
            (0, 0) => write!(f, "{sign}{seconds}s"),
            (0, minutes) => write!(f, "{sign}{minutes}m{seconds}s"),
            (hours, minutes) => write!(f, "{sign}{hours}h{minutes}m{seconds}s"),
        }
    }
}

/// `count / size`, without trailing zeros.
fn decimal(count: u64, size: u64) -> String {
    let (whole, fraction) = (count / size, count % size);
    if fraction == 0 {
        return whole.to_string();
    }
    let digits = size.to_string().len() - 1;
    format!("{whole}.{fraction:0digits$}").trim_end_matches('0').to_owned()
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    /// As `metav1.Duration`: text only, so that nobody takes `30` for seconds.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads a duration that is not negative, of a year at most.
///
/// # Errors
/// A sentence that says what a duration looks like.
pub fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is no duration: write it as 15m, 1h30m, 250ms");
    let duration: GoDuration = text.parse().map_err(|_| error())?;
    if duration.is_negative() {
        return Err(error());
    }
    match duration.to_std() {
        duration if duration <= LONGEST => Ok(duration),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        assert_eq!(parse("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for text in ["3000000000000000h", "10000h", "", "5", "s", "5x", "1h 5m", "-1s", "1..5s"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn written_as_go_writes_them() {
        for (text, written) in [
            ("24h", "24h0m0s"),
            ("15m", "15m0s"),
            ("90s", "1m30s"),
            ("1.5s", "1.5s"),
            ("250ms", "250ms"),
            ("1500us", "1.5ms"),
            ("7ns", "7ns"),
            ("-5s", "-5s"),
            ("0", "0s"),
            ("1h0.5s", "1h0m0.5s"),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn refused_in_gos_words() {
        let refused = |text: &str| text.parse::<GoDuration>().unwrap_err();
        assert_eq!(refused("5"), "time: missing unit in duration \"5\"");
        assert_eq!(refused("5x"), "time: unknown unit \"x\" in duration \"5x\"");
        assert_eq!(refused(""), "time: invalid duration \"\"");
    }
}
