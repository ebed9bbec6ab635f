//! The log: what keeps records. Owns the trait every engine implements, and its promises; knows nothing of actors.
//!
//! What every engine promises, each held by a test of the same number in `contract`:
//!
//! 1. **Every call is answered once.** `done` is called exactly once, maybe before the call returns, maybe on another
//!    thread; a full queue is answered with [`LogError::Busy`]. No call blocks (but [`MessageLog::shutdown`]).
//! 2. **Appended means kept.** `Ok` to an append is said only when all its records are as safe as the engine makes them
//!    (sled: fsynced). The records of one append lie together, in their order, offsets strictly increasing.
//! 3. **Never beyond the committed.** A read shows nothing beyond the `up_to` it was given.
//! 4. **Nothing is skipped in silence.** A page covers every offset in `(after, reached]`: by its record, or by a
//!    [`PageItem::Gap`] that names the range and the reason. A page holds at least one item unless `after >= up_to`.
//! 5. **One writer a topic.** `open` draws a generation; appends of an older one are refused with
//!    [`LogError::StaleGeneration`]. So a room that died and came back cannot hand out offsets twice.
//! 6. **Opening and reading create nothing.** A topic comes to be with its first append.
//! 7. **Head and first outlive the records.** A topic that retention emptied still has its head.
//! 8. **Time never goes back** within a topic, whatever the clock does.
//! 9. **Producers are found again.** `open` answers the newest number of every producer of the last day (at most
//!    [`MAX_PRODUCERS`] of them, the newest), and the message keys and the places of numbers among the newest records. Each counts within
//!    the identity that published it, which is kept with the record.
//! 10. **Retention trims from the front**: by age, bytes or count (which is exact), whichever comes first; the newest record of a topic
//!     is taken by age, or where all topics together keep too much; what was trimmed is told through [`LogNews::Trimmed`].
//! 11. **A place has one meaning.** (Epoch, offset) never names two messages; where an engine lost a tail, the topic goes on with a
//!     new epoch and [`Lineage`] says up to where old cursors hold.
//! 12. **Deleted means gone.** After `delete` nobody reads what was deleted, however the engine is started again; the topic
//!     goes on, empty, with a new epoch and generation, and remembers the epochs that were deleted for a while.
//! 13. **A count is of records**, not of offsets, which may skip: an engine that cannot say at once how many there are says nothing.

use std::fmt;
use std::sync::Arc;

use hark_protocol::{Epoch, GapReason, Idempotency, Identity, Message, Record, TopicName};

#[cfg(test)]
mod contract;
pub mod memory;
mod places;
pub mod sled;
mod within;

pub use places::{Lately, Places};
pub use within::{KnownBy, MessageKey, Producer, Within};

/// How many producers a topic remembers at most; the ones that have been silent longest are forgotten first.
pub const MAX_PRODUCERS: usize = 10_000;
/// How long a producer is remembered after its last message.
pub const PRODUCER_MEMORY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many of the newest records are looked through for message keys when a topic is opened.
pub const MAX_RECENT_KEYS: usize = 10_000;
/// How long a message key is remembered.
pub const KEY_MEMORY_MS: u64 = 2 * 60 * 1000;

/// What is called with the answer, exactly once, from whichever thread the engine likes. Must not block or panic.
pub type Done<T> = Box<dyn FnOnce(Result<T, LogError>) + Send>;
/// What is called with news about an open topic, in order, also with the answers to its room's orders, from whichever thread
/// the engine likes. Must not block or panic, and must not call the log.
pub type NewsSink = Arc<dyn Fn(LogNews) + Send + Sync>;

/// An engine that keeps records. Its promises are numbered in the module's documentation.
pub trait MessageLog: Send + Sync + fmt::Debug {
    /// Opens `topic` for its one writer, and ends what an earlier `open` of it could do.
    fn open(&self, topic: TopicName, news: NewsSink, done: Done<OpenedTopic>);

    /// Keeps records at the end of a topic.
    fn append(&self, append: Append);

    /// Reads a page.
    fn read(&self, read: Read, done: Done<Page>);

    /// Finds where a reader stands that wants everything at or after `since_ms`: the offset before the first record in
    /// `..=up_to` that is not older, or `up_to` if all are.
    fn find_time(&self, topic: TopicName, since_ms: u64, up_to: u64, done: Done<u64>);

