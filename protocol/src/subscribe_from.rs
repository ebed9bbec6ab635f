//! Where a subscription starts. Owns the text forms of `from` in a query; the JSON form is the codec's.

use std::fmt;
use std::str::FromStr;

use crate::Cursor;

/// The longest time ago that can be read, in milliseconds: some 292 million years.
const MAX_AGO_MS: u64 = i64::MAX as u64;

/// Where a subscription (or a read of the history) starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubscribeFrom {
    /// With what is published from now on.
    #[default]
    Now,
    /// With the oldest message that is kept.
    Earliest,
    /// With what comes after this cursor.
    After(Cursor),
    /// With the newest so many messages.
    Last(u64),
    /// With the first message at or after this time, in milliseconds since 1970-01-01T00:00Z.
    SinceTime(u64),
    /// With the first message that is not older than so many milliseconds, by the broker's clock.
    SinceAgo(u64),
}

/// Why a string does not say where to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a place to start from; use now, earliest, last:50, since:5m, since:2026-01-31T12:00:00Z, or a cursor such as k3f9a1:1042"
)]
pub struct SubscribeFromError(pub String);

impl SubscribeFrom {
    /// Reads what stands behind `since`: a time of RFC 3339, or how long ago (`90s`, `5m`, `1h 30m`, `7d`; a day is 24
    /// hours).
    pub fn parse_since(since: &str) -> Option<Self> {
        if let Ok(time) = since.parse::<jiff::Timestamp>() {
            return u64::try_from(time.as_millisecond())
                .ok()
                .map(Self::SinceTime);
        }
        let ago = since.parse::<jiff::SignedDuration>().or_else(|_| {
            // A duration stops at hours; a span goes on to days and weeks.
            since
                .parse::<jiff::Span>()?
                .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        });
        let ago = ago.ok()?;
        // A duration is written in one unit, and no number in it is larger than this.
        let ago_ms = u64::try_from(ago.as_millis()).ok()?;
        (ago_ms <= MAX_AGO_MS).then_some(Self::SinceAgo(ago_ms))
    }

    /// How `parse_since` would have it written; `None` for the other forms.
    pub fn since_text(&self) -> Option<String> {
        match *self {
            Self::SinceTime(unix_ms) => {
                let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
                Some(
                    jiff::Timestamp::from_millisecond(ms)
                        .unwrap_or(jiff::Timestamp::MAX)
                        .to_string(),
                )
            }
            Self::SinceAgo(ms) => Some(format!("{}ms", ms.min(MAX_AGO_MS))),
            Self::Now | Self::Earliest | Self::After(_) | Self::Last(_) => None,
        }
    }
}

impl FromStr for SubscribeFrom {
    type Err = SubscribeFromError;

    /// The form of a query and of the command line. A bare cursor is taken as `after`.
    fn from_str(s: &str) -> Result<Self, SubscribeFromError> {
        let parsed = match s.split_once(':') {
            None => match s {
                "now" => Some(Self::Now),
                "earliest" => Some(Self::Earliest),
                _ => None,
            },
            Some(("last", n)) => n.parse().ok().map(Self::Last),
            Some(("since", since)) => Self::parse_since(since),
            Some(_) => s.parse().ok().map(Self::After),
        };
        parsed.ok_or_else(|| SubscribeFromError(s.to_owned()))
    }
}

impl fmt::Display for SubscribeFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Earliest => f.write_str("earliest"),
            Self::After(cursor) => cursor.fmt(f),
            Self::Last(n) => write!(f, "last:{n}"),
            Self::SinceTime(_) | Self::SinceAgo(_) => {
                write!(f, "since:{}", self.since_text().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_query() {
        let cases = [
            ("now", Some(SubscribeFrom::Now)),
            ("earliest", Some(SubscribeFrom::Earliest)),
            ("last:50", Some(SubscribeFrom::Last(50))),
            ("since:5m", Some(SubscribeFrom::SinceAgo(300_000))),
            (
                "since:2026-01-31T12:00:00Z",
                Some(SubscribeFrom::SinceTime(1_769_860_800_000)),
            ),
            (
                "since:2026-01-31T13:00:00+01:00",
                Some(SubscribeFrom::SinceTime(1_769_860_800_000)),
            ),
            (
                "k3f9a1:7",
                Some(SubscribeFrom::After("k3f9a1:7".parse().unwrap())),
            ),
            (
                "since:9223372036854775807ms",
                Some(SubscribeFrom::SinceAgo(MAX_AGO_MS)),
            ),
            // 9223372036854776 s are 193 ms more.
            ("since:9223372036854776s", None),
            ("since:4444444442403 h0s", None),
            ("last:-1", None),
            ("since:-5m", None),
            ("since:", None),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse().ok(), expected, "{text}");
            if let Some(from) = expected {
                assert_eq!(
                    from.to_string().parse(),
                    Ok(from),
                    "{text} written and read again"
                );
            }
        }
    }

    #[test]
    fn what_is_longer_ago_than_can_be_written_is_written_as_the_longest() {
        let text = SubscribeFrom::SinceAgo(u64::MAX).to_string();
        assert_eq!(text.parse(), Ok(SubscribeFrom::SinceAgo(MAX_AGO_MS)));
    }
}
