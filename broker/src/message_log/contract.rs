//! One test suite for every engine: the promises of [`super`], each test named after the promise it holds. What only one
//! engine can do (survive a crash, say) is tested beside that engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hark_protocol::{
    GapReason, Headers, Idempotency, Identity, JsonText, Message, MessageId, Payload, ProducerId,
    Record, TopicName,
};

use super::*;
use crate::clock::Clock;

const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const NOON: u64 = 1_764_230_400_000;

/// A log under test, with a clock to move.
pub(super) struct Bench {
    pub(super) log: Arc<dyn MessageLog>,
    pub(super) clock: Clock,
    /// Whatever must live as long as the log.
    pub(super) _keep: Option<tempfile::TempDir>,
}

/// A topic opened on a bench.
pub(super) struct Opened<'a> {
    bench: &'a Bench,
    pub(super) topic: TopicName,
    pub(super) found: OpenedTopic,
    news: Arc<Mutex<Vec<LogNews>>>,
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

pub(super) fn text(data: impl Into<Vec<u8>>) -> NewRecord {
    let payload = Payload::Bytes {
        data: Bytes::from(data.into()),
        content_type: None,
    };
    let message = Message {
        payload,
        headers: Headers::default(),
    };
    NewRecord {
        message,
        identity: None,
        idempotency: Idempotency::None,
    }
}

pub(super) fn texts(range: std::ops::Range<u64>) -> Vec<NewRecord> {
    range.map(|n| text(n.to_string())).collect()
}

pub(super) fn sent_by(producer: &str, seq: u64) -> NewRecord {
    let producer = ProducerId::parse(producer).unwrap();
    NewRecord {
        idempotency: Idempotency::Sequence { producer, seq },
        ..text("counted")
    }
}

fn keyed(key: &str) -> NewRecord {
    NewRecord {
        idempotency: Idempotency::Key(MessageId::parse(key).unwrap()),
        ..text("keyed")
    }
}

/// The same, published by that subject of one issuer; `None`: by nobody.
pub(super) fn by(subject: Option<&str>, record: NewRecord) -> NewRecord {
    NewRecord {
        identity: subject.map(|subject| Identity::new("https://login.example", subject)),
        ..record
    }
}

/// Waits for the one answer.
pub(super) fn answer<T: Send + 'static>(ask: impl FnOnce(Done<T>)) -> Result<T, LogError> {
    let (tell, told) = mpsc::channel();
    ask(Box::new(move |answer| tell.send(answer).unwrap()));
    let answer = told.recv_timeout(PATIENCE).expect("an answer in time");
    assert!(told.recv_timeout(Duration::ZERO).is_err(), "answered twice");
    answer
}

impl Bench {
    pub(super) fn open(&self, name: &str) -> Opened<'_> {
        self.try_open(name).unwrap()
    }

    pub(super) fn try_open(&self, name: &str) -> Result<Opened<'_>, LogError> {
        let topic = topic(name);
        let news = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&news);
        let sink: NewsSink = Arc::new(move |told| sink.lock().unwrap().push(told));
        let found = answer(|done| self.log.open(topic.clone(), sink, done))?;
        Ok(Opened {
            bench: self,
            topic,
            found,
            news,
        })
    }

    pub(super) fn list(&self) -> Vec<TopicInfo> {
        let all = List {
            limit: 1000,
            ..List::default()
        };
        answer(|done| self.log.list(all, done)).unwrap()
    }

    fn describe(&self, name: &str) -> TopicInfo {
        answer(|done| self.log.describe(topic(name), done)).unwrap()
    }

    fn read(&self, read: Read) -> Result<Page, LogError> {
        answer(|done| self.log.read(read, done))
    }
}

impl<'a> Opened<'a> {
    pub(super) fn append(&self, records: Vec<NewRecord>) -> Result<Vec<Record>, LogError> {
        let (topic, generation) = (self.topic.clone(), self.found.generation);
        answer(|done| {
            self.bench.log.append(Append {
                topic,
                generation,
                records,
                done,
            })
        })
        .map(|appended| appended.records)
    }

    pub(super) fn page(&self, after: u64, up_to: u64) -> Page {
        self.page_of(after, up_to, usize::MAX, usize::MAX)
    }

    fn page_of(&self, after: u64, up_to: u64, max_bytes: usize, max_records: usize) -> Page {
        let read = Read {
            after,
            up_to,
            max_bytes,
            max_records,
            ..self.read_all()
        };
        self.bench.read(read).unwrap()
    }

    /// An order to read all there is of the sequence that was opened.
    fn read_all(&self) -> Read {
        Read {
            topic: self.topic.clone(),
            epoch: self.found.epoch,
            after: 0,
            up_to: u64::MAX,
            max_bytes: usize::MAX,
            max_records: usize::MAX,
            tell_identity: true,
        }
    }

    fn try_delete(&self) -> Result<OpenedTopic, LogError> {
        let (topic, generation) = (self.topic.clone(), self.found.generation);
        answer(|done| self.bench.log.delete(topic, generation, done))
    }

    /// Deletes the topic, and gives it as it goes on.
    pub(super) fn delete(&self) -> Opened<'a> {
        Opened {
            bench: self.bench,
            topic: self.topic.clone(),
            found: self.try_delete().unwrap(),
            news: self.news.clone(),
        }
    }

    fn find_time(&self, since_ms: u64, up_to: u64) -> u64 {
        answer(|done| {
            self.bench
                .log
                .find_time(self.topic.clone(), since_ms, up_to, done)
        })
        .unwrap()
    }

    pub(super) fn close(&self) {
        self.bench
            .log
            .close(self.topic.clone(), self.found.generation);
    }

    /// Waits until retention has told that `first` is the oldest.
    pub(super) fn wait_for_first(&self, first: u64) {
        let trimmed = || {
            self.news
                .lock()
                .unwrap()
                .iter()
                .any(|told| *told == LogNews::Trimmed { first })
        };
        wait_for("retention", || {
            // An engine may do its trimming when it is next called.
            self.page(0, u64::MAX);
            trimmed()
        });
    }
}

pub(super) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub(super) fn offsets(page: &Page) -> Vec<u64> {
    page.items
        .iter()
        .filter_map(|item| match item {
            PageItem::Record(record) => Some(record.offset),
            PageItem::Gap { .. } => None,
        })
        .collect()
}

pub(super) fn messages(page: &Page) -> Vec<Message> {
    page.items
        .iter()
        .filter_map(|item| match item {
            PageItem::Record(record) => Some(record.message.clone()),
            PageItem::Gap { .. } => None,
        })
        .collect()
}

