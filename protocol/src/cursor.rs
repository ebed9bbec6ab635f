//! Cursors: a place in a topic, as one string. Owns the text form; leaves what a place means to the broker's rooms.

use std::fmt;
use std::str::FromStr;

/// The identity of a topic's sequence of offsets. It changes only when it is another sequence.
///
/// Written as a number in base 36 (`k3f9a1`), and opaque to clients. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// An epoch from its number; zero, which no epoch has, becomes one.
    pub const fn new(number: u64) -> Self {
        Self(if number == 0 { 1 } else { number })
    }

    /// The number, for those who store epochs.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// "I have everything of this topic up to here": `epoch:offset`, the same on every transport.
///
/// ```
/// use hark_protocol::{Cursor, Epoch};
/// let cursor: Cursor = "k3f9a1:1042".parse()?;
/// assert_eq!(cursor.offset, 1042);
/// assert_eq!(cursor.to_string(), "k3f9a1:1042");
/// # Ok::<(), hark_protocol::CursorError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// Which sequence of offsets is meant.
    pub epoch: Epoch,
    /// The last offset the holder has; 0 is before the first message.
    pub offset: u64,
}

/// Why a string is no cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cursor looks like `k3f9a1:1042` (epoch, colon, offset), as Hark gave it out")]
pub struct CursorError;

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 13]; // 36^13 > 2^64
        let mut at = text.len();
        let mut rest = self.0;
        while rest > 0 {
            at -= 1;
            text[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
            rest /= 36;
        }
        f.write_str(std::str::from_utf8(&text[at..]).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Epoch {
    type Err = CursorError;

    /// Takes only what `Display` writes, so that a cursor has one spelling.
    fn from_str(s: &str) -> Result<Self, CursorError> {
        let canonical = s
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
            && !s.starts_with('0');
        match u64::from_str_radix(s, 36) {
            Ok(number) if canonical => Ok(Self(number)),
            _ => Err(CursorError),
        }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(s: &str) -> Result<Self, CursorError> {
        let (epoch, offset) = s.split_once(':').ok_or(CursorError)?;
        let canonical = offset.bytes().all(|b| b.is_ascii_digit())
            && (offset == "0" || !offset.starts_with('0'));
        match offset.parse() {
            Ok(offset) if canonical => Ok(Self {
                epoch: epoch.parse()?,
                offset,
            }),
            _ => Err(CursorError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_spelling() {
        for good in ["k3f9a1:1042", "1:0", "3w5e11264sgsf:18446744073709551615"] {
            assert_eq!(good.parse::<Cursor>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            ":",
            "a",
            "a:",
            ":1",
            "a:01",
            "a:-1",
            "a:+1",
            "0a:1",
            "A:1",
            "a:1:2",
            "a:1 ",
            "zzzzzzzzzzzzz:1",
            "a:18446744073709551616",
            "0:1",
            "ü:1",
        ] {
            assert!(bad.parse::<Cursor>().is_err(), "{bad:?} was taken");
        }
    }
}
