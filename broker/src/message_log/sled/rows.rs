//! The tree `records` as a map from keys to values, in which small values of one topic that follow each other share a row of
//! sled's. Owns rows; knows nothing of what a value holds.
//!
//! sled keeps some 500 bytes in memory for each of its leaves, whether the leaf is cached or not, and a leaf has at most 16
//! rows: a row for each small message is what a million quiet topics cannot afford.
//!
//! ```text
//! a value alone     its key → the value (whose first byte is layout's FORMAT)
//! several           the first one's key → SEVERAL (1) | for each: distance from the row's offset (4) | length (2) | value
//! ```
//! A row is replaced as a whole, so a crash leaves it as it was before a change or after it. The first value of a row may be
//! removed from it; the row keeps its key, which then lies before its first value's.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;

use sled::{IVec, Tree};

use super::layout::{KEY_BYTES, Key, TopicId};

/// The first byte of a row with several values. A value's first byte is its format, which is another.
const SEVERAL: u8 = 0xff;
const ENTRY_BYTES: usize = 6;
/// A row that a value is added to gets no larger. Each added value writes the row again, so it pays to stay small.
const MAX_ROW_BYTES: usize = 512;

/// The tree. One thread writes; any may read meanwhile.
#[derive(Debug, Clone)]
pub(super) struct Records(Tree);

impl Records {
    pub(super) fn new(tree: Tree) -> Self {
        Self(tree)
    }

    /// Keeps a value behind all others of its topic, or in the place of one that is there.
    pub(super) fn insert(&self, key: &[u8; KEY_BYTES], value: &[u8]) -> sled::Result<()> {
        if let Some((row_key, row)) = self.row_of(key)? {
            let mut entries = entries(&row_key, &row);
            let replaced = entries.iter_mut().find(|(other, _)| other == key);
            let replaces = replaced.is_some();
            match replaced {
                Some((_, old)) => *old = IVec::from(value),
                None => entries.push((*key, IVec::from(value))),
            }
            let fits = row.len() + 2 * ENTRY_BYTES + 1 + value.len() <= MAX_ROW_BYTES;
            // A row of one value is the value alone, unless the row's own value was removed from it.
            if (fits || replaces)
                && (entries.len() > 1 || row_key != *key)
                && let Some(row) = several(&row_key, &entries)
            {
                return self.0.insert(row_key, row).map(drop);
            }
        }
        self.0.insert(key, value).map(drop)
    }

    /// Puts values into the row of that key, in the place of those that are there: for salvage, which finds rows in no order.
    pub(super) fn merge(
        &self,
        row_key: &[u8; KEY_BYTES],
        values: impl IntoIterator<Item = Entry>,
    ) -> sled::Result<()> {
        let row = self.0.get(row_key)?;
        let there = row.map_or_else(Vec::new, |row| entries(row_key, &row));
        let merged: BTreeMap<_, _> = there.into_iter().chain(values).collect();
        let merged: Vec<Entry> = merged.into_iter().collect();
        match &merged[..] {
            [] => Ok(()),
            [(key, value)] if key == row_key => self.0.insert(row_key, value).map(drop),
            several_of_them => match several(row_key, several_of_them) {
                Some(row) => self.0.insert(row_key, row).map(drop),
                // They cannot have been in one row.
                None => several_of_them
                    .iter()
                    .try_for_each(|(key, value)| self.0.insert(key, value).map(drop)),
            },
        }
    }

    pub(super) fn remove(&self, key: &[u8]) -> sled::Result<()> {
        let Ok(key) = key.try_into() else {
            return self.0.remove(key).map(drop);
        };
        let Some((row_key, row)) = self.row_of(key)? else {
            return Ok(());
        };
        let mut entries = entries(&row_key, &row);
        let before = entries.len();
        entries.retain(|(other, _)| other != key);
        match several(&row_key, &entries) {
            _ if entries.len() == before => Ok(()),
            Some(row) if !entries.is_empty() => self.0.insert(row_key, row).map(drop),
            _ => self.0.remove(row_key).map(drop),
        }
    }

    pub(super) fn get(&self, key: &[u8; KEY_BYTES]) -> sled::Result<Option<IVec>> {
        let Some((row_key, row)) = self.row_of(key)? else {
            return Ok(None);
        };
        let mut found = entries(&row_key, &row).into_iter();
        Ok(found
            .find(|(other, _)| other == key)
            .map(|(_, value)| value))
    }

    /// What lies between two keys of one topic.
    pub(super) fn range(&self, keys: RangeInclusive<[u8; KEY_BYTES]>) -> Range {
        let (from, until) = keys.into_inner();
        // Where the row before cannot be read, what it holds is missing, as it would be anyhow.
        let is_whole_topic = from[8..] == [0; KEY_BYTES - 8];
        let first = match is_whole_topic {
            true => from,
            false => self
                .row_of(&from)
                .ok()
                .flatten()
                .map_or(from, |(row_key, _)| row_key),
        };
        Range {
            rows: self.0.range(first..=until),
            from,
            until,
            front: VecDeque::new(),
            back: VecDeque::new(),
        }
    }