fn expired(from: u64, to: u64) -> PageItem {
    PageItem::Gap {
        reason: GapReason::Expired,
        from,
        to,
    }
}

/// Checks promise 4 of a page: every offset in `(after, reached]`, once, in order.
pub(super) fn assert_covered(page: &Page, after: u64) {
    let mut next = after + 1;
    for item in &page.items {
        let (from, to) = match item {
            PageItem::Record(record) => (record.offset, record.offset),
            PageItem::Gap { from, to, .. } => (*from, *to),
        };
        assert_eq!(from, next, "{:?}", page.items);
        assert!(to >= from, "{item:?}");
        next = to + 1;
    }
    assert_eq!(page.reached, next - 1);
}

type Make = fn(Retention, usize) -> Bench;

fn plain(make: Make) -> Bench {
    make(Retention::default(), 1000)
}

fn promise_1_every_call_is_answered_once(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let (tell, told) = mpsc::channel();
    for _ in 0..100 {
        let (tell, topic) = (tell.clone(), orders.topic.clone());
        let done = Box::new(move |answer: Result<_, _>| tell.send(answer.is_ok()).unwrap());
        bench.log.append(Append {
            topic,
            generation: orders.found.generation,
            records: texts(0..3),
            done,
        });
    }
    for _ in 0..100 {
        assert!(told.recv_timeout(PATIENCE).unwrap());
    }
    drop(tell);
    assert!(told.recv_timeout(PATIENCE).is_err(), "an answer too many");
    assert_eq!(bench.open("orders").found.head, 300);
}

fn promise_1_after_shutdown_calls_are_answered_too(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    orders.append(texts(0..3)).unwrap();

    bench.log.shutdown();
    bench.log.shutdown();

    let is_closed = |e: LogError| assert!(matches!(e, LogError::Closed(_)), "{e:?}");
    is_closed(orders.append(texts(0..1)).unwrap_err());
    is_closed(bench.try_open("orders").err().unwrap());
    is_closed(bench.read(orders.read_all()).unwrap_err());
    is_closed(orders.try_delete().unwrap_err());
    is_closed(answer(|done| bench.log.describe(topic("orders"), done)).unwrap_err());
    is_closed(answer(|done| bench.log.list(List::default(), done)).unwrap_err());
    is_closed(answer(|done| bench.log.find_time(topic("orders"), 0, 3, done)).unwrap_err());
    bench.log.close(topic("orders"), orders.found.generation);
    assert!(bench.log.health().refuses_writes.is_some());
}

fn promise_1_shutdown_commits_what_was_taken(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let (tell, told) = mpsc::channel();
    for n in 0..500 {
        let (tell, topic) = (tell.clone(), orders.topic.clone());
        let done = Box::new(move |answer: Result<_, _>| tell.send(answer.is_ok()).unwrap());
        let generation = orders.found.generation;
        bench.log.append(Append {
            topic,
            generation,
            records: texts(n..n + 1),
            done,
        });
    }
    bench.log.shutdown();
    assert_eq!(
        (0..500)
            .map(|_| told.recv_timeout(Duration::ZERO))
            .filter(|a| *a == Ok(true))
            .count(),
        500
    );
}

fn promise_2_what_is_appended_is_read_again(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let payloads = [
        Payload::Json(JsonText::check(Bytes::from_static("{\"a\":[1,\"ü\"]}".as_bytes())).unwrap()),
        Payload::Bytes {
            data: Bytes::new(),
            content_type: None,
        },
        Payload::Bytes {
            data: Bytes::from_static(b"\0\xff"),
            content_type: None,
        },
        Payload::Bytes {
            data: Bytes::from_static(b"x"),
            content_type: Some("text/plain".into()),
        },
        Payload::Bytes {
            data: Bytes::new(),
            content_type: Some("".into()),
        },
    ];
    let pairs = vec![("trace".into(), "4f".into()), ("empty".into(), "".into())];
    let headers = [Headers::default(), Headers::new(pairs).unwrap()];
    let records: Vec<NewRecord> = payloads
        .iter()
        .flat_map(|payload| headers.iter().map(move |headers| (payload, headers)))
        .map(|(payload, headers)| NewRecord {
            message: Message {
                payload: payload.clone(),
                headers: headers.clone(),
            },
            identity: None,
            idempotency: Idempotency::None,
        })
        .collect();

    let kept = orders.append(records.clone()).unwrap();

    let sent: Vec<Message> = records.into_iter().map(|new| new.message).collect();
    assert_eq!(
        kept.iter().map(|r| r.offset).collect::<Vec<_>>(),
        (1..=10).collect::<Vec<_>>()
    );
    assert_eq!(
        kept.iter().map(|r| r.message.clone()).collect::<Vec<_>>(),
        sent
    );
    let page = orders.page(0, 10);
    assert_eq!(messages(&page), sent);
    let times = |records: &[Record]| records.iter().map(|r| r.time_ms).collect::<Vec<_>>();
    assert_eq!(times(&kept), vec![NOON; 10]);
    assert_eq!(
        page.items,
        kept.into_iter().map(PageItem::Record).collect::<Vec<_>>()
    );
}

fn promise_2_large_messages_are_kept_whole(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let sizes = [
        0,
        7_000,
        7_130,
        7_140,
        7_150,
        7_160,
        7_168,
        7_200,
        14_000,
        14_336,
        100_000,
        1 << 20,
        10,
    ];
    let records: Vec<NewRecord> = sizes
        .iter()
        .map(|&size| {
            text(
                (0..size)
                    .map(|n: usize| (n * 7 + size) as u8)
                    .collect::<Vec<u8>>(),
            )
        })
        .collect();
    orders.append(records.clone()).unwrap();
    for record in &records {
        orders.append(vec![record.clone()]).unwrap();
    }

    let sent: Vec<Message> = records.into_iter().map(|new| new.message).collect();
    let page = orders.page(0, 26);
    assert_covered(&page, 0);
    assert_eq!(page.reached, 26);
    assert!(
        messages(&page) == [sent.clone(), sent.clone()].concat(),
        "not what was sent"
    );
    // From the middle as well.
    for after in 0..25 {
        let page = orders.page_of(after, 26, 0, 1);
        assert_eq!(offsets(&page), [after + 1]);
        assert!(messages(&page)[0] == sent[usize::try_from(after).unwrap() % 13]);
    }
}

