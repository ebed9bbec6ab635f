//! The writer: one thread that commits for all topics. Owns the order of everything that is written, and who is told what
//! and when. What a command does is in the file named after it.
//!
//! ```text
//! commands ─► drain ─► write ─► flush ─► fdatasync ─► witness ─► answers and news ─► …
//! ```
//! Batches form by themselves: what arrives while a commit is under way is the next one. Nothing is answered before the
//! sync; after a failed one nothing is written any more.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hark_protocol::{Record, TopicName};

use super::blobs::Blobs;
use super::delete::Garbage;
use super::descriptors::{LOOK_AGAIN_EVERY, Reserve};
use super::faults::Faults;
use super::layout::TopicId;
use super::load::Loaded;
use super::low_disk::LowDisk;
use super::meta::{Identity, Ids, Mark, MetaError, Numbers};
use super::passing::Trouble;
use super::queue::Queue;
use super::reader::Job;
use super::retention::Oldest;
use super::rounds::{Rounds, Surveyed};
use super::scan::is_damage;
use super::store::{Store, plainly};
use super::stored::Packer;
use super::witness::Witness;
use crate::logging;
use crate::message_log::{
    Append, Appended, Done, LogError, LogNews, NewsSink, OpenedTopic, Producer, ProducerMark,
    Retention, RetentionFor,
};

/// How many commands wait for the writer at most; beyond it an append or open is answered with `Busy`.
pub(super) const MAX_COMMANDS: usize = 16 * 1024;
/// How many bytes of payload wait for the writer at most; beyond it an append is answered with `Busy`.
pub(super) const MAX_COMMAND_BYTES: usize = 64 * 1024 * 1024;
/// A commit takes commands until they have so many bytes: what comes later waits for the next one, so that a large
/// message delays others by one commit at most.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;
/// … or until there are so many.
const COMMIT_COMMANDS: usize = 1024;
/// How many producers are forgotten between two commits at most.
const FORGET_STEP: usize = 64;

/// What the writer takes.
pub(super) enum Command {
    Open {
        topic: TopicName,
        news: NewsSink,
        done: Done<OpenedTopic>,
    },
    Append(Append),
    Delete {
        topic: TopicName,
        generation: u64,
        done: Done<OpenedTopic>,
    },
    Close {
        topic: TopicName,
        generation: u64,
    },
    /// What a reader found of a topic that is being opened.
    Loaded {
        topic: TopicName,
        generation: u64,
        found: Result<Box<Loaded>, LogError>,
    },
    /// What a reader found to be forgotten.
    Forget {
        topic: TopicId,
        producers: Vec<ProducerMark>,
    },
    /// What a reader found on its round over all topics.
    Surveyed(Result<Box<Surveyed>, LogError>),
}

impl Command {
    /// Answers a command that was not taken.
    pub(super) fn refuse(self, why: LogError) {
        match self {
            Self::Open { done, .. } | Self::Delete { done, .. } => done(Err(why)),
            Self::Append(append) => (append.done)(Err(why)),
            Self::Close { .. } | Self::Loaded { .. } | Self::Forget { .. } | Self::Surveyed(_) => {}
        }
    }
}

pub(super) struct Writer {
    pub(super) store: Arc<Store>,
    pub(super) db: sled::Db,
    /// sled's `flush` does not sync: this handle does. Held for life, so that no write error between two syncs is missed.
    pub(super) data: File,
    pub(super) blobs: Blobs,
    pub(super) reserve: Reserve,
    /// Why sled might lack a descriptor, if so.
    pub(super) lacks_descriptors: Option<String>,
    pub(super) witness: Witness,
    pub(super) commands: Arc<Queue<Command>>,
    pub(super) jobs: Arc<Queue<Job>>,
    pub(super) retention: RetentionFor,
    pub(super) max_topics: u64,
    pub(super) max_total_bytes: u64,
    /// How long a round over all topics is rested from.
    pub(super) rounds_every: Duration,
    /// How often topics are looked at whose records may have become too old.
    pub(super) tick: Duration,
    pub(super) faults: Faults,
    pub(super) ids: Ids,
    pub(super) commits: u64,
    pub(super) low_disk: LowDisk,
    pub(super) state: State,
}

/// What the writer knows while it runs.
#[derive(Default)]
pub(super) struct State {
    pub(super) generation: u64,
    pub(super) topics: HashMap<TopicName, Slot>,
    /// How many topics the readers look at for the writer.
    pub(super) opening: usize,
    pub(super) packer: Packer,
    pub(super) commit: Commit,
    /// Topics that retention has to look at, in turn.
    pub(super) over_bound: VecDeque<TopicName>,
    pub(super) rounds: Rounds,
    pub(super) garbage: Garbage,
    pub(super) forgetting: VecDeque<(TopicId, ProducerMark)>,
    /// What came while a commit waited for a lack to pass.
    pub(super) laid_aside: Vec<Command>,
}

/// A topic that somebody opened.
pub(super) enum Slot {
    /// A reader looks at it. Appends are refused.
    Opening(Opening),
    Open(Box<OpenTopic>),
}

