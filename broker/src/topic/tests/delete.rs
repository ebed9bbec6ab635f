//! Rooms that are deleted while something else is under way, over a log whose answers a test can hold back.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use hark_protocol::{
    Cursor, Encoded, Epoch, ErrorCode, Idempotency, JsonText, Message, MessageId, Payload,
    ProducerId, ServerFrame, Subprotocol, SubscribeFrom, codec,
};
use tokio::sync::oneshot;

use super::gated::Gated;
use super::{
    DEADLINE, MANY, is_kept, message, outcomes, publish, registry_over, send, topic, until,
};
use crate::clock::Clock;
use crate::message_log::LogError;
use crate::topic::{
    Delete, Deleted, Delivery, History, HistoryPage, Outcome, Pull, Refusal, Refused, Registry,
    RoomNews, Seat, SeatNumber, Subscribe, Subscriber, Unsubscribe,
};

/// A subscriber that takes down what it hears, and says nothing by itself.
#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<Heard>>,
    seats: Mutex<Vec<Seat>>,
}

#[derive(Debug, Clone, PartialEq)]
enum Heard {
    Subscribed {
        seat: SeatNumber,
        position: Cursor,
        gap: Option<ServerFrame>,
        live: bool,
    },
    Messages(Vec<u64>),
    Page {
        offsets: Vec<u64>,
        live: bool,
    },
    PageFailed,
    Deleted {
        gap: ServerFrame,
        position: Cursor,
    },
    Other(String),
}

impl Recorder {
    fn tell(&self, heard: Heard) {
        self.heard.lock().unwrap().push(heard);
    }

    /// Stays in a seat.
    fn take(&self, seat: Seat) -> SeatNumber {
        let number = seat.number;
        self.seats.lock().unwrap().push(seat);
        number
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits until it has heard so much, and gives the last.
    async fn nth(&self, count: usize) -> Heard {
        until("it is told", || self.heard().len() >= count).await;
        let heard = self.heard();
        assert_eq!(heard.len(), count, "{heard:?}");
        heard[count - 1].clone()
    }
}

fn frame(encoded: &Encoded) -> ServerFrame {
    match encoded {
        Encoded::Binary(bytes) => codec::binary::decode_server(bytes).unwrap(),
        Encoded::Text(text) => panic!("not asked for: {text}"),
    }
}

fn offsets_of<'a>(frames: impl IntoIterator<Item = &'a Encoded>) -> Vec<u64> {
    let offset = |encoded: &Encoded| match frame(encoded) {
        ServerFrame::Message { record, .. } => record.offset,
        other => panic!("not a message: {other:?}"),
    };
    frames.into_iter().map(offset).collect()
}

impl Subscriber for Recorder {
    fn try_deliver(&self, delivery: Delivery) -> Result<(), Refused> {
        Self::tell(self, Heard::Messages(offsets_of(delivery.frames())));
        Ok(())
    }

    fn tell(&self, news: RoomNews) {
        Self::tell(
            self,
            match news {
                RoomNews::Subscribed { seat, seating, .. } => Heard::Subscribed {
                    seat: self.take(seat),
                    position: seating.position,
                    gap: seating.gap.as_ref().map(frame),
                    live: seating.live,
                },
                RoomNews::Page { frames, live, .. } => Heard::Page {
                    offsets: offsets_of(frames.iter().map(|page| &page.frame)),
                    live,
                },
                RoomNews::PageFailed { .. } => Heard::PageFailed,
                RoomNews::Deleted { gap, position, .. } => Heard::Deleted {
                    gap: frame(&gap),
                    position,
                },
                other => Heard::Other(format!("{other:?}")),
            },
        );
    }

    fn is_connected(&self) -> bool {
        true
    }
}

/// A topic called `a` over a gated log.
struct Bench {
    clock: Clock,
    log: Arc<Gated>,
    registry: Arc<Registry>,
}

impl Bench {
    fn new() -> Self {
        let clock = Clock::manual(1_764_230_400_000);
        let log = Gated::new(&clock);
        let registry = registry_over(log.clone(), clock.clone(), true, MANY);
        Self {
            clock,
            log,
            registry,
        }
    }

