//! Walks over the stored values of a topic, in order, and gives out the whole ones. What is damaged is passed over: those
//! who count offsets see what is missing.

use bytes::{Bytes, BytesMut};
use sled::IVec;

use super::layout::{HEADER_BYTES, Header, KEY_BYTES, Key, TopicId};
use super::rows::{Range, Records};

/// A stored value, or the parts of one, whole.
#[derive(Debug, Clone)]
pub(super) struct Value {
    /// The offsets of the first and last record.
    pub(super) base: u64,
    pub(super) end: u64,
    pub(super) time_ms: u64,
    /// The records.
    pub(super) body: Bytes,
    /// Bytes as stored, keys included.
    pub(super) bytes: u64,
}

/// A walk in the order of offsets.
pub(super) struct Scan<'a> {
    records: &'a Records,
    topic: TopicId,
    from: u64,
    until: u64,
    found: Range,
    /// Read, but belongs to what comes next.
    ahead: Option<(Key, IVec)>,
    /// The smallest offset that a value which has not been seen can have.
    next: u64,
    /// What was read reaches up to here.
    seen_up_to: u64,
    unreadable: u64,
}

impl<'a> Scan<'a> {
    /// Begins with the value that holds `from`, or the first after it; ends with the one that holds `until`.
    pub(super) fn new(
        records: &'a Records,
        topic: TopicId,
        from: u64,
        until: u64,
    ) -> sled::Result<Self> {
        let base = match last_key(records, topic, from) {
            // A value before that lies in parts is one record: it does not reach `from`.
            Ok(found) => found
                .filter(|key| key.part == 0)
                .map_or(from, |key| key.base),
            // `next_value` finds the way around what cannot be read.
            Err(e) if is_damage(&e) => from,
            Err(e) => return Err(e),
        };
        Ok(Self {
            from,
            ..Self::begin(records, topic, base, until)
        })
    }

    /// Begins with the first value there is, whole or not; ends with the one that holds `until`.
    pub(super) fn all(records: &'a Records, topic: TopicId, until: u64) -> Self {
        Self::begin(records, topic, 0, until)
    }

    fn begin(records: &'a Records, topic: TopicId, base: u64, until: u64) -> Self {
        Self {
            records,
            topic,
            from: base,
            until,
            found: records.range(span(topic, base, until)),
            ahead: None,
            next: base,
            seen_up_to: 0,
            unreadable: 0,
        }
    }

    /// The next key and value as they lie there, damaged or not.
    pub(super) fn next_key_value(&mut self) -> sled::Result<Option<(Key, IVec)>> {
        self.take()
    }

