//! The rules one by one, then all of them against a model of the broker in which everything goes wrong at random.

use std::collections::{BTreeMap, BTreeSet};

use hark_protocol::{Epoch, Headers, JsonText, Payload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;

use super::*;

const LIMITS: Limits = Limits {
    frame_bytes: 4096,
    in_flight: 1024,
};

/// An outbox and what it has sent.
struct Given {
    outbox: Outbox,
    ids: u64,
    now: Instant,
    limits: Limits,
    receipts: Vec<oneshot::Receiver<Result<Receipt, PublishError>>>,
}

/// A publish as the broker would read it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sent {
    id: u64,
    n: u64,
    producer: Option<ProducerId>,
    seq: u64,
}

fn given(producer: &Producer) -> Given {
    let outbox = Outbox::new(producer, Arc::new(Reporter::new()));
    Given {
        outbox,
        ids: 0,
        now: Instant::now(),
        limits: LIMITS,
        receipts: Vec::new(),
    }
}

fn permits() -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
    let any = Arc::new(Semaphore::new(2));
    (
        Arc::clone(&any).try_acquire_owned().unwrap(),
        any.try_acquire_owned().unwrap(),
    )
}

fn cursor(offset: u64) -> Cursor {
    Cursor {
        epoch: Epoch::new(7),
        offset,
    }
}

impl Given {
    /// Publishes `n` as the next message of topic `t`.
    fn publish(&mut self, n: u64) {
        self.publish_payload(
            JsonText::from_checked(n.to_string().into())
                .map(Payload::Json)
                .unwrap(),
        );
    }

    fn publish_payload(&mut self, payload: Payload) {
        let (reply, receipt) = oneshot::channel();
        self.receipts.push(receipt);
        self.outbox.publish(Outgoing {
            topic: TopicName::parse("t").unwrap(),
            message: Message {
                payload,
                headers: Headers::default(),
            },
            message_id: None,
            reply,
            permits: permits(),
        });
    }

    fn next(&mut self) -> Option<Sent> {
        let encoded = self
            .outbox
            .next_frame(&mut self.ids, self.limits, Subprotocol::Json)?;
        let Ok(ClientFrame::Publish {
            id: Some(id),
            message,
            idempotency,
            ..
        }) = codec::decode_client(encoded.as_bytes(), Subprotocol::Json)
        else {
            panic!("no publish: {encoded:?}");
        };
        let Payload::Json(n) = message.payload else {
            panic!("no number")
        };
        let (producer, seq) = match idempotency {
            Idempotency::Sequence { producer, seq } => (Some(producer), seq),
            Idempotency::None | Idempotency::Key(_) => (None, 0),
        };
        Some(Sent {
            id,
            n: n.as_str().parse().unwrap(),
            producer,
            seq,
        })
    }