    /// The topic with the largest id of those that have records.
    pub(super) fn last_topic(&self) -> sled::Result<Option<TopicId>> {
        let last = self.0.last()?;
        Ok(last
            .and_then(|(key, _)| Key::parse(&key))
            .map(|key| key.topic))
    }

    /// Every value, for tests that look at the whole tree.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<(IVec, IVec)> {
        let rows = self.0.iter().map(|row| row.unwrap());
        let values = rows.flat_map(|(key, row)| entries(&key.as_ref().try_into().unwrap(), &row));
        values
            .map(|(key, value)| (IVec::from(&key), value))
            .collect()
    }

    /// The row in which the key has its place: the last of the topic that begins before it, or with it.
    fn row_of(&self, key: &[u8; KEY_BYTES]) -> sled::Result<Option<([u8; KEY_BYTES], IVec)>> {
        let mut first = [0; KEY_BYTES];
        first[..8].copy_from_slice(&key[..8]);
        let rows = self.0.range(first..=*key).next_back().transpose()?;
        Ok(rows.and_then(|(row_key, row)| Some((row_key.as_ref().try_into().ok()?, row))))
    }
}

/// A key and its value.
pub(super) type Entry = ([u8; KEY_BYTES], IVec);

/// The values of a row, in order. What is no row ends it: those who count offsets see what is missing.
pub(super) fn entries(row_key: &[u8; KEY_BYTES], row: &IVec) -> Vec<Entry> {
    if row.first() != Some(&SEVERAL) {
        return vec![(*row_key, row.clone())];
    }
    let mut entries = Vec::new();
    let Some(row_base) = Key::parse(row_key) else {
        return entries;
    };
    let mut at = 1;
    while let Some((distance, len)) = entry_head(row, at) {
        let value = at + ENTRY_BYTES;
        let Some(base) = row_base.base.checked_add(distance) else {
            break;
        };
        if value + len > row.len() {
            break;
        }
        let key = Key::new(row_base.topic, base, 0).to_bytes();
        entries.push((key, row.subslice(value, len)));
        at = value + len;
    }
    entries
}

fn entry_head(row: &[u8], at: usize) -> Option<(u64, usize)> {
    let (distance, rest) = row.get(at..)?.split_first_chunk()?;
    let len = rest.first_chunk()?;
    Some((
        u64::from(u32::from_le_bytes(*distance)),
        usize::from(u16::from_le_bytes(*len)),
    ))
}

/// A row of these values. `None` where one has no place in it.
fn several(row_key: &[u8; KEY_BYTES], entries: &[Entry]) -> Option<Vec<u8>> {
    let row_base = Key::parse(row_key).filter(|key| key.part == 0)?.base;
    let mut row = Vec::with_capacity(MAX_ROW_BYTES);
    row.push(SEVERAL);
    for (key, value) in entries {
        let key = Key::parse(key).filter(|key| key.part == 0)?;
        let distance = u32::try_from(key.base.checked_sub(row_base)?).ok()?;
        row.extend_from_slice(&distance.to_le_bytes());
        row.extend_from_slice(&u16::try_from(value.len()).ok()?.to_le_bytes());
        row.extend_from_slice(value);
    }
    Some(row)
}

/// The values between two keys, from either end.
pub(super) struct Range {
    rows: sled::Iter,
    from: [u8; KEY_BYTES],
    until: [u8; KEY_BYTES],
    /// Of rows that were read from the front, and from the back.
    front: VecDeque<(IVec, IVec)>,
    back: VecDeque<(IVec, IVec)>,
}

impl Range {
    pub(super) fn keys(self) -> impl Iterator<Item = sled::Result<IVec>> {
        self.map(|found| found.map(|(key, _)| key))
    }

    fn values(&self, row_key: &IVec, row: IVec) -> VecDeque<(IVec, IVec)> {
        let Ok(row_key) = row_key.as_ref().try_into() else {
            return VecDeque::from([(row_key.clone(), row)]);
        };
        let entries = entries(&row_key, &row).into_iter();
        let within = entries.filter(|(key, _)| (self.from..=self.until).contains(key));
        within
            .map(|(key, value)| (IVec::from(&key), value))
            .collect()
    }
}

