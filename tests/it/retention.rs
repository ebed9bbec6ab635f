//! Retention where no room asks for it: the bound for all topics together, and topics that nobody has open. What a reader that is
//! overtaken hears is here as well as in `soak` and `resume`; whether the file levels off, in `soak` alone.

use hark_tests::{Broker, Seen, Setup, Ws, until};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const MESSAGE_BYTES: u64 = 4000;
/// A stored value, and what its keys come to: no bound is kept more exactly.
const VALUE_BYTES: u64 = 16 * 1024;

/// A topic as it is listed. Listing asks the log, and opens no room.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    name: String,
    epoch: Value,
    first: u64,
    head: u64,
    bytes: u64,
}

fn list(broker: &Broker) -> Vec<Listed> {
    let listed = broker.http().get("/v1/topics").ok().json();
    let topics = listed["topics"].as_array().unwrap().iter();
    let number = |value: &Value| value.as_u64().unwrap();
    let topics = topics.map(|topic| Listed {
        name: topic["topic"].as_str().unwrap().to_owned(),
        epoch: topic["epoch"].clone(),
        first: number(&topic["first"]),
        head: number(&topic["head"]),
        bytes: number(&topic["bytes"]),
    });
    topics.collect()
}

fn find<'a>(topics: &'a [Listed], name: &str) -> &'a Listed {
    topics.iter().find(|topic| topic.name == name).unwrap()
}

fn total(topics: &[Listed]) -> u64 {
    topics.iter().map(|topic| topic.bytes).sum()
}

/// Publishes about so many bytes.
async fn fill(broker: &Broker, topic: &str, bytes: u64) {
    let data = "x".repeat(usize::try_from(MESSAGE_BYTES).unwrap());
    let publish = json!({"topic": topic, "data": data});
    let count = usize::try_from(bytes / MESSAGE_BYTES).unwrap();
    let mut ws = Ws::connect(broker).await;
    let answers = ws
        .publish_all(std::iter::repeat_n(publish, count), 100)
        .await;
    let refused = answers.iter().find(|answer| answer["type"] != "published");
    assert_eq!(refused, None);
}

/// The topics, as soon as they are as they should be.
async fn listed_when(
    broker: &Broker,
    what: &str,
    is_right: impl Fn(&[Listed]) -> bool,
) -> Vec<Listed> {
    until(what, async || {
        Some(list(broker)).filter(|topics| is_right(topics))
    })
    .await
}

/// Whoever comes back with a cursor from the topic's beginning is told what has expired, exactly, and gets all the rest.
async fn expect_expired(broker: &Broker, topic: &Listed) -> Seen {
    let after = json!({"after": format!("{}:1", topic.epoch.as_str().unwrap())});
    let mut ws = Ws::connect(broker).await;
    let subscribed = ws.subscribe(&topic.name, after).await;
    assert_eq!(subscribed["resumed"], false, "{subscribed}");
    let mut seen = Seen::start(&topic.name, &subscribed);
    ws.follow(&mut seen, |seen| seen.caught_up == 1).await;
    let told = &seen.gaps[0];
    assert_eq!(
        (&told["reason"], &told["from"], &told["to"]),
        (&json!("expired"), &json!(2), &json!(topic.first - 1)),
        "{told}"
    );
    assert_eq!(seen.gaps.len(), 1, "{:?}", seen.gaps);
    assert!(
        seen.offsets().into_iter().eq(topic.first..=topic.head),
        "{topic:?}"
    );
    seen
}

/// Nothing of it is missing.
async fn expect_whole(broker: &Broker, topic: &Listed) {
    assert_eq!(topic.first, 1, "{topic:?}");
    let mut ws = Ws::connect(broker).await;
    let seen = ws.watch_to_caught_up(&topic.name, json!("earliest")).await;
    seen.expect(1..=topic.head);
}