fn promise_2_many_records_in_one_append_lie_together(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let kept = orders.append(texts(0..5000)).unwrap();
    assert_eq!(kept.len(), 5000);
    let page = orders.page(0, 5000);
    assert_covered(&page, 0);
    assert_eq!(offsets(&page).len(), 5000);
    for after in [0, 1, 777, 4998] {
        let page = orders.page_of(after, 5000, usize::MAX, 3);
        assert_eq!(
            offsets(&page),
            (after + 1..=5000).take(3).collect::<Vec<_>>()
        );
    }
}

fn promise_3_nothing_is_shown_beyond_up_to(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    orders.append(texts(0..10)).unwrap();
    for up_to in 0..10 {
        let page = orders.page(0, up_to);
        assert_eq!(offsets(&page), (1..=up_to).collect::<Vec<_>>());
        assert_eq!(page.reached, up_to);
    }
    // Nor beyond the head, whatever is asked.
    assert_eq!(orders.page(0, u64::MAX).reached, 10);
    assert_eq!(
        orders.page(10, 20),
        Page {
            items: vec![],
            reached: 10
        }
    );
    assert_eq!(
        orders.page(15, 20),
        Page {
            items: vec![],
            reached: 15
        }
    );
}

fn promise_4_pages_follow_each_other_without_a_hole(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    for n in 0..50 {
        orders
            .append(
                (0..n % 7 + 1)
                    .map(|k| text(vec![b'x'; (n * 37 + k) as usize % 900]))
                    .collect(),
            )
            .unwrap();
    }
    let head = bench.open("orders").found.head;
    for (max_bytes, max_records) in [(0, 1), (1, 1000), (500, 1000), (5000, 3), (1 << 16, 1000)] {
        let mut after = 0;
        while after < head {
            let page = orders.page_of(after, head, max_bytes, max_records);
            assert_covered(&page, after);
            let payload: usize = messages(&page).iter().map(|m| m.payload.len()).sum();
            assert!(
                payload <= max_bytes || page.items.len() == 1,
                "{payload} > {max_bytes}"
            );
            assert!(page.items.len() <= max_records && !page.items.is_empty());
            after = page.reached;
        }
    }
}

fn promise_5_only_the_newest_generation_may_append(make: Make) {
    let bench = plain(make);
    let first = bench.open("orders");
    first.append(texts(0..1)).unwrap();
    let second = bench.open("orders");
    assert!(second.found.generation > first.found.generation);
    assert_eq!(first.append(texts(1..2)), Err(LogError::StaleGeneration));
    first.close(); // of an old generation: means nothing
    assert_eq!(second.append(texts(1..2)).unwrap()[0].offset, 2);
    second.close();
    assert_eq!(second.append(texts(2..3)), Err(LogError::StaleGeneration));
    let third = bench.open("orders");
    assert_eq!((third.found.head, third.found.first), (2, 1));
    assert!(third.found.generation > second.found.generation);
}

fn promise_5_opening_sees_all_that_was_appended_before(make: Make) {
    let bench = plain(make);
    // While the appends of the generation before are under way.
    for round in 0..50 {
        let old = bench.open("orders");
        let (tell, told) = mpsc::channel();
        for _ in 0..5 {
            let (tell, topic) = (tell.clone(), old.topic.clone());
            let done = Box::new(move |answer: Result<Appended, LogError>| {
                tell.send(answer.map(|a| a.records[0].offset)).unwrap();
            });
            let generation = old.found.generation;
            bench.log.append(Append {
                topic,
                generation,
                records: texts(0..1),
                done,
            });
        }
        let new = bench.open("orders");
        assert_eq!(new.found.head, 5 * (round + 1));
        let answered: Vec<_> = (0..5)
            .map(|_| told.recv_timeout(PATIENCE).unwrap().unwrap())
            .collect();
        assert_eq!(
            answered,
            (5 * round + 1..=5 * round + 5).collect::<Vec<_>>()
        );
    }
}

fn promise_6_opening_and_reading_create_nothing(make: Make) {
    let bench = plain(make);
    let opened = bench.open("unused");
    assert_eq!((opened.found.first, opened.found.head), (1, 0));
    assert_eq!(opened.found.epoch, bench.open("unused.too").found.epoch);
    assert_eq!(
        opened.page(0, 10),
        Page {
            items: vec![],
            reached: 0
        }
    );
    assert_eq!(opened.find_time(0, 10), 0);
    let never = Read {
        topic: topic("never"),
        after: 3,
        up_to: 9,
        ..opened.read_all()
    };
    let page = bench.read(never).unwrap();
    assert_eq!(
        page,
        Page {
            items: vec![],
            reached: 3
        }
    );
    assert_eq!(bench.list(), []);

    opened.append(texts(0..1)).unwrap();
    let listed = bench.list();
    assert_eq!(listed.len(), 1);
    let TopicInfo {
        topic,
        epoch,
        first,
        head,
        bytes: _,
    } = &listed[0];
    assert_eq!(
        (topic, *epoch, *first, *head),
        (&opened.topic, opened.found.epoch, 1, 1)
    );
}

fn a_topic_is_described_as_it_is_listed(make: Make) {
    let bench = make(
        Retention {
            max_messages: 10,
            ..Retention::default()
        },
        10,
    );
    assert!(bench.log.health().refuses_writes.is_none());
    let unused = bench.describe("orders");
    assert_eq!(
        unused,
        TopicInfo {
            topic: topic("orders"),
            epoch: bench.open("others").found.epoch,
            first: 1,
            head: 0,
            bytes: 0
        }
    );
    assert_eq!(bench.list(), [], "describing creates nothing");

    let orders = bench.open("orders");
    assert_eq!(bench.describe("orders"), unused);
    for n in 0..5 {
        orders.append(vec![text(vec![b'x'; 1000])]).unwrap();
        let described = bench.describe("orders");
        assert_eq!((described.first, described.head), (1, n + 1));
        assert!(
            (1000 * (n + 1)..2000 * (n + 1)).contains(&described.bytes),
            "{described:?}"
        );
        assert_eq!(bench.list(), [described]);
    }
    for _ in 0..30 {
        orders.append(texts(0..1)).unwrap();
    }
    orders.wait_for_first(26);
    orders.close();
    wait_for("the listing", || bench.describe("orders").first == 26);
    let described = bench.describe("orders");
    assert_eq!((described.first, described.head), (26, 35));
    assert!(described.bytes < 5000, "{described:?}");
    assert_eq!(bench.list(), [described]);
}

fn promise_6_there_are_at_most_so_many_topics(make: Make) {
    let bench = make(Retention::default(), 2);
    bench.open("a").append(texts(0..1)).unwrap();
    bench.open("b").append(texts(0..1)).unwrap();
    let c = bench.open("c");
    assert_eq!(c.append(texts(0..1)), Err(LogError::TooManyTopics));
    assert_eq!(bench.open("a").append(texts(1..2)).unwrap()[0].offset, 2);
    assert_eq!(bench.list().len(), 2);
}

