//! What no script holds (`client-sdk/script`), then all rules against a model of the broker in which everything goes wrong at random.

use std::collections::{BTreeMap, BTreeSet};

use hark_protocol::{Epoch, Headers, JsonText, Payload};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Semaphore;

use super::*;

const LIMITS: Limits = Limits {
    frame_bytes: 4096,
    in_flight: 1024,
    several: true,
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
    keyed: bool,
}

/// A publish to one or several topics as the broker would read it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct To {
    id: u64,
    n: u64,
    numbered: Vec<(TopicName, (ProducerId, u64))>,
}

impl To {
    /// The topics with their numbers, by name.
    fn seqs(&self) -> Vec<(&str, u64)> {
        let seqs = self.numbered.iter();
        let mut seqs: Vec<_> = seqs
            .map(|(topic, (_, seq))| (topic.as_str(), *seq))
            .collect();
        seqs.sort_unstable();
        seqs
    }
}

fn given(producer: &Producer) -> Given {
    let outbox = Outbox::new(producer, Arc::new(Reporter::new()), World::default());
    Given {
        outbox,
        ids: 0,
        now: Instant::now(),
        limits: LIMITS,
        receipts: Vec::new(),
    }
}

fn permits() -> Permits {
    let any = Arc::new(Semaphore::new(2));
    Permits {
        _message: Some(Arc::clone(&any).try_acquire_owned().unwrap()),
        _bytes: Arc::new(any.try_acquire_owned().unwrap()),
    }
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
        self.publish_with(n, None);
    }

    fn publish_with(&mut self, n: u64, message_id: Option<MessageId>) {
        let json = JsonText::from_checked(n.to_string().into());
        let payload = json.map(Payload::Json).unwrap();
        let (reply, receipt) = oneshot::channel();
        self.receipts.push(receipt);
        self.outbox.publish(Outgoing {
            topic: TopicName::parse("t").unwrap(),
            message: Message {
                payload,
                headers: Headers::default(),
            },
            message_id,
            reply,
            permits: permits(),
            together: None,
        });
    }

    /// Publishes `n` to these topics, with a receipt from each.
    fn publish_all(&mut self, topics: &[&str], n: u64) {
        let topics: Vec<TopicName> = topics.iter().map(|name| name.parse().unwrap()).collect();
        let together = Arc::new(Together {
            topics: topics.clone(),
        });
        for topic in topics {
            let (reply, receipt) = oneshot::channel();
            self.receipts.push(receipt);
            let json = JsonText::from_checked(n.to_string().into()).unwrap();
            self.outbox.publish(Outgoing {
                topic,
                message: Message {
                    payload: Payload::Json(json),
                    headers: Headers::default(),
                },
                message_id: None,
                reply,
                permits: permits(),
                together: Some(Arc::clone(&together)),
            });
        }
    }

    /// The next frame: its id, what it says, and the topics with their numbers.
    fn next_to(&mut self) -> Option<To> {
        let encoded = self
            .outbox
            .next_frame(&mut self.ids, self.limits, Subprotocol::Json)?;
        assert!(encoded.len() <= self.limits.frame_bytes);
        let number = |idempotency| match idempotency {
            Idempotency::Sequence { producer, seq } => (producer, seq),
            other => panic!("no number: {other:?}"),
        };
        let frame = codec::decode_client(encoded.as_bytes(), Subprotocol::Json).unwrap();
        let id = frame.id().unwrap();
        let (message, numbered) = match frame {
            ClientFrame::Publish {
                topic,
                message,
                idempotency,
                ..
            } => (message, vec![(topic, number(idempotency))]),
            ClientFrame::PublishAll { publish, .. } => {
                assert!(publish.topics().len() > 1, "one topic is no list");
                let topics = publish.topics().iter().enumerate();
                let numbered = topics.map(|(at, topic)| {
                    let topic = topic.topic().unwrap().clone();
                    (topic, number(publish.idempotency_at(at)))
                });
                (publish.message().clone(), numbered.collect())
            }
            other => panic!("no publish: {other:?}"),
        };
        let Payload::Json(n) = message.payload else {
            panic!("no number")
        };
        let n = n.as_str().parse().unwrap();
        Some(To { id, n, numbered })
    }

    /// Everything that may be sent now, as topics with their numbers.
    fn all_to(&mut self) -> Vec<To> {
        std::iter::from_fn(|| self.next_to()).collect()
    }

    /// Answers a frame: `None` for kept, or a code.
    fn answer_all(&mut self, to: &To, refused: impl Fn(&str) -> Option<(ErrorCode, Option<u64>)>) {
        let receipt = |(topic, _): &(TopicName, _)| TopicReceipt {
            topic: topic.clone().into(),
            outcome: match refused(topic.as_str()) {
                None => TopicOutcome::Kept {
                    cursor: cursor(1),
                    duplicate: false,
                },
                Some((code, expected_seq)) => TopicOutcome::Refused {
                    code,
                    message: String::new(),
                    expected_seq,
                },
            },
        };
        let receipts = to.numbered.iter().map(receipt).collect();
        self.outbox.published_all(to.id, receipts, self.now);
    }

    /// The answer to a frame arrives.
    fn hear(&mut self, to: &To, mut receipts: Vec<TopicReceipt>) {
        if to.numbered.len() > 1 {
            self.outbox.published_all(to.id, receipts, self.now);
            return;
        }
        match receipts.remove(0).outcome {
            TopicOutcome::Kept { cursor, duplicate } => {
                self.outbox.published(to.id, cursor, duplicate);
            }
            TopicOutcome::Refused {
                code, expected_seq, ..
            } => self.refuse(to.id, code, expected_seq),
        }
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
        let keyed = matches!(idempotency, Idempotency::Key(_));
        let (producer, seq) = match idempotency {
            Idempotency::Sequence { producer, seq } => (Some(producer), seq),
            Idempotency::None | Idempotency::Key(_) => (None, 0),
        };
        Some(Sent {
            id,
            n: n.as_str().parse().unwrap(),
            producer,
            seq,
            keyed,
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
fn rule_7_nobody_waits_but_the_message_keeps_its_place() {
    let mut given = given(&Producer::Random);
    given.publish(1);
    given.publish(2);
    given.receipts.remove(0);
    assert_eq!(numbers(&given.all()), [(1, 1), (2, 2)]);
}

#[test]
fn rule_11_without_a_number_a_message_is_sent_once() {
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
    given.outbox.disconnected(true);
    assert_eq!(given.answer(1), Some(Err(PublishError::Interrupted)));
    assert_eq!(given.answer(2), Some(Err(PublishError::Interrupted)));
    assert_eq!(
        given.all().iter().map(|sent| sent.n).collect::<Vec<_>>(),
        [4]
    );
}

#[test]
fn rule_9_what_is_next_in_several_lanes_goes_together_and_each_is_counted_for_itself() {
    let mut given = given(&Producer::Random);
    given.publish_all(&["a", "b", "c"], 1);
    given.publish_all(&["b", "c", "d"], 2);
    given.publish_all(&["a"], 3);
    let sent = given.all_to();
    assert_eq!(sent.len(), 3);
    assert_eq!(sent[0].seqs(), [("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(sent[1].seqs().len() + sent[2].seqs().len(), 4);
    let second = sent.iter().find(|to| to.n == 2).unwrap();
    assert_eq!(second.seqs(), [("b", 2), ("c", 2), ("d", 1)]);
    assert_eq!(given.outbox.in_flight.messages, 7);
    for to in &sent {
        match to.numbered.len() {
            1 => given.outbox.published(to.id, cursor(1), false),
            _ => given.answer_all(to, |_| None),
        }
    }
    assert_eq!((given.outbox.unanswered(), given.stale()), (0, 0));
    assert_eq!(given.outbox.in_flight.messages, 0);
}

#[test]
fn rule_9_a_frame_that_would_be_too_large_is_cut() {
    let mut given = given(&Producer::Random);
    given.limits.frame_bytes = 300;
    let names: Vec<String> = (0..60).map(|n| format!("topic.{n}")).collect();
    let topics: Vec<&str> = names.iter().map(String::as_str).collect();
    given.publish_all(&topics, 7);
    let sent = given.all_to();
    assert!(sent.len() > 1 && sent.len() < 20, "{} frames", sent.len());
    let all: BTreeSet<&str> = sent
        .iter()
        .flat_map(|to| {
            to.seqs()
                .into_iter()
                .map(|(topic, _)| topic)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(all, topics.into_iter().collect());
}

#[test]
fn rule_9_more_topics_than_a_frame_names_take_two() {
    let mut given = given(&Producer::Random);
    given.limits = Limits {
        frame_bytes: 1 << 20,
        in_flight: 5000,
        several: true,
    };
    let names: Vec<String> = (0..1500).map(|n| format!("t{n}")).collect();
    given.publish_all(&names.iter().map(String::as_str).collect::<Vec<_>>(), 7);
    let sizes: Vec<usize> = given.all_to().iter().map(|to| to.numbered.len()).collect();
    assert_eq!(sizes, [1024, 476]);
}

/// The broker, as far as a game of several topics needs it: what each has kept, and how far each producer has come there.
#[derive(Default)]
struct Topics {
    kept: BTreeMap<String, Vec<u64>>,
    producers: HashMap<(String, ProducerId), u64>,
}

impl Topics {
    fn handle(&mut self, to: &To, rng: &mut StdRng) -> Vec<TopicReceipt> {
        let mut receipts = Vec::new();
        for (topic, (producer, seq)) in &to.numbered {
            let name = topic.as_str().to_owned();
            let last = self
                .producers
                .entry((name.clone(), producer.clone()))
                .or_default();
            let refused = |code, expected_seq| TopicOutcome::Refused {
                code,
                message: String::new(),
                expected_seq,
            };
            let outcome = if rng.random_bool(0.05) {
                refused(ErrorCode::Busy, None)
            } else if *seq > *last + 1 {
                refused(ErrorCode::OutOfSequence, Some(*last + 1))
            } else {
                let duplicate = *seq <= *last;
                let kept = self.kept.entry(name).or_default();
                if !duplicate {
                    *last = *seq;
                    kept.push(to.n);
                }
                let cursor = cursor(kept.len() as u64);
                // A room that died after it had kept it.
                match rng.random_bool(0.03) {
                    true => refused(ErrorCode::Busy, None),
                    false => TopicOutcome::Kept { cursor, duplicate },
                }
            };
            receipts.push(TopicReceipt {
                topic: topic.clone().into(),
                outcome,
            });
        }
        receipts
    }
}

/// Plays one game of messages for several topics to its end. With `forgets` a topic's producers are now and then forgotten with
/// all that it had kept.
fn play_several(seed: u64, forgets: bool) {
    const MESSAGES: u64 = 40;
    const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];
    let mut rng = StdRng::seed_from_u64(seed);
    let mut given = given(&Producer::Random);
    given.limits.in_flight = rng.random_range(1..40);
    let mut topics = Topics::default();
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut places: Vec<(String, u64)> = Vec::new();
    let (mut heard, mut said) = (VecDeque::<To>::new(), VecDeque::new());
    let mut zombies: Vec<VecDeque<To>> = Vec::new();
    let mut earlier: Vec<(String, Vec<u64>)> = Vec::new();
    let (mut published, mut steps) = (0, 0);
    while published < MESSAGES || given.outbox.unanswered() > 0 {
        steps += 1;
        assert!(steps < 200_000, "seed {seed} does not end");
        match rng.random_range(0..100) {
            0..15 if published < MESSAGES => {
                let to: Vec<&str> = TOPICS
                    .into_iter()
                    .filter(|_| rng.random_bool(0.6))
                    .collect();
                for topic in &to {
                    let expected = expected.entry((*topic).to_owned()).or_default();
                    expected.push(published);
                    places.push(((*topic).to_owned(), published));
                }
                given.publish_all(&to, published);
                published += 1;
            }
            0..45 => {
                // A newer broker, or an older one.
                given.limits.several = !seed.is_multiple_of(5);
                heard.extend(given.next_to());
            }
            45..70 => {
                if let Some(to) = heard.pop_front() {
                    let receipts = topics.handle(&to, &mut rng);
                    said.push_back((to, receipts));
                }
            }
            70..92 => {
                if let Some((to, receipts)) = said.pop_front() {
                    given.hear(&to, receipts);
                }
            }
            92..93 => {
                given.outbox.disconnected(rng.random_bool(0.5));
                zombies.push(std::mem::take(&mut heard));
                said.clear();
            }
            93..96 if !zombies.is_empty() => {
                let zombie = rng.random_range(0..zombies.len());
                if let Some(to) = zombies[zombie].pop_front() {
                    topics.handle(&to, &mut rng);
                }
            }
            96 if forgets && rng.random_bool(0.2) => {
                let topic = TOPICS[rng.random_range(0..TOPICS.len())];
                topics.producers.retain(|(name, _), _| name != topic);
                let kept = topics.kept.remove(topic).unwrap_or_default();
                earlier.push((topic.to_owned(), kept));
                // Sessions end, so that nothing of before is on its way.
                given.outbox.disconnected(rng.random_bool(0.5));
                heard.clear();
                said.clear();
                zombies.clear();
            }
            _ => given.pass(Duration::from_millis(rng.random_range(1..400))),
        }
    }
    assert_eq!(given.outbox.in_flight.messages, 0, "seed {seed}");
    assert!(given.outbox.in_flight.by_id.is_empty(), "seed {seed}");
    // Rule 9: five connections may happen to be lost over one message. It was kept, or not.
    let mut given_up: BTreeSet<(String, u64)> = BTreeSet::new();
    for (n, place) in places.into_iter().enumerate() {
        match given.answer(n) {
            Some(Ok(_)) => {}
            Some(Err(PublishError::Lost(_))) => drop(given_up.insert(place)),
            other => panic!("seed {seed}, {place:?}: {other:?}"),
        }
    }
    for (topic, expected) in expected {
        let lives = earlier.iter().filter(|(name, _)| *name == topic);
        let mut all: BTreeSet<u64> = BTreeSet::new();
        for kept in lives.map(|(_, kept)| kept).chain(topics.kept.get(&topic)) {
            assert!(
                kept.is_sorted_by(|a, b| a < b),
                "seed {seed}: {topic} kept twice or out of order: {kept:?}"
            );
            all.extend(kept);
        }
        let is_given_up = |n: &u64| given_up.contains(&(topic.clone(), *n));
        let expected = expected
            .into_iter()
            .filter(|n| all.contains(n) || !is_given_up(n));
        assert_eq!(all, expected.collect(), "seed {seed}: {topic}");
    }
}

#[test]
fn several_topics_are_kept_once_in_order_whatever_happens() {
    for seed in 0..1_000 {
        play_several(seed, false);
    }
}

#[test]
fn several_topics_are_kept_in_order_when_some_of_them_begin_again() {
    for seed in 0..1_000 {
        play_several(seed, true);
    }
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
fn forgotten_topics_go_on_under_another_name() {
    let mut outbox = Outbox::new(
        &Producer::Random,
        Arc::new(Reporter::new()),
        World::default(),
    );
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
            together: None,
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
        if sent.keyed {
            let duplicate = self.kept.contains(&sent.n);
            if !duplicate {
                self.kept.push(sent.n);
            }
            let offset = self.kept.len() as u64;
            let said = Said::Published(sent.id, offset, duplicate);
            session.said.push_back(said);
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

/// What every fifth message has.
fn key_of(n: u64) -> Option<MessageId> {
    (n % 5 == 1).then(|| MessageId::parse(&format!("key {n}")).unwrap())
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
                given.publish_with(published, key_of(published));
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
                given.outbox.disconnected(rng.random_bool(0.5));
                let zombie = std::mem::take(&mut model.session);
                model.zombies.push(zombie);
            }
            93..96 if !model.zombies.is_empty() => {
                let zombie = rng.random_range(0..model.zombies.len());
                model.handle(Some(zombie), &mut rng);
            }
            96 if restarts && rng.random_bool(0.2) => {
                // All sessions end with the broker, and a `memory` topic with all that it knew.
                given.outbox.disconnected(rng.random_bool(0.5));
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

/// Plays one game with a server that is cut before most of its answers get through, and that handles what it has heard, or part of it,
/// all the same.
fn play_cut(seed: u64) {
    const MESSAGES: u64 = 30;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut given = given(&Producer::Random);
    given.limits.in_flight = rng.random_range(1..6);
    let mut model = Model::default();
    for n in 0..MESSAGES {
        given.publish_with(n, key_of(n));
    }
    let mut connections = 0;
    while given.outbox.unanswered() > 0 {
        connections += 1;
        assert!(connections < 10_000, "seed {seed} does not end");
        given.pass(LONGEST_WAIT);
        let answered = rng.random_range(0..20_u32).saturating_sub(12);
        for _ in 0..rng.random_range(0..8) {
            model.session.heard.extend(given.next());
            model.handle(None, &mut rng);
        }
        for said in model.session.said.drain(..).take(answered as usize) {
            match said {
                Said::Published(id, offset, duplicate) => {
                    given.outbox.published(id, cursor(offset), duplicate);
                }
                Said::Error(id, code, expected) => given.refuse(id, code, expected),
            }
        }
        model.session = Session::default();
        given.outbox.disconnected(rng.random_bool(0.1));
    }
    assert!(
        model.kept.is_sorted_by(|a, b| a < b),
        "seed {seed}: kept twice or out of order: {:?}",
        model.kept
    );
    for n in 0..MESSAGES {
        let kept = model.kept.contains(&n);
        match given.answer(n as usize) {
            Some(Ok(_)) => assert!(kept, "seed {seed}: {n} has a receipt and is not kept"),
            Some(Err(PublishError::Lost(_))) => {}
            Some(Err(error)) => assert!(!kept, "seed {seed}: {n} is kept, and failed: {error}"),
            None => panic!("seed {seed}: {n} is not answered"),
        }
    }
}

#[test]
fn what_is_given_up_is_never_kept_twice_and_what_follows_it_goes_on_in_order() {
    for seed in 0..2_000 {
        play_cut(seed);
    }
}

#[test]
fn messages_of_other_topics_are_not_given_up_for_the_one_that_ends_each_connection() {
    for seed in 0..200 {
        // Given messages for five topics, and something that ends each connection on which one for `a` is sent, before any answer,
        let mut rng = StdRng::seed_from_u64(seed);
        let mut given = given(&Producer::Random);
        let mut topics = Topics::default();
        for n in 0..12 {
            let to: Vec<&str> = ["a", "b", "c", "d", "e"]
                .into_iter()
                .filter(|topic| (*topic == "a") == (n == 0) && rng.random_bool(0.7) || n == 0)
                .collect();
            given.publish_all(&to, n);
        }
        // when connections come and go,
        let mut connections = 0;
        while given.outbox.unanswered() > 0 {
            connections += 1;
            assert!(connections < 100, "seed {seed} does not end");
            given.pass(LONGEST_WAIT);
            loop {
                let sent = given.all_to();
                let ends = |to: &To| to.n == 0 && to.seqs().iter().any(|(topic, _)| *topic == "a");
                if sent.is_empty() || sent.iter().any(ends) {
                    break;
                }
                for to in sent {
                    let receipts = topics.handle(&to, &mut rng);
                    given.hear(&to, receipts);
                }
                given.pass(LONGEST_WAIT);
            }
            given.outbox.disconnected(false);
        }
        // then that message alone has no receipt.
        assert!(matches!(given.answer(0), Some(Err(PublishError::Lost(_)))));
        for n in 1..given.receipts.len() {
            let answer = given.answer(n);
            assert!(
                matches!(answer, Some(Ok(_))),
                "seed {seed}, {n}: {answer:?}"
            );
        }
    }
}