#[tokio::test]
async fn all_topics_together_keep_to_their_bound_and_the_largest_give() {
    const BOUND: u64 = 20 * MIB;
    /// Once they keep too much they are brought this far below it (a 64th), and each may be a value short of that.
    const SLACK: u64 = BOUND / 64 + 4 * VALUE_BYTES;
    let dir = tempfile::tempdir().unwrap();
    let setup = |bound: u64| {
        let setup = Setup::new().data_dir(&dir.path().join("data"));
        setup.flag("retention-total-bytes", bound).restarts()
    };
    let mut broker = setup(BOUND).start();
    for (topic, mib) in [("small", 2), ("middle", 4), ("large", 9), ("largest", 12)] {
        fill(&broker, topic, mib * MIB).await;
    }

    let within = |topics: &[Listed]| total(topics) <= BOUND;
    let mut before = listed_when(&broker, "all keep to the bound", within).await;

    assert!(total(&before) >= BOUND - SLACK, "too much: {before:?}");
    for smaller in ["small", "middle"] {
        expect_whole(&broker, find(&before, smaller)).await;
    }
    let (large, largest) = (find(&before, "large"), find(&before, "largest"));
    assert!(
        large.bytes.abs_diff(largest.bytes) <= SLACK,
        "the largest give alike: {before:?}"
    );
    expect_expired(&broker, large).await;
    expect_expired(&broker, largest).await;

    // However much more comes, it levels off, and what is small stays whole.
    for _ in 0..5 {
        fill(&broker, "largest", 4 * MIB).await;
        let now = listed_when(&broker, "all keep to the bound", within).await;
        assert!(total(&now) >= BOUND - SLACK, "too much: {now:?}");
        let (was, is) = (find(&before, "largest"), find(&now, "largest"));
        assert!(is.first > was.first, "{was:?}, {is:?}");
        for smaller in ["small", "middle"] {
            assert_eq!(find(&before, smaller), find(&now, smaller));
        }
        before = now;
    }
    expect_expired(&broker, find(&before, "largest")).await;

    // A kill brings back at most what was just being taken, and a smaller bound is kept though nobody opens any of them.
    broker.kill9();
    broker.start_again();
    let again = listed_when(&broker, "all keep to the bound", within).await;
    for (was, is) in before.iter().zip(&again) {
        assert_eq!(
            (&was.name, &was.epoch, was.head),
            (&is.name, &is.epoch, is.head)
        );
    }
    broker.stop();
    drop(broker);
    let broker = setup(BOUND / 2).start();
    let smaller = |topics: &[Listed]| total(topics) <= BOUND / 2;
    let topics = listed_when(&broker, "all keep to a smaller bound", smaller).await;
    assert!(total(&topics) >= BOUND / 2 - SLACK, "too much: {topics:?}");
    expect_whole(&broker, find(&topics, "small")).await;
    for given in ["middle", "large", "largest"] {
        let mut seen = expect_expired(&broker, find(&topics, given)).await;
        // And it goes on where it was.
        let mut ws = Ws::connect(&broker).await;
        seen.resume(&ws.subscribe(given, seen.after()).await);
        let receipt = ws.publish(given, json!("next")).await;
        ws.follow(&mut seen, |seen| seen.cursor() == receipt["cursor"])
            .await;
    }
}

/// Topics of 40 messages each, some values of the log.
async fn fill_some(broker: &Broker) -> Vec<Listed> {
    for n in 0..20 {
        fill(broker, &format!("inbox.{n:02}"), 40 * MESSAGE_BYTES).await;
    }
    let topics = list(broker);
    assert!(topics.iter().all(|topic| topic.head == 40), "{topics:?}");
    topics
}

/// Whatever of it has expired.
fn expect_same_topics(before: &[Listed], now: &[Listed]) {
    assert_eq!(before.len(), now.len());
    for (was, is) in before.iter().zip(now) {
        assert_eq!(
            (&was.name, &was.epoch, was.head),
            (&is.name, &is.epoch, is.head)
        );
    }
}

