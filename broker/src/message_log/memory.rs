//! The engine that keeps records in memory: a bounded ring for each topic, and a new epoch at every start. Every call is
//! answered before it returns. Owns nothing on disk and no thread; what is old goes when the engine is next called.
//!
//! A topic that was deleted keeps its place, empty, so that its epochs stay known. Of many deleted topics the one that was deleted
//! longest ago is forgotten, and topics that come to be later get another epoch: so none can get an epoch back it had before.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use hark_protocol::{Epoch, GapReason, Record, TopicName};

use super::{
    Append, Appended, Done, Health, KEY_MEMORY_MS, KeyMark, KnownBy, Lately, List, LogError,
    LogNews, MAX_PRODUCERS, MAX_RECENT_KEYS, MessageLog, NewRecord, NewsSink, OpenedTopic,
    PRODUCER_MEMORY_MS, Page, PageItem, Producer, ProducerMark, Read, Retention, RetentionFor,
    TopicInfo, draw_epoch, give_back, within,
};
use crate::clock::Clock;
use crate::remembered::{Remembered, Share, YOUNG_MS};

/// What a record costs beside its content, for the bound in bytes: its place in the ring and the message's own fields.
const RECORD_OVERHEAD_BYTES: u64 = 128;
/// What a producer costs beside its name.
const PRODUCER_BYTES: usize = 160;
/// How many other topics each append looks at, so that what is old goes from topics nobody uses too.
const SWEEP_TOPICS: usize = 2;
/// How much below the bound all topics together are brought, as a fraction: so that not every append brings them over it again.
const SLACK: u64 = 64;
/// The generation of a topic that nobody has open; no `open` draws it.
const CLOSED: u64 = 0;
/// How many deletions are remembered at most, over all topics.
const MAX_DELETIONS: usize = 10_000;
/// How many deletions of one topic are remembered at most.
const MAX_DELETIONS_A_TOPIC: usize = 64;

/// Keeps records in memory.
pub struct MemoryLog {
    /// What topics get that have none of their own yet.
    epoch: Mutex<Epoch>,
    clock: Clock,
    retention: RetentionFor,
    max_topics: usize,
    max_total_bytes: u64,
    /// Producers, which outlive their messages, are counted with those that rooms remember.
    remembered: Remembered,
    /// What all topics keep together.
    total_bytes: AtomicU64,
    /// Held by whoever makes room.
    making_room: Mutex<()>,
    topics: RwLock<BTreeMap<TopicName, Arc<Mutex<Topic>>>>,
    /// How many topics have or had records. Those that were only opened do not count.
    created: AtomicU64,
    generation: AtomicU64,
    ended: AtomicBool,
    /// Where the last sweep stopped.
    swept: Mutex<Option<TopicName>>,
    /// What was deleted, oldest first: at most [`MAX_DELETIONS`].
    deletions: Mutex<VecDeque<TopicName>>,
}

/// One topic. Has its place in the map while it is open, and for good once it has had a record; when that was deleted, as long
/// as the deletion is remembered.
struct Topic {
    epoch: Epoch,
    /// Its earlier epochs, oldest first: at most [`MAX_DELETIONS_A_TOPIC`].
    deleted: VecDeque<Epoch>,
    generation: u64,
    news: Option<NewsSink>,
    retention: Retention,
    /// It has, or had, records in this epoch.
    created: bool,
    first: u64,
    head: u64,
    last_time_ms: u64,
    bytes: u64,
    ring: VecDeque<Kept>,
    producers: HashMap<Producer, Mark>,
    /// What of the bytes of all topics the producers have; there from the first one on.
    share: Option<Share>,
}

struct Kept {
    time_ms: u64,
    bytes: u64,
    new: NewRecord,
}

#[derive(Clone, Copy)]
struct Mark {
    seq: u64,
    offset: u64,
    time_ms: u64,
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("epoch", &self.epoch())
            .finish_non_exhaustive()
    }
}

