//! Takes from the front of open topics what their retention does not keep: in small steps between commits, so that nobody
//! waits for it, and faster than records come in.

use hark_protocol::TopicName;
use sled::IVec;

use super::layout::{Header, KEY_BYTES, Key};
use super::meta::MetaError;
use super::scan::{is_damage, span};
use super::store::Store;
use super::writer::{Answer, OpenTopic, Slot, Writer};
use crate::message_log::LogNews;

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
    fn is_over_bound(&self, now_ms: u64) -> bool {
        let is_empty = self.numbers.first > self.numbers.head;
        match self.oldest {
            Oldest::NotLookedAt => !is_empty,
            Oldest::Known(oldest) => !is_empty && self.may_go(oldest, self.numbers.bytes, now_ms),
            Oldest::Unreadable => false,
        }
    }

    /// Whether a value goes, when the topic has so many `bytes` with it and all later ones. The value in which a bound
    /// lies stays; the newest is taken by age alone.
    fn may_go(&self, value: Extent, bytes: u64, now_ms: u64) -> bool {
        let bound = &self.retention;
        if value.time_ms < now_ms.saturating_sub(bound.max_age_ms) {
            return true;
        }
        let later_records = self.numbers.head.saturating_sub(value.end);
        let later_bytes = bytes.saturating_sub(value.bytes);
        later_records > 0 && (later_bytes >= bound.max_bytes || later_records >= bound.max_messages)
    }
}

impl Writer {
    /// Puts the topic in the queue of those to be trimmed if it is over a bound.
    pub(super) fn look_at_retention(&mut self, name: &TopicName) {
        let now_ms = self.store.clock.now_ms();
        if let Some(Slot::Open(topic)) = self.state.topics.get_mut(name)
            && !topic.over_bound
            && topic.is_over_bound(now_ms)
        {
            topic.over_bound = true;
            self.state.over_bound.push_back(name.clone());
        }
    }

    /// Finds the open topics whose oldest records have become too old.
    pub(super) fn find_old(&mut self) {
        let now_ms = self.store.clock.now_ms();
        for (name, slot) in &mut self.state.topics {
            if let Slot::Open(topic) = slot
                && !topic.over_bound
                && topic.is_over_bound(now_ms)
            {
                topic.over_bound = true;
                self.state.over_bound.push_back(name.clone());
            }
        }
    }

    /// Trims topics that are over a bound, as much as may be between two commits.
    pub(super) fn trim(&mut self) {
        if self.store.closed().is_some() {
            return;
        }
        let now_ms = self.store.clock.now_ms();
        let mut budget = TRIM_STEP.max(TRIM_PER_WRITE * self.state.commit.keys);
        while budget > 0 {
            let Some(name) = self.state.over_bound.pop_front() else {
                return;
            };
            let Some(Slot::Open(topic)) = self.state.topics.get_mut(&name) else {
                continue;
            };
            topic.over_bound = false;
            let first_before = topic.numbers.first;
            let taken = match trim_one(&self.store, topic, TRIM_STEP.min(budget), now_ms) {
                Ok(taken) => taken,
                Err(MetaError::Sled(e)) if is_damage(&e) => {
                    tracing::error!(topic = %name, error = %e, "old records cannot be read, and stay");
                    topic.oldest = Oldest::Unreadable;
                    1
                }
                Err(e) => return self.check(Err(e)),
            };
            budget = budget.saturating_sub(taken.max(1));
            if topic.numbers.first > first_before {
                let news = LogNews::Trimmed {
                    first: topic.numbers.first,
                };
                let sink = std::sync::Arc::clone(&topic.news);
                self.state.commit.answers.push(Answer::News { sink, news });
            }
            self.look_at_retention(&name);
        }
    }
}

/// Takes up to `max_keys` keys from the front of a topic. Says how many.
fn trim_one(
    store: &Store,
    topic: &mut OpenTopic,
    max_keys: usize,
    now_ms: u64,
) -> Result<usize, MetaError> {
    let Some(id) = topic.id else { return Ok(0) };
    let mut numbers = topic.numbers;
    let mut keys: Vec<IVec> = Vec::new();
    let mut values = Extents::new(store.records.range(span(id, 0, numbers.head)), numbers.head);
    topic.oldest = Oldest::NotLookedAt;
    while keys.len() < max_keys {
        let Some((value, its_keys)) = values.next_extent()? else {
            // Nothing is left, though there should be: it is lost, and `first` moves over it.
            numbers.first = numbers.head + 1;
            numbers.bytes = 0;
            break;
        };
        if value.end >= numbers.first {
            if !topic.may_go(value, numbers.bytes, now_ms) {
                topic.oldest = Oldest::Known(value);
                break;
            }
            numbers.first = value.end + 1;
            numbers.bytes = numbers.bytes.saturating_sub(value.bytes);
        }
        // Else it is left over from a trim that was not finished.
        keys.extend(its_keys);
    }
    if numbers.first > topic.numbers.first {
        // A producer whose record goes must be in the checkpoint.
        if numbers.first > topic.numbers.checkpoint + 1 {
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

/// Walks over the stored values as they lie there, damaged or not.
struct Extents {
    found: sled::Iter,
    head: u64,
    ahead: Option<(Key, IVec, IVec)>,
}

impl Extents {
    fn new(found: sled::Iter, head: u64) -> Self {
        Self {
            found,
            head,
            ahead: None,
        }
    }

    fn next_extent(&mut self) -> sled::Result<Option<(Extent, Vec<IVec>)>> {
        let Some((first, key, value)) = self.take()? else {
            return Ok(None);
        };
        let time_ms = Header::unchecked(&value).map_or(0, |header| header.time_ms);
        let mut bytes = (KEY_BYTES + value.len()) as u64;
        let mut keys = vec![key];
        loop {
            match self.take()? {
                Some((next, key, value)) if next.base == first.base => {
                    bytes += (KEY_BYTES + value.len()) as u64;
                    keys.push(key);
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

    fn take(&mut self) -> sled::Result<Option<(Key, IVec, IVec)>> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(Some(ahead));
        }
        for found in self.found.by_ref() {
            let (key, value) = found?;
            if let Some(parsed) = Key::parse(&key) {
                return Ok(Some((parsed, key, value)));
            }
        }
        Ok(None)
    }
}
