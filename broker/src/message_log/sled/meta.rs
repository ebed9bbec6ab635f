//! The tree `meta`: what the log knows of itself and of its topics beside the records. Owns keys and forms; leaves when
//! they are written, and in which order, to the writer.
//!
//! ```text
//! c                   the commit counter: the last write of each commit
//! d                   the directory: format, epochs
//! g | topic id        the name of a topic that is deleted, and of which there is something left to take away
//! h | topic id / 16   the numbers of these topics: written with every commit that touches one of them
//! i                   how many topic ids were drawn, and how many topics there are
//! l | topic id        what the topic lost before it was recovered
//! n | name            a topic's identity
//! p | topic id | producer
//!                     a producer's newest number, as of the topic's last checkpoint; a producer is a name, or issuer ff subject ff name
//! x | name            the sequences of that name that were deleted
//! ```
//! sled recovers a prefix of its log. So whatever must not be seen without another is written after that other.

use hark_protocol::{Epoch, ProducerId, TopicName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::layout::TopicId;
use super::store::plainly;
use crate::message_log::{
    Lineage, LogError, PRODUCER_MEMORY_MS, Producer, ProducerMark, draw_epoch,
};

/// The format of everything in the directory. In format 2 nobody had an identity, and all else was the same.
pub(super) const FORMAT_VERSION: u32 = 3;
/// The oldest that is read. What is written to a directory of an older format is of ours, and it is marked so before.
pub(super) const OLDEST_FORMAT: u32 = 2;
/// How many earlier epochs are remembered, of the directory and of a topic.
const MAX_LINEAGE: usize = 64;

/// Milliseconds since 1970 in six bytes last until the year 10889.
pub(super) const TIME_BYTES: usize = 6;
const MAX_VARINT_BYTES: usize = 10;

const COMMITS: &[u8] = b"c";
const DIRECTORY: &[u8] = b"d";
const IDS: &[u8] = b"i";
const NAMES: u8 = b'n';
const GARBAGE: u8 = b'g';
const DELETIONS: u8 = b'x';
const LOSSES: u8 = b'l';

/// The tree, with its forms.
#[derive(Debug, Clone)]
pub(super) struct Meta(
    sled::Tree,
    /// How many names were walked over.
    #[cfg(test)]
    std::sync::Arc<std::sync::atomic::AtomicUsize>,
);

/// What is known of the directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Directory {
    pub(super) format: u32,
    /// The epoch of every topic that was never used.
    epoch: u64,
    /// How often a tail was found cut.
    pub(super) cuts: u64,
    /// The directory's earlier epochs, each with the number of the cut that ended it, oldest first.
    earlier: Vec<(u64, u64)>,
}

/// Which topic ids are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ids {
    /// The next draw (`ids`). Where the directory is opened, a new span of ids begins.
    pub(super) next: u64,
    pub(super) topics: u64,
}

/// Which sequence a topic is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    id: u64,
    epoch: u64,
    /// The cuts this topic has taken notice of.
    cuts_seen: u64,
    lineage: Vec<(u64, u64)>,
}

/// The sequences of a name that were deleted, and how the name goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deletions {
    /// Oldest first.
    epochs: Vec<u64>,
    /// The epoch of what comes next.
    next_epoch: u64,
    /// The cuts there had been: after another one what came next may be lost, and its epoch is not to be had again.
    cuts_seen: u64,
    pub(super) time_ms: u64,
}

/// Offsets whose records were found to be lost when the log was recovered: ranges, each from and to. What is missing beside these
/// has been lost since.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Losses(Vec<(u64, u64)>);

impl Losses {
    /// More than these are not remembered of a topic, so that the value stays small.
    const MAX: usize = 256;

    pub(super) fn add(&mut self, from: u64, to: u64) {
        if self.0.len() < Self::MAX {
            self.0.push((from, to));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it was known then that all these are lost.
    pub(super) fn explain(&self, from: u64, to: u64) -> bool {
        let mut known = self.0.iter();
        known.any(|&(first, last)| first <= from && to <= last)
    }
}

/// A topic's numbers, and the witness of its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) first: u64,
    pub(super) head: u64,
    pub(super) last_time_ms: u64,
    /// Bytes as stored, keys included.
    pub(super) bytes: u64,
    /// The producers' numbers up to this offset are in `meta`.
    pub(super) checkpoint: u64,
}

/// A producer's newest number as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) seq: u64,
    pub(super) offset: u64,
    pub(super) time_ms: u64,
}

