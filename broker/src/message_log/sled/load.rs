//! What is found of a topic when it is opened: its head, whether its tail is whole, its producers and keys. Only reads,
//! on the reader pool; what must be put right is written by the writer, which takes no appends of the topic meanwhile.

use std::collections::HashMap;
use std::ops::RangeBounds;

use hark_protocol::TopicName;

use super::layout::{HEADER_BYTES, Header, KEY_BYTES, Key, TopicId};
use super::meta::{Deletions, Identity, Mark, Meta, MetaError, Numbers};
use super::scan::{Scan, Value, last_key, span};
use super::store::{Store, plainly};
use super::stored::{Body, known_by_first_part};
use crate::message_log::{
    KEY_MEMORY_MS, KeyMark, KnownBy, Lately, LogError, MAX_RECENT_KEYS, PRODUCER_MEMORY_MS,
    Producer, ProducerMark, keep_newest,
};

/// A topic as found, and what differs from what is stored.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// `None`: the topic was never used.
    pub(super) identity: Option<Identity>,
    pub(super) identity_changed: bool,
    pub(super) deletions: Option<Deletions>,
    pub(super) numbers: Numbers,
    pub(super) numbers_changed: bool,
    /// What `numbers` said before it was put right.
    pub(super) stored_bytes: u64,
    /// Leftovers of an append that was not finished: to be removed.
    pub(super) leftovers: Vec<Key>,
    pub(super) producers: Vec<ProducerMark>,
    /// Producers whose number in `meta` is that of a record which is lost, and what is to stand there instead, if anything.
    pub(super) corrected: Corrected,
    /// Those of the producers' numbers that are not in `meta` yet.
    pub(super) since_checkpoint: HashMap<Producer, Mark>,
    /// Producers that may be forgotten.
    pub(super) forgotten: Vec<ProducerMark>,
    pub(super) keys: Vec<KeyMark>,
    pub(super) lately: Lately,
}

impl Loaded {
    /// Takes back the numbers of records that are lost. Before anything else is appended: then they would seem to be those of what
    /// came in their place.
    pub(super) fn correct_marks(&self, meta: &Meta, topic: TopicId) -> Result<(), MetaError> {
        for (producer, mark) in &self.corrected {
            match mark {
                Some(mark) => meta.set_mark(topic, producer, mark)?,
                None => meta.remove_mark(topic, producer)?,
            }
        }
        Ok(())
    }
}

/// Looks at a topic. Whoever runs the broker is told of one that cannot be opened.
pub(super) fn load(store: &Store, name: &TopicName) -> Result<Loaded, LogError> {
    find(store, name).inspect_err(|e| {
        store.condition().warn(format!(
            "the topic {name} cannot be opened: {e}; stop the broker and let `hark log recover` salvage what can be read"
        ));
    })
}

fn find(store: &Store, name: &TopicName) -> Result<Loaded, LogError> {
    let deletions = store.meta.deletions(name)?;
    let Some(mut identity) = store.meta.identity(name)? else {
        return Ok(Loaded {
            deletions,
            ..Loaded::default()
        });
    };
    let topic = identity.id();
    let stored = store.meta.numbers(topic)?;
    let tail = Tail::find(store, topic, stored).map_err(damaged)?;
    let numbers = tail.numbers;

    let saw_cuts = identity.see_cuts(&store.directory(), numbers.head);
    if tail.is_cut && !saw_cuts {
        identity.lose_tail(numbers.head);
    }
    let (marks, corrected) = stored_marks(store, topic, &numbers)?;
    let mut after_checkpoint = Vec::new();
    let since_checkpoint =
        marks_after_checkpoint(store, topic, &numbers, &marks, &mut after_checkpoint)?;
    let (producers, forgotten) = producers(store, marks, &since_checkpoint);
    let Recent { keys, from, sent } = recent(store, topic, &numbers)?;
    let mut lately = Lately::default();
    let earlier = after_checkpoint
        .into_iter()
        .filter(|sent| sent.offset < from);
    for Sent {
        producer,
        seq,
        offset,
    } in earlier.chain(sent)
    {
        lately.push(producer, seq, offset);
    }
    if tail.is_cut {
        store.condition().warn(format!(
            "the topic {name} has lost its records from {} to {}: it goes on with a new epoch",
            numbers.head + 1,
            stored.head
        ));
    } else if saw_cuts {
        let (head, epoch) = (numbers.head, identity.epoch());
        tracing::warn!(topic = %name, head, %epoch, "the topic's tail may be lost: it goes on with a new epoch");
    }
    Ok(Loaded {
        identity: Some(identity),
        identity_changed: tail.is_cut || saw_cuts,
        deletions,
        numbers,
        numbers_changed: numbers != stored,
        stored_bytes: stored.bytes,
        leftovers: tail.leftovers,
        producers,
        corrected,
        since_checkpoint,
        forgotten,
        keys,
        lately,
    })
}

