//! Writes records into a directory while no broker runs, with the times they had. Owns what the writer thread does for a
//! running broker: packing, numbers, commits; a sync comes now and then, and at the end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use hark_protocol::TopicName;

use super::load::load;
use super::meta::{Identity, Ids, Mark, MetaError, Numbers, TIME_BYTES};
use super::open::{self, OpenDirectory, OpenError};
use super::store::{Store, plainly};
use super::stored::{PackError, Packer};
use crate::clock::Clock;
use crate::message_log::{KnownBy, LogError, NewRecord, Producer};

/// No record's time is so late: the log has six bytes for it.
pub const END_OF_TIMES_MS: u64 = 1 << (8 * TIME_BYTES);
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// What waits to be packed is written when all of it has so many bytes …
const WAITING_BYTES: usize = 8 * 1024 * 1024;
/// … or so many records.
const WAITING_RECORDS: usize = 100_000;
/// What was written is synced this often.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;
/// How many topics are held open.
const OPEN_TOPICS: usize = 10_000;

/// Why records could not be imported. What was synced before is kept.
#[derive(Debug, thiserror::Error)]
#[error("the data directory cannot be written: {0}")]
pub struct ImportError(String);

/// A directory that takes records. Keeps brokers out while it is open.
pub struct Importer {
    store: Store,
    into: OpenDirectory,
    packer: Packer,
    topics: HashMap<TopicName, Importing>,
    waiting_bytes: usize,
    waiting_records: usize,
    unsynced_bytes: u64,
    records: u64,
}

impl std::fmt::Debug for Importer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Importer")
            .field("records", &self.records)
            .finish_non_exhaustive()
    }
}

/// A topic that records are written to.
struct Importing {
    identity: Identity,
    numbers: Numbers,
    /// Records of one time, to be packed together.
    waiting: Vec<NewRecord>,
    waiting_ms: u64,
    marks: HashMap<Producer, Mark>,
}

impl Importer {
    /// Opens the log in `dir`, or makes a new one.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let into = open::open(dir, CACHE_BYTES)?;
        let store = Store::new(
            into.records.clone(),
            into.meta.clone(),
            into.directory.clone(),
            Clock::system(),
            Arc::default(),
        );
        Ok(Self {
            store,
            into,
            packer: Packer::default(),
            topics: HashMap::new(),
            waiting_bytes: 0,
            waiting_records: 0,
            unsynced_bytes: 0,
            records: 0,
        })
    }

    /// Puts a record at the end of `topic`. Its time is `time_ms`, but never before that of the record before; `None` is
    /// now.
    pub fn add(
        &mut self,
        topic: &TopicName,
        time_ms: Option<u64>,
        record: NewRecord,
    ) -> Result<(), ImportError> {
        if !self.topics.contains_key(topic) {
            if self.topics.len() >= OPEN_TOPICS {
                self.sync()?;
                self.topics.clear();
            }
            let importing = self.begin(topic)?;
            self.topics.insert(topic.clone(), importing);
        }
        let Some(importing) = self.topics.get_mut(topic) else {
            return Ok(());
        };
        let time_ms = time_ms.unwrap_or_else(|| self.store.clock.now_ms());
        let newest_ms = match importing.waiting.is_empty() {
            true => importing.numbers.last_time_ms,
            false => importing.waiting_ms,
        };
        let time_ms = time_ms.max(newest_ms);
        if time_ms != importing.waiting_ms && !importing.waiting.is_empty() {
            self.unsynced_bytes += importing.write(&self.into, &mut self.packer)?;
        }
        importing.waiting_ms = time_ms;
        self.waiting_bytes += record.message.size_bytes();
        self.waiting_records += 1;
        importing.waiting.push(record);
        self.records += 1;
        if self.waiting_bytes >= WAITING_BYTES || self.waiting_records >= WAITING_RECORDS {
            self.write_waiting()?;
        }
        match self.unsynced_bytes >= SYNC_BYTES {
            true => self.sync(),
            false => Ok(()),
        }
    }

    /// Makes safe what was taken. Says how many records that are.
    pub fn finish(mut self) -> Result<u64, ImportError> {
        self.sync()?;
        Ok(self.records)
    }

    fn write_waiting(&mut self) -> Result<(), ImportError> {
        for importing in self.topics.values_mut() {
            self.unsynced_bytes += importing.write(&self.into, &mut self.packer)?;
        }
        (self.waiting_bytes, self.waiting_records) = (0, 0);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ImportError> {
        self.write_waiting()?;
        for importing in self.topics.values_mut() {
            importing.write_numbers(&self.into)?;
        }
        self.into.commit()?;
        self.unsynced_bytes = 0;
        Ok(())
    }

    /// The topic as it is, put right as a broker does when it opens it; or a new one.
    fn begin(&mut self, topic: &TopicName) -> Result<Importing, ImportError> {
        let found = load(&self.store, topic)?;
        let meta = &self.into.meta;
        let (identity, numbers) = match found.identity.clone() {
            Some(identity) => {
                found.correct_marks(meta, identity.id())?;
                for key in found.leftovers {
                    self.into.records.remove(&key.to_bytes())?;
                }
                if found.identity_changed {
                    meta.set_identity(topic, &identity)?;
                }
                for (producer, mark) in &found.since_checkpoint {
                    meta.set_mark(identity.id(), producer, mark)?;
                }
                (identity, found.numbers)
            }
            None => {
                let id = super::ids::drawn(self.into.ids.next);
                let ids = Ids {
                    next: self.into.ids.next + 1,
                    topics: self.into.ids.topics + 1,
                };
                let deletions = meta.deletions(topic)?;
                let identity =
                    Identity::unused(&self.into.directory, deletions.as_ref()).with_id(id);
                // In this order: were the name found again without the numbers, the id would be given out twice.
                meta.set_ids(ids)?;
                meta.set_identity(topic, &identity)?;
                self.into.ids = ids;
                (identity, Numbers::default())
            }
        };
        Ok(Importing {
            identity,
            numbers,
            waiting: Vec::new(),
            waiting_ms: 0,
            marks: HashMap::new(),
        })
    }
}