impl From<&ProducerMark> for Mark {
    fn from(mark: &ProducerMark) -> Self {
        let &ProducerMark {
            seq,
            offset,
            time_ms,
            ..
        } = mark;
        Self {
            seq,
            offset,
            time_ms,
        }
    }
}

impl Mark {
    /// The newest number of a producer of whom `earlier` was known when this one came. It never goes back, as an import would have it that
    /// brings old messages once more; but of a producer that was silent until it was forgotten nothing earlier counts.
    pub(super) fn after(self, earlier: Self) -> Self {
        let is_remembered = earlier.time_ms.saturating_add(PRODUCER_MEMORY_MS) >= self.time_ms;
        match earlier.seq > self.seq && is_remembered {
            true => Self {
                time_ms: self.time_ms.max(earlier.time_ms),
                ..earlier
            },
            false => self,
        }
    }

    pub(super) fn of(self, producer: Producer) -> ProducerMark {
        let Self {
            seq,
            offset,
            time_ms,
        } = self;
        ProducerMark {
            producer,
            seq,
            offset,
            time_ms,
        }
    }
}

impl Directory {
    pub(super) fn new() -> Self {
        Self {
            format: FORMAT_VERSION,
            epoch: draw_epoch().get(),
            cuts: 0,
            earlier: Vec::new(),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    /// Takes notice of a cut: everything goes on with a new epoch.
    pub(super) fn cut(&mut self) {
        self.cuts += 1;
        self.earlier.push((self.cuts, self.epoch));
        self.earlier
            .drain(..self.earlier.len().saturating_sub(MAX_LINEAGE));
        self.epoch = draw_epoch().get();
    }

    /// Topics are about to be forgotten: whoever uses one of their names again must not meet the epoch they may have had.
    pub(super) fn forget(&mut self) {
        self.epoch = draw_epoch().get();
    }
}

impl Deletions {
    /// Adds a sequence that is deleted now. `before` is what was deleted earlier under the same name.
    pub(super) fn add(
        before: Option<Self>,
        deleted: Epoch,
        directory: &Directory,
        time_ms: u64,
    ) -> Self {
        let mut epochs = before.map(|before| before.epochs).unwrap_or_default();
        epochs.push(deleted.get());
        epochs.drain(..epochs.len().saturating_sub(MAX_LINEAGE));
        Self {
            epochs,
            next_epoch: draw_epoch().get(),
            cuts_seen: directory.cuts,
            time_ms,
        }
    }

    /// The sequence was not deleted after all. Says whether it was thought to be.
    pub(super) fn take_back(&mut self, epoch: Epoch) -> bool {
        let before = self.epochs.len();
        self.epochs.retain(|deleted| *deleted != epoch.get());
        self.epochs.len() < before
    }

    /// Whether the name has ever had this epoch, or is to have it next.
    pub(super) fn have_had(&self, epoch: Epoch) -> bool {
        self.next_epoch == epoch.get() || self.epochs.contains(&epoch.get())
    }

    pub(super) fn cuts_seen(&self) -> u64 {
        self.cuts_seen
    }

    pub(super) fn epochs(&self) -> Vec<Epoch> {
        self.epochs.iter().copied().map(Epoch::new).collect()
    }
}

impl Identity {
    /// What a topic will be that has no record: in the directory's epoch, or the one that was drawn when it was deleted. It
    /// shares nothing with the directory's earlier epochs.
    pub(super) fn unused(directory: &Directory, deletions: Option<&Deletions>) -> Self {
        let is_deleted = |epoch: &u64| deletions.is_some_and(|found| found.epochs.contains(epoch));
        let earlier = directory.earlier.iter().map(|&(_, epoch)| epoch);
        let earlier = earlier.filter(|epoch| !is_deleted(epoch));
        let (epoch, ended) = match deletions {
            None => (directory.epoch, None),
            Some(deleted) if deleted.cuts_seen == directory.cuts => (deleted.next_epoch, None),
            Some(deleted) => (directory.epoch, Some(deleted.next_epoch)),
        };
        Self {
            id: 0,
            epoch,
            cuts_seen: directory.cuts,
            lineage: earlier.chain(ended).map(|epoch| (epoch, 0)).collect(),
        }
    }

    /// The topic has its first record.
    pub(super) fn with_id(self, id: TopicId) -> Self {
        Self { id: id.0, ..self }
    }

    pub(super) fn id(&self) -> TopicId {
        TopicId(self.id)
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    /// Whether the topic has, or has had, this epoch.
    pub(super) fn has_had(&self, epoch: Epoch) -> bool {
        self.epoch == epoch.get() || self.lineage.iter().any(|&(had, _)| had == epoch.get())
    }

    pub(super) fn lineage(&self) -> Vec<Lineage> {
        let lineage = |&(epoch, kept_up_to): &(u64, u64)| Lineage {
            epoch: Epoch::new(epoch),
            kept_up_to,
        };
        self.lineage.iter().map(lineage).collect()
    }

    /// Takes notice of the directory's cuts; `head` is what was found. Says whether there was one.
    pub(super) fn see_cuts(&mut self, directory: &Directory, head: u64) -> bool {
        if self.cuts_seen >= directory.cuts {
            return false;
        }
        // The directory's epochs in between may have been given out for this topic: to whoever opened it between two
        // cuts the second of which took the note of the first.
        let seen = std::mem::replace(&mut self.cuts_seen, directory.cuts);
        let between = directory.earlier.iter().filter(|(cut, _)| *cut > seen + 1);
        let epochs: Vec<u64> = between
            .map(|&(_, epoch)| epoch)
            .filter(|&epoch| epoch != self.epoch)
            .collect();
        self.go_on_as(directory.epoch, head);
        let newest = self.lineage.len();
        self.lineage.splice(
            newest..newest,
            epochs.into_iter().map(|epoch| (epoch, head)),
        );
        self.forget_old_lineage();
        true
    }

    /// Goes on with an epoch of its own after a part of its tail was lost; `head` is what was found.
    pub(super) fn lose_tail(&mut self, head: u64) {
        self.go_on_as(draw_epoch().get(), head);
        self.forget_old_lineage();
    }

    fn go_on_as(&mut self, epoch: u64, head: u64) {
        for (_, kept_up_to) in &mut self.lineage {
            *kept_up_to = head.min(*kept_up_to);
        }
        self.lineage
            .push((std::mem::replace(&mut self.epoch, epoch), head));
    }

    fn forget_old_lineage(&mut self) {
        self.lineage
            .drain(..self.lineage.len().saturating_sub(MAX_LINEAGE));
    }
}

impl Default for Numbers {
    fn default() -> Self {
        Self {
            first: 1,
            head: 0,
            last_time_ms: 0,
            bytes: 0,
            checkpoint: 0,
        }
    }
}

impl Numbers {
    const MAX_BYTES: usize = TIME_BYTES + 4 * MAX_VARINT_BYTES;

    /// Written with every commit that touches the topic, so it pays to be short: sled keeps up to 22 bytes in the leaf
    /// itself. Hence distances from the head, in as many bytes as they need (LEB128).
    fn to_bytes(self) -> ([u8; Self::MAX_BYTES], usize) {
        let Self {
            first,
            head,
            last_time_ms,
            bytes,
            checkpoint,
        } = self;
        let mut into = [0; Self::MAX_BYTES];
        into[..TIME_BYTES].copy_from_slice(&last_time_ms.to_le_bytes()[..TIME_BYTES]);
        let mut at = TIME_BYTES;
        for number in [
            head,
            (head + 1).wrapping_sub(first),
            head.wrapping_sub(checkpoint),
            bytes,
        ] {
            let mut rest = number;
            while rest > 0x7f {
                into[at] = rest.to_le_bytes()[0] | 0x80;
                rest >>= 7;
                at += 1;
            }
            into[at] = rest.to_le_bytes()[0];
            at += 1;
        }
        (into, at)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (time, mut rest) = bytes.split_first_chunk::<TIME_BYTES>()?;
        let mut last_time_ms = [0; 8];
        last_time_ms[..TIME_BYTES].copy_from_slice(time);
        let mut next = || {
            let mut number = 0;
            for shift in (0..64).step_by(7) {
                let (&byte, after) = rest.split_first()?;
                rest = after;
                number |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return Some(number);
                }
            }
            None
        };
        let (head, kept, since_checkpoint, bytes) = (next()?, next()?, next()?, next()?);
        let numbers = Self {
            first: (head.checked_add(1)?)
                .checked_sub(kept)
                .filter(|first| *first > 0)?,
            head,
            last_time_ms: u64::from_le_bytes(last_time_ms),
            bytes,
            checkpoint: head.checked_sub(since_checkpoint)?,
        };
        rest.is_empty().then_some(numbers)
    }
}

impl Meta {
    pub(super) fn new(tree: sled::Tree) -> Self {
        Self(
            tree,
            #[cfg(test)]
            std::sync::Arc::default(),
        )
    }

    #[cfg(test)]
    pub(super) fn walked(&self) -> usize {
        self.1.load(std::sync::atomic::Ordering::Relaxed)
    }

    pub(super) fn commits(&self) -> Result<u64, MetaError> {
        match self.0.get(COMMITS)? {
            None => Ok(0),
            Some(bytes) => match bytes.as_ref().try_into() {
                Ok(bytes) => Ok(u64::from_le_bytes(bytes)),
                Err(_) => Err(MetaError::Malformed("commit counter")),
            },
        }
    }

    pub(super) fn set_commits(&self, commits: u64) -> sled::Result<()> {
        self.0.insert(COMMITS, &commits.to_le_bytes()).map(|_| ())
    }

    pub(super) fn directory(&self) -> Result<Option<Directory>, MetaError> {
        self.get(DIRECTORY, "directory")
    }

    pub(super) fn set_directory(&self, directory: &Directory) -> Result<(), MetaError> {
        self.set(DIRECTORY, directory)
    }

    pub(super) fn ids(&self) -> Result<Ids, MetaError> {
        Ok(self
            .get(IDS, "topic ids")?
            .unwrap_or(Ids { next: 1, topics: 0 }))
    }

    pub(super) fn set_ids(&self, ids: Ids) -> Result<(), MetaError> {
        self.set(IDS, &ids)
    }

    pub(super) fn identity(&self, topic: &TopicName) -> Result<Option<Identity>, MetaError> {
        self.get(&name_key(topic), "identity of a topic")
    }

    pub(super) fn set_identity(
        &self,
        topic: &TopicName,
        identity: &Identity,
    ) -> Result<(), MetaError> {
        self.set(&name_key(topic), identity)
    }

    /// The topics after `after` whose names begin with `prefix`, in the order of their names. No others are read.
    pub(super) fn identities(
        &self,
        prefix: &str,
        after: Option<&TopicName>,
    ) -> impl Iterator<Item = Result<(TopicName, Identity), MetaError>> + use<> {
        let first = [&[NAMES], prefix.as_bytes()].concat();
        let mut end = first.clone();
        if let Some(last) = end.last_mut() {
            // No byte of UTF-8 is the largest there is.
            *last += 1;
        }
        // No name continues with a zero byte, so this is the first key after the name.
        let behind = after.map(|topic| [name_key(topic), vec![0]].concat());
        let from = behind.unwrap_or_default().max(first).min(end.clone());
        #[cfg(test)]
        let walked = std::sync::Arc::clone(&self.1);
        self.0.range(from..end).map(move |found| {
            #[cfg(test)]
            walked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (key, value) = found?;
            Ok((
                name_in(&key[1..])?,
                decode(&key, &value, "identity of a topic")?,
            ))
        })
    }

    pub(super) fn count_identities(&self) -> sled::Result<u64> {
        let mut keys = self.0.scan_prefix([NAMES]).keys();
        keys.try_fold(0, |count, key| key.map(|_| count + 1))
    }

    pub(super) fn remove_identity(&self, topic: &TopicName) -> sled::Result<()> {
        self.0.remove(name_key(topic)).map(drop)
    }

    pub(super) fn remove_numbers(&self, topic: TopicId) -> Result<(), MetaError> {
        self.change_block(&[(topic, None)])
    }

    pub(super) fn deletions(&self, topic: &TopicName) -> Result<Option<Deletions>, MetaError> {
        self.get(&deletions_key(topic), "deletions of a topic")
    }

    pub(super) fn set_deletions(
        &self,
        topic: &TopicName,
        deletions: &Deletions,
    ) -> Result<(), MetaError> {
        self.set(&deletions_key(topic), deletions)
    }

    pub(super) fn remove_deletions(&self, topic: &TopicName) -> sled::Result<()> {
        self.0.remove(deletions_key(topic)).map(drop)
    }

    /// What was deleted, by name.
    pub(super) fn all_deletions(
        &self,
    ) -> impl Iterator<Item = Result<(TopicName, Deletions), MetaError>> {
        self.0.scan_prefix([DELETIONS]).map(|found| {
            let (key, value) = found?;
            Ok((
                name_in(&key[1..])?,
                decode(&key, &value, "deletions of a topic")?,
            ))
        })
    }

    /// Notes that what is left of a deleted topic is to be taken away.
    pub(super) fn add_garbage(&self, id: TopicId, topic: &TopicName) -> sled::Result<()> {
        self.0
            .insert(prefixed(GARBAGE, id), topic.as_str())
            .map(drop)
    }

    pub(super) fn remove_garbage(&self, id: TopicId) -> sled::Result<()> {
        self.0.remove(prefixed(GARBAGE, id)).map(drop)
    }

    /// Deleted topics of which something is left.
    pub(super) fn garbage(&self) -> impl Iterator<Item = Result<(TopicId, TopicName), MetaError>> {
        self.0.scan_prefix([GARBAGE]).map(|found| {
            let (key, value) = found?;
            let id = key.get(1..).and_then(|id| id.try_into().ok());
            let id = id.ok_or(MetaError::Malformed("id of a deleted topic"))?;
            Ok((TopicId(u64::from_be_bytes(id)), name_in(&value)?))
        })
    }

    /// Removes up to `max` producers' numbers of a topic. Says how many.
    pub(super) fn remove_marks(&self, topic: TopicId, max: usize) -> sled::Result<usize> {
        let keys = self.0.scan_prefix(marks_prefix(topic)).keys().take(max);
        let keys = keys.collect::<sled::Result<Vec<_>>>()?;
        for key in &keys {
            self.0.remove(key)?;
        }
        Ok(keys.len())
    }

    pub(super) fn losses(&self, topic: TopicId) -> Result<Losses, MetaError> {
        let found = self.get(&prefixed(LOSSES, topic), "losses of a topic")?;
        Ok(found.unwrap_or_default())
    }

    pub(super) fn set_losses(&self, topic: TopicId, losses: &Losses) -> Result<(), MetaError> {
        self.set(&prefixed(LOSSES, topic), losses)
    }

    pub(super) fn remove_losses(&self, topic: TopicId) -> sled::Result<()> {
        self.0.remove(prefixed(LOSSES, topic)).map(drop)
    }

    pub(super) fn numbers(&self, topic: TopicId) -> Result<Numbers, MetaError> {
        let block = self.0.get(block_key(topic))?.unwrap_or_default();
        let malformed = MetaError::Malformed("numbers of a topic");
        match block_entries(&block)
            .find(|entry| entry.is_none_or(|(slot, _)| slot == slot_of(topic)))
        {
            None => Ok(Numbers::default()),
            Some(Some((_, bytes))) => Numbers::parse(bytes).ok_or(malformed),
            Some(None) => Err(malformed),
        }
    }

    pub(super) fn set_numbers(&self, topic: TopicId, numbers: &Numbers) -> Result<(), MetaError> {
        self.change_block(&[(topic, Some(*numbers))])
    }

    /// Writes the numbers of many topics: each block once, however many of its topics are among them.
    pub(super) fn set_numbers_of_many(
        &self,
        mut topics: Vec<(TopicId, Numbers)>,
    ) -> Result<(), MetaError> {
        topics.sort_by_key(|(id, _)| id.0);
        // One that was deleted and began again within a commit is told of twice, and alike.
        topics.dedup_by_key(|(id, _)| id.0);
        let of_a_block =
            |(a, _): &(TopicId, _), (b, _): &(TopicId, _)| block_key(*a) == block_key(*b);
        for block in topics.chunk_by(of_a_block) {
            let changed = block.iter().map(|(id, numbers)| (*id, Some(*numbers)));
            self.change_block(&changed.collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Replaces entries of topics in the block that is all of theirs. Called by one thread only.
    fn change_block(&self, changed: &[(TopicId, Option<Numbers>)]) -> Result<(), MetaError> {
        let Some((first, _)) = changed.first() else {
            return Ok(());
        };
        let key = block_key(*first);
        let old = self.0.get(key)?.unwrap_or_default();
        let room = changed.len() * (2 + Numbers::MAX_BYTES);
        let mut block = Vec::with_capacity(old.len() + room);
        for entry in block_entries(&old) {
            let (slot, bytes) = entry.ok_or(MetaError::Malformed("numbers of a topic"))?;
            if !changed.iter().any(|(topic, _)| slot_of(*topic) == slot) {
                push_entry(&mut block, slot, bytes);
            }
        }
        for (topic, numbers) in changed {
            if let Some(numbers) = numbers {
                let (bytes, len) = numbers.to_bytes();
                push_entry(&mut block, slot_of(*topic), &bytes[..len]);
            }
        }
        match block.is_empty() {
            true => self.0.remove(key)?,
            false => self.0.insert(key, block)?,
        };
        Ok(())
    }

    pub(super) fn set_mark(
        &self,
        topic: TopicId,
        producer: &Producer,
        mark: &Mark,
    ) -> Result<(), MetaError> {
        self.set(&mark_key(topic, producer), mark)
    }

    pub(super) fn mark(
        &self,
        topic: TopicId,
        producer: &Producer,
    ) -> Result<Option<Mark>, MetaError> {
        self.get(&mark_key(topic, producer), "number of a producer")
    }

    pub(super) fn remove_mark(&self, topic: TopicId, producer: &Producer) -> sled::Result<()> {
        self.0.remove(mark_key(topic, producer)).map(drop)
    }

    /// Every producer's number as of the last checkpoint.
    pub(super) fn marks(
        &self,
        topic: TopicId,
    ) -> impl Iterator<Item = Result<ProducerMark, MetaError>> {
        self.0.scan_prefix(marks_prefix(topic)).map(|found| {
            let (key, value) = found?;
            let producer = key.get(9..).and_then(producer_in);
            let producer = producer.ok_or(MetaError::Malformed("name of a producer"))?;
            let mark: Mark = decode(&key, &value, "number of a producer")?;
            Ok(mark.of(producer))
        })
    }

    /// Forgets a producer, unless it has published since `seen`.
    pub(super) fn forget_mark(&self, topic: TopicId, seen: &ProducerMark) -> Result<(), MetaError> {
        let found = self.mark(topic, &seen.producer)?;
        if found.is_some_and(|mark| mark.offset <= seen.offset) {
            self.remove_mark(topic, &seen.producer)?;
        }
        Ok(())
    }

    fn get<T: DeserializeOwned>(
        &self,
        key: &[u8],
        what: &'static str,
    ) -> Result<Option<T>, MetaError> {
        self.0
            .get(key)?
            .map(|value| decode(key, &value, what))
            .transpose()
    }

    fn set<T: Serialize>(&self, key: &[u8], value: &T) -> Result<(), MetaError> {
        let mut bytes = bincode::serde::encode_to_vec(value, config())
            .map_err(|_| MetaError::Malformed("value to be written"))?;
        let crc = checksum(key, &bytes);
        bytes.extend_from_slice(&crc);
        self.0.insert(key, bytes)?;
        Ok(())
    }
}

/// Why `meta` could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum MetaError {
    #[error("{}", plainly(.0))]
    Sled(#[from] sled::Error),
    #[error("the {0} in the tree `meta` is damaged")]
    Malformed(&'static str),
}

impl From<MetaError> for LogError {
    fn from(e: MetaError) -> Self {
        Self::Unreadable(e.to_string())
    }
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ 64 * 1024 }>()
}

/// A value ends with a checksum of its key and itself, so that one which turns up under another key is found out.
fn decode<T: DeserializeOwned>(
    key: &[u8],
    value: &[u8],
    what: &'static str,
) -> Result<T, MetaError> {
    let malformed = MetaError::Malformed(what);
    let Some((bytes, crc)) = value.split_last_chunk() else {
        return Err(malformed);
    };
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((decoded, used)) if used == bytes.len() && *crc == checksum(key, bytes) => Ok(decoded),
        _ => Err(malformed),
    }
}

fn checksum(key: &[u8], value: &[u8]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(key);
    crc.update(value);
    crc.finalize().to_le_bytes()
}

fn name_key(topic: &TopicName) -> Vec<u8> {
    [&[NAMES], topic.as_str().as_bytes()].concat()
}

fn deletions_key(topic: &TopicName) -> Vec<u8> {
    [&[DELETIONS], topic.as_str().as_bytes()].concat()
}

fn name_in(bytes: &[u8]) -> Result<TopicName, MetaError> {
    let name = std::str::from_utf8(bytes).ok();
    let topic = name.and_then(|name| TopicName::parse(name).ok());
    topic.ok_or(MetaError::Malformed("name of a topic"))
}

/// How many topics' numbers share a value. A million values of their own cost sled 50 MB of memory, cached or not; a
/// larger value costs more to write.
const BLOCK_TOPICS: u64 = 16;

fn block_key(topic: TopicId) -> [u8; 9] {
    prefixed(b'h', TopicId(topic.0 / BLOCK_TOPICS))
}

fn slot_of(topic: TopicId) -> u8 {
    (topic.0 % BLOCK_TOPICS).to_le_bytes()[0]
}

/// `slot (1) | length (1) | numbers`, for each topic of the block that has any. Ends with `None` where it is malformed.
fn block_entries(block: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let (&slot, after) = rest.split_first()?;
        let entry = after
            .split_first()
            .and_then(|(&len, after)| after.split_at_checked(usize::from(len)));
        let Some((bytes, after)) = entry else {
            rest = &[];
            return Some(None);
        };
        rest = after;
        Some(Some((slot, bytes)))
    })
}

fn push_entry(block: &mut Vec<u8>, slot: u8, bytes: &[u8]) {
    block.push(slot);
    // Numbers have 46 bytes at most.
    block.push(bytes.len().to_le_bytes()[0]);
    block.extend_from_slice(bytes);
}

fn marks_prefix(topic: TopicId) -> [u8; 9] {
    prefixed(b'p', topic)
}

fn mark_key(topic: TopicId, producer: &Producer) -> Vec<u8> {
    let mut key = marks_prefix(topic).to_vec();
    if let Some(identity) = &producer.identity {
        for part in [identity.issuer(), identity.subject()] {
            key.extend_from_slice(part.as_bytes());
            key.push(PART_END);
        }
    }
    key.extend_from_slice(producer.name.as_str().as_bytes());
    key
}

/// Stands behind each part of an identity. No byte of UTF-8 is the largest there is.
const PART_END: u8 = 0xff;

/// The producer that a mark's key names.
fn producer_in(bytes: &[u8]) -> Option<Producer> {
    let parts = bytes.split(|byte| *byte == PART_END);
    let parts: Option<Vec<&str>> = parts.map(|part| std::str::from_utf8(part).ok()).collect();
    let (identity, name) = match parts?[..] {
        [name] => (None, name),
        [issuer, subject, name] => (Some(hark_protocol::Identity::new(issuer, subject)), name),
        _ => return None,
    };
    let name = ProducerId::parse(name).ok()?;
    Some(Producer { identity, name })
}

fn prefixed(tag: u8, topic: TopicId) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&topic.0.to_be_bytes());
    key
}