impl Iterator for Range {
    type Item = sled::Result<(IVec, IVec)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.front.pop_front() {
                return Some(Ok(found));
            }
            match self.rows.next() {
                Some(Ok((key, row))) => self.front = self.values(&key, row),
                Some(Err(e)) => return Some(Err(e)),
                None => return self.back.pop_front().map(Ok),
            }
        }
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(found) = self.back.pop_back() {
                return Some(Ok(found));
            }
            match self.rows.next_back() {
                Some(Ok((key, row))) => self.back = self.values(&key, row),
                Some(Err(e)) => return Some(Err(e)),
                None => return self.front.pop_back().map(Ok),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// Behind all others of the topic: so many offsets, or in parts.
        Append(u64, u64, u16, Vec<u8>),
        /// The value that many places from the front.
        Replace(u64, usize, Vec<u8>),
        Remove(u64, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let value = || {
            let value = prop_oneof![
                8 => proptest::collection::vec(any::<u8>(), 0..120),
                1 => proptest::collection::vec(any::<u8>(), 400..700),
            ];
            value.prop_map(|mut value| {
                value.insert(0, 1); // a format, as every value has it
                value
            })
        };
        let far = prop_oneof![9 => 1..4_u64, 1 => Just(1 << 33)];
        let parts = prop_oneof![9 => Just(1_u16), 1 => 2..4_u16];
        let step = prop_oneof![
            6 => (1..4_u64, far, parts, value())
                .prop_map(|(topic, by, parts, value)| Step::Append(topic, by, parts, value)),
            1 => (1..4_u64, 0..20_usize, value()).prop_map(|(topic, at, value)| Step::Replace(topic, at, value)),
            2 => (1..4_u64, 0..3_usize).prop_map(|(topic, at)| Step::Remove(topic, at)),
        ];
        proptest::collection::vec(step, 1..120)
    }

    fn of_topic(topic: u64) -> RangeInclusive<[u8; KEY_BYTES]> {
        let key = |base, part| Key::new(TopicId(topic), base, part).to_bytes();
        key(0, 0)..=key(u64::MAX, u16::MAX)
    }

    proptest! {
        #[test]
        fn it_is_a_map(steps in steps(), from in 0..60_u64, len in 0..60_u64, turns in any::<u32>()) {
            let db = sled::Config::new().temporary(true).open().unwrap();
            let records = Records::new(db.open_tree("records").unwrap());
            let mut model: BTreeMap<[u8; KEY_BYTES], Vec<u8>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Append(topic, by, parts, value) => {
                        let last = model.range(of_topic(topic)).next_back();
                        let base = last.map_or(0, |(key, _)| Key::parse(key).unwrap().base);
                        for part in 0..parts {
                            let key = Key::new(TopicId(topic), base + by, part).to_bytes();
                            records.insert(&key, &value).unwrap();
                            model.insert(key, value.clone());
                        }
                    }
                    Step::Replace(topic, at, value) => {
                        if let Some((key, old)) = model.range_mut(of_topic(topic)).nth(at) {
                            records.insert(key, &value).unwrap();
                            *old = value;
                        }
                    }
                    Step::Remove(topic, at) => {
                        if let Some((&key, _)) = model.range(of_topic(topic)).nth(at) {
                            records.remove(&key).unwrap();
                            model.remove(&key);
                        }
                    }
                }
            }
            let plain = |(key, value): (IVec, IVec)| (key.to_vec(), value.to_vec());
            let all: Vec<_> = records.all().into_iter().map(plain).collect();
            let expected: Vec<_> = model.iter().map(|(key, value)| (key.to_vec(), value.clone())).collect();
            prop_assert_eq!(all, expected);
            for topic in 1..4 {
                for base in 0..60 {
                    let key = Key::new(TopicId(topic), base, (base % 2) as u16).to_bytes();
                    let found = records.get(&key).unwrap().map(|value| value.to_vec());
                    prop_assert_eq!(found.as_ref(), model.get(&key));
                }
                let range = Key::new(TopicId(topic), from, 0).to_bytes()
                    ..=Key::new(TopicId(topic), from + len, u16::MAX).to_bytes();
                let mut expected = model.range(range.clone());
                let mut found = records.range(range);
                // From both ends, in any order of turns.
                for turn in 0.. {
                    let (found, expected) = match turns >> (turn % 32) & 1 {
                        0 => (found.next(), expected.next()),
                        _ => (found.next_back(), expected.next_back()),
                    };
                    let found = found.map(|found| plain(found.unwrap()));
                    let expected = expected.map(|(key, value)| (key.to_vec(), value.clone()));
                    prop_assert_eq!(&found, &expected);
                    if found.is_none() {
                        break;
                    }
                }
            }
            prop_assert_eq!(records.last_topic().unwrap(), model.keys().next_back().map(|key| Key::parse(key).unwrap().topic));
        }

        #[test]
        fn any_bytes_may_lie_in_a_row(mut row in proptest::collection::vec(any::<u8>(), 0..80), base in any::<u64>()) {
            row.insert(0, SEVERAL);
            let key = Key::new(TopicId(1), base, 0).to_bytes();
            let found = entries(&key, &IVec::from(row.clone()));
            prop_assert!(found.iter().map(|(_, value)| value.len() + ENTRY_BYTES).sum::<usize>() < row.len());
        }
    }

    #[test]
    fn small_values_share_rows_and_large_ones_do_not() {
        let db = sled::Config::new().temporary(true).open().unwrap();
        let records = Records::new(db.open_tree("records").unwrap());
        let put = |base, len| {
            let value = [&[1], vec![7; len].as_slice()].concat();
            records
                .insert(&Key::new(TopicId(1), base, 0).to_bytes(), &value)
                .unwrap();
        };
        (1..=3).for_each(|base| put(base, 130));
        assert_eq!(records.0.len(), 1);
        (4..=8).for_each(|base| put(base, 130));
        assert_eq!(records.0.len(), 3);
        (9..=11).for_each(|base| put(base, 1000));
        assert_eq!((records.0.len(), records.all().len()), (6, 11));
    }
}