    fn send(&self, messages: Vec<(Message, Idempotency)>) -> Receipts {
        Receipts(send(&self.registry, "a", messages))
    }

    async fn publish(&self, count: usize) -> Vec<Cursor> {
        let messages = (0..count).map(|_| plain()).collect();
        self.send(messages).cursors().await
    }

    fn delete(&self) -> oneshot::Receiver<Result<Deleted, Refusal>> {
        let (reply, answer) = oneshot::channel();
        assert!(self.registry.room(&topic("a")).order(Delete { reply }));
        answer
    }

    async fn deleted(&self) -> Deleted {
        answered(self.delete()).await.unwrap()
    }

    /// Joins, and gives where.
    async fn subscribe(&self, from: SubscribeFrom) -> (Arc<Recorder>, SeatNumber) {
        let subscriber = Arc::new(Recorder::default());
        self.join(&subscriber, from);
        match subscriber.nth(1).await {
            Heard::Subscribed { seat, .. } => (subscriber, seat),
            other => panic!("{other:?}"),
        }
    }

    fn join(&self, subscriber: &Arc<Recorder>, from: SubscribeFrom) {
        let order = Subscribe::new(subscriber.clone(), 1, from, Subprotocol::Bincode);
        assert!(self.registry.room(&topic("a")).order(order));
    }

    fn pull(&self, seat: SeatNumber, position: Cursor) {
        let pull = Pull { seat, position };
        assert!(self.registry.room(&topic("a")).order(pull));
    }

    async fn history(&self, from: SubscribeFrom) -> Result<HistoryPage, LogError> {
        let (reply, page) = oneshot::channel();
        let order = History {
            from,
            max_records: 100,
            max_bytes: 1 << 20,
            reply,
        };
        assert!(self.registry.room(&topic("a")).order(order));
        answered(page).await
    }

    /// Waits until the room has read everything that was sent to it.
    async fn room_is_idle(&self) {
        // Whatever it says.
        drop(self.history(SubscribeFrom::Now).await);
    }
}

struct Receipts(oneshot::Receiver<Vec<super::Receipt>>);

impl Receipts {
    async fn outcomes(self) -> Vec<Outcome> {
        outcomes(self.0).await
    }

    async fn cursors(self) -> Vec<Cursor> {
        let outcomes = self.outcomes().await;
        outcomes
            .iter()
            .map(|outcome| kept(outcome, false))
            .collect()
    }
}

fn kept(outcome: &Outcome, expect_duplicate: bool) -> Cursor {
    match outcome {
        Outcome::Kept { cursor, duplicate } if *duplicate == expect_duplicate => *cursor,
        other => panic!("not what was expected: {other:?}"),
    }
}

async fn answered<T>(answer: oneshot::Receiver<T>) -> T {
    let answer = tokio::time::timeout(DEADLINE, answer).await;
    answer.expect("an answer in time").expect("an answer")
}

fn plain() -> (Message, Idempotency) {
    (message(&[]), Idempotency::None)
}

fn counted(seq: u64) -> (Message, Idempotency) {
    let producer = ProducerId::parse("p").unwrap();
    (message(&[]), Idempotency::Sequence { producer, seq })
}

fn keyed(key: &str) -> (Message, Idempotency) {
    let key = MessageId::parse(key).unwrap();
    (message(&[]), Idempotency::Key(key))
}

fn at(epoch: Epoch, offset: u64) -> Cursor {
    Cursor { epoch, offset }
}

fn gap_deleted(epoch: Epoch) -> Heard {
    let gap = ServerFrame::Gap {
        topic: topic("a"),
        reason: hark_protocol::GapReason::Deleted,
        from: None,
        to: None,
        cursor: at(epoch, 0),
    };
    let position = at(epoch, 0);
    Heard::Deleted { gap, position }
}