impl MemoryLog {
    /// An empty log with an epoch of its own. At most `max_topics` topics can have records, and all together keep `max_total_bytes`
    /// of memory: beyond it the largest give their oldest first.
    pub fn new(
        clock: Clock,
        retention: RetentionFor,
        max_topics: usize,
        max_total_bytes: u64,
    ) -> Self {
        Self {
            epoch: Mutex::new(draw_epoch()),
            remembered: Remembered::new(usize::MAX, clock.clone()),
            clock,
            retention,
            max_topics,
            max_total_bytes,
            total_bytes: AtomicU64::new(0),
            making_room: Mutex::default(),
            topics: RwLock::default(),
            created: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            swept: Mutex::new(None),
            deletions: Mutex::default(),
        }
    }

    /// Counts the producers it remembers among these.
    pub fn counting_with(self, remembered: Remembered) -> Self {
        Self { remembered, ..self }
    }

    fn epoch(&self) -> Epoch {
        *lock(&self.epoch)
    }

    /// A topic's share of what all remember. Told to, it forgets who has been silent the longest, and nobody who is young.
    fn enter(&self, topic: &Arc<Mutex<Topic>>) -> Share {
        let (topic, clock) = (Arc::downgrade(topic), self.clock.clone());
        self.remembered.enter(move |forget| {
            if let Some(topic) = topic.upgrade() {
                lock(&topic).forget_producers(forget.level_bytes, clock.settled_ms());
            }
        })
    }

    fn find(&self, topic: &TopicName) -> Option<Arc<Mutex<Topic>>> {
        self.topics
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(topic)
            .cloned()
    }

    fn is_ended<T>(&self) -> Result<(), Result<T, LogError>> {
        match self.ended.load(Ordering::Acquire) {
            true => Err(Err(LogError::Closed("it has been shut down".into()))),
            false => Ok(()),
        }
    }