/// The end of a topic as it lies there.
struct Tail {
    numbers: Numbers,
    /// There is less than there was.
    is_cut: bool,
    leftovers: Vec<Key>,
}

impl Tail {
    fn find(store: &Store, topic: TopicId, stored: Numbers) -> sled::Result<Self> {
        let mut numbers = stored;
        let newest = match stored.first <= stored.head {
            true => last_whole_value(store, topic, stored.first, stored.head)?,
            false => None,
        };
        let found = newest.map_or(stored.first - 1, |value| value.end);
        let is_cut = found < stored.head;
        if is_cut {
            numbers.head = found;
            numbers.checkpoint = stored.checkpoint.min(found);
            // The value that holds `first` may begin before it.
            let oldest = last_key(&store.records, topic, stored.first)?;
            let base = oldest.map_or(stored.first, |key| key.base.min(stored.first));
            let is_first_in_it = oldest.is_some() && holds(store, topic, base, stored.first)?;
            let base = if is_first_in_it { base } else { stored.first };
            numbers.bytes = bytes_of(store, topic, base..=found)?;
        } else {
            // What was written but not answered: its producers find it here.
            let mut beyond = Scan::new(&store.records, topic, stored.head + 1, u64::MAX)?;
            while let Some(value) = beyond.next_value()? {
                if value.base != numbers.head + 1 {
                    break;
                }
                numbers.head = value.end;
                numbers.last_time_ms = value.time_ms.max(numbers.last_time_ms);
                numbers.bytes += value.bytes;
            }
        }
        let beyond = span(topic, numbers.head + 1, u64::MAX);
        let leftovers = store
            .records
            .range(beyond)
            .keys()
            .filter_map(|key| key.map(|key| Key::parse(&key)).transpose())
            .collect::<sled::Result<_>>()?;
        Ok(Self {
            numbers,
            is_cut,
            leftovers,
        })
    }
}

/// The newest whole value of a topic between two offsets.
fn last_whole_value(
    store: &Store,
    topic: TopicId,
    first: u64,
    head: u64,
) -> sled::Result<Option<Value>> {
    let mut until = head;
    loop {
        let Some(found) = store
            .records
            .range(span(topic, 0, until))
            .next_back()
            .transpose()?
        else {
            return Ok(None);
        };
        let Some(key) = Key::parse(&found.0).filter(|key| key.base >= 1) else {
            return Ok(None);
        };
        let mut scan = Scan::new(&store.records, topic, key.base, key.base)?;
        match scan.next_value()? {
            Some(value) if value.end <= head => return Ok(Some(value).filter(|v| v.end >= first)),
            _ => until = key.base - 1,
        }
    }
}

/// Whether the value that begins at `base` has a record at `offset`.
fn holds(store: &Store, topic: TopicId, base: u64, offset: u64) -> sled::Result<bool> {
    let mut values = Scan::new(&store.records, topic, base, base)?;
    let value = values.next_value()?;
    Ok(value.is_some_and(|value| (value.base..=value.end).contains(&offset)))
}