impl Importing {
    /// Writes what waits. Says how many bytes that are.
    fn write(&mut self, into: &OpenDirectory, packer: &mut Packer) -> Result<u64, ImportError> {
        if self.waiting.is_empty() {
            return Ok(0);
        }
        let records = std::mem::take(&mut self.waiting);
        let (base, time_ms) = (self.numbers.head + 1, self.waiting_ms);
        let put =
            |key: &[u8; super::layout::KEY_BYTES], value: &[u8]| into.records.insert(key, value);
        let packed = packer.pack(self.identity.id(), base, time_ms, &records, put);
        let bytes = packed.map_err(|e| match e {
            PackError::Put(e) => ImportError(plainly(&e)),
            PackError::TooLarge(bytes) => ImportError(format!("{bytes} bytes do not fit")),
        })?;
        for (offset, record) in (base..).zip(&records) {
            self.numbers.head = offset;
            if let KnownBy::Sequence(producer, seq) = record.known_by() {
                let mark = Mark {
                    seq,
                    offset,
                    time_ms,
                };
                self.marks
                    .entry(producer)
                    .and_modify(|before| *before = mark.after(*before))
                    .or_insert(mark);
            }
        }
        self.numbers.last_time_ms = time_ms;
        self.numbers.bytes += bytes;
        Ok(bytes)
    }

    /// Writes what makes the records count.
    fn write_numbers(&mut self, into: &OpenDirectory) -> Result<(), ImportError> {
        let id = self.identity.id();
        for (producer, mark) in self.marks.drain() {
            // The producer may have gone on here since these messages were exported.
            let before = into.meta.mark(id, &producer)?;
            let mark = before.map_or(mark, |before| mark.after(before));
            into.meta.set_mark(id, &producer, &mark)?;
        }
        self.numbers.checkpoint = self.numbers.head;
        into.meta.set_numbers(id, &self.numbers)?;
        Ok(())
    }
}

impl From<sled::Error> for ImportError {
    fn from(e: sled::Error) -> Self {
        Self(plainly(&e))
    }
}

impl From<MetaError> for ImportError {
    fn from(e: MetaError) -> Self {
        Self(e.to_string())
    }
}

impl From<LogError> for ImportError {
    fn from(e: LogError) -> Self {
        Self(e.to_string())
    }
}

/// Has every topic of the log in `dir` go on with a new epoch. Gives the old and the new one, of topics that never had one
/// of their own.
pub fn new_epoch(dir: &Path) -> Result<(hark_protocol::Epoch, hark_protocol::Epoch), OpenError> {
    let found = open::open_as_found(dir, CACHE_BYTES)?;
    let old = found.directory.as_ref().map(|directory| directory.epoch());
    let settled = found.settle(open::GoOn::WithNewEpoch)?;
    let new = settled.directory.epoch();
    Ok((old.unwrap_or(new), new))
}