fn page(offsets: impl IntoIterator<Item = u64>, live: bool) -> Heard {
    let offsets = offsets.into_iter().collect();
    Heard::Page { offsets, live }
}

#[actix_web::test]
async fn what_is_in_flight_is_deleted_and_what_is_staged_goes_on() {
    let bench = Bench::new();
    let (live, seat) = bench.subscribe(SubscribeFrom::Now).await;
    bench.log.appends.shut();
    let in_flight = bench.send(vec![plain(), plain()]);
    until("an append is in flight", || bench.log.appends.held() == 1).await;
    let staged = bench.send(vec![plain()]);
    let deletes = [bench.delete(), bench.delete()];
    let later = bench.send(vec![plain(), plain()]);
    bench.room_is_idle().await;
    assert_eq!(bench.log.appended.lock().unwrap().len(), 1, "all wait");

    bench.log.deletes.shut();
    bench.log.appends.open();
    let old = in_flight.cursors().await;
    until("the delete is in flight", || bench.log.deletes.held() == 1).await;
    bench.room_is_idle().await;
    assert_eq!(bench.log.appended.lock().unwrap().len(), 1, "all wait");
    bench.log.deletes.open();

    for delete in deletes {
        let deleted = answered(delete).await.unwrap();
        assert!(deleted.deleted && deleted.epoch != old[0].epoch);
    }
    let (staged, later) = (staged.cursors().await, later.cursors().await);
    let new = staged[0].epoch;
    assert_eq!(old, [at(old[0].epoch, 1), at(old[0].epoch, 2)]);
    assert_eq!(staged, [at(new, 1)]);
    assert_eq!(later, [at(new, 2), at(new, 3)]);
    assert_eq!(live.nth(3).await, gap_deleted(new));
    assert_eq!(live.heard()[1], Heard::Messages(vec![1, 2]));
    bench.pull(seat, at(new, 0));
    assert_eq!(live.nth(4).await, page(1..=3, true));
    assert_eq!(bench.publish(1).await, [at(new, 4)]);
    assert_eq!(live.nth(5).await, Heard::Messages(vec![4]));
    // Nothing was published since: nothing is there to be deleted again, but for these four.
    assert!(bench.deleted().await.deleted);
    assert!(!bench.deleted().await.deleted);
}

/// The reader pool answers a subscriber straight, without the room: a page of what was deleted must not come behind the gap.
#[actix_web::test]
async fn no_page_of_the_old_sequence_follows_the_gap() {
    let bench = Bench::new();
    let old = bench.publish(1).await[0].epoch;
    // More than the tail cache holds.
    for _ in 0..3 {
        let data = Bytes::from(vec![b'x'; 300_000]);
        let payload = Payload::Bytes {
            data,
            content_type: None,
        };
        let large = Message {
            payload,
            ..message(&[])
        };
        assert!(
            publish(&bench.registry, "a", vec![large])
                .await
                .iter()
                .all(is_kept)
        );
    }
    let (lagging, seat) = bench.subscribe(SubscribeFrom::Earliest).await;
    bench.log.reads.shut();
    bench.pull(seat, at(old, 0));
    until("the page is on its way", || bench.log.reads.held() == 1).await;

    let new = bench.deleted().await.epoch;
    assert_eq!(bench.publish(2).await, [at(new, 1), at(new, 2)]);
    bench.room_is_deaf_to(&lagging).await;
    bench.log.reads.open();

    assert_eq!(lagging.nth(2).await, page([1], false));
    bench.pull(seat, at(old, 1));
    assert_eq!(lagging.nth(3).await, gap_deleted(new));
    bench.pull(seat, at(new, 0));
    assert_eq!(lagging.nth(4).await, page([1, 2], true));
    bench.publish(1).await;
    assert_eq!(lagging.nth(5).await, Heard::Messages(vec![3]));
}