fn bytes_of(store: &Store, topic: TopicId, offsets: impl RangeBounds<u64>) -> sled::Result<u64> {
    let mut bytes = 0;
    for found in store.records.range(span(topic, 0, u64::MAX)) {
        let (key, value) = found?;
        if Key::parse(&key).is_some_and(|key| offsets.contains(&key.base)) {
            bytes += (KEY_BYTES + value.len()) as u64;
        }
    }
    Ok(bytes)
}

/// See [`Loaded::corrected`].
type Corrected = HashMap<Producer, Option<Mark>>;

/// The producers' numbers in `meta`, and what is to be corrected there. Those of records beyond the head were lost with these: were
/// they believed, a message that comes again because it was not answered would be taken for kept. What is left of their producers
/// the records say.
fn stored_marks(
    store: &Store,
    topic: TopicId,
    numbers: &Numbers,
) -> Result<(Vec<ProducerMark>, Corrected), LogError> {
    let (mut marks, mut corrected) = (Vec::new(), Corrected::new());
    for mark in store.meta.marks(topic) {
        let mark = mark?;
        match mark.offset > numbers.head {
            true => drop(corrected.insert(mark.producer, None)),
            false => marks.push(mark),
        }
    }
    if !corrected.is_empty() {
        let (first, last) = (numbers.first, numbers.checkpoint);
        for_each_number(store, topic, first, last, |producer, mark| {
            if let Some(left) = corrected.get_mut(&producer) {
                *left = Some(left.map_or(mark, |before| mark.after(before)));
            }
        })?;
    }
    let left = corrected
        .iter()
        .filter_map(|(producer, mark)| mark.map(|mark| mark.of(producer.clone())));
    marks.extend(left);
    Ok((marks, corrected))
}

fn marks_after_checkpoint(
    store: &Store,
    topic: TopicId,
    numbers: &Numbers,
    stored: &[ProducerMark],
    sent: &mut Vec<Sent>,
) -> Result<HashMap<Producer, Mark>, LogError> {
    let mut marks: HashMap<Producer, Mark> = HashMap::new();
    // Also those before `first`: of records that share a value with later ones, no checkpoint is made when they go.
    let (first, last) = (numbers.checkpoint + 1, numbers.head);
    for_each_number(store, topic, first, last, |producer, mark| {
        sent.push(Sent {
            producer: producer.clone(),
            seq: mark.seq,
            offset: mark.offset,
        });
        marks
            .entry(producer)
            .and_modify(|before| *before = mark.after(*before))
            .or_insert(mark);
    })?;
    for before in stored {
        if let Some(mark) = marks.get_mut(&before.producer) {
            *mark = mark.after(before.into());
        }
    }
    Ok(marks)
}

/// The producers' numbers in the records from `first` to `last`, in order.
fn for_each_number(
    store: &Store,
    topic: TopicId,
    first: u64,
    last: u64,
    mut found: impl FnMut(Producer, Mark),
) -> Result<(), LogError> {
    if first > last {
        return Ok(());
    }
    let mut scan = Scan::new(&store.records, topic, first, last).map_err(damaged)?;
    while let Some(value) = scan.next_value().map_err(damaged)? {
        let time_ms = value.time_ms;
        let mut body = Body::new(value.body);
        for offset in value.base..=value.end {
            let Ok(known_by) = body.next_known_by() else {
                break;
            };
            if let KnownBy::Sequence(producer, seq) = known_by {
                let mark = Mark {
                    seq,
                    offset,
                    time_ms,
                };
                found(producer, mark);
            }
        }
    }
    Ok(())
}

