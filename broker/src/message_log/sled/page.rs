//! Reads: pages of a topic, the place of a point in time, and the list of topics. Runs on the reader pool.

use hark_protocol::{GapReason, Record, TopicName};

use super::layout::{Header, Key, TopicId};
use super::meta::Identity;
use super::scan::{Scan, Value, is_damage, last_key};
use super::store::{Store, plainly};
use super::stored::Body;
use crate::message_log::{List, LogError, Page, PageItem, Read, TopicInfo};

/// Reads a page.
pub(super) fn read_page(store: &Store, read: &Read) -> Result<Page, LogError> {
    let Some(identity) = store.meta.identity(&read.topic)? else {
        return match unused(store, &read.topic)?.epoch() == read.epoch {
            true => Ok(nothing(read)),
            false => Err(LogError::OtherEpoch),
        };
    };
    if identity.epoch() != read.epoch {
        return Err(LogError::OtherEpoch);
    }
    let page = read_kept(store, identity.id(), read)?;
    // Looked at again after the scan: what was deleted meanwhile is not lost.
    match store.meta.identity(&read.topic)? {
        Some(now) if now.id() == identity.id() => {
            warn_of_losses(store, identity.id(), read, &page);
            Ok(page)
        }
        Some(_) | None => Err(LogError::OtherEpoch),
    }
}

/// The readers are told what is lost; whoever runs the broker has to know that there is damage, and what to do. What a recovery
/// could not save is no news.
fn warn_of_losses(store: &Store, topic: TopicId, read: &Read, page: &Page) {
    let lost = page.items.iter().filter_map(|item| match item {
        PageItem::Gap {
            reason: GapReason::Lost,
            from,
            to,
        } => Some((*from, *to)),
        _ => None,
    });
    let mut lost = lost.peekable();
    if lost.peek().is_none() {
        return;
    }
    // Where it cannot be read nothing is known: better one warning too many.
    let known = store.meta.losses(topic).unwrap_or_default();
    if lost.any(|(from, to)| !known.explain(from, to)) {
        store.condition().warn(format!(
            "records of the topic {} are damaged or missing; stop the broker soon and let `hark log recover` salvage what can be read",
            read.topic
        ));
    }
}

fn nothing(read: &Read) -> Page {
    Page {
        items: Vec::new(),
        reached: read.after,
    }
}

/// Reads a page of a topic that has, or had, records.
fn read_kept(store: &Store, topic: TopicId, read: &Read) -> Result<Page, LogError> {
    let numbers = store.meta.numbers(topic)?;
    let up_to = read.up_to.min(numbers.head);
    if read.after >= up_to {
        return Ok(nothing(read));
    }

    let mut page = PageInWork::new(read, up_to);
    if page.next() < numbers.first {
        page.miss_until(numbers.first.min(up_to + 1));
    }
    let mut scan = Scan::new(&store.records, topic, page.next(), up_to).map_err(unreadable)?;
    while page.next() <= up_to && !page.full {
        match scan.next_value().map_err(unreadable)? {
            Some(value) => page.add_value(&value),
            None => page.miss_until(up_to + 1),
        }
    }
    // Read again after the scan: what retention took meanwhile is expired, not lost.
    let first = store.meta.numbers(topic)?.first;
    Ok(page.done(first))
}

/// A page that is being filled, with what is missing not yet explained.
struct PageInWork {
    items: Vec<Item>,
    reached: u64,
    up_to: u64,
    bytes: usize,
    records: usize,
    max_bytes: usize,
    max_records: usize,
    tell_identity: bool,
    full: bool,
}

enum Item {
    Record(Record),
    Missing { from: u64, to: u64 },
}

impl PageInWork {
    fn new(read: &Read, up_to: u64) -> Self {
        Self {
            items: Vec::new(),
            reached: read.after,
            up_to,
            bytes: 0,
            records: 0,
            max_bytes: read.max_bytes,
            max_records: read.max_records.max(1),
            tell_identity: read.tell_identity,
            full: false,
        }
    }

    fn next(&self) -> u64 {
        self.reached + 1
    }

    /// Nothing is known of the offsets before `next`.
    fn miss_until(&mut self, next: u64) {
        let from = self.next();
        if from < next {
            self.reached = next - 1;
            match self.items.last_mut() {
                Some(Item::Missing { to, .. }) => *to = next - 1,
                _ => self.items.push(Item::Missing { from, to: next - 1 }),
            }
        }
    }

