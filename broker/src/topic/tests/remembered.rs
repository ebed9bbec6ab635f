//! What is remembered of producers in all topics together, rooms and engine alike.

use std::sync::Arc;

use hark_protocol::{ErrorCode, Idempotency, MessageId, ProducerId};

use super::{MANY, Outcome, message, outcomes, registry_that_remembers, send, until};
use crate::clock::Clock;
use crate::message_log::Retention;
use crate::message_log::memory::MemoryLog;
use crate::remembered::{Remembered, YOUNG_MS};
use crate::topic::Registry;

const BOUND: usize = 1 << 20;
/// What the last one that is taken has beyond it, in its room and in the engine.
const ONE_MORE: usize = 1024;

struct Bench {
    clock: Clock,
    remembered: Remembered,
    registry: Arc<Registry>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::manual(1_764_230_400_000);
        let remembered = Remembered::new(BOUND, clock.clone());
        let retention = Arc::new(|_: &hark_protocol::TopicName| Retention::default());
        let log = MemoryLog::new(clock.clone(), retention, 1000, u64::MAX)
            .counting_with(remembered.clone());
        let registry = registry_that_remembers(
            Arc::new(log),
            clock.clone(),
            false,
            MANY,
            remembered.clone(),
        );
        Self {
            clock,
            remembered,
            registry,
        }
    }

    fn pass(&self, ms: u64) {
        self.clock.set(self.clock.now_ms() + ms);
    }

    async fn send(&self, topic: &str, idempotency: Idempotency) -> Outcome {
        let sent = send(&self.registry, topic, vec![(message(&[]), idempotency)]);
        outcomes(sent).await.remove(0)
    }

    /// The first message of a new producer. Says whether it was taken.
    async fn page(&self, topic: &str, n: usize) -> bool {
        self.count(topic, &format!("{topic}-{n}"), 1).await.is_ok()
    }

    async fn count(&self, topic: &str, producer: &str, seq: u64) -> Result<bool, ErrorCode> {
        let producer = ProducerId::parse(producer).unwrap();
        match self
            .send(topic, Idempotency::Sequence { producer, seq })
            .await
        {
            Outcome::Kept { duplicate, .. } => Ok(duplicate),
            Outcome::Refused(refusal) => Err(refusal.code),
        }
    }

    /// Publishes as new producers until one is refused, at most so many.
    async fn pages(&self, topic: &str, most: usize) -> usize {
        for n in 0..most {
            if !self.page(topic, n).await {
                return n;
            }
            assert!(self.remembered.used() < BOUND + ONE_MORE);
        }
        most
    }
}

#[actix_web::test]
async fn who_is_silent_the_longest_in_the_topics_that_hold_most_is_forgotten() {
    let bench = Bench::new();
    assert_eq!(bench.pages("small", 100).await, 100);
    let taken = bench.pages("large", 10_000).await;
    assert!((1000..5000).contains(&taken), "{taken}");

    // All are young: nobody new, with number or key; those who are known go on.
    assert!(!bench.page("small", 5000).await);
    let key = Idempotency::Key(MessageId::parse("k").unwrap());
    let refused = bench.send("other", key).await;
    assert!(
        matches!(&refused, Outcome::Refused(r) if r.code == ErrorCode::Busy),
        "{refused:?}"
    );
    bench.pass(YOUNG_MS / 2);
    assert_eq!(bench.count("large", "large-0", 2).await, Ok(false));
    assert!(!bench.page("large", 5000).await, "they are still young");

    // Now only the one that went on is.
    bench.pass(YOUNG_MS / 2 + 1);
    bench.page("new", 0).await;
    until("somebody was forgotten", || bench.remembered.has_room()).await;
    assert_eq!(bench.pages("new", 100).await, 100);
    assert!(bench.remembered.used() < BOUND + ONE_MORE);
    for n in 0..100 {
        let again = bench.count("small", &format!("small-{n}"), 1).await;
        assert_eq!(again, Ok(true), "a topic that holds little gives nothing");
    }
    assert_eq!(bench.count("large", "large-0", 1).await, Ok(true));
    let oldest = bench.count("large", "large-1", 2).await;
    assert_eq!(oldest, Err(ErrorCode::OutOfSequence), "it was forgotten");
    let newest = format!("large-{}", taken - 1);
    assert_eq!(bench.count("large", &newest, 1).await, Ok(true));

    // As long as somebody can be forgotten, page after page is taken.
    for n in 0..30 {
        bench.pass(YOUNG_MS / 10);
        assert_eq!(bench.pages(&format!("pages-{n}"), 100).await, 100);
        assert!(bench.remembered.used() < BOUND + ONE_MORE);
    }
}
