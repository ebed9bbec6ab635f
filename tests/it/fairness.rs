//! A publisher of large messages and a topic with a flood do not hold up a quiet topic: its receipts come within a commit or
//! two. Counted in commits, which the witness tells, since time belongs to the machine; `make fairness` has the times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hark_tests::{Broker, Preload, Setup, Ws, until};
use serde_json::{Value, json};

const QUIET: usize = 60;
/// What each sync takes at least. A commit has several, so that what a message needs on its way there and back is little against it.
const SYNC: Duration = Duration::from_millis(5);
/// The commit that is under way when the message comes, its own, and what passes while the message and the receipt travel.
const MOST_COMMITS: u64 = 3;

/// How many commits were answered (`<data>/witness`: two slots of 16 bytes, each of which begins with the number).
pub(crate) fn commits(broker: &Broker) -> u64 {
    let witness = std::fs::read(broker.data_dir().join("witness")).unwrap();
    let slots = witness.chunks(16).filter_map(|slot| slot.first_chunk());
    slots
        .map(|commits| u64::from_le_bytes(*commits))
        .max()
        .unwrap()
}

/// One of those who do not rest.
#[derive(Debug, Clone)]
struct Flood {
    /// Of several topics too, so that not one room but the log has to be fair.
    topics: u64,
    payload_bytes: usize,
    in_flight: usize,
    /// How many messages it has had answers for.
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Flood {
    fn new(topics: u64, payload_bytes: usize, in_flight: usize) -> Self {
        let (answered, stop) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        Self {
            topics,
            payload_bytes,
            in_flight,
            answered,
            stop,
        }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Publishes on one connection until told to stop.
    async fn pour(self, mut ws: Ws, n: u64) {
        let topic = format!("flood.{}.{}", self.payload_bytes, n % self.topics);
        let publish = json!({"topic": topic, "data": "x".repeat(self.payload_bytes)});
        while !self.stop.load(Ordering::Relaxed) {
            let many = std::iter::repeat_n(publish.clone(), self.in_flight);
            let answers = ws.publish_all(many, self.in_flight as u64).await;
            let taken = |answer: &Value| answer["type"] == "published" || answer["code"] == "busy";
            assert!(answers.iter().all(taken), "{:?}", answers.last());
            let answered = answers.len() as u64;
            self.answered.fetch_add(answered, Ordering::Relaxed);
        }
    }
}

/// Publishes to a quiet topic beside `floods`, each on so many connections; gives how many commits each receipt took, sorted.
async fn commits_beside(floods: &[Flood], connections: u64) -> Vec<u64> {
    let disk = Preload::new();
    let setup = Setup::new().flag("retention-bytes", 32 << 20);
    let broker = disk.under(setup).start();
    disk.expect_loaded(1);
    disk.slow_syncs(SYNC);
    let mut pouring = Vec::new();
    for flood in floods {
        for n in 0..connections {
            let ws = Ws::connect(&broker).await;
            pouring.push(tokio::spawn(flood.clone().pour(ws, n)));
        }
    }
    let mut ws = Ws::connect(&broker).await;
    let mut counts = Vec::new();
    while counts.len() < QUIET {
        // Not before every flood has gone on: so it is there all the time.
        let before: Vec<u64> = floods.iter().map(Flood::answered).collect();
        until("the floods go on", async || {
            let mut all = floods.iter().zip(&before);
            all.all(|(flood, before)| flood.answered() > *before)
                .then_some(())
        })
        .await;
        let before = commits(&broker);
        ws.publish("quiet", json!(counts.len())).await;
        counts.push(commits(&broker) - before);
    }
    for flood in floods {
        flood.stop.store(true, Ordering::Relaxed);
    }
    for pouring in pouring {
        pouring.await.unwrap();
    }
    counts.sort_unstable();
    println!(
        "commits until a quiet receipt, beside {:?} messages: median {}, 9 in 10 {}, most {}",
        floods.iter().map(Flood::answered).collect::<Vec<_>>(),
        counts[QUIET / 2],
        counts[QUIET * 9 / 10],
        counts[QUIET - 1]
    );
    counts
}

fn large() -> Flood {
    Flood::new(3, (1 << 20) - 300, 1)
}

fn small() -> Flood {
    Flood::new(1, 128, 200)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_messages_hold_up_a_quiet_topic_by_few_commits() {
    let counts = commits_beside(&[large()], 6).await;
    assert!(counts[QUIET / 2] <= MOST_COMMITS, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_small_messages_holds_up_a_quiet_topic_by_few_commits() {
    let counts = commits_beside(&[small()], 4).await;
    assert!(counts[QUIET / 2] <= MOST_COMMITS, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn both_floods_together_hold_up_a_quiet_topic_by_few_commits() {
    let counts = commits_beside(&[large(), small()], 4).await;
    assert!(counts[QUIET / 2] <= MOST_COMMITS, "{counts:?}");
}