impl Bench {
    /// Checks that a subscriber which waits for a page hears nothing meanwhile.
    async fn room_is_deaf_to(&self, subscriber: &Recorder) {
        let before = subscriber.heard().len();
        // Answered by the room itself, behind everything it had to say.
        let (witness, seat) = self.subscribe(SubscribeFrom::Now).await;
        let room = self.registry.room(&topic("a"));
        assert!(room.order(Unsubscribe { seat }));
        witness.nth(2).await;
        assert_eq!(subscriber.heard().len(), before);
    }
}

/// However often a topic is deleted, there is one gap on its way to a subscriber that does not read.
#[actix_web::test]
async fn many_deletes_cost_a_subscriber_that_does_not_read_one_gap() {
    let bench = Bench::new();
    let (idle, seat) = bench.subscribe(SubscribeFrom::Now).await;
    let mut epochs = Vec::new();
    for _ in 0..50 {
        bench.publish(1).await;
        epochs.push(bench.deleted().await.epoch);
    }
    bench.publish(2).await;
    bench.room_is_deaf_to(&idle).await;
    let heard = idle.heard();
    assert_eq!(
        heard[1..],
        [Heard::Messages(vec![1]), gap_deleted(epochs[0])]
    );
    // It learns of the newest when it asks.
    bench.pull(seat, at(epochs[0], 0));
    assert_eq!(idle.nth(4).await, gap_deleted(epochs[49]));
    bench.pull(seat, at(epochs[49], 0));
    assert_eq!(idle.nth(5).await, page([1, 2], true));
}

#[actix_web::test]
async fn numbers_and_keys_of_what_was_deleted_are_forgotten() {
    let bench = Bench::new();
    bench
        .send(vec![counted(1), counted(2), keyed("k")])
        .cursors()
        .await;
    let new = bench.deleted().await.epoch;
    let outcomes = bench
        .send(vec![counted(3), counted(2), keyed("k")])
        .outcomes()
        .await;
    for outcome in &outcomes[..2] {
        assert!(
            matches!(
                outcome,
                Outcome::Refused(Refusal {
                    code: ErrorCode::OutOfSequence,
                    expected_seq: Some(1),
                    ..
                })
            ),
            "{outcome:?}"
        );
    }
    assert_eq!(kept(&outcomes[2], false), at(new, 1));
    assert_eq!(bench.send(vec![counted(1)]).cursors().await, [at(new, 2)]);
}

#[actix_web::test]
async fn what_is_sent_again_while_its_topic_is_deleted_is_kept_once() {
    let bench = Bench::new();
    let old = bench.send(vec![counted(1)]).cursors().await[0].epoch;
    bench.log.appends.shut();
    let in_flight = bench.send(vec![counted(2), keyed("k2")]);
    until("an append is in flight", || bench.log.appends.held() == 1).await;
    let staged = bench.send(vec![counted(3), keyed("k3")]);
    let again = bench.send(vec![counted(2), keyed("k2"), counted(3), keyed("k3")]);
    let delete = bench.delete();
    let and_again = bench.send(vec![counted(2), counted(3), keyed("k3"), counted(4)]);
    bench.room_is_idle().await;
    bench.log.appends.open();

    let new = answered(delete).await.unwrap().epoch;
    assert_eq!(in_flight.cursors().await, [at(old, 2), at(old, 3)]);
    assert_eq!(staged.cursors().await, [at(new, 1), at(new, 2)]);
    let again = again.outcomes().await;
    assert_eq!(kept(&again[0], true), at(old, 2));
    assert_eq!(kept(&again[1], true), at(old, 3));
    assert_eq!(kept(&again[3], true), at(new, 2));
    let and_again = and_again.outcomes().await;
    assert_eq!(kept(&and_again[0], true), at(old, 2));
    assert_eq!(kept(&and_again[2], true), at(new, 2));
    assert_eq!(kept(&and_again[3], false), at(new, 3));
    for duplicate in [&again[2], &and_again[1]] {
        assert_eq!(kept(duplicate, true), at(new, 1));
    }
    // And later: what the staged ones said of the producer is known, and what lies before them was taken before; where, is deleted.
    let later = bench
        .send(vec![counted(4), counted(1), counted(5)])
        .outcomes()
        .await;
    assert_eq!(kept(&later[0], true), at(new, 3));
    assert_eq!(kept(&later[1], true), at(new, 0));
    assert_eq!(kept(&later[2], false), at(new, 4));
}

