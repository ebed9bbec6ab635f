//! The engine that keeps records in sled: crash-safe, on one machine. Owns the threads and their queues; what they do is
//! told in the files.
//!
//! ```text
//! open · append · close ─► queue ─► writer ─► sled, fdatasync, witness      (writer, append, open_topic, retention …)
//! read · find_time · list ─► queue ─► readers ─► sled                       (reader, page, load)
//! ```
//! The writer also trims (`retention`), walks over all topics (`rounds`), deletes (`delete`) and watches the disk (`low_disk`).
//!
//! How records lie on the disk: `layout` (keys and values), `stored` (records), `meta` (everything else), `witness`.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hark_protocol::TopicName;

use super::{
    Append, Done, Health, List, LogError, MessageLog, NewsSink, OpenedTopic, Page, Read, Retention,
    RetentionFor, TopicInfo,
};
use crate::clock::Clock;

mod append;
mod blobs;
mod checkpoint;
mod copy;
#[cfg(test)]
mod damage_tests;
mod delete;
mod descriptors;
mod directory;
mod faults;
mod ids;
mod import;
mod layout;
mod load;
mod low_disk;
mod meta;
mod offline;
mod open;
mod open_topic;
mod page;
mod passing;
mod queue;
mod raw;
mod reader;
mod replay;
mod retention;
mod rounds;
mod rows;
mod salvage;
mod scan;
mod store;
mod stored;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upkeep_tests;
mod verify;
mod witness;
mod writer;

pub use copy::Copying;
pub use directory::{is_in_use, is_there};
pub use faults::Faults;
pub use import::{END_OF_TIMES_MS, ImportError, Importer, new_epoch};
pub use offline::{Exported, OfflineLog};
pub use open::OpenError;
pub use salvage::{DamagedTopic, RecoverError, Salvaged, recover};
pub use verify::{Problem, Verified};

use directory::DirectoryLock;
use low_disk::LowDisk;
use queue::{Queue, Refused};
use reader::{Job, MAX_JOBS};
use store::{Condition, Store};
use writer::{Command, MAX_COMMAND_BYTES, MAX_COMMANDS, State, Writer};

/// How a directory is opened.
#[derive(Clone)]
pub struct SledOptions {
    /// Where the records are kept. Created if it is not there.
    pub dir: PathBuf,
    /// The time of records.
    pub clock: Clock,
    /// What each topic keeps.
    pub retention: RetentionFor,
    /// What sled keeps in memory, in bytes. The process may use a few times as much.
    pub cache_bytes: u64,
    /// How many topics there may be that have or had records.
    pub max_topics: u64,
    /// How many bytes all topics may keep together, as stored; beyond it the largest give.
    pub max_total_bytes: u64,
    /// How many bytes are kept free on the disk; by default 256 MiB, or a tenth of a volume that is small.
    pub min_free_bytes: Option<u64>,
    /// How long after a walk over all topics, open or not, the next one begins.
    pub rounds_every: Duration,
    /// How often open topics are looked at for records that have become too old.
    pub tick: Duration,
    /// For tests.
    pub faults: Faults,
}

impl SledOptions {
    /// The defaults: a cache of 16 MiB, a million topics, and the default retention for each.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            clock: Clock::system(),
            retention: Arc::new(|_| Retention::default()),
            // sled counts bytes on the disk; in memory a page takes twice as many.
            cache_bytes: 16 * 1024 * 1024,
            max_topics: 1_000_000,
            max_total_bytes: 10 * 1024 * 1024 * 1024,
            min_free_bytes: None,
            rounds_every: Duration::from_secs(60),
            tick: Duration::from_secs(5),
            faults: Faults::default(),
        }
    }
}

impl fmt::Debug for SledOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledOptions")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Keeps records in a directory of its own.
pub struct SledLog {
    commands: Arc<Queue<Command>>,
    jobs: Arc<Queue<Job>>,
    condition: Arc<Condition>,
    running: Mutex<Option<Running>>,
}

/// What ends with the log, in this order. The store lives in the threads alone, so that sled has let go of its files when
/// they are done.
struct Running {
    writer: JoinHandle<()>,
    readers: Vec<JoinHandle<()>>,
    lock: DirectoryLock,
}

impl fmt::Debug for SledLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SledLog")
            .field("condition", &self.condition)
            .finish_non_exhaustive()
    }
}

