//! Takes from the front of open topics what their retention does not keep: in small steps between commits, so that nobody
//! waits for it, and faster than records come in. Topics that nobody has open are opened for it by `rounds`.

use hark_protocol::TopicName;
use sled::IVec;

use super::layout::{Header, KEY_BYTES, Key, TopicId};
use super::meta::{MetaError, Numbers};
use super::scan::{Scan, is_damage};
use super::store::Store;
use super::writer::{Answer, OpenTopic, Slot, Writer};
use crate::message_log::{LogNews, Retention};

/// How many keys are taken from one topic between two commits at most (of a message in parts: all of them).
const TRIM_STEP: usize = 256;
/// How many keys are taken for each that is written, at least.
const TRIM_PER_WRITE: usize = 2;

/// The oldest stored value of a topic, as far as is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Oldest {
    NotLookedAt,
    Known(Extent),
    /// sled cannot read it: it stays where it is.
    Unreadable,
}

/// How far a stored value (with all its parts) goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The offset of its last record.
    end: u64,
    bytes: u64,
    time_ms: u64,
}

impl OpenTopic {
    /// Whether retention has something to do. May be wrong where the oldest value is not known yet.
    fn is_over_bound(&self, bounds: Bounds) -> bool {
        let is_empty = self.numbers.first > self.numbers.head;
        match self.oldest {
            Oldest::NotLookedAt => !is_empty,
            Oldest::Known(oldest) => {
                !is_empty && bounds.are_exceeded(&self.retention, oldest, &self.numbers)
            }
            Oldest::Unreadable => false,
        }
    }

    /// Moves `first` within the oldest value, so that no more records are kept than may be. The value itself stays until all of it may
    /// go. Called before the numbers are written anyhow; where whole values may go, `trim_one` moves `first` on.
    pub(super) fn keep_to_count(&mut self) {
        if let Oldest::Known(oldest) = self.oldest {
            let first = first_by_count(&self.retention, &self.numbers);
            self.numbers.first = self.numbers.first.max(first.min(oldest.end));
        }
    }
}

/// The first record that a topic's bound by count lets it keep.
fn first_by_count(retention: &Retention, numbers: &Numbers) -> u64 {
    (numbers.head + 1).saturating_sub(retention.max_messages.max(1))
}

/// What holds for all topics, beside each one's own retention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) now_ms: u64,
    /// No topic keeps more bytes than this while all together keep too many.
    pub(super) level: u64,
}

impl Bounds {
    /// Whether a value goes that is the oldest of a topic with these numbers. The value in which one of the topic's own bounds lies
    /// stays (of its records those that the bound by count takes are shown to nobody); the newest is taken by age, or where all topics together keep too much.
    pub(super) fn may_go(self, retention: &Retention, oldest: Extent, numbers: &Numbers) -> bool {
        if self.is_too_old(retention, oldest.time_ms) {
            return true;
        }
        let later_records = numbers.head.saturating_sub(oldest.end);
        let later_bytes = numbers.bytes.saturating_sub(oldest.bytes);
        let is_beyond_its_own =
            later_bytes >= retention.max_bytes || later_records >= retention.max_messages;
        later_records > 0 && is_beyond_its_own || numbers.bytes > self.level
    }

    /// Whether there is something to do: a value goes, or `first` moves within one.
    pub(super) fn are_exceeded(
        self,
        retention: &Retention,
        oldest: Extent,
        numbers: &Numbers,
    ) -> bool {
        self.may_go(retention, oldest, numbers)
            || first_by_count(retention, numbers) > numbers.first
    }

    pub(super) fn is_too_old(self, retention: &Retention, time_ms: u64) -> bool {
        time_ms < self.now_ms.saturating_sub(retention.max_age_ms)
    }
}

/// The oldest value of a topic, from the records themselves.
pub(super) fn oldest_extent(store: &Store, id: TopicId, head: u64) -> sled::Result<Option<Extent>> {
    let found = Extents::new(store, id, head).next_extent()?;
    Ok(found.map(|(extent, _)| extent))
}