/// What a key and value of the tree say, for those who find them without it.
pub(super) enum Entry {
    Directory(Directory),
    Ids(Ids),
    Name(TopicName, Identity),
    Numbers(Vec<(TopicId, Numbers)>),
    Mark(TopicId, ProducerMark),
    /// The topic is deleted, whatever else is found of it.
    Garbage(TopicId),
    Deletions(TopicName, Deletions),
}

impl Entry {
    /// `None`: it is not of this tree, or not what was written, or the commit counter.
    pub(super) fn parse(key: &[u8], value: &[u8]) -> Option<Self> {
        let topic = || Some(TopicId(u64::from_be_bytes(*key.get(1..9)?.first_chunk()?)));
        match key.first()? {
            b'd' if key == DIRECTORY => decode(key, value, "").ok().map(Self::Directory),
            b'i' if key == IDS => decode(key, value, "").ok().map(Self::Ids),
            b'n' => {
                let name = TopicName::parse(std::str::from_utf8(&key[1..]).ok()?).ok()?;
                let identity = decode(key, value, "").ok()?;
                Some(Self::Name(name, identity))
            }
            b'g' if key.len() == 9 => Some(Self::Garbage(topic()?)),
            b'x' => {
                let name = name_in(&key[1..]).ok()?;
                let deletions = decode(key, value, "").ok()?;
                Some(Self::Deletions(name, deletions))
            }
            b'h' if key.len() == 9 => {
                let TopicId(block) = topic()?;
                let first = block.checked_mul(BLOCK_TOPICS)?;
                let whole = block_entries(value).flatten().filter_map(|(slot, bytes)| {
                    let id = first.checked_add(u64::from(slot))?;
                    Some((TopicId(id), Numbers::parse(bytes)?))
                });
                Some(Self::Numbers(whole.collect()))
            }
            b'p' => {
                let producer = producer_in(key.get(9..)?)?;
                let mark: Mark = decode(key, value, "").ok()?;
                Some(Self::Mark(topic()?, mark.of(producer)))
            }
            _ => None,
        }
    }
}

