//! One run: a broker with a directory of its own, its clients, and faults, one after the other, until all is judged at the end. Owns the
//! clients' lives and the waiting; what a fault does is in `fault`.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hark_protocol::Subprotocol;
use hark_tests::{DEADLINE, copy_folder};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::fault::{Fault, Then};
use crate::judge::{Judged, Kind, Place, Violation, violated};
use crate::server::Server;
use crate::world::{Phase, RARE, Trouble, World};
use crate::{publisher, subscriber};

/// Topic and kind of each publisher.
const PUBLISHERS: [(usize, Kind); 8] = [
    (0, Kind::Numbered),
    (0, Kind::Numbered),
    (1, Kind::Numbered),
    (1, Kind::Keyed),
    (2, Kind::Numbered),
    (2, Kind::Keyed),
    (2, Kind::Plain),
    (RARE, Kind::Numbered),
];
/// The kinds of those that go from one new topic to the next.
const WANDERERS: [Kind; 2] = [Kind::Numbered, Kind::Keyed];
/// The topics of the subscribers of each manner.
const STEADY: [usize; 4] = [0, 1, 2, 0];
const SLOW: [usize; 2] = [0, 1];
const VISITORS: [usize; 4] = [0, 1, 2, RARE];
const PAGING: [usize; 3] = [0, 1, RARE];
/// How many of the topics that were begun in the midst of it the run reads on in each cycle.
const READ_IN_A_CYCLE: usize = 4;
/// How often everything that is known is judged together.
const LOOK_OVER_EVERY: u32 = 5;

/// A run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) world: Arc<World>,
    pub(crate) server: Server,
    pub(crate) rng: StdRng,
    pub(crate) work: PathBuf,
    /// How long the broker took to open when it was started last.
    pub(crate) opening: Duration,
    /// Retention is small enough to take messages all the time.
    pub(crate) trims: bool,
    /// The broker can salvage a damaged directory.
    pub(crate) knows_recover: bool,
    begun: Instant,
    cycles: u32,
    log: File,
    publishers: JoinSet<()>,
    readers: JoinSet<()>,
    /// Up to where the run itself has read each topic, from its beginning.
    read: Vec<Option<Place>>,
    /// Topics and where they had come to before damage that has not been looked at yet.
    pub(crate) places: Vec<(usize, Place)>,
}

impl Run {
    /// A run whose broker's log and copies go to `work`.
    pub(crate) fn new(seed: u64, work: &Path, knows_recover: bool) -> Self {
        let world = Arc::new(World::new(PUBLISHERS.len() + WANDERERS.len()));
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(work.join("torture.log"));
        Self {
            server: Server::new(Arc::clone(&world), work, Vec::new()),
            world,
            rng: StdRng::seed_from_u64(seed),
            work: work.to_owned(),
            opening: Duration::ZERO,
            trims: false,
            knows_recover,
            begun: Instant::now(),
            cycles: 0,
            log: log.expect("a file in a folder of ours"),
            publishers: JoinSet::new(),
            readers: JoinSet::new(),
            read: Vec::new(),
            places: Vec::new(),
        }
    }

    /// Starts the broker and its clients.
    pub(crate) async fn begin(&mut self) -> Judged {
        if self.rng.random() {
            self.server.flags = vec!["--room-idle".to_owned(), "30ms".to_owned()];
        }
        self.start().await?;
        self.server.disk.expect_loaded(1);
        self.start_clients();
        self.progress(1).await
    }