    /// How many records of a topic lie in `(after, up_to]`, all of it kept; those that damage took may be counted. `None`: it would have
    /// to look. Cheap, and does not wait for the engine's threads.
    fn count(&self, topic: &TopicName, after: u64, up_to: u64) -> Option<u64>;

    /// Deletes everything a topic has. The generation must be the current one; the answer is the topic as it goes on, with another.
    /// A topic that never had a record stays as it is, but for the generation.
    fn delete(&self, topic: TopicName, generation: u64, done: Done<OpenedTopic>);

    /// Says that the room of that generation has retired. Not answered; safe to forget.
    fn close(&self, topic: TopicName, generation: u64);

    /// Lists topics that have or had records, by name.
    fn list(&self, order: List, done: Done<Vec<TopicInfo>>);

    /// Describes one topic, as `list` does; one that never had a record too.
    fn describe(&self, topic: TopicName, done: Done<TopicInfo>);

    /// How the engine is doing. Cheap, and does not wait for the engine's threads.
    fn health(&self) -> Health;

    /// Commits what has been taken, answers everything, and ends the engine's threads. Blocks. Calls made later are answered
    /// with [`LogError::Closed`].
    fn shutdown(&self);
}

/// What `open` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedTopic {
    /// To be given with every append; an `open` later draws a larger one.
    pub generation: u64,
    /// The identity of the topic's sequence.
    pub epoch: Epoch,
    /// Earlier sequences whose beginning this one shares, oldest first.
    pub lineage: Vec<Lineage>,
    /// Earlier sequences that were deleted, as far as they are remembered.
    pub deleted: Vec<Epoch>,
    /// The oldest offset that is kept; `head + 1` if none is.
    pub first: u64,
    /// The newest committed offset; 0 if there never was one.
    pub head: u64,
    /// The newest number of each producer.
    pub producers: Vec<ProducerMark>,
    /// The keys among the newest records (the last [`KEY_MEMORY_MS`], at most [`MAX_RECENT_KEYS`] records).
    pub keys: Vec<KeyMark>,
    /// Where producers' newest messages are, as these records tell, or more.
    pub lately: Lately,
}

/// An earlier sequence of a topic that lost its tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage {
    /// The earlier sequence.
    pub epoch: Epoch,
    /// Cursors of that epoch hold up to this offset; what came later is lost.
    pub kept_up_to: u64,
}

/// A producer's newest number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerMark {
    /// Who.
    pub producer: Producer,
    /// The newest number kept.
    pub seq: u64,
    /// Where.
    pub offset: u64,
    /// When.
    pub time_ms: u64,
}

/// A message key that was used lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMark {
    /// The key.
    pub key: MessageKey,
    /// Where its message is.
    pub offset: u64,
    /// When it was kept.
    pub time_ms: u64,
}

/// What is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRecord {
    /// The message.
    pub message: Message,
    /// Who publishes it; nobody who is anonymous.
    pub identity: Option<Identity>,
    /// How it is known if it comes again.
    pub idempotency: Idempotency,
}

impl NewRecord {
    /// What it is known by if the same identity sends it again.
    pub fn known_by(&self) -> KnownBy {
        KnownBy::new(self.identity.clone(), self.idempotency.clone())
    }
}

/// An order to keep records at the end of a topic.
pub struct Append {
    /// Which topic.
    pub topic: TopicName,
    /// What `open` drew.
    pub generation: u64,
    /// What to keep; at least one.
    pub records: Vec<NewRecord>,
    /// Called with the records as kept.
    pub done: Done<Appended>,
}

impl fmt::Debug for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Append")
            .field("topic", &self.topic)
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

/// News: these records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The records, in order.
    pub records: Vec<Record>,
}

/// An order to read.
#[derive(Debug, Clone)]
pub struct Read {
    /// Which topic.
    pub topic: TopicName,
    /// Of which sequence; where it has become another one meanwhile, the answer is [`LogError::OtherEpoch`].
    pub epoch: Epoch,
    /// The reader has everything up to here.
    pub after: u64,
    /// The committed head as the room knows it: nothing beyond is shown.
    pub up_to: u64,
    /// Stop when the payloads reach so many bytes (but never before the first record).
    pub max_bytes: usize,
    /// Stop at so many records.
    pub max_records: usize,
    /// Whether the records are to say who published them.
    pub tell_identity: bool,
}