impl Writer {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            now_ms: self.store.clock.settled_ms(),
            level: self.state.rounds.level(),
        }
    }

    /// Puts the topic in the queue of those to be trimmed if it is over a bound.
    pub(super) fn look_at_retention(&mut self, name: &TopicName) {
        let bounds = self.bounds();
        if let Some(Slot::Open(topic)) = self.state.topics.get_mut(name)
            && !topic.over_bound
            && topic.is_over_bound(bounds)
        {
            topic.over_bound = true;
            self.state.over_bound.push_back(name.clone());
        }
    }

    /// Finds the open topics whose oldest records have become too old.
    pub(super) fn find_old(&mut self) {
        let bounds = self.bounds();
        for (name, slot) in &mut self.state.topics {
            if let Slot::Open(topic) = slot
                && !topic.over_bound
                && topic.is_over_bound(bounds)
            {
                topic.over_bound = true;
                self.state.over_bound.push_back(name.clone());
            }
        }
    }

    /// Trims topics that are over a bound, as much as may be between two commits.
    pub(super) fn trim(&mut self) {
        if self.store.is_closed() {
            return;
        }
        let bounds = self.bounds();
        let mut budget = TRIM_STEP.max(TRIM_PER_WRITE * self.state.commit.keys);
        while budget > 0 {
            let Some(name) = self.state.over_bound.pop_front() else {
                return;
            };
            let Some(Slot::Open(topic)) = self.state.topics.get_mut(&name) else {
                continue;
            };
            topic.over_bound = false;
            let (first_before, bytes_before) = (topic.numbers.first, topic.numbers.bytes);
            let taken = match trim_one(&self.store, topic, TRIM_STEP.min(budget), bounds) {
                Ok(taken) => taken,
                Err(MetaError::Sled(e)) if is_damage(&e) => {
                    tracing::error!(topic = %name, error = %e, "old records cannot be read, and stay");
                    topic.oldest = Oldest::Unreadable;
                    1
                }
                Err(e) => return self.check(Err(e)),
            };
            budget = budget.saturating_sub(taken.max(1));
            self.state
                .rounds
                .count(&name, bytes_before, topic.numbers.bytes);
            if topic.numbers.first > first_before {
                let news = LogNews::Trimmed {
                    first: topic.numbers.first,
                };
                let sink = std::sync::Arc::clone(&topic.news);
                self.state.commit.answers.push(Answer::News { sink, news });
            }
            self.look_at_retention(&name);
            self.end_tending(&name);
        }
    }
}

/// Takes up to `max_keys` keys from the front of a topic. Says how many.
fn trim_one(
    store: &Store,
    topic: &mut OpenTopic,
    max_keys: usize,
    bounds: Bounds,
) -> Result<usize, MetaError> {
    let Some(id) = topic.id else { return Ok(0) };
    let mut numbers = topic.numbers;
    let mut keys: Vec<[u8; KEY_BYTES]> = Vec::new();
    let mut values = Extents::new(store, id, numbers.head);
    // The last record whose key goes.
    let mut gone = 0;
    topic.oldest = Oldest::NotLookedAt;
    while keys.len() < max_keys {
        let Some((value, its_keys)) = values.next_extent()? else {
            // Nothing is left, though there should be: it is lost, and `first` moves over it.
            numbers.first = numbers.head + 1;
            numbers.bytes = 0;
            gone = numbers.head;
            break;
        };
        if value.end >= numbers.first {
            if !bounds.may_go(&topic.retention, value, &numbers) {
                topic.oldest = Oldest::Known(value);
                // No further than this value, since it stays.
                let first = first_by_count(&topic.retention, &numbers);
                numbers.first = numbers.first.max(first.min(value.end));
                break;
            }
            gone = value.end;
            numbers.first = value.end + 1;
            numbers.bytes = numbers.bytes.saturating_sub(value.bytes);
        }
        // Else it is left over from a trim that was not finished.
        keys.extend(its_keys);
    }
    if numbers.first > topic.numbers.first {
        // A producer whose record goes must be in the checkpoint.
        if gone > topic.numbers.checkpoint {
            topic.checkpoint(&store.meta)?;
            numbers.checkpoint = topic.numbers.checkpoint;
        }
        // `first` moves before the keys go: a reader must not take what expired for lost.
        store.meta.set_numbers(id, &numbers)?;
        topic.numbers = numbers;
    }
    for key in &keys {
        store.records.remove(key)?;
    }
    Ok(keys.len())
}

/// Walks over the stored values as they lie there, damaged or not; what cannot be read counts as part of what is before it.
struct Extents<'a> {
    values: Scan<'a>,
    head: u64,
    ahead: Option<(Key, IVec)>,
}

impl<'a> Extents<'a> {
    fn new(store: &'a Store, id: TopicId, head: u64) -> Self {
        Self {
            values: Scan::all(&store.records, id, head),
            head,
            ahead: None,
        }
    }

    fn next_extent(&mut self) -> sled::Result<Option<(Extent, Vec<[u8; KEY_BYTES]>)>> {
        let Some((first, value)) = self.take()? else {
            return Ok(None);
        };
        let time_ms = Header::unchecked(&value).map_or(0, |header| header.time_ms);
        let mut bytes = (KEY_BYTES + value.len()) as u64;
        let mut keys = vec![first.to_bytes()];
        loop {
            match self.take()? {
                Some((next, value)) if next.base == first.base => {
                    bytes += (KEY_BYTES + value.len()) as u64;
                    keys.push(next.to_bytes());
                }
                next => {
                    let end = next.as_ref().map_or(self.head, |(next, ..)| next.base - 1);
                    self.ahead = next;
                    return Ok(Some((
                        Extent {
                            end,
                            bytes,
                            time_ms,
                        },
                        keys,
                    )));
                }
            }
        }
    }

    fn take(&mut self) -> sled::Result<Option<(Key, IVec)>> {
        match self.ahead.take() {
            Some(ahead) => Ok(Some(ahead)),
            None => self.values.next_key_value(),
        }
    }
}