    fn open_now(&self, name: &TopicName, news: NewsSink) -> Result<OpenedTopic, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        // Within the map's lock: a `close` must not remove what is being opened.
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let unused = || Topic::unused(self.epoch());
        let topic = Arc::clone(topics.entry(name.clone()).or_insert_with(unused));
        let mut topic = lock(&topic);
        drop(topics);
        topic.generation = self.next_generation();
        topic.news = Some(news);
        topic.retention = (self.retention)(name);
        self.trim(&mut topic);
        Ok(topic.opened(self.clock.settled_ms()))
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn append_now(
        &self,
        name: &TopicName,
        generation: u64,
        records: Vec<NewRecord>,
    ) -> Result<Appended, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let found = self.find(name).ok_or(LogError::StaleGeneration)?;
        let mut topic = lock(&found);
        if topic.generation != generation {
            return Err(LogError::StaleGeneration);
        }
        if topic.share.is_none() {
            topic.share = Some(self.enter(&found));
        }
        if !topic.created {
            self.count_one_more_topic()?;
            topic.created = true;
        }
        let before = topic.bytes;
        let settled_ms = self.clock.settled_ms();
        let kept = topic.keep(records, self.clock.now_ms(), settled_ms);
        let bytes = topic.bytes - before;
        self.total_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.trim(&mut topic);
        Ok(Appended { records: kept })
    }

    fn delete_now(&self, name: &TopicName, generation: u64) -> Result<OpenedTopic, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let topic = self.find(name).ok_or(LogError::StaleGeneration)?;
        let mut topic = lock(&topic);
        if topic.generation != generation {
            return Err(LogError::StaleGeneration);
        }
        topic.generation = self.next_generation();
        let had_records = std::mem::take(&mut topic.created);
        if had_records {
            self.total_bytes.fetch_sub(topic.bytes, Ordering::Relaxed);
            topic.empty();
            self.created.fetch_sub(1, Ordering::Relaxed);
        }
        let opened = topic.opened(self.clock.settled_ms());
        drop(topic);
        if had_records {
            self.remember_deletion(name);
        }
        Ok(opened)
    }

    /// Remembers that a topic was deleted, and forgets the oldest deletion if there are too many.
    fn remember_deletion(&self, name: &TopicName) {
        let mut deletions = lock(&self.deletions);
        deletions.push_back(name.clone());
        if deletions.len() <= MAX_DELETIONS {
            return;
        }
        let Some(oldest) = deletions.pop_front() else {
            return;
        };
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(topic) = topics.get(&oldest).cloned() else {
            return;
        };
        let mut topic = lock(&topic);
        topic.deleted.clear();
        if !topic.created {
            // It loses its place, now or when it is closed; what comes to be under its name then must have an epoch it never had.
            *lock(&self.epoch) = draw_epoch();
            if topic.generation == CLOSED {
                topics.remove(&oldest);
            }
        }
    }

    fn count_one_more_topic(&self) -> Result<(), LogError> {
        let room_for = |created: u64| (created < self.max_topics as u64).then_some(created + 1);
        match self
            .created
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room_for)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(LogError::TooManyTopics),
        }
    }

    fn read_now(&self, read: &Read) -> Result<Page, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let nothing = Page {
            items: Vec::new(),
            reached: read.after,
        };
        let Some(topic) = self.find(&read.topic) else {
            return match read.epoch == self.epoch() {
                true => Ok(nothing),
                false => Err(LogError::OtherEpoch),
            };
        };
        let mut topic = lock(&topic);
        if topic.epoch != read.epoch {
            return Err(LogError::OtherEpoch);
        }
        self.trim(&mut topic);
        let up_to = read.up_to.min(topic.head);
        if read.after >= up_to {
            return Ok(nothing);
        }
        Ok(topic.page(read, up_to))
    }

    fn find_time_now(&self, name: &TopicName, since_ms: u64, up_to: u64) -> Result<u64, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let Some(topic) = self.find(name) else {
            return Ok(0);
        };
        let mut topic = lock(&topic);
        self.trim(&mut topic);
        let older = topic.ring.partition_point(|kept| kept.time_ms < since_ms) as u64;
        Ok((topic.first - 1 + older).min(up_to).min(topic.head))
    }

    fn list_now(&self, order: &List) -> Result<Vec<TopicInfo>, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let prefix = order.prefix.as_str();
        let from: Bound<&str> = match &order.after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            Some(_) | None => Bound::Included(prefix),
        };
        let describe = |(name, topic): (&TopicName, &Arc<Mutex<Topic>>)| {
            let topic = lock(topic);
            topic.created.then(|| topic.info(name.clone()))
        };
        Ok(topics
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter_map(describe)
            .take(order.limit)
            .collect())
    }

    fn describe_now(&self, name: TopicName) -> Result<TopicInfo, LogError> {
        self.is_ended().or_else(|ended| ended)?;
        let topic = self
            .find(&name)
            .unwrap_or_else(|| Topic::unused(self.epoch()));
        let mut topic = lock(&topic);
        self.trim(&mut topic);
        Ok(topic.info(name))
    }

    /// Takes from a topic what its own retention does not keep.
    fn trim(&self, topic: &mut Topic) {
        self.take(topic, self.clock.settled_ms(), u64::MAX);
    }

    /// Takes from a topic what is beyond its own retention or has more bytes than `level`.
    fn take(&self, topic: &mut Topic, settled_ms: u64, level: u64) {
        let taken = topic.trim(settled_ms, level);
        self.total_bytes.fetch_sub(taken, Ordering::Relaxed);
    }

    /// Where all topics together keep too much, the largest give.
    fn keep_together_within_bound(&self) {
        if self.total_bytes.load(Ordering::Relaxed) <= self.max_total_bytes {
            return;
        }
        // One is enough: whoever comes meanwhile is within what the next one finds.
        let Ok(_turn) = self.making_room.try_lock() else {
            return;
        };
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Mutex<Topic>>> = topics.values().cloned().collect();
        drop(topics);
        let target = self.max_total_bytes - self.max_total_bytes / SLACK;
        let level = level(all.iter().map(|topic| lock(topic).bytes).collect(), target);
        let settled_ms = self.clock.settled_ms();
        for topic in all {
            if self.total_bytes.load(Ordering::Relaxed) <= target {
                break;
            }
            self.take(&mut lock(&topic), settled_ms, level);
        }
    }

    /// Takes what is old from the topics whose turn it is.
    fn sweep(&self) {
        let mut swept = lock(&self.swept);
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..SWEEP_TOPICS {
            let from = swept.take().map_or(Bound::Unbounded, Bound::Excluded);
            let Some((name, topic)) = topics.range((from, Bound::Unbounded)).next() else {
                return;
            };
            *swept = Some(name.clone());
            self.trim(&mut lock(topic));
        }
    }
}