    /// How often something could not be read, and was passed over.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The next whole value. Errors are those of reading, not of what was read.
    pub(super) fn next_value(&mut self) -> sled::Result<Option<Value>> {
        while let Some((key, value)) = self.take()? {
            match Header::check(&key.to_bytes(), &value) {
                Some(header) if !header.is_part && key.part == 0 => {
                    let bytes = (KEY_BYTES + value.len()) as u64;
                    let end = key.base.saturating_add(u64::from(header.count) - 1);
                    if end < self.from {
                        continue;
                    }
                    return Ok(Some(Value {
                        base: key.base,
                        end,
                        time_ms: header.time_ms,
                        body: Bytes::from_owner(value).slice(HEADER_BYTES..),
                        bytes,
                    }));
                }
                Some(header) if header.is_part && key.part == 0 => {
                    if let Some(whole) = self.join_parts(key.base, header, value)? {
                        return Ok(Some(whole));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Joins the parts that follow the first one. `None` if one is missing or damaged.
    fn join_parts(&mut self, base: u64, first: Header, value: IVec) -> sled::Result<Option<Value>> {
        let mut body = BytesMut::with_capacity(usize::from(first.count) * value.len());
        body.extend_from_slice(&value[HEADER_BYTES..]);
        for part in 1..first.count {
            let Some((key, value)) = self.take()? else {
                return Ok(None);
            };
            if (key.base, key.part) != (base, part) {
                self.ahead = Some((key, value));
                return Ok(None);
            }
            if Header::check(&key.to_bytes(), &value) != Some(first) {
                return Ok(None);
            }
            body.extend_from_slice(&value[HEADER_BYTES..]);
        }
        let bytes = body.len() as u64 + u64::from(first.count) * (KEY_BYTES + HEADER_BYTES) as u64;
        let (end, time_ms, body) = (base, first.time_ms, body.freeze());
        Ok(Some(Value {
            base,
            end,
            time_ms,
            body,
            bytes,
        }))
    }

    fn take(&mut self) -> sled::Result<Option<(Key, IVec)>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        loop {
            match self.found.next() {
                Some(Ok((key, value))) => {
                    let Some(key) = Key::parse(&key) else {
                        continue;
                    };
                    self.next = key.base;
                    let records = Header::unchecked(&value).filter(|header| !header.is_part);
                    let records = records.map_or(1, |header| u64::from(header.count).max(1));
                    self.seen_up_to = key.base.saturating_add(records - 1);
                    return Ok(Some((key, value)));
                }
                None if self.seen_up_to >= self.until || self.until == u64::MAX => return Ok(None),
                // Of a leaf that was damaged sled may hold an older state, which does not know of leaves behind it.
                None => {}
                Some(Err(e)) if is_damage(&e) => {}
                Some(Err(e)) => return Err(e),
            }
            self.unreadable += 1;
            let Some(readable) = self.first_readable()? else {
                self.seen_up_to = self.until;
                return Ok(None);
            };
            self.next = readable;
            self.found = self.records.range(span(self.topic, readable, self.until));
        }
    }

    /// The first offset after `next` from which there is a way on: a leaf that cannot be read does not say where it ends, so its
    /// end is felt for in growing steps, and then in shrinking ones.
    fn first_readable(&self) -> sled::Result<Option<u64>> {
        let last = match last_key(self.records, self.topic, self.until) {
            Ok(last) => last.map(|key| key.base),
            Err(e) if is_damage(&e) => None,
            Err(e) => return Err(e),
        };
        // From an offset within the last value nothing leads on.
        let furthest = last.unwrap_or(self.until);
        let (mut blocked, mut step) = (self.next, 1_u64);
        let mut open = loop {
            if blocked >= furthest {
                return Ok(None);
            }
            let probe = blocked.saturating_add(step).min(furthest);
            if self.leads_on(probe)? {
                break probe;
            }
            blocked = probe;
            step = step.saturating_mul(2);
        };
        while open - blocked > 1 {
            let middle = blocked + (open - blocked) / 2;
            match self.leads_on(middle)? {
                true => open = middle,
                false => blocked = middle,
            }
        }
        Ok(Some(open))
    }

    fn leads_on(&self, offset: u64) -> sled::Result<bool> {
        let mut rest = self.records.range(span(self.topic, offset, self.until));
        match rest.next() {
            Some(Ok(_)) => Ok(true),
            None => Ok(false),
            Some(Err(e)) if is_damage(&e) => Ok(false),
            Some(Err(e)) => Err(e),
        }
    }
}

/// The keys of a topic's values from `base` to those that begin at `until`.
pub(super) fn span(
    topic: TopicId,
    base: u64,
    until: u64,
) -> std::ops::RangeInclusive<[u8; KEY_BYTES]> {
    Key::new(topic, base, 0).to_bytes()..=Key::new(topic, until, u16::MAX).to_bytes()
}

/// The last key of a topic up to `offset`.
pub(super) fn last_key(
    records: &Records,
    topic: TopicId,
    offset: u64,
) -> sled::Result<Option<Key>> {
    let found = records
        .range(span(topic, 0, offset))
        .next_back()
        .transpose()?;
    Ok(found.and_then(|(key, _)| Key::parse(&key)))
}

/// Whether the error says that what lies on the disk is not what was written, rather than that it cannot be read now.
pub(super) fn is_damage(e: &sled::Error) -> bool {
    match e {
        sled::Error::Corruption { .. } => true,
        sled::Error::Io(e) => e.kind() == std::io::ErrorKind::UnexpectedEof,
        sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_) => false,
    }
}
