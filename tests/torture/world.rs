//! What the clients of one run share with each other and with whoever does the faults: where the broker is, what they are to do now, the
//! judge, and what is counted. Owns no rule and no connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use hark_tests::Ended;
use tokio::sync::watch;

use crate::judge::{Judge, Judged, Violation};
use crate::tally::Tally;

/// The topics that a run begins with. To the last one little is published, and nobody stays: its room may retire.
const TOPICS: [&str; 4] = ["orders", "prices.eu", "chat.room-7", "rare"];
pub(crate) const RARE: usize = 3;
/// How many more are begun in the midst of a run at most. So there is always one whose name was written lately, and many whose names lie
/// where nothing else is written any more: damage finds either.
const MOST_BEGUN: usize = 40;

/// What the topic is named.
pub(crate) fn name_of(topic: usize) -> String {
    let begun_later = || format!("begun.later.{}", topic - TOPICS.len());
    TOPICS
        .get(topic)
        .map_or_else(begun_later, |name| (*name).to_owned())
}

/// What the clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Publish and read.
    Running,
    /// Publishers: get what is unanswered answered, and end.
    Emptying,
    /// Readers: read to the head, and end.
    Reading,
}

/// Why a client cannot go on.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The connection is gone: come back.
    Broken,
    /// A rule was broken: the run is over.
    Violated,
}

#[derive(Debug)]
pub(crate) struct World {
    judge: Mutex<Judge>,
    violation: OnceLock<Violation>,
    port: AtomicU16,
    phase: watch::Sender<Phase>,
    /// How many receipts each publisher has had.
    answered: Vec<AtomicU64>,
    /// How many publishes each has unanswered.
    unanswered: Vec<AtomicUsize>,
    /// How often each has been without a connection, after it had taken whatever came on the last one.
    disconnected: Vec<AtomicU64>,
    /// How many publishes were refused with `log_unavailable`.
    pub(crate) unavailable: AtomicU64,
    /// The log may be unavailable: the disk fails, or the broker ends.
    pub(crate) may_be_unavailable: AtomicBool,
    /// A damage was served, and may lie anywhere still: a write that meets it closes the log.
    pub(crate) may_be_damaged: AtomicBool,
    /// When the broker was killed last.
    killed: Mutex<Option<Instant>>,
    /// How many publishes that kill left unanswered.
    pub(crate) hit: AtomicU64,
    pub(crate) tally: Tally,
}

impl World {
    pub(crate) fn new(publishers: usize) -> Self {
        Self {
            judge: Mutex::new(Judge::new(TOPICS.len())),
            violation: OnceLock::new(),
            port: AtomicU16::new(0),
            phase: watch::Sender::new(Phase::Running),
            answered: (0..publishers).map(|_| AtomicU64::new(0)).collect(),
            unanswered: (0..publishers).map(|_| AtomicUsize::new(0)).collect(),
            disconnected: (0..publishers).map(|_| AtomicU64::new(0)).collect(),
            unavailable: AtomicU64::new(0),
            may_be_unavailable: AtomicBool::new(false),
            may_be_damaged: AtomicBool::new(false),
            killed: Mutex::new(None),
            hit: AtomicU64::new(0),
            tally: Tally::default(),
        }
    }

    /// Asks or tells the judge something. What it finds wrong ends the run.
    pub(crate) fn judge<T>(&self, ask: impl FnOnce(&mut Judge) -> Judged<T>) -> Result<T, Trouble> {
        let mut judge = self.judge.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&mut judge).map_err(|violation| self.violated(violation))
    }

    /// Tells the judge something that cannot be wrong.
    pub(crate) fn tell<T>(&self, tell: impl FnOnce(&mut Judge) -> T) -> T {
        tell(&mut self.judge.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many topics there are by now.
    pub(crate) fn topics(&self) -> usize {
        self.tell(|judge| judge.topics())
    }

    /// A topic that nobody has used; `None` if there are as many as may be.
    pub(crate) fn begin_topic(&self) -> Option<usize> {
        let topic = self.tell(|judge| {
            let may_begin = judge.topics() < TOPICS.len() + MOST_BEGUN;
            may_begin.then(|| judge.begin_topic())
        });
        if topic.is_some() {
            self.tally.add("topics begun", 1);
        }
        topic
    }

    /// The topics that were begun in the midst of the run.
    pub(crate) fn begun_topics(&self) -> std::ops::Range<usize> {
        TOPICS.len()..self.topics()
    }

    /// Takes down what was violated; the first counts.
    pub(crate) fn violated(&self, violation: Violation) -> Trouble {
        self.violation.get_or_init(|| violation);
        Trouble::Violated
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.get()
    }

    /// A connection has ended: by a code that a client like ours may see?
    pub(crate) fn ended(&self, ended: &Ended) -> Trouble {
        match ended.code {
            // Gone without a word, or by the codes that say to come back.
            None | Some(1001 | 1012 | 1013) => Trouble::Broken,
            Some(_) => self.violated(Violation(format!(
                "a connection was closed that did nothing wrong: {ended:?}"
            ))),
        }
    }

    /// Where the broker is, or was.
    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.load(Ordering::SeqCst)).into()
    }

    pub(crate) fn set_port(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Whether publishes may be refused because the log takes no writes.
    pub(crate) fn may_refuse_writes(&self) -> bool {
        [&self.may_be_unavailable, &self.may_be_damaged]
            .iter()
            .any(|may| may.load(Ordering::SeqCst))
    }

    pub(crate) fn count_answer(&self, publisher: usize) {
        self.answered[publisher].fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn answered(&self) -> Vec<u64> {
        self.answered
            .iter()
            .map(|answered| answered.load(Ordering::SeqCst))
            .collect()
    }

    pub(crate) fn set_unanswered(&self, publisher: usize, count: usize) {
        self.unanswered[publisher].store(count, Ordering::SeqCst);
    }

    /// How many publishes are unanswered just now.
    pub(crate) fn unanswered(&self) -> usize {
        let counts = self.unanswered.iter();
        counts.map(|count| count.load(Ordering::SeqCst)).sum()
    }

    pub(crate) fn count_disconnected(&self, publisher: usize) {
        self.disconnected[publisher].fetch_add(1, Ordering::SeqCst);
    }

    /// It will not connect again.
    pub(crate) fn set_done(&self, publisher: usize) {
        self.disconnected[publisher].store(u64::MAX, Ordering::SeqCst);
    }

    /// Whether all of them have been without a connection (or are done) since `before`.
    pub(crate) fn have_disconnected(&self, before: &[u64]) -> bool {
        let now = self.disconnected();
        let mut all = now.iter().zip(before);
        all.all(|(now, before)| now > before || *now == u64::MAX)
    }

    pub(crate) fn disconnected(&self) -> Vec<u64> {
        let counts = self.disconnected.iter();
        counts.map(|count| count.load(Ordering::SeqCst)).collect()
    }

    /// The broker is about to be killed.
    pub(crate) fn killing(&self) {
        self.hit.store(0, Ordering::SeqCst);
        *self.killed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// A publisher's connection is gone, and these publishes, sent at these times, are unanswered: a kill has hit those sent before it.
    pub(crate) fn broken_with(&self, sent: impl Iterator<Item = Instant>) {
        let killed = *self.killed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(killed) = killed {
            let hit = sent.filter(|sent| *sent < killed).count();
            self.hit.fetch_add(hit as u64, Ordering::SeqCst);
        }
    }
}