impl MessageLog for MemoryLog {
    fn open(&self, topic: TopicName, news: NewsSink, done: Done<OpenedTopic>) {
        done(self.open_now(&topic, news));
    }

    fn append(&self, append: Append) {
        let Append {
            topic,
            generation,
            records,
            done,
        } = append;
        done(self.append_now(&topic, generation, records));
        self.remembered.keep_within_limit();
        self.keep_together_within_bound();
        self.sweep();
    }

    fn read(&self, read: Read, done: Done<Page>) {
        done(self.read_now(&read));
    }

    fn find_time(&self, topic: TopicName, since_ms: u64, up_to: u64, done: Done<u64>) {
        done(self.find_time_now(&topic, since_ms, up_to));
    }

    // Its offsets are dense.
    fn count(&self, _: &TopicName, after: u64, up_to: u64) -> Option<u64> {
        Some(up_to.saturating_sub(after))
    }

    fn delete(&self, topic: TopicName, generation: u64, done: Done<OpenedTopic>) {
        done(self.delete_now(&topic, generation));
    }

    fn close(&self, topic: TopicName, generation: u64) {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = topics.get(&topic).cloned() else {
            return;
        };
        let mut found = lock(&found);
        if found.generation != generation {
            return;
        }
        found.generation = CLOSED;
        found.news = None;
        if !found.created && found.deleted.is_empty() {
            topics.remove(&topic);
        }
    }

    fn list(&self, order: List, done: Done<Vec<TopicInfo>>) {
        done(self.list_now(&order));
    }

    fn describe(&self, topic: TopicName, done: Done<TopicInfo>) {
        done(self.describe_now(topic));
    }

    fn health(&self) -> Health {
        let ended = self.ended.load(Ordering::Acquire);
        Health {
            refuses_writes: ended.then(|| "it has been shut down".to_owned()),
            warnings: Vec::new(),
        }
    }