    /// Everything that may be sent now.
    fn all(&mut self) -> Vec<Sent> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn refuse(&mut self, id: u64, code: ErrorCode, expected: Option<u64>) {
        self.outbox
            .refused(id, code, code.to_string(), expected, None, self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.outbox.wake_up(self.now);
    }

    fn answer(&mut self, n: usize) -> Option<Result<Receipt, PublishError>> {
        self.receipts[n].try_recv().ok()
    }

    fn stale(&self) -> u64 {
        self.outbox.reporter.counters.stats().stale_answers
    }
}

/// Message and number, in order.
fn numbers(sent: &[Sent]) -> Vec<(u64, u64)> {
    sent.iter().map(|sent| (sent.n, sent.seq)).collect()
}

#[test]
fn rule_1_numbers_are_given_in_order_when_first_written() {
    let mut given = given(&Producer::Random);
    for n in 10..14 {
        given.publish(n);
    }
    let sent = given.all();
    assert_eq!(numbers(&sent), [(10, 1), (11, 2), (12, 3), (13, 4)]);
    assert!(
        sent.iter()
            .all(|s| s.producer == sent[0].producer && s.producer.is_some())
    );
}

#[test]
fn rule_1_a_message_that_is_too_large_takes_no_number() {
    let mut given = given(&Producer::Random);
    given.limits.frame_bytes = 200;
    given.publish(1);
    given.publish_payload(Payload::Json(
        JsonText::from_checked(format!("\"{}\"", "x".repeat(150)).into()).unwrap(),
    ));
    given.publish(3);
    assert_eq!(numbers(&given.all()), [(1, 1), (3, 2)]);
    assert!(matches!(
        given.answer(1),
        Some(Err(PublishError::TooLarge {
            bytes: 201..,
            limit: 200
        }))
    ));
    assert_eq!(given.outbox.unanswered(), 2);
}

#[test]
fn rule_3_a_lost_connection_sends_again_from_the_first_unanswered() {
    let mut given = given(&Producer::Random);
    for n in 1..=3 {
        given.publish(n);
    }
    let first = given.all();
    given.outbox.published(first[0].id, cursor(1), false);
    given.outbox.disconnected();
    given.publish(4);
    let second = given.all();
    assert_eq!(numbers(&second), [(2, 2), (3, 3), (4, 4)]);
    assert!(
        second.iter().all(|sent| sent.id > first[2].id),
        "every sending has a fresh id"
    );

    // The broker had kept 2.
    given.outbox.published(second[0].id, cursor(2), true);
    assert_eq!(
        given.answer(1),
        Some(Ok(Receipt {
            cursor: cursor(2),
            duplicate: true
        }))
    );
    // An answer to the sending before comes late.
    given.outbox.published(first[2].id, cursor(9), false);
    assert_eq!((given.answer(2), given.stale()), (None, 1));
}

#[test]
fn rule_4_busy_goes_back_and_waits() {
    let mut given = given(&Producer::Random);
    for n in 1..=4 {
        given.publish(n);
    }
    let sent = given.all();
    given.outbox.published(sent[0].id, cursor(1), false);
    given.refuse(sent[1].id, ErrorCode::Busy, None);
    given.refuse(sent[2].id, ErrorCode::OutOfSequence, Some(2));
    given.refuse(sent[3].id, ErrorCode::OutOfSequence, Some(2));
    assert_eq!(
        given.stale(),
        2,
        "what follows the busy one was expected to be out of sequence"
    );
    given.publish(5);
    assert_eq!(given.all(), [], "nothing overtakes it");
    let wake = given.outbox.next_wakeup().expect("a wait");
    assert!(wake - given.now <= FIRST_WAIT);
    given.pass(FIRST_WAIT);
    assert_eq!(numbers(&given.all()), [(2, 2), (3, 3), (4, 4), (5, 5)]);
    assert_eq!(given.outbox.next_wakeup(), None);
}

#[test]
fn rule_4_the_broker_may_ask_for_a_longer_wait() {
    let mut given = given(&Producer::Random);
    given.publish(1);
    let sent = given.all();
    let asked = Duration::from_secs(30);
    given.outbox.refused(
        sent[0].id,
        ErrorCode::RateLimited,
        String::new(),
        None,
        Some(asked),
        given.now,
    );
    given.pass(Duration::from_secs(29));
    assert_eq!(given.all(), []);
    given.pass(Duration::from_secs(1));
    assert_eq!(numbers(&given.all()), [(1, 1)]);
}

#[test]
fn rule_5_goes_back_to_the_number_the_broker_expects() {
    let mut given = given(&Producer::Random);
    for n in 1..=4 {
        given.publish(n);
    }
    let sent = given.all();
    // The answer to 2 is on its way, 3 was not taken: 4 says so first.
    given.refuse(sent[3].id, ErrorCode::OutOfSequence, Some(3));
    assert_eq!(
        numbers(&given.all()),
        [(3, 3), (4, 4)],
        "at once, since nothing says that the broker is busy"
    );
    given.outbox.published(sent[0].id, cursor(1), false);
    given.outbox.published(sent[1].id, cursor(2), false);
    assert!(given.answer(0).is_some() && given.answer(1).is_some());
}

#[test]
fn rule_5_a_broker_that_lost_its_state_gets_fresh_numbers_under_a_fresh_name() {
    let mut given = given(&Producer::Random);
    for n in 1..=5 {
        given.publish(n);
    }
    let old = given.all();
    for sent in &old[..3] {
        given.outbox.published(sent.id, cursor(sent.seq), false);
    }
    // A `memory` topic begins again.
    given.outbox.disconnected();
    let again = given.all();
    assert_eq!(numbers(&again), [(4, 4), (5, 5)]);
    given.refuse(again[0].id, ErrorCode::OutOfSequence, Some(1));
    given.refuse(again[1].id, ErrorCode::OutOfSequence, Some(1));
    given.publish(6);
    let fresh = given.all();
    assert_eq!(numbers(&fresh), [(4, 1), (5, 2), (6, 3)]);
    assert_ne!(fresh[0].producer, old[0].producer);
}

#[test]
fn rule_6_nothing_under_the_fresh_name_before_the_old_ones_are_answered() {
    let mut given = given(&Producer::Random);
    for n in 1..=4 {
        given.publish(n);
    }
    let sent = given.all();
    // 2 fails for good; 1 is kept, but its receipt has not come.
    given.refuse(sent[1].id, ErrorCode::TooLarge, None);
    given.refuse(sent[2].id, ErrorCode::OutOfSequence, Some(2));
    assert_eq!(given.all(), []);
    given.outbox.disconnected();
    let again = given.all();
    assert_eq!(numbers(&again), [(1, 1)]);
    given.outbox.published(again[0].id, cursor(1), true);
    let fresh = given.all();
    assert_eq!(numbers(&fresh), [(3, 1), (4, 2)]);
    assert_ne!(fresh[0].producer, sent[0].producer);
}

#[test]
fn rule_7_a_refused_message_fails_alone() {
    let mut given = given(&Producer::Random);
    for n in 1..=3 {
        given.publish(n);
    }
    let sent = given.all();
    given.refuse(sent[0].id, ErrorCode::Forbidden, None);
    let Some(Err(PublishError::Refused {
        code: ErrorCode::Forbidden,
        maybe_kept: false,
        ..
    })) = given.answer(0)
    else {
        panic!("its caller is told");
    };
    given.refuse(sent[1].id, ErrorCode::OutOfSequence, Some(1));
    assert_eq!(numbers(&given.all()), [(2, 1), (3, 2)]);
}

#[test]
fn rule_7_a_message_that_was_sent_before_may_have_been_kept() {
    let mut given = given(&Producer::Random);
    given.publish(1);
    given.all();
    given.outbox.disconnected();
    let again = given.all();
    given.refuse(again[0].id, ErrorCode::Forbidden, None);
    assert!(matches!(
        given.answer(0),
        Some(Err(PublishError::Refused {
            maybe_kept: true,
            ..
        }))
    ));
}

#[test]
fn rule_7_nobody_waits_but_the_message_keeps_its_place() {
    let mut given = given(&Producer::Random);
    given.publish(1);
    given.publish(2);
    given.receipts.remove(0);
    assert_eq!(numbers(&given.all()), [(1, 1), (2, 2)]);
}

#[test]
fn rule_8_without_a_number_a_message_is_sent_once() {
    let mut given = given(&Producer::None);
    for n in 1..=3 {
        given.publish(n);
    }
    let sent = given.all();
    assert!(sent.iter().all(|sent| sent.producer.is_none()));
    given.refuse(sent[0].id, ErrorCode::Busy, None);
    assert!(matches!(
        given.answer(0),
        Some(Err(PublishError::Refused {
            code: ErrorCode::Busy,
            ..
        }))
    ));
    given.publish(4); // not written yet
    given.outbox.disconnected();
    assert_eq!(given.answer(1), Some(Err(PublishError::Interrupted)));
    assert_eq!(given.answer(2), Some(Err(PublishError::Interrupted)));
    assert_eq!(
        given.all().iter().map(|sent| sent.n).collect::<Vec<_>>(),
        [4]
    );
}

#[test]
fn a_name_that_was_used_before_is_noticed() {
    let name = ProducerId::parse("cron-7").unwrap();
    let mut given = given(&Producer::Named(name.clone()));
    given.publish(1);
    let sent = given.all();
    assert_eq!(sent[0].producer, Some(name));
    given.outbox.published(sent[0].id, cursor(88), true);
    assert_eq!(
        given.answer(0),
        Some(Err(PublishError::ProducerInUse("cron-7".to_owned())))
    );
}

#[test]
fn no_more_in_flight_than_the_broker_allows() {
    let mut given = given(&Producer::Random);
    given.limits.in_flight = 2;
    for n in 1..=5 {
        given.publish(n);
    }
    let sent = given.all();
    assert_eq!(numbers(&sent), [(1, 1), (2, 2)]);
    given.outbox.published(sent[0].id, cursor(1), false);
    assert_eq!(numbers(&given.all()), [(3, 3)]);
}

#[test]
fn forgotten_topics_go_on_under_another_name() {
    let mut outbox = Outbox::new(&Producer::Random, Arc::new(Reporter::new()));
    let mut ids = 0;
    let mut publish = |outbox: &mut Outbox, topic: &str| {
        let (reply, _) = oneshot::channel();
        let message = Message {
            payload: Payload::Json(JsonText::from_checked("1".into()).unwrap()),
            headers: Headers::default(),
        };
        let topic = TopicName::parse(topic).unwrap();
        outbox.publish(Outgoing {
            topic,
            message,
            message_id: None,
            reply,
            permits: permits(),
        });
        let encoded = outbox
            .next_frame(&mut ids, LIMITS, Subprotocol::Bincode)
            .unwrap();
        outbox.published(ids, cursor(1), false);
        match codec::decode_client(encoded.as_bytes(), Subprotocol::Bincode) {
            Ok(ClientFrame::Publish {
                idempotency: Idempotency::Sequence { producer, seq },
                ..
            }) => (producer, seq),
            other => panic!("{other:?}"),
        }
    };
    let (first, _) = publish(&mut outbox, "first");
    for n in 0..IDLE_LANES {
        publish(&mut outbox, &format!("t{n}"));
    }
    assert!(outbox.lanes.len() < IDLE_LANES);
    let (name, seq) = publish(&mut outbox, "first");
    assert_eq!(seq, 1);
    assert_ne!(name, first);
}

/// One connection as the broker sees it.
#[derive(Default)]
struct Session {
    heard: VecDeque<Sent>,
    said: VecDeque<Said>,
}

enum Said {
    Published(u64, u64, bool),
    Error(u64, ErrorCode, Option<u64>),
}

/// The broker: one topic, and sessions that go on for a while after their connection is gone.
#[derive(Default)]
struct Model {
    kept: Vec<u64>,
    producers: HashMap<ProducerId, u64>,
    session: Session,
    zombies: Vec<Session>,
    /// What was kept by topics that are no more.
    earlier: Vec<Vec<u64>>,
}

/// What every seventh message is refused for.
fn is_refused(n: u64) -> bool {
    n % 7 == 3
}

impl Model {
    /// One session handles its next frame.
    fn handle(&mut self, which: Option<usize>, rng: &mut StdRng) {
        let session = match which {
            None => &mut self.session,
            Some(zombie) => &mut self.zombies[zombie],
        };
        let Some(sent) = session.heard.pop_front() else {
            return;
        };
        if is_refused(sent.n) {
            session
                .said
                .push_back(Said::Error(sent.id, ErrorCode::TooLarge, None));
            return;
        }
        if rng.random_bool(0.05) {
            session
                .said
                .push_back(Said::Error(sent.id, ErrorCode::Busy, None));
            return;
        }
        let last = self
            .producers
            .entry(sent.producer.clone().unwrap())
            .or_default();
        if sent.seq > *last + 1 {
            session.said.push_back(Said::Error(
                sent.id,
                ErrorCode::OutOfSequence,
                Some(*last + 1),
            ));
            return;
        }
        let duplicate = sent.seq <= *last;
        if !duplicate {
            *last = sent.seq;
            self.kept.push(sent.n);
        }
        // A room that died after it had kept it: the outcome is not known to the session.
        let said = match rng.random_bool(0.03) {
            true => Said::Error(sent.id, ErrorCode::Busy, None),
            false => Said::Published(sent.id, self.kept.len() as u64, duplicate),
        };
        session.said.push_back(said);
    }
}

/// Plays one game, to its end. With `restarts` the topic now and then begins again, with nothing known.
fn play(seed: u64, restarts: bool) {
    const MESSAGES: u64 = 60;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut given = given(&Producer::Random);
    given.limits.in_flight = rng.random_range(1..20);
    let mut model = Model::default();
    let mut published = 0;
    let mut steps = 0;
    while published < MESSAGES || given.outbox.unanswered() > 0 {
        steps += 1;
        assert!(steps < 200_000, "seed {seed} does not end");
        match rng.random_range(0..100) {
            0..15 if published < MESSAGES => {
                given.publish(published);
                published += 1;
            }
            0..45 => model.session.heard.extend(given.next()),
            45..70 => model.handle(None, &mut rng),
            70..92 => match model.session.said.pop_front() {
                None => {}
                Some(Said::Published(id, offset, duplicate)) => {
                    given.outbox.published(id, cursor(offset), duplicate);
                }
                Some(Said::Error(id, code, expected)) => given.refuse(id, code, expected),
            },
            92..93 => {
                given.outbox.disconnected();
                let zombie = std::mem::take(&mut model.session);
                model.zombies.push(zombie);
            }
            93..96 if !model.zombies.is_empty() => {
                let zombie = rng.random_range(0..model.zombies.len());
                model.handle(Some(zombie), &mut rng);
            }
            96 if restarts && rng.random_bool(0.2) => {
                // All sessions end with the broker, and a `memory` topic with all that it knew.
                given.outbox.disconnected();
                let Model {
                    kept, mut earlier, ..
                } = std::mem::take(&mut model);
                earlier.push(kept);
                model.earlier = earlier;
            }
            _ => given.pass(Duration::from_millis(rng.random_range(1..400))),
        }
    }

    let every: Vec<&Vec<u64>> = model.earlier.iter().chain([&model.kept]).collect();
    for kept in &every {
        assert!(
            kept.is_sorted_by(|a, b| a < b),
            "seed {seed}: kept twice or out of order: {kept:?}"
        );
    }
    let kept: BTreeSet<u64> = every.into_iter().flatten().copied().collect();
    let answers: BTreeMap<u64, _> = (0..MESSAGES)
        .map(|n| (n, given.answer(n as usize).expect("answered")))
        .collect();
    for (n, answer) in answers {
        match is_refused(n) {
            true => assert!(
                answer.is_err() && !kept.contains(&n),
                "seed {seed}, message {n}: {answer:?}"
            ),
            false => assert!(
                answer.is_ok() && kept.contains(&n),
                "seed {seed}, message {n}: {answer:?}"
            ),
        }
    }
}

#[test]
fn kept_once_in_order_whatever_happens() {
    for seed in 0..2_000 {
        play(seed, false);
    }
}

#[test]
fn kept_in_order_by_topics_that_begin_again() {
    for seed in 0..2_000 {
        play(seed, true);
    }
}