fn topics_are_listed_by_name(make: Make) {
    let bench = plain(make);
    for name in ["b", "a.b", "a", "c", "a-b", "a.b.c"] {
        bench.open(name).append(texts(0..1)).unwrap();
    }
    let names = |infos: Vec<TopicInfo>| {
        infos
            .into_iter()
            .map(|info| info.topic.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(bench.list()), ["a", "a-b", "a.b", "a.b.c", "b", "c"]);
    let list = |prefix: &str, after: Option<&str>, limit| {
        let order = List {
            prefix: prefix.to_owned(),
            after: after.map(topic),
            limit,
        };
        answer(|done| bench.log.list(order, done)).unwrap()
    };
    let page = |after: &str| list("", Some(after), 2);
    assert_eq!(names(page("a")), ["a-b", "a.b"]);
    assert_eq!(names(page("a.b")), ["a.b.c", "b"]);
    assert_eq!(names(page("a.c")), ["b", "c"]);
    assert_eq!(names(page("c")), [""; 0]);
    for (prefix, after, expected) in [
        ("a", None, &["a", "a-b", "a.b", "a.b.c"][..]),
        ("a.", None, &["a.b", "a.b.c"]),
        ("a.", Some("a"), &["a.b", "a.b.c"]),
        ("a.", Some("a.b"), &["a.b.c"]),
        ("a.", Some("b"), &[]),
        ("b", Some("a"), &["b"]),
        ("d", None, &[]),
        ("ü", None, &[]),
    ] {
        assert_eq!(
            names(list(prefix, after, 9)),
            expected,
            "{prefix}, {after:?}"
        );
    }
    assert_eq!(names(list("a", Some("a"), 1)), ["a-b"]);
}

fn promise_7_head_and_first_outlive_the_records(make: Make) {
    let bench = make(
        Retention {
            max_age_ms: 1000,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    orders.append(texts(0..5)).unwrap();
    bench.clock.set(NOON + 1001);
    orders.wait_for_first(6);
    assert_eq!(
        orders.page(2, 5),
        Page {
            items: vec![expired(3, 5)],
            reached: 5
        }
    );
    assert_eq!(
        orders.page(5, 5),
        Page {
            items: vec![],
            reached: 5
        }
    );
    assert_eq!(orders.find_time(0, 5), 5);
    let again = bench.open("orders");
    assert_eq!((again.found.first, again.found.head), (6, 5));
    assert_eq!(again.append(texts(5..6)).unwrap()[0].offset, 6);
    assert_eq!(offsets(&again.page(5, 6)), [6]);
}

fn promise_8_time_does_not_go_back(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let time = |orders: &Opened<'_>| orders.append(texts(0..1)).unwrap()[0].time_ms;
    assert_eq!(time(&orders), NOON);
    bench.clock.set(NOON + 10);
    assert_eq!(time(&orders), NOON + 10);
    bench.clock.set(NOON - 5000);
    assert_eq!(time(&orders), NOON + 10);
    orders.close();
    assert_eq!(time(&bench.open("orders")), NOON + 10);
    assert_eq!(time(&bench.open("others")), NOON - 5000);
}

fn a_point_in_time_is_found(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    for n in 0..40 {
        bench.clock.set(NOON + n * 10);
        orders.append(texts(0..n % 3 + 1)).unwrap();
    }
    let page = orders.page(0, u64::MAX);
    let times: Vec<u64> = page
        .items
        .iter()
        .map(|item| match item {
            PageItem::Record(record) => record.time_ms,
            PageItem::Gap { .. } => panic!("a gap"),
        })
        .collect();
    let head = page.reached;
    for since in (NOON - 10..NOON + 420).step_by(5).chain([0, u64::MAX]) {
        for up_to in [0, 1, 20, head - 1, head] {
            let older = times
                .iter()
                .take(up_to as usize)
                .filter(|time| **time < since)
                .count();
            assert_eq!(
                orders.find_time(since, up_to),
                older as u64,
                "{since} {up_to}"
            );
        }
    }
}

fn promise_9_producers_and_keys_are_found_again(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    orders
        .append(vec![sent_by("p1", 1), sent_by("p2", 1), sent_by("p1", 2)])
        .unwrap();
    bench.clock.set(NOON + 1000);
    orders
        .append(vec![
            sent_by("p1", 3),
            keyed("k1"),
            text("neither"),
            keyed("k2"),
        ])
        .unwrap();
    for _ in 0..2 {
        let OpenedTopic {
            mut producers,
            keys,
            mut lately,
            ..
        } = bench.open("orders").found;
        producers.sort_by(|a, b| a.producer.cmp(&b.producer));
        let mark = |producer, seq, offset, time_ms| ProducerMark {
            producer: ProducerId::parse(producer).unwrap().into(),
            seq,
            offset,
            time_ms,
        };
        assert_eq!(
            producers,
            [mark("p1", 3, 4, NOON + 1000), mark("p2", 1, 2, NOON)]
        );
        let key = |key, offset| KeyMark {
            key: MessageId::parse(key).unwrap().into(),
            offset,
            time_ms: NOON + 1000,
        };
        assert_eq!(keys, [key("k1", 5), key("k2", 7)]);
        let places = lately.take(&producers[0].producer, 3, 4);
        let each = [1, 2, 3].map(|seq| places.find(seq));
        assert_eq!(each, [Some(1), Some(3), Some(4)]);
    }
    bench.clock.set(NOON + 1000 + KEY_MEMORY_MS + 1);
    assert_eq!(bench.open("orders").found.keys, []);
    assert_eq!(bench.open("orders").found.producers.len(), 2);
    bench.clock.set(NOON + PRODUCER_MEMORY_MS + 1);
    assert_eq!(bench.open("orders").found.producers.len(), 1);
    bench.clock.set(NOON + 1000 + PRODUCER_MEMORY_MS + 1);
    assert_eq!(bench.open("orders").found.producers, []);
}

/// Whether they share an append, and a value, or not.
fn promise_2_who_published_is_kept_and_told_to_those_who_ask(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let subjects = [
        None,
        Some("ana"),
        Some("ana"),
        None,
        Some("bob"),
        Some("ana"),
    ];
    let records = |data: &str| {
        let record = |subject: &Option<&str>| by(*subject, text(data));
        subjects.iter().map(record).collect::<Vec<_>>()
    };
    let large = "x".repeat(20_000);
    let appends = [records("small"), records(&large), records(&large[..3000])];
    let expected: Vec<_> = appends
        .iter()
        .flatten()
        .map(|r| r.identity.clone())
        .collect();
    for append in appends {
        let kept = orders.append(append.clone()).unwrap();
        for (kept, new) in kept.iter().zip(&append) {
            assert_eq!(kept.identity, new.identity);
        }
    }
    let look = |bench: &Bench| {
        let orders = bench.open("orders");
        let told = |tell_identity| {
            let read = Read {
                tell_identity,
                ..orders.read_all()
            };
            let items = bench.read(read).unwrap().items.into_iter();
            let identity = |item| match item {
                PageItem::Record(record) => record.identity,
                gap @ PageItem::Gap { .. } => panic!("{gap:?}"),
            };
            items.map(identity).collect::<Vec<_>>()
        };
        assert_eq!(told(true), expected);
        assert!(told(false).iter().all(Option::is_none));
        // From the middle of what was kept together.
        let page = orders.page(2, 3).items;
        assert!(matches!(&page[..], [PageItem::Record(r)] if r.identity == expected[2]));
    };
    look(&bench);
    if let Some(bench) = restart(bench) {
        look(&bench);
    }
}

fn promise_9_names_count_within_an_identity(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let whose = [None, Some("ana"), Some("bob")];
    for (n, subject) in (1..).zip(whose) {
        orders
            .append(vec![
                by(subject, sent_by("p", n)),
                by(subject, keyed("k")),
                by(subject, sent_by("p", n + 1)),
            ])
            .unwrap();
    }
    let look = |bench: &Bench| {
        let OpenedTopic {
            producers,
            keys,
            mut lately,
            ..
        } = bench.open("orders").found;
        for (n, subject) in (1..).zip(whose) {
            let whose = by(subject, keyed("k")).identity;
            let found = producers
                .iter()
                .find(|mark| mark.producer.identity == whose);
            let found = found.unwrap();
            assert_eq!((found.seq, found.offset), (n + 1, 3 * n), "{subject:?}");
            let places = lately.take(&found.producer, found.seq, found.offset);
            assert_eq!(places.find(n), Some(3 * n - 2), "{subject:?}");
            let found = keys.iter().find(|mark| mark.key.identity == whose).unwrap();
            assert_eq!(found.offset, 3 * n - 1, "{subject:?}");
        }
        assert_eq!((producers.len(), keys.len()), (3, 3));
    };
    look(&bench);
    // So much that the numbers are written down, and found there.
    bench.clock.set(NOON + KEY_MEMORY_MS + 1);
    let orders = bench.open("orders");
    orders.append(texts(0..3000)).unwrap();
    orders.append(texts(0..1)).unwrap();
    let expected: Vec<_> = bench.open("orders").found.producers;
    assert_eq!(expected.len(), 3);
    let Some(bench) = restart(bench) else { return };
    assert_eq!(bench.open("orders").found.producers, expected);
    for subject in whose {
        let whose = by(subject, keyed("k")).identity;
        assert!(expected.iter().any(|mark| mark.producer.identity == whose));
    }
}

fn promise_9_producers_outlive_their_records(make: Make) {
    let bench = make(
        Retention {
            max_messages: 2,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    for n in 1..=20 {
        orders.append(vec![sent_by(&format!("p{n}"), n)]).unwrap();
    }
    orders.wait_for_first(19);
    let producers = bench.open("orders").found.producers;
    let newest: Vec<(u64, u64)> = producers
        .iter()
        .map(|mark| (mark.seq, mark.offset))
        .collect();
    assert_eq!(newest, (1..=20).map(|n| (n, n)).collect::<Vec<_>>());
}

fn promise_9_only_so_many_producers_and_keys_are_remembered(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    let (producers, keys) = (MAX_PRODUCERS as u64 + 500, MAX_RECENT_KEYS as u64 + 500);
    let numbers: Vec<u64> = (1..=producers).collect();
    for chunk in numbers.chunks(700) {
        orders
            .append(chunk.iter().map(|n| sent_by(&format!("p{n}"), 1)).collect())
            .unwrap();
    }
    let found = bench.open("orders").found.producers;
    assert_eq!(found.len(), MAX_PRODUCERS);
    assert_eq!(found.iter().map(|mark| mark.offset).min(), Some(501));

    let orders = bench.open("others");
    for chunk in (1..=keys).collect::<Vec<_>>().chunks(700) {
        orders
            .append(chunk.iter().map(|n| keyed(&format!("k{n}"))).collect())
            .unwrap();
    }
    let found = bench.open("others").found.keys;
    assert_eq!(found.len(), MAX_RECENT_KEYS);
    assert_eq!(found[0].key.name.as_str(), "k501");
    assert_eq!(found.last().unwrap().offset, keys);
}

fn promise_10_by_count(make: Make) {
    let bench = make(
        Retention {
            max_messages: 10,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    for n in 0..35 {
        orders.append(texts(n..n + 1)).unwrap();
    }
    orders.wait_for_first(26);
    let page = orders.page(0, 35);
    assert_eq!(page.items[0], expired(1, 25));
    assert_eq!(offsets(&page), (26..=35).collect::<Vec<_>>());
    assert_covered(&page, 0);
    assert_eq!(orders.page(3, 9).items, [expired(4, 9)]);
    assert_eq!(bench.open("orders").found.first, 26);
    assert_eq!(bench.list()[0].first, 26);

    // The bound is as exact for many that came together, whatever shares a place with what.
    let many = bench.open("many");
    let mut head = 0;
    for count in [35, 3, 1, 1, 40, 9, 1] {
        many.append(texts(head..head + count)).unwrap();
        head += count;
        many.wait_for_first(head - 9);
        let page = many.page(0, head);
        assert_eq!(page.items[0], expired(1, head - 10));
        assert_eq!(offsets(&page), (head - 9..=head).collect::<Vec<_>>());
        assert_eq!(
            (bench.describe("many").first, bench.describe("many").head),
            (head - 9, head)
        );
        let found = answer(|done| bench.log.find_time(many.topic.clone(), 0, head, done)).unwrap();
        assert_eq!(found, head - 10);
    }
}

fn promise_10_by_bytes(make: Make) {
    let bench = make(
        Retention {
            max_bytes: 100_000,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    for _ in 0..100 {
        orders
            .append((0..10).map(|_| text(vec![b'x'; 1000])).collect())
            .unwrap();
    }
    wait_for("retention", || offsets(&orders.page(0, 1000)).len() < 120);
    let kept = offsets(&orders.page(0, 1000));
    assert!(kept.len() > 70 && *kept.last().unwrap() == 1000, "{kept:?}");

    // The newest record stays, however large it is; and all that is left is it.
    let newest = orders.append(vec![text(vec![b'x'; 200_000])]).unwrap()[0].offset;
    orders.wait_for_first(newest);
    assert_eq!(offsets(&orders.page(0, newest)), [newest]);
}

fn promise_10_by_age(make: Make) {
    let bench = make(
        Retention {
            max_age_ms: 1000,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    for n in 0..10 {
        bench.clock.set(NOON + n * 100);
        orders.append(texts(0..2)).unwrap();
    }
    bench.clock.set(NOON + 1500);
    orders.wait_for_first(11);
    assert_eq!(offsets(&orders.page(0, 20)), (11..=20).collect::<Vec<_>>());
    bench.clock.set(NOON + 2000);
    orders.wait_for_first(21);
}

fn promise_10_readers_are_told_what_expired_while_they_read(make: Make) {
    let bench = make(
        Retention {
            max_messages: 200,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    orders.append(texts(0..200)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for _ in 0..300 {
                orders.append(texts(0..20)).unwrap();
            }
        });
        let mut up_to = 200;
        while !writer.is_finished() {
            let page = orders.page(0, up_to);
            assert_covered(&page, 0);
            assert!(
                page.items.iter().all(|item| !matches!(
                    item,
                    PageItem::Gap {
                        reason: GapReason::Lost,
                        ..
                    }
                )),
                "taken for lost: {:?}",
                page.items
            );
            up_to = orders.page(0, u64::MAX).reached;
        }
    });
}

fn promise_11_the_epoch_stays_while_the_log_is_open(make: Make) {
    let bench = plain(make);
    let first = bench.open("orders");
    first.append(texts(0..3)).unwrap();
    first.close();
    let second = bench.open("orders");
    assert_eq!(second.found.epoch, first.found.epoch);
    assert_eq!(second.found.lineage, []);
}

fn promise_12_deleted_means_gone(make: Make) {
    let bench = plain(make);
    let old = bench.open("orders");
    let others = bench.open("others");
    others.append(texts(0..3)).unwrap();
    old.append(texts(0..20)).unwrap();
    old.append(vec![sent_by("p", 1), keyed("k"), text(vec![7; 100_000])])
        .unwrap();

    let new = old.delete();

    assert!(new.found.generation > old.found.generation);
    assert_ne!(new.found.epoch, old.found.epoch);
    let OpenedTopic {
        generation: _,
        epoch: _,
        lineage,
        deleted,
        first,
        head,
        producers,
        keys,
        lately,
    } = &new.found;
    assert_eq!(*lately, Lately::default());
    assert_eq!((*first, *head), (1, 0));
    assert_eq!(*deleted, [old.found.epoch]);
    assert_eq!(
        (&lineage[..], &producers[..], &keys[..]),
        (&[][..], &[][..], &[][..])
    );
    assert_eq!(old.append(texts(0..1)), Err(LogError::StaleGeneration));
    assert_eq!(old.try_delete(), Err(LogError::StaleGeneration));
    assert_eq!(bench.read(old.read_all()), Err(LogError::OtherEpoch));
    let nothing = Page {
        items: vec![],
        reached: 0,
    };
    assert_eq!(new.page(0, u64::MAX), nothing);
    assert_eq!(new.find_time(0, 23), 0);
    let gone = TopicInfo {
        topic: topic("orders"),
        epoch: new.found.epoch,
        first: 1,
        head: 0,
        bytes: 0,
    };
    assert_eq!(bench.describe("orders"), gone);
    assert_eq!(bench.list().len(), 1, "others alone");
    assert_eq!(others.page(0, 3).reached, 3);

    new.close();
    let again = bench.open("orders");
    assert_eq!(
        again.found,
        OpenedTopic {
            generation: again.found.generation,
            ..new.found.clone()
        }
    );
    assert!(again.found.generation > new.found.generation);
    let kept = again.append(vec![sent_by("p", 1), keyed("k")]).unwrap();
    assert_eq!(kept.iter().map(|r| r.offset).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(bench.read(old.read_all()), Err(LogError::OtherEpoch));
    assert_eq!(messages(&again.page(0, 2)).len(), 2);
    assert_eq!(bench.list().len(), 2);
}

/// What was appended before a `delete` is deleted, what comes later is refused or belongs to what goes on.
fn promise_12_deletes_come_in_order_with_appends(make: Make) {
    let bench = plain(make);
    let mut orders = bench.open("orders");
    let mut epochs = vec![orders.found.epoch];
    for round in 0..20 {
        let (tell, told) = mpsc::channel();
        let append = |orders: &Opened<'_>, n: u64| {
            let (tell, topic) = (tell.clone(), orders.topic.clone());
            let done = Box::new(move |answer: Result<Appended, LogError>| {
                tell.send((n, answer.map(|a| a.records[0].offset))).unwrap();
            });
            let generation = orders.found.generation;
            bench.log.append(Append {
                topic,
                generation,
                records: texts(n..n + 1),
                done,
            });
        };
        (1..=5).for_each(|n| append(&orders, n));
        let (deleted, is_deleted) = mpsc::channel();
        bench.log.delete(
            orders.topic.clone(),
            orders.found.generation,
            Box::new(move |answer| deleted.send(answer).unwrap()),
        );
        (6..=9).for_each(|n| append(&orders, n));
        let found = is_deleted.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!((found.first, found.head), (1, 0), "round {round}");
        assert!(!epochs.contains(&found.epoch));
        epochs.push(found.epoch);
        let mut answers: Vec<_> = (1..=9)
            .map(|_| told.recv_timeout(PATIENCE).unwrap())
            .collect();
        answers.sort_by_key(|(n, _)| *n);
        for (n, answer) in answers {
            let expected = match n {
                1..=5 => Ok(n),
                _ => Err(LogError::StaleGeneration),
            };
            assert_eq!(answer, expected, "append {n} of round {round}");
        }
        orders.found = found;
        assert_eq!(orders.page(0, 100).items, []);
    }
    let remembered = bench.open("orders").found.deleted;
    assert_eq!(
        remembered.last(),
        epochs.iter().rev().nth(1),
        "the newest stay"
    );
}

fn promise_12_deleting_nothing_changes_nothing(make: Make) {
    let bench = plain(make);
    let unused = bench.open("orders");
    let same = |before: &Opened<'_>, after: &Opened<'_>| {
        assert!(after.found.generation > before.found.generation);
        let but_for_the_generation = OpenedTopic {
            generation: before.found.generation,
            ..after.found.clone()
        };
        assert_eq!(but_for_the_generation, before.found);
    };
    let deleted = unused.delete();
    same(&unused, &deleted);
    assert_eq!(unused.append(texts(0..1)), Err(LogError::StaleGeneration));
    assert_eq!(bench.list(), []);

    // Nor a second time, when there was something the first time.
    deleted.append(texts(0..3)).unwrap();
    let once = deleted.delete();
    assert_eq!(once.found.deleted, [deleted.found.epoch]);
    let twice = once.delete();
    same(&once, &twice);
    same(&twice, &bench.open("orders"));
}

fn promise_12_every_deletion_makes_another_sequence(make: Make) {
    let bench = plain(make);
    let mut epochs = Vec::new();
    for round in 1..=5 {
        let orders = bench.open("orders");
        assert_eq!(orders.found.deleted, epochs);
        orders.append(texts(0..round)).unwrap();
        epochs.push(orders.found.epoch);
        let deleted = orders.delete();
        assert!(!epochs.contains(&deleted.found.epoch));
        assert_eq!(deleted.append(texts(0..1)).unwrap()[0].offset, 1);
        epochs.push(deleted.found.epoch);
        deleted.delete();
    }
}

fn promise_12_deleting_makes_room_for_other_topics(make: Make) {
    let bench = make(Retention::default(), 2);
    bench.open("a").append(texts(0..1)).unwrap();
    let b = bench.open("b");
    b.append(texts(0..1)).unwrap();
    let c = bench.open("c");
    assert_eq!(c.append(texts(0..1)), Err(LogError::TooManyTopics));

    let b = b.delete();

    c.append(texts(0..1)).unwrap();
    assert_eq!(b.append(texts(0..1)), Err(LogError::TooManyTopics));
    c.delete();
    assert_eq!(b.append(texts(0..1)).unwrap()[0].offset, 1);
    assert_eq!(bench.list().len(), 2);
}

fn promise_12_large_topics_are_deleted_while_others_are_used(make: Make) {
    let bench = plain(make);
    let large = bench.open("large");
    for _ in 0..20 {
        large
            .append((0..100).map(|_| text(vec![b'x'; 3000])).collect())
            .unwrap();
    }
    let large = large.delete();
    let others = bench.open("others");
    // Small ones, so that old and new records of one topic lie side by side for as long as the engine takes its time.
    for n in 0..200 {
        others.append(texts(n..n + 1)).unwrap();
        assert_eq!(large.append(texts(n..n + 1)).unwrap()[0].offset, n + 1);
        assert_eq!(large.page(0, n + 1).reached, n + 1);
    }
    assert_eq!(offsets(&large.page(0, 200)), (1..=200).collect::<Vec<_>>());
    assert!(bench.describe("large").bytes < 100_000);
}

/// Not that it is lost, while the engine takes away what is left of it.
fn promise_12_readers_are_told_that_it_is_deleted_while_they_read(make: Make) {
    let bench = plain(make);
    let others = bench.open("others");
    for _ in 0..6 {
        let orders = bench.open("orders");
        // So many that a read of all of them takes longer than some of the engine's turns.
        let records = 8_000;
        for _ in 0..records / 100 {
            orders
                .append((0..100).map(|_| text(vec![b'x'; 1000])).collect())
                .unwrap();
        }
        let pages = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let (bench, pages, read) = (&bench, &pages, orders.read_all());
                scope.spawn(move || {
                    loop {
                        match bench.read(read.clone()) {
                            Ok(page) => {
                                assert_covered(&page, 0);
                                assert_eq!(offsets(&page).len(), records);
                            }
                            Err(error) => return assert_eq!(error, LogError::OtherEpoch),
                        }
                        pages.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            wait_for("readers", || pages.load(Ordering::Relaxed) > 4);
            orders.delete();
            for n in 0..50 {
                others.append(texts(n..n + 1)).unwrap();
            }
        });
    }
}

fn promise_12_retention_goes_on_in_the_new_sequence(make: Make) {
    let bench = make(
        Retention {
            max_messages: 10,
            ..Retention::default()
        },
        10,
    );
    let old = bench.open("orders");
    for n in 0..100 {
        old.append(texts(n..n + 1)).unwrap();
    }
    old.wait_for_first(91);
    let new = old.delete();
    new.append(texts(0..10)).unwrap();
    assert_eq!(offsets(&new.page(0, 10)), (1..=10).collect::<Vec<_>>());
    for n in 0..25 {
        new.append(texts(n..n + 1)).unwrap();
    }
    new.wait_for_first(26);
    assert_eq!(bench.open("orders").found.first, 26);
}

/// Of engines that keep anything over a restart.
fn promise_12_deleted_is_gone_after_a_restart_too(make: Make) {
    let bench = plain(make);
    let a = bench.open("a");
    a.append(vec![sent_by("p", 1), keyed("k")]).unwrap();
    let a = a.delete();
    let b = bench.open("b");
    b.append(texts(0..50)).unwrap();
    let b = b.delete();
    b.append(texts(0..3)).unwrap();
    let unused = bench.open("unused").delete();
    let (a, b, unused) = (a.found.clone(), b.found.clone(), unused.found.clone());
    let Some(bench) = restart(bench) else { return };

    let again = |name: &str, before: &OpenedTopic, head: u64| {
        let opened = bench.open(name);
        let OpenedTopic {
            epoch,
            deleted,
            first,
            head: found_head,
            ..
        } = &opened.found;
        assert_eq!((epoch, deleted), (&before.epoch, &before.deleted), "{name}");
        assert_eq!((*first, *found_head), (1, head), "{name}");
        assert_eq!(opened.found.producers, []);
        assert_eq!(opened.found.keys, []);
        let page = opened.page(0, u64::MAX);
        assert_eq!(offsets(&page), (1..=head).collect::<Vec<_>>(), "{name}");
        for epoch in deleted {
            let read = Read {
                epoch: *epoch,
                ..opened.read_all()
            };
            assert_eq!(bench.read(read), Err(LogError::OtherEpoch), "{name}");
        }
        assert_eq!(opened.append(texts(0..1)).unwrap()[0].offset, head + 1);
        opened.found.deleted.clone()
    };
    assert_eq!(again("a", &a, 0).len(), 1);
    assert_eq!(again("b", &b, 3).len(), 1);
    assert_eq!(again("unused", &unused, 0).len(), 0);
    let names: Vec<String> = bench.list().iter().map(|i| i.topic.to_string()).collect();
    assert_eq!(names, ["a", "b", "unused"]);
    // And over another one.
    let Some(bench) = restart(bench) else { return };
    assert_eq!(bench.open("a").found.head, 1);
    assert_eq!(bench.open("b").found.head, 4);
    assert_eq!(bench.open("b").found.deleted, b.deleted);
}

/// Nobody takes what is old for older than it is because somebody has set the clock ahead.
fn a_clock_that_is_set_ahead_costs_nothing(make: Make) {
    const YEAR_MS: u64 = 365 * 24 * 60 * 60 * 1000;
    let bench = make(
        Retention {
            max_age_ms: 60_000,
            ..Retention::default()
        },
        10,
    );
    let orders = bench.open("orders");
    orders
        .append(vec![sent_by("p", 1), keyed("k"), text("x")])
        .unwrap();
    bench.clock.step(NOON + YEAR_MS);
    for n in 0..20 {
        orders.append(texts(n..n + 1)).unwrap();
        assert_eq!(offsets(&orders.page(0, 3)), [1, 2, 3]);
    }
    let again = bench.open("orders");
    assert_eq!((again.found.first, again.found.head), (1, 23));
    assert_eq!(
        (again.found.producers.len(), again.found.keys.len()),
        (1, 1)
    );
    bench.clock.step(NOON);
    bench.clock.set(NOON + 60_001);
    again.wait_for_first(4);
}

fn many_topics_are_written_and_read_at_once(make: Make) {
    let bench = plain(make);
    let (topics, rounds) = (60, 30);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let bench = &bench;
            scope.spawn(move || {
                let opened: Vec<Opened<'_>> = (0..topics / 6)
                    .map(|n| bench.open(&format!("t.{thread}.{n}")))
                    .collect();
                for round in 0..rounds {
                    for (n, topic) in opened.iter().enumerate() {
                        let data = format!("{thread} {n} {round}");
                        let kept = topic.append(vec![text(data.clone()), text(data)]).unwrap();
                        assert_eq!(kept[0].offset, round * 2 + 1);
                        let after = kept[0].offset.saturating_sub(5);
                        let page = topic.page(after, kept[1].offset);
                        assert_covered(&page, after);
                        assert_eq!(page.reached, kept[1].offset);
                        assert_eq!(*messages(&page).last().unwrap(), kept[1].message);
                    }
                }
            });
        }
    });
    let listed = bench.list();
    assert_eq!(listed.len(), topics);
    assert!(
        listed
            .iter()
            .all(|info| (info.first, info.head) == (1, rounds * 2))
    );
}

fn promise_13_a_count_is_of_the_records_that_are_read(make: Make) {
    let bench = plain(make);
    let orders = bench.open("orders");
    orders.append(texts(0..10)).unwrap();
    let topic = TopicName::parse("orders").unwrap();
    for (after, up_to) in [(0, 10), (0, 0), (3, 10), (3, 4), (10, 10), (4, 3)] {
        let read = offsets(&orders.page(after, up_to)).len() as u64;
        if let Some(count) = bench.log.count(&topic, after, up_to) {
            assert_eq!(count, read, "({after}, {up_to}]");
        }
    }
}

macro_rules! contract {
    ($make:expr; $($name:ident)*) => {
        $(#[test] fn $name() { super::$name($make) })*
    };
}

macro_rules! for_every_engine {
    ($($name:ident)*) => {
        mod in_memory { contract!(super::memory_bench; $($name)*); }
        mod in_sled { contract!(super::sled_bench; $($name)*); }
    };
}

fn memory_bench(retention: Retention, max_topics: usize) -> Bench {
    let clock = Clock::manual(NOON);
    let log = memory::MemoryLog::new(
        clock.clone(),
        Arc::new(move |_| retention),
        max_topics,
        u64::MAX,
    );
    Bench {
        log: Arc::new(log),
        clock,
        _keep: None,
    }
}

fn sled_bench(retention: Retention, max_topics: usize) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    sled_in(dir, Clock::manual(NOON), retention, max_topics)
}

/// A plain bench after a restart; `None` for an engine that keeps nothing over one.
fn restart(bench: Bench) -> Option<Bench> {
    let Bench { log, clock, _keep } = bench;
    log.shutdown();
    drop(log);
    _keep.map(|dir| sled_in(dir, clock, Retention::default(), 1000))
}

fn sled_in(dir: tempfile::TempDir, clock: Clock, retention: Retention, max_topics: usize) -> Bench {
    let log = sled::SledLog::open(sled::SledOptions {
        clock: clock.clone(),
        retention: Arc::new(move |_| retention),
        max_topics: max_topics as u64,
        tick: Duration::from_millis(5),
        ..sled::SledOptions::new(dir.path())
    });
    Bench {
        log: Arc::new(log.unwrap()),
        clock,
        _keep: Some(dir),
    }
}

for_every_engine! {
    promise_1_every_call_is_answered_once
    promise_1_after_shutdown_calls_are_answered_too
    promise_1_shutdown_commits_what_was_taken
    promise_2_what_is_appended_is_read_again
    promise_2_large_messages_are_kept_whole
    promise_2_many_records_in_one_append_lie_together
    promise_2_who_published_is_kept_and_told_to_those_who_ask
    promise_3_nothing_is_shown_beyond_up_to
    promise_4_pages_follow_each_other_without_a_hole
    promise_5_only_the_newest_generation_may_append
    promise_5_opening_sees_all_that_was_appended_before
    promise_6_opening_and_reading_create_nothing
    promise_6_there_are_at_most_so_many_topics
    topics_are_listed_by_name
    promise_7_head_and_first_outlive_the_records
    promise_8_time_does_not_go_back
    a_point_in_time_is_found
    promise_9_producers_and_keys_are_found_again
    promise_9_names_count_within_an_identity
    promise_9_producers_outlive_their_records
    promise_9_only_so_many_producers_and_keys_are_remembered
    promise_10_by_count
    promise_10_by_bytes
    promise_10_by_age
    promise_10_readers_are_told_what_expired_while_they_read
    promise_11_the_epoch_stays_while_the_log_is_open
    promise_12_deleted_means_gone
    promise_12_deletes_come_in_order_with_appends
    promise_12_deleting_nothing_changes_nothing
    promise_12_every_deletion_makes_another_sequence
    promise_12_deleting_makes_room_for_other_topics
    promise_12_large_topics_are_deleted_while_others_are_used
    promise_12_readers_are_told_that_it_is_deleted_while_they_read
    promise_12_retention_goes_on_in_the_new_sequence
    promise_12_deleted_is_gone_after_a_restart_too
    a_topic_is_described_as_it_is_listed
    a_clock_that_is_set_ahead_costs_nothing
    many_topics_are_written_and_read_at_once
    promise_13_a_count_is_of_the_records_that_are_read
}