impl SledLog {
    /// Opens a directory, or makes a new one. Blocks: what was written since the last start is read once.
    pub fn open(options: SledOptions) -> Result<Self, OpenError> {
        let SledOptions {
            dir,
            clock,
            retention,
            cache_bytes,
            max_topics,
            max_total_bytes,
            min_free_bytes,
            rounds_every,
            tick,
            faults,
        } = options;
        let opened = open::open(&dir, cache_bytes)?;
        let condition = Arc::new(Condition::default());
        for warning in opened.warnings {
            condition.warn(warning);
        }
        let store = Store::new(
            opened.records,
            opened.meta,
            opened.directory,
            clock,
            Arc::clone(&condition),
        );
        let store = Arc::new(store);
        let commands = Arc::new(Queue::new(MAX_COMMANDS, MAX_COMMAND_BYTES));
        let jobs = Arc::new(Queue::new(MAX_JOBS, usize::MAX));
        let unusable = |source| OpenError::NotWritable {
            dir: dir.clone(),
            source,
        };
        let blobs = blobs::Blobs::open(&dir).map_err(unusable)?;
        let reserve = descriptors::Reserve::take().map_err(unusable)?;
        let readers = reader::start(&store, &jobs, &commands).map_err(unusable)?;
        let writer = Writer {
            store,
            db: opened.db,
            data: opened.data,
            blobs,
            reserve,
            lacks_descriptors: None,
            witness: opened.witness,
            commands: Arc::clone(&commands),
            jobs: Arc::clone(&jobs),
            retention,
            max_topics,
            max_total_bytes,
            rounds_every,
            tick,
            faults,
            ids: opened.ids,
            commits: opened.commits,
            low_disk: LowDisk::new(dir.clone(), min_free_bytes),
            state: State {
                garbage: opened.garbage,
                ..State::default()
            },
        };
        let writer = writer::start(writer).map_err(unusable)?;
        let running = Running {
            writer,
            readers,
            lock: opened.lock,
        };
        Ok(Self {
            commands,
            jobs,
            condition,
            running: Mutex::new(Some(running)),
        })
    }

    fn order(&self, command: Command, bytes: usize) {
        match self.commands.push(command, bytes) {
            Ok(()) => {}
            Err(Refused::Full(command)) => command.refuse(LogError::Busy),
            Err(Refused::Ended(command)) => command.refuse(shut_down()),
        }
    }

    fn ask(&self, job: Job) {
        match self.jobs.push(job, 0) {
            Ok(()) => {}
            Err(Refused::Full(job)) => job.refuse(LogError::Busy),
            Err(Refused::Ended(job)) => job.refuse(shut_down()),
        }
    }
}

impl MessageLog for SledLog {
    fn open(&self, topic: TopicName, news: NewsSink, done: Done<OpenedTopic>) {
        self.order(Command::Open { topic, news, done }, 0);
    }

    fn append(&self, append: Append) {
        let bytes = append
            .records
            .iter()
            .map(|new| new.message.size_bytes())
            .sum();
        self.order(Command::Append(append), bytes);
    }

    fn read(&self, read: Read, done: Done<Page>) {
        self.ask(Job::Read(read, done));
    }

    fn find_time(&self, topic: TopicName, since_ms: u64, up_to: u64, done: Done<u64>) {
        self.ask(Job::FindTime {
            topic,
            since_ms,
            up_to,
            done,
        });
    }

    // Its offsets are dense.
    fn count(&self, _: &TopicName, after: u64, up_to: u64) -> Option<u64> {
        Some(up_to.saturating_sub(after))
    }

    fn delete(&self, topic: TopicName, generation: u64, done: Done<OpenedTopic>) {
        self.order(
            Command::Delete {
                topic,
                generation,
                done,
            },
            0,
        );
    }

    fn close(&self, topic: TopicName, generation: u64) {
        // At most one a generation, so it has its place even in a full queue.
        if self
            .commands
            .push_anyway(Command::Close { topic, generation })
            .is_err()
        {
            tracing::trace!("a topic was closed after the log");
        }
    }

    fn list(&self, order: List, done: Done<Vec<TopicInfo>>) {
        self.ask(Job::List(order, done));
    }

    fn describe(&self, topic: TopicName, done: Done<TopicInfo>) {
        self.ask(Job::Describe(topic, done));
    }

    fn health(&self) -> Health {
        self.condition.health()
    }

    fn shutdown(&self) {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(Running {
            writer,
            readers,
            lock,
        }) = running
        else {
            return;
        };
        self.commands.end();
        join(writer);
        self.jobs.end();
        readers.into_iter().for_each(join);
        drop(lock);
        self.condition.close("it has been shut down");
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn join(thread: JoinHandle<()>) {
    // An answer may hold the last handle of the log; a thread that waits for itself would wait for ever.
    if thread.thread().id() != thread::current().id() && thread.join().is_err() {
        tracing::error!("a thread of the log panicked");
    }
}

fn shut_down() -> LogError {
    LogError::Closed("it has been shut down".into())
}