/// An order to list topics. Those that are not wanted are not walked over, however many there are.
#[derive(Debug, Clone, Default)]
pub struct List {
    /// What the names begin with.
    pub prefix: String,
    /// Only names behind this one.
    pub after: Option<TopicName>,
    /// So many at most.
    pub limit: usize,
}

/// What a read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Records and gaps, in order.
    pub items: Vec<PageItem>,
    /// Everything up to here is covered.
    pub reached: u64,
}

/// One thing on a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageItem {
    /// A record.
    Record(Record),
    /// Offsets that cannot be had.
    Gap {
        /// Why: `expired` or `lost`.
        reason: GapReason,
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
}

/// What happens to an open topic without its room having asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogNews {
    /// Retention took the records before `first`.
    Trimmed {
        /// The oldest offset that is kept.
        first: u64,
    },
    /// Other nodes kept these (engines that are shared).
    AppendedElsewhere(Appended),
}

/// What the log knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Which topic.
    pub topic: TopicName,
    /// The identity of its sequence.
    pub epoch: Epoch,
    /// The oldest offset that is kept; `head + 1` if none is.
    pub first: u64,
    /// The newest committed offset.
    pub head: u64,
    /// What its records take, as stored.
    pub bytes: u64,
}

/// How an engine is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why it takes no writes at present, if so: until the next start, or until there is room on the disk.
    pub refuses_writes: Option<String>,
    /// What it found wrong at its start, and goes on in spite of: for whoever runs the broker.
    pub warnings: Vec<String>,
}

/// How long records are kept: the first bound that is reached counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Milliseconds.
    pub max_age_ms: u64,
    /// Bytes a topic, as stored.
    pub max_bytes: u64,
    /// Records a topic.
    pub max_messages: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_age_ms: 7 * 24 * 60 * 60 * 1000,
            max_bytes: 256 * 1024 * 1024,
            max_messages: u64::MAX,
        }
    }
}

/// An epoch that nobody has had. Below 2^60, so that it has at most twelve characters in a cursor.
pub(crate) fn draw_epoch() -> Epoch {
    Epoch::new(rand::random::<u64>() >> 4)
}

/// Leaves the newest [`MAX_PRODUCERS`], oldest first.
pub(crate) fn keep_newest(marks: &mut Vec<ProducerMark>) {
    marks.sort_unstable_by_key(|mark| mark.offset);
    marks.drain(..marks.len().saturating_sub(MAX_PRODUCERS));
}

/// Which retention a topic has. Asked whenever the topic is opened.
pub type RetentionFor = Arc<dyn Fn(&TopicName) -> Retention + Send + Sync>;

/// Why the log did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A queue is full. Nothing was done.
    #[error("the log's queue is full; try again in a moment")]
    Busy,
    /// The log takes no writes (any more). Whether an append in flight was kept is not known.
    #[error("the log is closed for writing: {0}")]
    Closed(String),
    /// The disk has less room than is kept free. Nothing was done; writes are taken again when there is room.
    #[error("the disk is nearly full: {0}")]
    NoRoom(String),
    /// The system lacks something (descriptors, memory), so that the log cannot write. Nothing was done; writes are taken again when it
    /// has it again.
    #[error("the log takes no writes for now: {0}")]
    Lacking(String),
    /// The topic has been opened by another since.
    #[error("the topic has been opened again since")]
    StaleGeneration,
    /// The topic has been deleted since, and is another sequence now.
    #[error("the topic has been deleted since")]
    OtherEpoch,
    /// There are as many topics as there may be; this would have been another one.
    #[error("there are as many topics as there may be; delete some, or raise --max-topics")]
    TooManyTopics,
    /// A message has this many bytes, and the engine keeps none so large. Nothing of the append was kept.
    #[error("a message of {0} bytes is more than the log can keep")]
    TooLarge(usize),
    /// The engine could not read.
    #[error("the log could not be read: {0}")]
    Unreadable(String),
}

/// A map keeps the memory it once needed, which after a crowd is much: gives most of it back once most of it is free.
pub(crate) fn give_back<K: Eq + std::hash::Hash, V>(map: &mut std::collections::HashMap<K, V>) {
    if map.capacity() > 1024 && map.len() < map.capacity() / 8 {
        map.shrink_to(2 * map.len());
    }
}