/// The producers to be remembered, oldest first, and those that are only in the way.
fn producers(
    store: &Store,
    stored: Vec<ProducerMark>,
    since_checkpoint: &HashMap<Producer, Mark>,
) -> (Vec<ProducerMark>, Vec<ProducerMark>) {
    let oldest_ms = store.clock.settled_ms().saturating_sub(PRODUCER_MEMORY_MS);
    let stored = stored
        .into_iter()
        .filter(|mark| !since_checkpoint.contains_key(&mark.producer));
    let (mut forgotten, mut remembered): (Vec<_>, Vec<_>) =
        stored.partition(|mark| mark.time_ms < oldest_ms);
    let newer = since_checkpoint
        .iter()
        .filter(|(_, mark)| mark.time_ms >= oldest_ms);
    remembered.extend(newer.map(|(producer, mark)| mark.of(producer.clone())));
    let all = remembered.clone();
    keep_newest(&mut remembered);
    if all.len() > remembered.len() {
        let oldest = remembered.first().map_or(0, |mark| mark.offset);
        forgotten.extend(all.into_iter().filter(|mark| mark.offset < oldest));
    }
    (remembered, forgotten)
}

/// Producers of an open topic that may be forgotten.
pub(super) fn forgotten_producers(
    store: &Store,
    topic: TopicId,
) -> Result<Vec<ProducerMark>, LogError> {
    let marks = store.meta.marks(topic).collect::<Result<_, _>>()?;
    Ok(producers(store, marks, &HashMap::new()).1)
}

/// A producer's message in a record.
struct Sent {
    producer: Producer,
    seq: u64,
    offset: u64,
}

/// What the newest records tell, oldest first.
struct Recent {
    keys: Vec<KeyMark>,
    /// The oldest record that was looked at.
    from: u64,
    sent: Vec<Sent>,
}

fn recent(store: &Store, topic: TopicId, numbers: &Numbers) -> Result<Recent, LogError> {
    let oldest_ms = store.clock.settled_ms().saturating_sub(KEY_MEMORY_MS);
    let oldest_offset = numbers
        .first
        .max((numbers.head + 1).saturating_sub(MAX_RECENT_KEYS as u64));
    let mut recent = Recent {
        keys: Vec::new(),
        from: numbers.head + 1,
        sent: Vec::new(),
    };
    if numbers.head < numbers.first {
        return Ok(recent);
    }
    let first = last_key(&store.records, topic, oldest_offset).map_err(damaged)?;
    let from = first.map_or(oldest_offset, |key| key.base);
    // Backwards, so that what is too old ends it.
    for found in store.records.range(span(topic, from, numbers.head)).rev() {
        let (key, value) = found.map_err(damaged)?;
        let Some(header) = Header::check(&key, &value) else {
            continue;
        };
        let Some(key) = Key::parse(&key).filter(|key| key.part == 0) else {
            continue;
        };
        let time_ms = header.time_ms;
        if time_ms < oldest_ms {
            break;
        }
        let body = bytes::Bytes::from_owner(value).slice(HEADER_BYTES..);
        let all_known_by = match header.is_part {
            true => known_by_first_part(body).into_iter().collect(),
            false => all_known_by(body, header.count),
        };
        let (keys, sent) = (recent.keys.len(), recent.sent.len());
        let looked_at = (key.base..).zip(all_known_by);
        for (offset, found) in looked_at.filter(|(offset, _)| *offset >= oldest_offset) {
            match found {
                KnownBy::Key(key) => recent.keys.push(KeyMark {
                    key,
                    offset,
                    time_ms,
                }),
                KnownBy::Sequence(producer, seq) => recent.sent.push(Sent {
                    producer,
                    seq,
                    offset,
                }),
                KnownBy::Nothing => {}
            }
        }
        recent.keys[keys..].reverse();
        recent.sent[sent..].reverse();
        recent.from = key.base.max(oldest_offset);
    }
    recent.keys.reverse();
    recent.sent.reverse();
    Ok(recent)
}

fn all_known_by(body: bytes::Bytes, count: u16) -> Vec<KnownBy> {
    let mut body = Body::new(body);
    (0..count)
        .map_while(|_| body.next_known_by().ok())
        .collect()
}

/// Opening must know the tail for certain, or an offset could be given out twice.
fn damaged(e: sled::Error) -> LogError {
    LogError::Unreadable(format!(
        "the topic's newest records cannot be read ({}), other topics are not affected; `hark log recover` salvages the rest",
        plainly(&e)
    ))
}