    fn shutdown(&self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Topic {
    fn unused(epoch: Epoch) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            epoch,
            deleted: VecDeque::new(),
            generation: CLOSED,
            news: None,
            retention: Retention::default(),
            created: false,
            first: 1,
            head: 0,
            last_time_ms: 0,
            bytes: 0,
            ring: VecDeque::new(),
            producers: HashMap::new(),
            share: None,
        }))
    }

    fn opened(&self, settled_ms: u64) -> OpenedTopic {
        let (keys, lately) = self.recent(settled_ms);
        OpenedTopic {
            generation: self.generation,
            epoch: self.epoch,
            lineage: Vec::new(),
            deleted: self.deleted.iter().copied().collect(),
            first: self.first,
            head: self.head,
            producers: self.newest_producers(settled_ms),
            keys,
            lately,
        }
    }

    fn info(&self, topic: TopicName) -> TopicInfo {
        TopicInfo {
            topic,
            epoch: self.epoch,
            first: self.first,
            head: self.head,
            bytes: self.bytes,
        }
    }

    /// Begins another sequence, which has nothing. Only the time stays, which never goes back.
    fn empty(&mut self) {
        self.deleted.push_back(self.epoch);
        if self.deleted.len() > MAX_DELETIONS_A_TOPIC {
            self.deleted.pop_front();
        }
        self.epoch = draw_epoch();
        (self.first, self.head, self.bytes) = (1, 0, 0);
        self.ring = VecDeque::new();
        self.producers = HashMap::new();
        self.share = None;
    }

    fn keep(&mut self, records: Vec<NewRecord>, now_ms: u64, settled_ms: u64) -> Vec<Record> {
        let time_ms = self.last_time_ms.max(now_ms);
        self.last_time_ms = time_ms;
        let mut kept = Vec::with_capacity(records.len());
        for new in records {
            self.head += 1;
            let offset = self.head;
            if let KnownBy::Sequence(producer, seq) = new.known_by() {
                let mark = Mark {
                    seq,
                    offset,
                    time_ms,
                };
                let bytes = producer_bytes(&producer);
                let before = self.producers.insert(producer, mark);
                if let (None, Some(share)) = (before, &self.share) {
                    share.add(bytes);
                }
            }
            kept.push(Record {
                offset,
                prev: None,
                time_ms,
                identity: new.identity.clone(),
                message: new.message.clone(),
            });
            let bytes = cost(&new);
            self.bytes += bytes;
            self.ring.push_back(Kept {
                time_ms,
                bytes,
                new,
            });
        }
        if self.producers.len() > 2 * MAX_PRODUCERS {
            let newest = self.newest_producers(settled_ms);
            let mark = |p: ProducerMark| {
                (
                    p.producer,
                    Mark {
                        seq: p.seq,
                        offset: p.offset,
                        time_ms: p.time_ms,
                    },
                )
            };
            self.producers = newest.into_iter().map(mark).collect();
            self.count_producers();
        }
        kept
    }

    /// Comes down to so many bytes of producers, or as far as may be.
    fn forget_producers(&mut self, level_bytes: usize, settled_ms: u64) {
        let held_bytes = self.share.as_ref().map_or(0, Share::bytes);
        let mut too_many = held_bytes.saturating_sub(level_bytes);
        let mut silent: Vec<(u64, Producer)> = self
            .producers
            .iter()
            .filter(|(_, mark)| mark.time_ms.saturating_add(YOUNG_MS) <= settled_ms)
            .map(|(producer, mark)| (mark.time_ms, producer.clone()))
            .collect();
        silent.sort_unstable();
        for (_, producer) in silent {
            if too_many == 0 {
                break;
            }
            self.producers.remove(&producer);
            too_many = too_many.saturating_sub(producer_bytes(&producer));
        }
        give_back(&mut self.producers);
        self.count_producers();
    }

    /// Counts the producers' bytes again, where much has changed at once.
    fn count_producers(&self) {
        if let Some(share) = &self.share {
            let bytes = self.producers.keys().map(producer_bytes).sum();
            share.add(bytes);
            share.give_back(share.bytes() - bytes);
        }
    }

    /// Takes from the front what the retention does not keep, and what is beyond `level` bytes. Says how many bytes.
    fn trim(&mut self, settled_ms: u64, level: u64) -> u64 {
        let (before, bytes_before) = (self.first, self.bytes);
        while let Some(oldest) = self.ring.front() {
            let too_old = oldest.time_ms < settled_ms.saturating_sub(self.retention.max_age_ms);
            let too_much = self.bytes > self.retention.max_bytes
                || self.ring.len() as u64 > self.retention.max_messages;
            if !(too_old || too_much && self.ring.len() > 1 || self.bytes > level) {
                break;
            }
            self.bytes -= oldest.bytes;
            self.first += 1;
            self.ring.pop_front();
        }
        if self.first > before {
            if self.ring.is_empty() {
                self.ring.shrink_to_fit();
            }
            if let Some(news) = &self.news {
                news(LogNews::Trimmed { first: self.first });
            }
        }
        bytes_before - self.bytes
    }

    fn page(&self, read: &Read, up_to: u64) -> Page {
        let mut items = Vec::new();
        let mut reached = read.after;
        if reached + 1 < self.first {
            let to = (self.first - 1).min(up_to);
            items.push(PageItem::Gap {
                reason: GapReason::Expired,
                from: reached + 1,
                to,
            });
            reached = to;
        }
        // A room may ask for less than retention has left.
        let skip = usize::try_from((reached + 1).saturating_sub(self.first)).unwrap_or(usize::MAX);
        let take = usize::try_from(up_to.saturating_sub(reached))
            .unwrap_or(usize::MAX)
            .min(read.max_records.max(1));
        let mut bytes = 0;
        for (n, kept) in self.ring.iter().skip(skip).take(take).enumerate() {
            bytes += kept.new.message.size_bytes();
            if n > 0 && bytes > read.max_bytes {
                break;
            }
            reached += 1;
            items.push(PageItem::Record(Record {
                offset: reached,
                prev: None,
                time_ms: kept.time_ms,
                identity: kept.new.identity.clone().filter(|_| read.tell_identity),
                message: kept.new.message.clone(),
            }));
        }
        Page { items, reached }
    }

    fn newest_producers(&self, settled_ms: u64) -> Vec<ProducerMark> {
        let oldest = settled_ms.saturating_sub(PRODUCER_MEMORY_MS);
        let mut marks: Vec<ProducerMark> = self
            .producers
            .iter()
            .filter(|(_, mark)| mark.time_ms >= oldest)
            .map(
                |(
                    producer,
                    &Mark {
                        seq,
                        offset,
                        time_ms,
                    },
                )| ProducerMark {
                    producer: producer.clone(),
                    seq,
                    offset,
                    time_ms,
                },
            )
            .collect();
        super::keep_newest(&mut marks);
        marks
    }

    /// The keys and the producers' numbers among the newest records.
    fn recent(&self, settled_ms: u64) -> (Vec<KeyMark>, Lately) {
        let oldest = settled_ms.saturating_sub(KEY_MEMORY_MS);
        let newest = self.ring.iter().rev().take(MAX_RECENT_KEYS);
        let count = newest.take_while(|kept| kept.time_ms >= oldest).count();
        let (mut keys, mut lately) = (Vec::new(), Lately::default());
        let recent = self.ring.iter().skip(self.ring.len() - count);
        for (kept, offset) in recent.zip(self.head + 1 - count as u64..) {
            match kept.new.known_by() {
                KnownBy::Key(key) => keys.push(KeyMark {
                    key,
                    offset,
                    time_ms: kept.time_ms,
                }),
                KnownBy::Sequence(producer, seq) => lately.push(producer, seq, offset),
                KnownBy::Nothing => {}
            }
        }
        (keys, lately)
    }
}