pub(super) struct Opening {
    pub(super) generation: u64,
    pub(super) news: NewsSink,
    pub(super) done: Done<OpenedTopic>,
    /// The log opened it itself, to trim it.
    pub(super) tended: bool,
}

/// An open topic. There are many: what is large lives in `meta`.
pub(super) struct OpenTopic {
    pub(super) generation: u64,
    /// `None` until the first append.
    pub(super) id: Option<TopicId>,
    /// Of a topic without a record: what it will be.
    pub(super) identity: Identity,
    pub(super) numbers: Numbers,
    pub(super) news: NewsSink,
    pub(super) retention: Retention,
    /// The producers' numbers since the last checkpoint.
    pub(super) since_checkpoint: HashMap<Producer, Mark>,
    pub(super) bytes_since_checkpoint: u64,
    /// How many producers' numbers were written since those to be forgotten were last looked up.
    pub(super) marks_written: usize,
    /// Its numbers have changed in this commit.
    pub(super) touched: bool,
    /// It waits in `over_bound`.
    pub(super) over_bound: bool,
    pub(super) oldest: Oldest,
    /// The log opened it itself, to trim it.
    pub(super) tended: bool,
}

/// The commit in work.
#[derive(Default)]
pub(super) struct Commit {
    /// Something was written that somebody waits for.
    pub(super) wrote: bool,
    /// How many keys were written.
    pub(super) keys: usize,
    pub(super) touched: Vec<TopicName>,
    pub(super) answers: Vec<Answer>,
}

/// What is said after the sync, in order.
pub(super) enum Answer {
    Appended {
        done: Done<Appended>,
        records: Vec<Record>,
    },
    Opened {
        done: Done<OpenedTopic>,
        opened: OpenedTopic,
        wrote: bool,
    },
    News {
        sink: NewsSink,
        news: LogNews,
    },
}

/// Starts the thread.
pub(super) fn start(writer: Writer) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        // Held while the end is told of, too.
        let _ends = EndsProcess;
        if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
            tracing::error!(
                "the log's writer panicked: the process ends; where it does so again, the log is damaged: let `hark log recover` \
                 salvage what can be read"
            );
            logging::abort();
        }
    };
    std::thread::Builder::new()
        .name("log writer".into())
        .spawn(run)
}

/// Where a panic takes the writer, the process ends, whatever happens on the way: what was about to be written nobody can know, nobody
/// would be answered any more, and nothing else would show it.
struct EndsProcess;

impl Drop for EndsProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Writer {
    /// Runs until the queue has ended and is empty.
    pub(super) fn run(mut self) {
        let mut ticked = Instant::now();
        loop {
            let patience = match (self.has_work(), &self.lacks_descriptors) {
                (true, _) => Duration::ZERO,
                (false, Some(_)) => LOOK_AGAIN_EVERY,
                (false, None) => self
                    .tick
                    .min(self.state.rounds.patience())
                    .min(self.low_disk.patience()),
            };
            let drained = self.commands.drain(COMMIT_COMMANDS, COMMIT_BYTES, patience);
            self.lend_descriptors();
            let laid_aside = std::mem::take(&mut self.state.laid_aside);
            for command in laid_aside.into_iter().chain(drained.items) {
                self.take(command);
            }
            if drained.ended {
                self.close_all();
            }
            self.write_numbers();
            if ticked.elapsed() >= self.tick {
                ticked = Instant::now();
                self.find_old();
            }
            if self.lacks_descriptors.is_none() {
                self.keep_rounds();
                self.trim();
                self.forget();
                self.take_garbage();
            }
            self.look_at_disk();
            self.commit();
            self.take_descriptors();
            if drained.ended {
                return;
            }
        }
    }

    pub(super) fn take(&mut self, command: Command) {
        match command {
            Command::Open { topic, news, done } => self.open(topic, news, done),
            Command::Loaded {
                topic,
                generation,
                found,
            } => self.loaded(topic, generation, found),
            Command::Append(append) => {
                self.faults.strike(&append);
                self.append(append);
            }
            Command::Delete {
                topic,
                generation,
                done,
            } => self.delete(&topic, generation, done),
            Command::Close { topic, generation } => self.close(&topic, generation),
            Command::Forget { topic, producers } => self.start_forgetting(topic, producers),
            Command::Surveyed(found) => self.surveyed(found),
        }
    }

    fn has_work(&self) -> bool {
        let state = &self.state;
        let is_idle =
            state.over_bound.is_empty() && state.forgetting.is_empty() && state.garbage.is_empty();
        let may_write = !self.store.is_closed() && self.lacks_descriptors.is_none();
        !state.laid_aside.is_empty() || !is_idle && may_write
    }

    /// Notes that a topic's numbers change in this commit.
    pub(super) fn touch(
        store: &Store,
        commit: &mut Commit,
        name: &TopicName,
        topic: &mut OpenTopic,
    ) {
        if let (Some(id), false) = (topic.id, topic.touched) {
            store.begin_commit(std::iter::once((id, topic.numbers.head)));
            topic.touched = true;
            commit.touched.push(name.clone());
        }
    }