#[actix_web::test]
async fn a_delete_that_fails_leaves_everything_as_it_was() {
    let bench = Bench::new();
    let (live, _) = bench.subscribe(SubscribeFrom::Now).await;
    let old = bench.send(vec![counted(1)]).cursors().await[0].epoch;
    *bench.log.refusal.lock().unwrap() = Some(LogError::Closed("the disk is gone".into()));

    let refusal = answered(bench.delete()).await.unwrap_err();

    assert_eq!(refusal.code, ErrorCode::LogUnavailable);
    assert_eq!(bench.send(vec![counted(2)]).cursors().await, [at(old, 2)]);
    live.nth(3).await;
    assert_eq!(
        live.heard()[1..],
        [Heard::Messages(vec![1]), Heard::Messages(vec![2])]
    );
    let history = bench.history(SubscribeFrom::Earliest).await.unwrap();
    assert_eq!((history.page.items.len(), history.cursor), (2, at(old, 2)));
}

/// A room whose topic another one has opened ends, and answers whoever waits.
#[actix_web::test]
async fn a_delete_of_a_room_that_has_been_replaced_is_answered() {
    let bench = Bench::new();
    bench.publish(1).await;
    bench.log.appends.shut();
    let in_flight = bench.send(vec![plain()]);
    until("an append is in flight", || bench.log.appends.held() == 1).await;
    let delete = bench.delete();
    let staged = bench.send(vec![plain()]);
    bench.room_is_idle().await;
    let opened = Box::new(|opened: Result<_, _>| assert!(opened.is_ok()));
    bench.log.inner.open(topic("a"), Arc::new(|_| {}), opened);
    bench.log.appends.open();

    assert_eq!(in_flight.cursors().await.len(), 1);
    assert_eq!(answered(delete).await.unwrap_err().code, ErrorCode::Busy);
    let outcome = &staged.outcomes().await[0];
    assert!(
        matches!(outcome, Outcome::Refused(r) if r.code == ErrorCode::Busy),
        "{outcome:?}"
    );
}

#[actix_web::test]
async fn a_room_that_panics_while_deleting_leaves_nobody_waiting() {
    let bench = Bench::new();
    let (live, _) = bench.subscribe(SubscribeFrom::Now).await;
    let old = bench.publish(1).await[0].epoch;
    bench.log.deletes.shut();
    let delete = bench.delete();
    until("the delete is in flight", || bench.log.deletes.held() == 1).await;
    let waiting = bench.delete();
    let staged = bench.send(vec![plain()]);
    let broken = bench.send(vec![(
        message(&[("hark-fault", "room-panic")]),
        Idempotency::None,
    )]);

    for refused in [staged, broken] {
        let outcome = &refused.outcomes().await[0];
        assert!(
            matches!(outcome, Outcome::Refused(r) if r.code == ErrorCode::Busy),
            "{outcome:?}"
        );
    }
    for delete in [delete, waiting] {
        let dropped = tokio::time::timeout(DEADLINE, delete)
            .await
            .expect("no wait");
        assert!(dropped.is_err(), "{dropped:?}");
    }
    assert!(matches!(live.nth(3).await, Heard::Other(gone) if gone.contains("Gone")));
    bench.log.deletes.open();

    // The log has done it: who comes back is told, and what comes next goes on.
    let back = Arc::new(Recorder::default());
    bench.join(&back, SubscribeFrom::After(at(old, 1)));
    let Heard::Subscribed {
        position,
        gap,
        live,
        ..
    } = back.nth(1).await
    else {
        panic!("not subscribed: {:?}", back.heard());
    };
    assert_ne!(position.epoch, old);
    assert_eq!((position.offset, live), (0, true));
    assert!(matches!(
        gap,
        Some(ServerFrame::Gap {
            reason: hark_protocol::GapReason::Deleted,
            ..
        })
    ));
    assert!(!bench.deleted().await.deleted, "it is deleted already");
    assert_eq!(bench.publish(1).await, [at(position.epoch, 1)]);
}