    fn start_clients(&mut self) {
        for (slot, (topic, kind)) in PUBLISHERS.into_iter().enumerate() {
            let (rare, impatient) = (topic == RARE, slot % 3 == 1);
            let window = if rare { 1..4 } else { 32..160 };
            let rest_ms = if rare { 20..150 } else { 0..4 };
            let patience_ms = if impatient { 100..500 } else { 50_000..50_001 };
            let manner = publisher::Manner {
                slot,
                topic,
                kind,
                subprotocol: self.subprotocol(),
                window: self.rng.random_range(window),
                patience: Duration::from_millis(self.rng.random_range(patience_ms)),
                rest: Duration::from_millis(self.rng.random_range(rest_ms)),
                leaves: rare,
                wanders: false,
            };
            self.spawn_publisher(manner);
        }
        for (slot, kind) in (PUBLISHERS.len()..).zip(WANDERERS) {
            let manner = publisher::Manner {
                slot,
                topic: RARE, // until it goes on for the first time
                kind,
                subprotocol: self.subprotocol(),
                window: self.rng.random_range(1..8),
                patience: DEADLINE,
                rest: Duration::from_millis(self.rng.random_range(20..150)),
                leaves: false,
                wanders: true,
            };
            self.spawn_publisher(manner);
        }
        let slow = subscriber::Manner::Slow(Duration::from_millis(self.rng.random_range(20..400)));
        let manners: [(_, &[usize]); 3] = [
            (subscriber::Manner::Steady, &STEADY),
            (slow, &SLOW),
            (subscriber::Manner::Visitor, &VISITORS),
        ];
        for (manner, topics) in manners {
            for &topic in topics {
                let (world, subprotocol) = (Arc::clone(&self.world), self.subprotocol());
                let rng = self.branch();
                let reading = subscriber::subscribe(world, topic, manner, subprotocol, rng);
                self.readers.spawn(reading);
            }
        }
        for topic in PAGING {
            let reading = subscriber::page(Arc::clone(&self.world), topic, self.branch());
            self.readers.spawn(reading);
        }
    }

    fn spawn_publisher(&mut self, manner: publisher::Manner) {
        let rng = self.branch();
        self.publishers
            .spawn(publisher::publish(Arc::clone(&self.world), manner, rng));
    }

    fn subprotocol(&mut self) -> Option<Subprotocol> {
        [None, Some(Subprotocol::Json), Some(Subprotocol::Bincode)][self.rng.random_range(0..3)]
    }

    fn branch(&mut self) -> StdRng {
        StdRng::seed_from_u64(self.rng.random())
    }

    /// One fault under load, after which everybody goes on.
    pub(crate) async fn cycle(&mut self, fault: Fault) -> Judged<Then> {
        self.cycles += 1;
        self.note(fault.name());
        self.pause(150).await;
        self.world
            .tally
            .add(&format!("cycles: {}", fault.name()), 1);
        if self.strike(fault).await? == Then::RunIsOver {
            return Ok(Then::RunIsOver);
        }
        self.progress(1).await?;
        self.world.may_be_unavailable.store(false, Ordering::SeqCst);
        for topic in self.some_topics() {
            self.read_on(topic).await?;
        }
        if self.cycles.is_multiple_of(LOOK_OVER_EVERY) {
            self.look_over(false)?;
        }
        self.server.judge_log()?;
        Ok(Then::GoOn)
    }

    /// Those that the run began with, and a few of the others: all of them are read after damage and at the end.
    fn some_topics(&mut self) -> Vec<usize> {
        let begun = self.world.begun_topics();
        let mut some: Vec<usize> = (0..begun.start).collect();
        if !begun.is_empty() {
            some.extend((0..READ_IN_A_CYCLE).map(|_| self.rng.random_range(begun.clone())));
        }
        some
    }

    /// Lets publishers and readers come to their end, restarts the broker once more, and judges everything.
    pub(crate) async fn finish(&mut self) -> Judged {
        self.note("the end");
        self.world.set_phase(Phase::Emptying);
        self.wait("all publishers have their answers", |run| {
            run.publishers.is_empty()
        })
        .await?;
        self.world.set_phase(Phase::Reading);
        self.wait("all readers are at the head", |run| run.readers.is_empty())
            .await?;
        self.server.kill();
        self.start().await?;
        for topic in 0..self.world.topics() {
            self.read_on(topic).await?;
            self.read(topic, None).await?;
        }
        self.look_over(true)?;
        let back = self.world.tell(|judge| judge.back_after_kill);
        self.world.tally.add(
            "messages shown after a kill that had been called expired in the midst of reading",
            back,
        );
        let lost = self.world.tell(|judge| judge.lost_after_damage);
        self.world
            .tally
            .add("messages called lost that were sent after a damage", lost);
        self.server.judge_log()
    }

    fn look_over(&self, complete: bool) -> Judged {
        (0..self.world.topics())
            .try_for_each(|topic| self.world.tell(|judge| judge.look_over(topic, complete)))
    }

