//! Those who are held up by others, or not: a few quiet publishers, each with a subscriber, half of them of topics that are kept in memory. Owns
//! how long they wait for receipts and for deliveries, and that each message comes once, in order.

use std::sync::Mutex;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use hark_tests::{Broker, RawWs, pause};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;

/// So many of each kind, so that every worker of the broker has some.
const PAIRS: usize = 4;
/// For the broker's `--memory-topics`.
pub(crate) const MEMORY_TOPICS: &str = "quiet-in-memory.>";
/// In a round each publishes so many messages, in step with the clock and not with the answers: or one long wait would count once only.
const MESSAGES: u64 = 100;
const EVERY: Duration = Duration::from_millis(20);

/// The quiet ones.
#[derive(Debug)]
pub(crate) struct Quiet(Vec<Pair>);

#[derive(Debug)]
struct Pair {
    topic: String,
    in_memory: bool,
    /// Reads the receipts.
    publisher: RawWs,
    /// The same connection, to write to.
    hand: RawWs,
    subscriber: RawWs,
    published: u64,
    phase: Duration,
}

/// What was waited in a round, sorted.
#[derive(Debug, Default, Clone)]
pub(crate) struct Waits {
    pub(crate) receipts: Vec<Duration>,
    pub(crate) deliveries: Vec<Duration>,
    /// For either, of topics that are kept in memory: what the broker's workers have to do with it, and no disk.
    pub(crate) in_memory: Vec<Duration>,
}

impl Quiet {
    pub(crate) fn begin(broker: &Broker, rng: &mut StdRng) -> Self {
        let pair = |nth| {
            let in_memory = nth >= PAIRS;
            let topic = match in_memory {
                true => format!("quiet-in-memory.{nth}"),
                false => format!("quiet.{nth}"),
            };
            let mut subscriber = RawWs::connect(broker);
            subscriber.send_json(&json!({"type": "subscribe", "topic": topic}));
            assert_eq!(subscriber.read_json()["type"], "subscribed");
            assert_eq!(subscriber.read_json()["type"], "caught_up");
            let publisher = RawWs::connect(broker);
            Pair {
                topic,
                in_memory,
                hand: publisher.second_hand(),
                publisher,
                subscriber,
                published: 0,
                phase: EVERY.mul_f64(rng.random_range(0.0..1.0)),
            }
        };
        let mut quiet = Self((0..2 * PAIRS).map(pair).collect());
        // The topics are there from now on.
        for pair in &mut quiet.0 {
            pair.round(1);
        }
        quiet
    }

    /// A round, at whose end every receipt and every message has come.
    pub(crate) fn round(&mut self) -> Waits {
        let mut all = Waits::default();
        std::thread::scope(|scope| {
            let rounds: Vec<_> = self
                .0
                .iter_mut()
                .map(|pair| (pair.in_memory, scope.spawn(|| pair.round(MESSAGES))))
                .collect();
            for (in_memory, round) in rounds {
                let (mut receipts, mut deliveries) = joined(round);
                match in_memory {
                    true => {
                        all.in_memory.append(&mut receipts);
                        all.in_memory.append(&mut deliveries);
                    }
                    false => {
                        all.receipts.append(&mut receipts);
                        all.deliveries.append(&mut deliveries);
                    }
                }
            }
        });
        all.receipts.sort_unstable();
        all.deliveries.sort_unstable();
        all.in_memory.sort_unstable();
        all
    }
}

impl Pair {
    /// What was waited for receipts, and for deliveries.
    fn round(&mut self, messages: u64) -> (Vec<Duration>, Vec<Duration>) {
        let first = self.published + 1;
        self.published += messages;
        let all = first..=self.published;
        let sent = Mutex::new(Vec::new());
        let waited = |n: u64| {
            let sent = sent.lock().expect("no thread panics with it");
            let at = usize::try_from(n - first).expect("not so many messages");
            sent.get(at)
                .map(Instant::elapsed)
                .expect("nothing comes before it was sent")
        };
        std::thread::scope(|scope| {
            let (publisher, subscriber) = (&mut self.publisher, &mut self.subscriber);
            let receipts = all.clone().map(|n| {
                let receipt = publisher.read_json();
                assert_eq!(receipt["type"], "published", "receipt {n} of {receipt}");
                assert_eq!(receipt["id"], n, "{receipt}");
                waited(n)
            });
            let receipts = scope.spawn(|| receipts.collect());
            let deliveries = all.clone().map(|n| {
                let message = subscriber.read_json();
                assert_eq!(message["type"], "message", "{message}");
                assert_eq!(message["offset"], n, "{message}");
                assert_eq!(message["data"], n, "{message}");
                waited(n)
            });
            let deliveries = scope.spawn(|| deliveries.collect());
            let mut due = Instant::now() + self.phase;
            for n in all.clone() {
                pause(due.saturating_duration_since(Instant::now()));
                due += EVERY;
                let publish = json!({"type": "publish", "id": n, "topic": self.topic, "data": n});
                sent.lock()
                    .expect("no thread panics with it")
                    .push(Instant::now());
                self.hand.send_json(&publish);
            }
            (joined(receipts), joined(deliveries))
        })
    }
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The quantile of something sorted.
pub(crate) fn at(sorted: &[Duration], quantile: f64) -> Duration {
    let at = (sorted.len() as f64 * quantile) as usize;
    let at = at.min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// The one in the middle.
pub(crate) fn median(of: impl IntoIterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<_> = of.into_iter().collect();
    sorted.sort_unstable();
    at(&sorted, 0.5)
}