impl Directory {
    /// What goes on in the place of a directory of which this was `found`: as after a cut. `cuts_seen` is the most that any
    /// topic, or any deletion, has taken notice of.
    pub(super) fn salvaged(found: Option<Self>, cuts_seen: u64) -> Self {
        let mut directory = found.unwrap_or_else(Self::new);
        directory.format = FORMAT_VERSION;
        directory.cuts = directory.cuts.max(cuts_seen);
        directory.cut();
        directory
    }
}

#[cfg(test)]
impl Meta {
    pub(super) fn forget_name(&self, topic: &TopicName) {
        self.0.remove(name_key(topic)).unwrap();
    }

    pub(super) fn forget_directory(&self) {
        self.0.remove(DIRECTORY).unwrap();
    }
}

impl Identity {
    pub(super) fn cuts_seen(&self) -> u64 {
        self.cuts_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_come_back() {
        let usual = Numbers {
            first: 900_000_000,
            head: 901_000_000,
            last_time_ms: 1_764_230_400_123,
            bytes: 256 << 20,
            checkpoint: 900_999_500,
        };
        let extremes = Numbers {
            first: 1,
            head: u64::MAX - 1,
            last_time_ms: (1 << 48) - 1,
            bytes: u64::MAX,
            checkpoint: 0,
        };
        for numbers in [usual, extremes, Numbers::default()] {
            let (bytes, len) = numbers.to_bytes();
            assert_eq!(Numbers::parse(&bytes[..len]), Some(numbers));
            for len in 0..len {
                assert_eq!(Numbers::parse(&bytes[..len]), None);
            }
        }
        assert!(usual.to_bytes().1 <= 22);
    }

    #[test]
    fn each_cut_gives_a_new_epoch_and_shortens_what_older_ones_share() {
        let mut directory = Directory::new();
        let mut topic = Identity::unused(&directory, None).with_id(TopicId(1));
        let original = topic.epoch();
        assert!(!topic.see_cuts(&directory, 10));

        directory.cut();
        assert!(topic.see_cuts(&directory, 10));
        let second = topic.epoch();
        topic.lose_tail(7);

        assert_ne!(second, original);
        assert_eq!(second, directory.epoch());
        let lineage = |epoch, kept_up_to| Lineage { epoch, kept_up_to };
        assert_eq!(topic.lineage(), [lineage(original, 7), lineage(second, 7)]);
        assert_ne!(topic.epoch(), second);
    }

    #[test]
    fn a_topic_that_slept_through_two_cuts_knows_the_epoch_between() {
        let mut directory = Directory::new();
        let mut topic = Identity::unused(&directory, None).with_id(TopicId(1));
        let original = topic.epoch();
        directory.cut();
        let between = directory.epoch();
        directory.cut();

        assert!(topic.see_cuts(&directory, 5));

        let lineage = |epoch, kept_up_to| Lineage { epoch, kept_up_to };
        assert_eq!(topic.lineage(), [lineage(original, 5), lineage(between, 5)]);
        let unused = Identity::unused(&directory, None);
        assert_eq!(
            unused.lineage(),
            [lineage(original, 0), lineage(between, 0)]
        );
    }

    #[test]
    fn a_name_that_was_deleted_goes_on_with_an_epoch_of_its_own_until_a_cut() {
        let mut directory = Directory::new();
        let first = Identity::unused(&directory, None).epoch();
        let deleted = Deletions::add(None, first, &directory, 1);
        let second = Identity::unused(&directory, Some(&deleted));
        assert!(second.epoch() != first && second.epoch() != directory.epoch());
        assert_eq!(second.lineage(), []);
        assert_eq!(deleted.epochs(), [first]);

        // What was published since may have been cut off: its epoch is not given out again.
        directory.cut();
        let third = Identity::unused(&directory, Some(&deleted));

        assert_eq!(third.epoch(), directory.epoch());
        let nothing = |epoch| Lineage {
            epoch,
            kept_up_to: 0,
        };
        assert_eq!(
            third.lineage(),
            [nothing(second.epoch())],
            "what was deleted is not lost"
        );
        let twice = Deletions::add(Some(deleted), third.epoch(), &directory, 2);
        assert_eq!(twice.epochs(), [first, third.epoch()]);
    }
}