    /// Starts the broker, which must serve.
    pub(crate) async fn start(&mut self) -> Judged {
        let begin = Instant::now();
        match self.server.start(&[]).await? {
            Ok(()) => {
                self.opening = begin.elapsed();
                self.check()
            }
            Err(said) => violated!(
                "the broker did not start ({}): {}",
                said.status,
                said.stderr
            ),
        }
    }

    /// Waits until every publisher has had so many receipts more.
    pub(crate) async fn progress(&mut self, more: u64) -> Judged {
        let before = self.world.answered();
        self.wait("every publisher goes on", |run| {
            run.world
                .answered()
                .iter()
                .zip(&before)
                .all(|(now, before)| *now >= before + more)
        })
        .await
    }

    /// Waits until every publisher has found out that the broker has ended, and has passed on whatever it was told before.
    pub(crate) async fn all_publishers_found_out(&mut self) -> Judged {
        let before = self.world.disconnected();
        let end = Instant::now() + DEADLINE;
        while !self.world.have_disconnected(&before) {
            self.check()?;
            if Instant::now() > end {
                violated!(
                    "a publisher has not found out in {DEADLINE:?} that the broker has ended"
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Takes down what the last kill has hit. The publishers have found out by when they go on.
    pub(crate) async fn count_hits(&mut self) -> Judged {
        self.progress(1).await?;
        let hit = self.world.hit.load(Ordering::SeqCst);
        self.note(&format!("the kill left {hit} publishes unanswered"));
        self.world.tally.add("kills under load", 1);
        self.world
            .tally
            .add("kills that hit messages in flight", u64::from(hit > 0));
        self.world
            .tally
            .add("messages that a kill left unanswered", hit);
        Ok(())
    }

    /// Reads on where the run itself has been.
    async fn read_on(&mut self, topic: usize) -> Judged {
        self.read.resize(self.read.len().max(topic + 1), None);
        let place = self.read[topic].clone();
        match subscriber::read_to_head(&self.world, topic, place).await {
            Ok(place) => self.read[topic] = Some(place),
            Err(Trouble::Broken | Trouble::Violated) => {}
        }
        self.check()
    }

    /// Reads from a place, or from the beginning.
    pub(crate) async fn read(&mut self, topic: usize, from: Option<Place>) -> Judged {
        // What is wrong the judge has taken down.
        drop(subscriber::read_to_head(&self.world, topic, from).await);
        self.check()
    }

    pub(crate) async fn wait(&mut self, what: &str, done: impl Fn(&mut Self) -> bool) -> Judged {
        let end = Instant::now() + DEADLINE;
        loop {
            self.check()?;
            if done(self) {
                return Ok(());
            }
            if self.is_closed_by_damage() {
                violated!("the log is closed: a write has met damage");
            }
            if Instant::now() > end {
                violated!(
                    "waited {DEADLINE:?} in vain until {what}; receipts so far, by publisher: {:?}; the broker's last words: {}",
                    self.world.answered(),
                    self.server.log().lines().last().unwrap_or_default()
                );
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Has anything been violated?
    fn check(&mut self) -> Judged {
        for clients in [&mut self.publishers, &mut self.readers] {
            while let Some(ended) = clients.try_join_next() {
                if let Err(panic) = ended {
                    self.world
                        .violated(Violation(format!("a client gave up: {panic}")));
                }
            }
        }
        match self.world.violation() {
            Some(violation) => Err(violation.clone()),
            None => Ok(()),
        }
    }

    /// For a random time below so many milliseconds.
    pub(crate) async fn pause(&mut self, below_ms: u64) {
        let us = self.rng.random_range(0..below_ms * 1000);
        tokio::time::sleep(Duration::from_micros(us)).await;
    }

    /// Writes a line to the run's own log.
    pub(crate) fn note(&mut self, what: &str) {
        let ms = self.begun.elapsed().as_millis();
        writeln!(self.log, "{ms:>6} ms, cycle {}: {what}", self.cycles)
            .expect("a file in a folder of ours");
    }

    /// Ends the broker, and puts its directory as it is now beside the logs.
    pub(crate) fn keep_evidence(&mut self) {
        self.server.end_now();
        copy_folder(self.server.data_dir(), &self.work.join("data"));
    }
}
