//! How records lie in the tree `records`: keys, and the header and checksum of a value. Knows nothing of what a record
//! is (`stored` does) nor of when it is written (`writer`).
//!
//! ```text
//! key    topic id (8) | offset of the first record (8) | part (2)           all big-endian, so that they sort
//! value  format (1) | flags (1) | crc32 (4) | count (2) | time (8) | body   all little-endian
//! ```
//! A value holds records of one append, so all of them have the value's time. A record that is too large for one value
//! lies in parts, one value each; then `count` is how many parts there are.

/// No value is larger. sled writes a leaf as a whole, and one beyond 128 KiB into a file of its own, which it never syncs and
/// does not always remove. A leaf has up to 17 values before it is cut, and where retention empties others beside it, it takes
/// over up to three from each: 22 must fit.
pub(super) const MAX_VALUE_BYTES: usize = 5632;
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const KEY_BYTES: usize = 18;

const FORMAT: u8 = 1;
const FLAG_PART: u8 = 1;
/// Where the checksum lies within the header.
const CRC: std::ops::Range<usize> = 2..6;

/// The number a topic's keys begin with. Never used again for another topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TopicId(pub(super) u64);

/// Where a value lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) topic: TopicId,
    /// The offset of the value's first record.
    pub(super) base: u64,
    pub(super) part: u16,
}

impl Key {
    pub(super) fn new(topic: TopicId, base: u64, part: u16) -> Self {
        Self { topic, base, part }
    }

    pub(super) fn to_bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&self.topic.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.base.to_be_bytes());
        bytes[16..].copy_from_slice(&self.part.to_be_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (topic, rest) = bytes.split_first_chunk()?;
        let (base, rest) = rest.split_first_chunk()?;
        let part = u16::from_be_bytes(rest.try_into().ok()?);
        Some(Self::new(
            TopicId(u64::from_be_bytes(*topic)),
            u64::from_be_bytes(*base),
            part,
        ))
    }
}

/// What a value's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// How many records the body holds; of a part, how many parts there are.
    pub(super) count: u16,
    /// Whether the body is a part of one record.
    pub(super) is_part: bool,
    /// When the records were kept.
    pub(super) time_ms: u64,
}

impl Header {
    /// Writes the header over the first [`HEADER_BYTES`] of `value`, whose body must be complete.
    pub(super) fn seal(self, key: &[u8; KEY_BYTES], value: &mut [u8]) {
        value[0] = FORMAT;
        value[1] = if self.is_part { FLAG_PART } else { 0 };
        value[6..8].copy_from_slice(&self.count.to_le_bytes());
        value[8..16].copy_from_slice(&self.time_ms.to_le_bytes());
        let crc = checksum(key, value);
        value[CRC].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header of a value whose checksum holds. `None`: what lies there is not what was written.
    pub(super) fn check(key: &[u8], value: &[u8]) -> Option<Self> {
        let header = Self::unchecked(value)?;
        let crc = u32::from_le_bytes(value.get(CRC)?.try_into().ok()?);
        let known = value[0] == FORMAT && value[1] & !FLAG_PART == 0;
        (known && crc == checksum(key, value) && header.count > 0).then_some(header)
    }

    /// The header as it lies there, for those who only throw the value away.
    pub(super) fn unchecked(value: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = value.first_chunk()?;
        Some(Self {
            count: u16::from_le_bytes([bytes[6], bytes[7]]),
            is_part: bytes[1] & FLAG_PART != 0,
            time_ms: u64::from_le_bytes(bytes[8..].try_into().ok()?),
        })
    }
}

/// Over the key too, so that a value that turns up in another's place is found out.
fn checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(&value[..CRC.start]);
    crc.update(&value[CRC.end..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_topic_then_offset_then_part() {
        let keys = [
            (1, 1, 0),
            (1, 1, 1),
            (1, 2, 0),
            (1, 256, 0),
            (2, 1, 0),
            (256, 1, 0),
        ]
        .map(|(topic, base, part)| Key::new(TopicId(topic), base, part));
        for pair in keys.windows(2) {
            assert!(pair[0].to_bytes() < pair[1].to_bytes(), "{pair:?}");
        }
        assert!(
            keys.iter()
                .all(|key| Key::parse(&key.to_bytes()) == Some(*key))
        );
        assert_eq!(Key::parse(&[0; 17]), None);
        assert_eq!(Key::parse(&[0; 19]), None);
    }

    #[test]
    fn a_value_with_one_bit_changed_or_in_another_place_is_not_taken() {
        let key = Key::new(TopicId(7), 42, 0).to_bytes();
        let mut value = vec![0; HEADER_BYTES];
        value.extend_from_slice(b"body");
        let header = Header {
            count: 3,
            is_part: false,
            time_ms: 1_764_230_400_123,
        };
        header.seal(&key, &mut value);
        assert_eq!(Header::check(&key, &value), Some(header));

        for bit in 0..value.len() * 8 {
            let mut flipped = value.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::check(&key, &flipped), None, "bit {bit}");
        }
        let elsewhere = Key::new(TopicId(7), 43, 0).to_bytes();
        assert_eq!(Header::check(&elsewhere, &value), None);
        for len in 0..value.len() {
            assert_eq!(Header::check(&key, &value[..len]), None, "{len} bytes");
        }
    }
}
