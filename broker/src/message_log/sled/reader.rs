//! The reader pool: a few threads that do what may wait for the disk, so that neither an arbiter's thread nor the writer
//! does. Owns the threads and the order of jobs; what a job does is in `page` and `load`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use hark_protocol::TopicName;

use super::directory::silenced;
use super::layout::TopicId;
use super::load::{forgotten_producers, load};
use super::page::{describe, find_time, list, read_page};
use super::queue::Queue;
use super::rounds::{Survey, survey};
use super::store::Store;
use super::writer::Command;
use crate::message_log::{Done, List, LogError, Page, Read, TopicInfo};

/// How many threads read. Two, so that one long read does not hold up all others.
const READERS: usize = 2;
/// How many jobs wait at most; beyond it a read is answered with `Busy`. Their answers are one page each.
pub(super) const MAX_JOBS: usize = 4096;

/// What is to be read.
pub(super) enum Job {
    Read(Read, Done<Page>),
    FindTime {
        topic: TopicName,
        since_ms: u64,
        up_to: u64,
        done: Done<u64>,
    },
    List(List, Done<Vec<TopicInfo>>),
    Describe(TopicName, Done<TopicInfo>),
    /// For the writer, which bounds how many of these there are.
    Load {
        topic: TopicName,
        generation: u64,
    },
    /// For the writer: which producers may be forgotten.
    FindForgotten(TopicId),
    /// For the writer: a step of its round.
    Survey(Box<Survey>),
}

impl Job {
    /// Answers a job that was not taken.
    pub(super) fn refuse(self, why: LogError) {
        match self {
            Self::Read(_, done) => done(Err(why)),
            Self::FindTime { done, .. } => done(Err(why)),
            Self::List(_, done) => done(Err(why)),
            Self::Describe(_, done) => done(Err(why)),
            Self::Load { .. } | Self::FindForgotten(_) | Self::Survey(_) => {}
        }
    }
}

/// Starts the pool. The threads end when `jobs` has ended and is empty.
pub(super) fn start(
    store: &Arc<Store>,
    jobs: &Arc<Queue<Job>>,
    commands: &Arc<Queue<Command>>,
) -> std::io::Result<Vec<JoinHandle<()>>> {
    let start_one = |n| {
        let (store, jobs, commands) = (Arc::clone(store), Arc::clone(jobs), Arc::clone(commands));
        let work = move || {
            while let Some(job) = jobs.pop() {
                // An answer that panics is its receiver's affair; the pool goes on.
                if catch_unwind(AssertUnwindSafe(|| run(&store, &commands, job))).is_err() {
                    tracing::error!("an answer of the log's reader panicked");
                }
            }
        };
        std::thread::Builder::new()
            .name(format!("log reader {n}"))
            .spawn(work)
    };
    (1..=READERS).map(start_one).collect()
}

fn run(store: &Store, commands: &Queue<Command>, job: Job) {
    match job {
        Job::Read(read, done) => done(guarded(|| read_page(store, &read))),
        Job::FindTime {
            topic,
            since_ms,
            up_to,
            done,
        } => {
            done(guarded(|| find_time(store, &topic, since_ms, up_to)));
        }
        Job::List(order, done) => done(guarded(|| list(store, &order))),
        Job::Describe(topic, done) => done(guarded(|| describe(store, &topic))),
        Job::Survey(order) => {
            let found = guarded(|| survey(store, &order)).map(Box::new);
            drop(commands.push_anyway(Command::Surveyed(found)));
        }
        Job::Load { topic, generation } => {
            let found = guarded(|| load(store, &topic)).map(Box::new);
            let refused = commands.push_anyway(Command::Loaded {
                topic,
                generation,
                found,
            });
            // The writer has ended, and has answered whoever waited.
            drop(refused);
        }
        Job::FindForgotten(topic) => match guarded(|| forgotten_producers(store, topic)) {
            Ok(producers) => drop(commands.push_anyway(Command::Forget { topic, producers })),
            Err(e) => tracing::warn!(error = %e, "old producers could not be looked up"),
        },
    }
}

/// sled asserts on some damage: what it cannot read must not take the pool with it.
fn guarded<T>(work: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
    silenced(work).unwrap_or_else(|text| {
        let advice = "stop the broker and let `hark log recover` salvage what can be read";
        tracing::error!(panic = %text, "the storage engine gave up on a read; {advice}");
        Err(LogError::Unreadable(format!(
            "the storage engine gave up; {advice}"
        )))
    })
}