    /// Writes the numbers of the topics that this commit has touched.
    fn write_numbers(&mut self) {
        let touched = std::mem::take(&mut self.state.commit.touched);
        let mut numbers = Vec::with_capacity(touched.len());
        for name in &touched {
            if let Some(Slot::Open(topic)) = self.state.topics.get_mut(name) {
                let before = topic.numbers.first;
                let due = Self::numbers_to_write(&self.store, topic);
                let (looked_up, first) = (topic.marks_written, topic.numbers.first);
                if first > before {
                    let (sink, news) = (Arc::clone(&topic.news), LogNews::Trimmed { first });
                    self.state.commit.answers.push(Answer::News { sink, news });
                }
                match due {
                    Ok(due) => numbers.extend(due),
                    Err(error) => self.check(Err(error)),
                }
                self.look_up_forgotten(name, looked_up);
                self.look_at_retention(name);
            }
        }
        // Behind the records, as all of them are written by now.
        if !self.store.is_closed() {
            let written = self.store.meta.set_numbers_of_many(numbers);
            self.check(written);
        }
    }

    /// Writes a topic's numbers, and its producers' if it is time. Called once no commit touches it any more.
    pub(super) fn write_numbers_of(store: &Store, topic: &mut OpenTopic) -> Result<(), MetaError> {
        match Self::numbers_to_write(store, topic)? {
            Some((id, numbers)) => store.meta.set_numbers(id, &numbers),
            None => Ok(()),
        }
    }

    /// What is to be written of a topic's numbers, once its producers' are, if it is time.
    fn numbers_to_write(
        store: &Store,
        topic: &mut OpenTopic,
    ) -> Result<Option<(TopicId, Numbers)>, MetaError> {
        topic.touched = false;
        let Some(id) = topic.id.filter(|_| !store.is_closed()) else {
            return Ok(None);
        };
        if topic.is_checkpoint_due() {
            topic.checkpoint(&store.meta)?;
        }
        topic.keep_to_count();
        Ok(Some((id, topic.numbers)))
    }

    /// Has producers forgotten, bit by bit.
    pub(super) fn start_forgetting(&mut self, topic: TopicId, producers: Vec<ProducerMark>) {
        self.state
            .forgetting
            .extend(producers.into_iter().map(|producer| (topic, producer)));
    }

    fn forget(&mut self) {
        if self.store.is_closed() {
            return;
        }
        for _ in 0..FORGET_STEP {
            let Some((topic, producer)) = self.state.forgetting.pop_front() else {
                return;
            };
            let forgotten = self.store.meta.forget_mark(topic, &producer);
            self.check(forgotten);
        }
    }

    /// Syncs what was written, and then says so.
    fn commit(&mut self) {
        let commit = std::mem::take(&mut self.state.commit);
        if commit.wrote && !self.store.is_closed() {
            match self.sync_patiently() {
                Ok(()) => self.store.end_commit(),
                Err(reason) => self.store.close(&reason),
            }
        }
        let closed = self.store.check_open().err();
        for answer in commit.answers {
            match answer {
                Answer::Appended { done, records } => match &closed {
                    None => done(Ok(Appended { records })),
                    Some(closed) => done(Err(closed.clone())),
                },
                Answer::Opened {
                    done,
                    opened,
                    wrote,
                } => match closed.as_ref().filter(|_| wrote) {
                    None => done(Ok(opened)),
                    Some(closed) => done(Err(closed.clone())),
                },
                Answer::News { sink, news } => {
                    if closed.is_none() {
                        sink(news);
                    }
                }
            }
        }
    }

    /// Makes safe what was written. May be called again where the trouble may pass: every step can be done once more.
    pub(super) fn sync(&mut self) -> Result<(), Trouble> {
        let commits = self.commits + 1;
        self.store
            .meta
            .set_commits(commits)
            .map_err(|e| Trouble::last("a write", &plainly(&e)))?;
        self.db.flush().map_err(|e| match is_damage(&e) {
            // sled moves pages that it cannot read any more.
            true => Trouble::Last("a write met damage; stop the broker and let `hark log recover` salvage what can be read".to_owned()),
            false => Trouble::last("a write or a sync", &plainly(&e)),
        })?;
        self.blobs.sync(&mut self.reserve)?;
        if self.faults.sync_fails_now() {
            return Err(Trouble::last("a sync", &"a fault that a test ordered"));
        }
        let synced = self.data.sync_data();
        synced.map_err(|e| Trouble::last("a sync", &e))?;
        // Of its two places the one that is not the newest is written, so it may be written again.
        let witnessed = match self.faults.lacks_something() {
            Some(lack) => Err(lack),
            None => self.witness.write(commits),
        };
        witnessed.map_err(|e| Trouble::of("writing the witness", &e))?;
        self.commits = commits;
        Ok(())
    }

    /// After an error of writing the log is closed: what of it was written cannot be known.
    pub(super) fn check<E: std::fmt::Display>(&self, written: Result<(), E>) {
        if let Err(e) = written {
            self.store.close(&format!("a write failed: {e}"));
        }
    }
}