    fn add_value(&mut self, value: &Value) {
        if value.end < self.next() {
            return;
        }
        self.miss_until(value.base.min(self.up_to + 1));
        let mut body = Body::new(value.body.clone());
        for offset in value.base..=value.end.min(self.up_to) {
            if offset < self.next() {
                // What cannot be passed over is found to be missing below.
                let _passed = body.skip();
                continue;
            }
            let Ok((message, identity)) = body.next_message() else {
                self.miss_until(value.end.min(self.up_to) + 1);
                return;
            };
            let bytes = self.bytes + message.size_bytes();
            if self.records > 0 && bytes > self.max_bytes {
                self.full = true;
                return;
            }
            let record = Record {
                offset,
                prev: None,
                time_ms: value.time_ms,
                identity: identity.filter(|_| self.tell_identity),
                message,
            };
            self.items.push(Item::Record(record));
            self.reached = offset;
            self.bytes = bytes;
            self.records += 1;
            if self.records >= self.max_records || self.bytes >= self.max_bytes {
                self.full = true;
                return;
            }
        }
    }

    fn done(self, first: u64) -> Page {
        let mut items = Vec::with_capacity(self.items.len() + 1);
        for item in self.items {
            match item {
                Item::Record(record) => items.push(PageItem::Record(record)),
                Item::Missing { from, to } => explain(from, to, first, &mut items),
            }
        }
        Page {
            items,
            reached: self.reached,
        }
    }
}

/// What is missing before `first` has expired; what is missing after is lost.
fn explain(from: u64, to: u64, first: u64, items: &mut Vec<PageItem>) {
    let expired = to.min(first - 1);
    if from <= expired {
        items.push(PageItem::Gap {
            reason: GapReason::Expired,
            from,
            to: expired,
        });
    }
    let lost = from.max(first);
    if lost <= to {
        items.push(PageItem::Gap {
            reason: GapReason::Lost,
            from: lost,
            to,
        });
    }
}

/// Finds the offset before the first record that is not older than `since_ms`, by halving: time does not go back.
pub(super) fn find_time(
    store: &Store,
    topic: &TopicName,
    since_ms: u64,
    up_to: u64,
) -> Result<u64, LogError> {
    let Some(identity) = store.meta.identity(topic)? else {
        return Ok(0);
    };
    let numbers = store.meta.numbers(identity.id())?;
    let up_to = up_to.min(numbers.head);
    // All before `low` are older; none from `high` on is.
    let (mut low, mut high) = (numbers.first, up_to + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match value_at(store, identity.id(), middle)? {
            // A value's records have one time.
            Some((_, end, time_ms)) if time_ms < since_ms => low = end + 1,
            Some((base, _, _)) => high = base.clamp(low, middle),
            // Damaged: as if it were as old as its neighbour. A reader that begins too early misses nothing.
            None => high = middle,
        }
    }
    Ok((low.min(up_to + 1)).saturating_sub(1))
}

/// Base, end and time of the value that holds `offset`, if it is whole.
fn value_at(
    store: &Store,
    topic: TopicId,
    offset: u64,
) -> Result<Option<(u64, u64, u64)>, LogError> {
    let whole = || {
        let Some(Key { base, .. }) = last_key(&store.records, topic, offset)? else {
            return Ok(None);
        };
        let key = Key::new(topic, base, 0).to_bytes();
        Ok(store.records.get(&key)?.map(|value| (base, key, value)))
    };
    let (base, key, value) = match whole() {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(e) if is_damage(&e) => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let Some(header) = Header::check(&key, &value) else {
        return Ok(None);
    };
    let records = if header.is_part {
        1
    } else {
        u64::from(header.count)
    };
    let end = base.saturating_add(records - 1);
    Ok((end >= offset).then_some((base, end, header.time_ms)))
}

/// Lists topics.
pub(super) fn list(store: &Store, order: &List) -> Result<Vec<TopicInfo>, LogError> {
    let found = store.meta.identities(&order.prefix, order.after.as_ref());
    found
        .take(order.limit)
        .map(|found| {
            let (topic, identity) = found?;
            info(store, topic, identity)
        })
        .collect()
}

/// Describes a topic.
pub(super) fn describe(store: &Store, topic: &TopicName) -> Result<TopicInfo, LogError> {
    let identity = match store.meta.identity(topic)? {
        Some(identity) => identity,
        None => unused(store, topic)?,
    };
    info(store, topic.clone(), identity)
}

/// What a topic will be that has no record.
fn unused(store: &Store, topic: &TopicName) -> Result<Identity, LogError> {
    let deletions = store.meta.deletions(topic)?;
    Ok(Identity::unused(&store.directory(), deletions.as_ref()))
}

fn info(store: &Store, topic: TopicName, mut identity: Identity) -> Result<TopicInfo, LogError> {
    let numbers = store.meta.numbers(identity.id())?;
    let head = store.committed_head(identity.id(), numbers.head);
    identity.see_cuts(&store.directory(), head);
    Ok(TopicInfo {
        topic,
        epoch: identity.epoch(),
        first: numbers.first.min(head + 1),
        head,
        bytes: numbers.bytes,
    })
}

pub(super) fn unreadable(e: sled::Error) -> LogError {
    LogError::Unreadable(plainly(&e))
}