/// In a life of the broker in which nobody opens them: no room can have asked for it.
async fn trimmed_unopened(flag: &str, bound: u64, keeps: std::ops::RangeInclusive<u64>) {
    let dir = tempfile::tempdir().unwrap();
    // A round over all topics comes twenty times in the age that is kept.
    let setup = || {
        let setup = Setup::new().data_dir(&dir.path().join("data"));
        setup.flag("retention-age", "4m")
    };
    let mut broker = setup().start();
    let before = fill_some(&broker).await;
    assert!(before.iter().all(|topic| topic.first == 1), "{before:?}");
    broker.kill9();
    drop(broker);
    let broker = setup().flag(flag, bound).start();

    let kept = |topic: &Listed| topic.head + 1 - topic.first;
    let topics = listed_when(&broker, "what nobody opened is trimmed", |topics| {
        topics.iter().all(|topic| kept(topic) <= *keeps.end())
    })
    .await;

    expect_same_topics(&before, &topics);
    for topic in &topics {
        assert!(keeps.contains(&kept(topic)), "{topic:?}");
        expect_expired(&broker, topic).await;
    }
}

#[tokio::test]
async fn topics_that_nobody_opens_are_trimmed_by_count() {
    // The value in which the bound lies stays: at most two messages share one.
    trimmed_unopened("retention-messages", 10, 10..=11).await;
}

#[tokio::test]
async fn topics_that_nobody_opens_are_trimmed_by_bytes() {
    trimmed_unopened("retention-bytes", 10 * MESSAGE_BYTES, 8..=12).await;
}

/// In the life in which they were published: their rooms retire, and what was in them grows old.
#[tokio::test]
async fn what_grows_old_goes_from_topics_whose_rooms_have_retired() {
    let setup = Setup::new().flag("room-idle", "20ms").restarts();
    let mut broker = setup.flag("retention-age", "6s").start();
    let before = fill_some(&broker).await;

    let all_gone = |topics: &[Listed]| topics.iter().all(|topic| topic.first > topic.head);
    let topics = listed_when(&broker, "what is old has gone", all_gone).await;

    expect_same_topics(&before, &topics);
    assert_eq!(total(&topics), 0);
    for topic in &topics {
        expect_expired(&broker, topic).await;
    }
    let mut ws = Ws::connect(&broker).await;
    let receipt = ws.publish("inbox.07", json!("next")).await;
    let epoch = before[7].epoch.as_str().unwrap();
    assert_eq!(receipt["cursor"], format!("{epoch}:41"));
    // What was taken is committed by now, since what came after it is.
    broker.kill9();
    broker.start_again();
    let others = |topics: Vec<Listed>| topics.into_iter().filter(|topic| topic.name != "inbox.07");
    assert!(others(list(&broker)).eq(others(topics)), "it comes back");
}

#[tokio::test]
async fn a_topic_keeps_so_many_messages_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let setup = |most: u64| {
        let setup = Setup::new().data_dir(&dir.path().join("data"));
        setup.flag("retention-messages", most)
    };
    let mut broker = setup(10).start();
    let lines = |count: usize| "{\"topic\":\"a\",\"data\":1}\n".repeat(count);
    let ndjson = [("content-type", "application/x-ndjson")];
    let mut head = 0;
    // Messages that come together share a place in the log; however many do, the bound is the same.
    for count in [488, 1, 9, 300, 2] {
        let path = "/v1/messages";
        let answer = broker.http().post(path, &ndjson, lines(count));
        assert_eq!(answer.status, 200, "{answer:?}");
        head += count as u64;
        let listed = listed_when(&broker, "it has ten", |topics| {
            find(topics, "a").head == head && find(topics, "a").first == head - 9
        })
        .await;
        let seen = expect_expired(&broker, find(&listed, "a")).await;
        assert_eq!(seen.messages.len(), 10);
        let history = broker.http().history("a", "from=earliest").ok().json();
        assert_eq!(
            history["messages"].as_array().unwrap().len(),
            10,
            "{history}"
        );
    }
    broker.stop();

    // A smaller bound holds from the next start on.
    let broker = setup(3).start();
    let listed = listed_when(&broker, "it has three", |topics| {
        find(topics, "a").first == head - 2
    })
    .await;
    expect_expired(&broker, find(&listed, "a")).await;
}