/// A point in time that was looked for in the old sequence says nothing about the new one.
#[actix_web::test]
async fn a_point_in_time_is_looked_for_again_when_its_topic_is_deleted() {
    let bench = Bench::new();
    bench.publish(20).await;
    bench.clock.set(bench.clock.now_ms() + 10_000);
    bench.log.times.shut();
    let reader = Arc::new(Recorder::default());
    bench.join(&reader, SubscribeFrom::SinceAgo(5_000));
    until("it is looked for", || bench.log.times.held() == 1).await;

    let new = bench.deleted().await.epoch;
    bench.publish(3).await;
    bench.log.times.open();

    let Heard::Subscribed {
        position,
        live,
        seat,
        ..
    } = reader.nth(1).await
    else {
        panic!("not subscribed: {:?}", reader.heard());
    };
    assert_eq!((position, live), (at(new, 0), false));
    bench.pull(seat, position);
    assert_eq!(reader.nth(2).await, page(1..=3, true));
}

#[actix_web::test]
async fn history_reads_one_sequence_or_says_that_it_is_another() {
    let bench = Bench::new();
    let old = bench.publish(5).await[0].epoch;
    let new = bench.deleted().await.epoch;
    bench.publish(2).await;
    for offset in [0, 3, 5] {
        let page = bench
            .history(SubscribeFrom::After(at(old, offset)))
            .await
            .unwrap();
        assert!(
            matches!(page.gap, Some(ServerFrame::Gap { reason: hark_protocol::GapReason::Deleted, cursor, .. }) if cursor == at(new, 0)),
            "{page:?}"
        );
        assert_eq!((page.page.items.len(), page.cursor), (2, at(new, 2)));
    }
}

/// A step of the clock makes nobody's number or key older than it is.
#[actix_web::test]
async fn numbers_and_keys_outlive_a_clock_that_is_set_ahead() {
    let bench = Bench::new();
    let epoch = bench.send(vec![counted(1), keyed("k")]).cursors().await[0].epoch;
    bench
        .clock
        .step(bench.clock.now_ms() + 365 * 24 * 60 * 60 * 1000);
    let outcomes = bench
        .send(vec![counted(1), keyed("k"), counted(2)])
        .outcomes()
        .await;
    assert_eq!(kept(&outcomes[0], true), at(epoch, 1));
    assert_eq!(kept(&outcomes[1], true), at(epoch, 2));
    assert_eq!(kept(&outcomes[2], false), at(epoch, 3));
}

/// A flood is spread over many appends, so that others have their turn between them.
#[actix_web::test]
async fn an_append_has_a_bounded_number_of_bytes() {
    const MAX_BYTES: usize = 1024 * 1024;
    let bench = Bench::new();
    let sized = |bytes: usize| {
        let text = format!("\"{}\"", "x".repeat(bytes));
        let payload = Payload::Json(JsonText::check(Bytes::from(text)).unwrap());
        let message = Message {
            payload,
            ..message(&[])
        };
        (message, Idempotency::None)
    };
    let sizes = [
        10,
        100_000,
        200_000,
        MAX_BYTES - 2,
        5,
        5,
        MAX_BYTES - 2,
        100_000,
        250_000,
        7,
    ];
    let messages: Vec<_> = (0..3).flat_map(|_| sizes.map(sized)).collect();
    let count = messages.len();
    let cursors = bench.send(messages).cursors().await;
    assert!(
        cursors
            .iter()
            .map(|cursor| cursor.offset)
            .eq(1..=count as u64)
    );
    let appended = bench.log.appended.lock().unwrap().clone();
    assert_eq!(
        appended.iter().map(|(records, _)| records).sum::<usize>(),
        count
    );
    for (records, bytes) in appended {
        assert!(
            records == 1 || bytes <= MAX_BYTES / 4,
            "{records} records, {bytes} bytes"
        );
    }
}