fn producer_bytes(producer: &Producer) -> usize {
    producer.bytes() + PRODUCER_BYTES
}

fn cost(new: &NewRecord) -> u64 {
    let identity = within::identity_bytes(new.identity.as_ref());
    (new.message.size_bytes() + identity) as u64 + RECORD_OVERHEAD_BYTES
}

/// What topics of these sizes may keep each, so that all together keep `target` bytes.
fn level(mut sizes: Vec<u64>, target: u64) -> u64 {
    sizes.sort_unstable();
    let mut left = target;
    for (n, size) in (1..=sizes.len() as u64).rev().zip(sizes) {
        if size > left / n {
            return left / n;
        }
        left -= size;
    }
    u64::MAX
}

/// A thread that panicked left the data as it was between two fields at worst; it is records, not invariants.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::message_log::contract::{Bench, NOON, texts, topic};

    /// What is forgotten of a topic leaves it without a place, and never gives it back an epoch it had.
    #[test]
    fn deletions_are_remembered_for_a_while() {
        let clock = Clock::manual(NOON);
        let retention = Arc::new(|_: &TopicName| Retention::default());
        let log = Arc::new(MemoryLog::new(clock.clone(), retention, 2, u64::MAX));
        let bench = Bench {
            log: log.clone(),
            clock,
            _keep: None,
        };
        let name = |n: usize| format!("t.{n}");
        let mut epochs = HashSet::new();
        let delete = |n: usize| {
            let opened = bench.open(&name(n));
            opened.append(texts(0..1)).unwrap();
            let deleted = opened.delete();
            deleted.close();
            [opened.found.epoch, deleted.found.epoch]
        };
        // The first is forgotten, the second is in use by then, the third is open.
        (0..3).for_each(|n| epochs.extend(delete(n)));
        let alive = bench.open(&name(1));
        alive.append(texts(0..1)).unwrap();
        let open = bench.open(&name(2));
        for n in 3..MAX_DELETIONS + 3 {
            epochs.extend(delete(n));
        }
        assert_eq!(log.topics.read().unwrap().len(), MAX_DELETIONS + 2);

        let forgotten = bench.open(&name(0));
        assert_eq!(forgotten.found.deleted, []);
        assert!(!epochs.contains(&forgotten.found.epoch));
        let found = |n: usize| bench.open(&name(n)).found;
        assert_eq!((found(1).epoch, found(1).head), (alive.found.epoch, 1));
        assert_eq!(found(2).epoch, open.found.epoch);
        let remembered = bench.list();
        assert_eq!(remembered.len(), 1);
        assert_eq!(remembered[0].topic, topic("t.1"));
        assert_eq!(found(3).deleted.len(), 1);
        // Even one that was open then: it has another epoch when it comes back.
        bench.open(&name(2)).close();
        let again = found(2);
        assert_eq!(again.deleted, []);
        assert!(!epochs.contains(&again.epoch));

        for _ in 0..2 * MAX_DELETIONS_A_TOPIC {
            delete(5);
        }
        assert_eq!(found(5).deleted.len(), MAX_DELETIONS_A_TOPIC);
    }

    #[test]
    fn the_level_is_what_brings_all_to_the_target() {
        for (sizes, target, expected) in [
            (vec![10, 20, 30], 60, u64::MAX),
            (vec![10, 20, 30], 50, 20),
            (vec![10, 20, 30], 49, 19),
            (vec![10, 20, 30], 6, 2),
            (vec![30, 30], 0, 0),
            (vec![], 0, u64::MAX),
        ] {
            assert_eq!(
                level(sizes.clone(), target),
                expected,
                "{sizes:?} to {target}"
            );
        }
    }

    #[test]
    fn all_topics_together_keep_within_their_bound_and_the_largest_give() {
        let clock = Clock::manual(NOON);
        let retention = Arc::new(|_: &TopicName| Retention::default());
        let bound = 100_000;
        let log = Arc::new(MemoryLog::new(clock.clone(), retention, 1000, bound));
        let bench = Bench {
            log: log.clone(),
            clock,
            _keep: None,
        };
        let total = || bench.list().iter().map(|info| info.bytes).sum::<u64>();
        let small = bench.open("small");
        small.append(texts(0..10)).unwrap();
        let large = bench.open("large");
        for n in 0..2000 {
            large.append(texts(n..n + 1)).unwrap();
            assert!(total() <= bound);
            assert_eq!(total(), log.total_bytes.load(Ordering::Relaxed));
        }
        let info = |name: &str| {
            let list = bench.list().into_iter();
            list.filter(|info| info.topic == topic(name))
                .last()
                .unwrap()
        };
        assert_eq!(info("small").first, 1);
        assert_eq!(info("large").head, 2000);
        assert!(info("large").first > 1 && total() > bound / 2);

        // Where nobody has more than one, these go; and what is deleted or old no longer counts.
        for n in 0..1000 {
            bench
                .open(&format!("t{n}"))
                .append(texts(0..1))
                .unwrap_or_default();
        }
        assert!(total() <= bound);
        bench.open("large").delete();
        assert_eq!(total(), log.total_bytes.load(Ordering::Relaxed));
        bench.clock.set(NOON + 1000 * 24 * 60 * 60 * 1000);
        bench.open("large").page(0, 1);
        for _ in 0..1000 {
            small.append(texts(0..1)).unwrap();
        }
        assert_eq!(total(), log.total_bytes.load(Ordering::Relaxed));
        assert_eq!(total(), info("small").bytes);
    }
}
