//! Where a subscription can start, at every boundary there is: what is delivered, and what is said about the rest.

use std::time::{Duration, Instant};

use hark_protocol::{Subprotocol, SubscribeFrom};
use hark_tests::{Acked, Broker, RawWs, Seen, Setup, Ws, until};
use rand::RngExt as _;
use serde_json::{Value, json};

/// Publishes `{"p": 0, "n": 1}` to `n` and so on, and gives what was acknowledged.
async fn fill(ws: &mut Ws, topic: &str, messages: u64) -> Acked {
    fill_with(ws, topic, messages, |_| json!(null)).await
}

/// Like `fill`, with something more in each message.
async fn fill_with(ws: &mut Ws, topic: &str, messages: u64, more: impl Fn(u64) -> Value) -> Acked {
    let data: Vec<Value> = (1..=messages)
        .map(|n| json!({"p": 0, "n": n, "more": more(n)}))
        .collect();
    let frames = data
        .iter()
        .map(|data| json!({"topic": topic, "data": data}));
    let receipts = ws.publish_all(frames, 128).await;
    let mut acked = Acked::default();
    for (receipt, data) in receipts.iter().zip(&data) {
        acked.receipt(receipt, data);
    }
    acked
}

/// Subscribes in a session of its own, and reads until nothing more comes.
async fn read(broker: &Broker, topic: &str, from: Value) -> (Value, Seen) {
    let mut ws = Ws::connect(broker).await;
    let subscribed = ws.subscribe(topic, from).await;
    let mut seen = Seen::start(topic, &subscribed);
    ws.follow(&mut seen, |seen| seen.caught_up == 1).await;
    ws.expect_quiet().await;
    (subscribed, seen)
}

/// The epoch of a topic, by its `subscribed`.
async fn epoch_of(ws: &mut Ws, topic: &str) -> String {
    let seen = ws.watch_to_caught_up(topic, json!("now")).await;
    ws.unsubscribe(topic).await;
    seen.epoch
}

#[tokio::test]
async fn a_topic_that_was_never_used_can_be_resumed() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let epoch = epoch_of(&mut ws, "elsewhere").await;

    let forms = [
        (json!("now"), false),
        (json!("earliest"), false),
        (json!({"last": 10}), false),
        (json!({"since": "5m"}), false),
        (json!({"since": "2020-01-01T00:00:00Z"}), false),
        (json!({"after": format!("{epoch}:0")}), true),
    ];
    for (n, (from, resumed)) in forms.into_iter().enumerate() {
        let topic = format!("never.{n}");
        let mut reader = Ws::connect(&broker).await;

        let subscribed = reader.subscribe(&topic, from.clone()).await;

        assert_eq!(subscribed["cursor"], format!("{epoch}:0"), "{from}");
        assert_eq!(
            (&subscribed["head"], &subscribed["resumed"]),
            (&json!(0), &json!(resumed)),
            "{from}"
        );
        let mut seen = Seen::start(&topic, &subscribed);
        reader.follow(&mut seen, |seen| seen.caught_up == 1).await;
        ws.publish(&topic, json!("first")).await;
        reader.follow(&mut seen, |seen| seen.position == 1).await;
        seen.expect([1]);
        reader.expect_quiet().await;
    }
}

#[tokio::test]
async fn subscribing_creates_no_topic() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish("used", json!(1)).await;
    for n in 0..100 {
        ws.subscribe(&format!("only.heard.{n}"), json!("earliest"))
            .await;
    }

    let topics = broker.http().get("/v1/topics").ok();

    assert!(topics.body.contains("used"), "{topics:#?}");
    assert!(!topics.body.contains("only.heard"), "{topics:#?}");
}

#[tokio::test]
async fn every_place_inside_the_log() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill(&mut ws, "a", 500).await;

    let places: [(Value, u64, bool); 14] = [
        (json!("now"), 500, false),
        (json!("earliest"), 0, false),
        (json!({"after": acked.cursor(0)}), 0, true),
        (json!({"after": acked.cursor(1)}), 1, true),
        (json!({"after": acked.cursor(250)}), 250, true),
        (json!({"after": acked.cursor(499)}), 499, true),
        (json!({"after": acked.cursor(500)}), 500, true),
        (json!({"last": 0}), 500, false),
        (json!({"last": 1}), 499, false),
        (json!({"last": 499}), 1, false),
        (json!({"last": 500}), 0, false),
        (json!({"last": 501}), 0, false),
        (json!({"last": u64::MAX}), 0, false),
        (json!({"since": "1h"}), 0, false),
    ];
    for (from, start, resumed) in places {
        let (subscribed, seen) = read(&broker, "a", from.clone()).await;

        assert_eq!(subscribed["cursor"], acked.cursor(start), "{from}");
        assert_eq!(
            (&subscribed["head"], &subscribed["resumed"]),
            (&json!(500), &json!(resumed)),
            "{from}"
        );
        seen.expect(start + 1..=500);
        acked.check(&seen);
    }
}

#[tokio::test]
async fn from_is_now_unless_it_says_more() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    fill(&mut ws, "a", 3).await;

    let subscribed = ws.ask(json!({"type": "subscribe", "topic": "a"})).await;

    assert!(
        subscribed["cursor"].as_str().unwrap().ends_with(":3"),
        "{subscribed}"
    );
    assert_eq!(subscribed["resumed"], false);
    ws.expect("caught_up").await;
    ws.expect_quiet().await;
}

#[tokio::test]
async fn a_cursor_ahead_of_everything_is_told_so() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill(&mut ws, "a", 10).await;
    let epoch = acked.cursor(0).split(':').next().unwrap().to_owned();

    // The topic grows by one with each case.
    for (topic, offset, head) in [("a", 11, 10), ("a", u64::MAX, 11), ("never.used", 1, 0)] {
        let mut reader = Ws::connect(&broker).await;
        let asked = format!("{epoch}:{offset}");

        let subscribed = reader.subscribe(topic, json!({"after": asked})).await;
        let gap = reader.expect("gap").await;
        let caught_up = reader.expect("caught_up").await;

        assert_eq!(
            (&subscribed["cursor"], &subscribed["resumed"]),
            (&json!(asked), &json!(false))
        );
        assert_eq!(
            (&gap["reason"], &gap["topic"]),
            (&json!("ahead"), &json!(topic))
        );
        assert_eq!(gap["cursor"], format!("{epoch}:{head}"), "to the head");
        assert_eq!(caught_up["cursor"], gap["cursor"]);
        ws.publish(topic, json!("next")).await;
        let message = reader.message().await;
        assert_eq!(
            (&message["offset"], &message["data"]),
            (&json!(head + 1), &json!("next"))
        );
        reader.expect_quiet().await;
    }
}

#[tokio::test]
async fn a_cursor_of_another_epoch_is_told_so_and_gets_all_there_is() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill(&mut ws, "a", 10).await;

    for asked in ["zzz:4", "1:0", "zzz:99999"] {
        let mut reader = Ws::connect(&broker).await;
        let subscribed = reader.subscribe("a", json!({"after": asked})).await;
        assert_eq!(
            (&subscribed["cursor"], &subscribed["resumed"]),
            (&json!(asked), &json!(false))
        );
        let mut seen = Seen::start("a", &subscribed);
        reader.follow(&mut seen, |seen| seen.caught_up == 1).await;
        reader.expect_quiet().await;

        assert_eq!(seen.gaps.len(), 1, "{seen:?}");
        let gap = &seen.gaps[0];
        assert_eq!(
            (&gap["reason"], &gap["cursor"]),
            (&json!("other_epoch"), &json!(acked.cursor(0))),
            "{gap}"
        );
        assert_eq!(
            (&gap["from"], &gap["to"]),
            (&Value::Null, &Value::Null),
            "another sequence has no range: {gap}"
        );
        assert_eq!(seen.offsets(), (1..=10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_cursor_before_the_first_is_told_exactly_what_has_expired() {
    let broker = Setup::new().flag("retention-messages", 100).start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill(&mut ws, "a", 2000).await;
    let first = until("retention has caught up", async || {
        let first = broker
            .http()
            .history("a", "from=earliest&limit=1")
            .ok()
            .json()["messages"][0]["offset"]
            .as_u64();
        first.filter(|first| *first > 1500)
    })
    .await;

    let (subscribed, earliest) = read(&broker, "a", json!("earliest")).await;
    assert_eq!(subscribed["resumed"], false);
    assert_eq!(
        earliest.gaps,
        Vec::<Value>::new(),
        "the oldest there is was asked for, and given"
    );
    assert!(earliest.start + 1 >= first);
    acked.check(&earliest);

    for asked in [0, 3, first - 2] {
        let (subscribed, seen) = read(&broker, "a", json!({"after": acked.cursor(asked)})).await;
        assert_eq!(
            (&subscribed["cursor"], &subscribed["resumed"]),
            (&json!(acked.cursor(asked)), &json!(false))
        );
        assert_eq!(seen.gaps.len(), 1, "{:?}", seen.gaps);
        let gap = &seen.gaps[0];
        let next = seen.offsets()[0];
        assert_eq!(gap["reason"], "expired");
        assert_eq!(
            (&gap["from"], &gap["to"]),
            (&json!(asked + 1), &json!(next - 1)),
            "exactly: {gap}"
        );
        assert_eq!(gap["cursor"], acked.cursor(next - 1));
        assert_eq!(seen.offsets(), (next..=2000).collect::<Vec<_>>());
        acked.check(&seen);
    }

    let (_, at_first) = read(&broker, "a", json!({"after": acked.cursor(earliest.start)})).await;
    at_first.expect(earliest.start + 1..=2000);
    let (_, all_that_is_left) = read(&broker, "a", json!({"last": 2000})).await;
    assert_eq!(all_that_is_left.gaps, Vec::<Value>::new());
    assert_eq!(all_that_is_left.position, 2000);
}

#[tokio::test]
async fn an_emptied_topic_keeps_its_head() {
    let broker = Setup::new().flag("retention-age", "1s").start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill(&mut ws, "a", 20).await;
    until("all has expired", async || {
        let history = broker.http().history("a", "from=earliest").ok().json();
        history["messages"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(())
    })
    .await;

    for from in [
        json!("earliest"),
        json!("now"),
        json!({"last": 5}),
        json!({"after": acked.cursor(20)}),
    ] {
        let (subscribed, seen) = read(&broker, "a", from.clone()).await;
        assert_eq!(
            (&subscribed["cursor"], &subscribed["head"]),
            (&json!(acked.cursor(20)), &json!(20)),
            "{from}"
        );
        seen.expect([]);
    }
    let (_, behind) = read(&broker, "a", json!({"after": acked.cursor(7)})).await;
    assert_eq!(behind.gaps.len(), 1);
    assert_eq!(
        (&behind.gaps[0]["from"], &behind.gaps[0]["to"]),
        (&json!(8), &json!(20))
    );

    let receipt = ws.publish("a", json!("again")).await;
    assert_eq!(receipt["cursor"], acked.cursor(21));
}

#[tokio::test]
async fn since_a_time_starts_with_the_first_message_of_that_time() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut seen = ws.watch("a", json!("now")).await;
    ws.follow(&mut seen, |seen| seen.caught_up == 1).await;
    let mut times = Vec::new();
    while times.len() < 40 {
        ws.publish("a", json!(times.len())).await;
        times.push(ws.message().await["time"].as_u64().unwrap());
    }
    assert!(times.is_sorted(), "time never goes back: {times:?}");

    let asked = times.iter().flat_map(|time| [time - 1, *time, time + 1]);
    for time in asked {
        let since = SubscribeFrom::SinceTime(time).since_text().unwrap();
        let expected = times.iter().position(|t| *t >= time).unwrap_or(times.len()) as u64;

        let (subscribed, seen) = read(&broker, "a", json!({"since": since})).await;

        assert_eq!(
            seen.start, expected,
            "since {since} of {times:?}: {subscribed}"
        );
        seen.expect(expected + 1..=40);
    }
    let (_, none) = read(&broker, "a", json!({"since": "2999-01-01T00:00:00Z"})).await;
    none.expect([]);
    let (_, all) = read(&broker, "a", json!({"since": "1970-01-01T01:00:00+01:00"})).await;
    all.expect(1..=40);
}

#[tokio::test]
async fn since_so_long_ago_counts_back_from_now() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let span = Duration::from_secs(3);
    ws.publish("a", json!("old")).await;
    let kept_old = Instant::now();

    // On a machine so busy that three seconds pass within a round the round proves nothing, and is done again.
    until("a round was quick enough", async || {
        until("the old one is old enough", async || {
            (kept_old.elapsed() > span).then_some(())
        })
        .await;
        let before = Instant::now();
        let receipt = ws.publish("a", json!("young")).await;
        let (_, seen) = read(&broker, "a", json!({"since": "3s"})).await;
        let quick = before.elapsed() < span;
        assert!(
            !seen.offsets().contains(&1),
            "older than asked for: {seen:?}"
        );
        let young = receipt["cursor"].as_str().unwrap();
        quick.then(|| assert_eq!(seen.cursor(), young, "{seen:?}"))
    })
    .await;
}

/// Sizes around what a page, a stored value and a credit hold, and the largest that a frame can carry.
fn padding(n: u64) -> Value {
    let bytes = match n % 97 {
        13 => 66_000,
        29 => 300_000,
        61 => 1_000_000,
        0..10 => 7_100,
        _ => (n % 13) * 150,
    };
    json!("x".repeat(usize::try_from(bytes).unwrap()))
}

#[tokio::test]
async fn history_over_many_pages_is_complete_wherever_it_starts() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let acked = fill_with(&mut ws, "a", 800, padding).await;

    for (subprotocol, start) in [(Subprotocol::Json, 0), (Subprotocol::Bincode, 0)] {
        let mut reader = Ws::connect_as(&broker, subprotocol).await;
        let seen = reader
            .watch_to_caught_up("a", json!({"after": acked.cursor(start)}))
            .await;
        seen.expect(start + 1..=800);
        acked.check(&seen);
        reader.expect_quiet().await;
    }
    for _ in 0..20 {
        let start = rand::rng().random_range(500..=800);
        let (_, seen) = read(&broker, "a", json!({"after": acked.cursor(start)})).await;
        seen.expect(start + 1..=800);
        acked.check(&seen);
    }
}

#[tokio::test]
async fn one_session_catches_up_with_many_topics_in_turn() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let mut acked = Vec::new();
    for n in 0..20 {
        acked.push(
            fill_with(&mut ws, &format!("t.{n}"), 150, |n| {
                json!("x".repeat((n % 7) as usize * 200))
            })
            .await,
        );
    }

    let mut reader = Ws::connect(&broker).await;
    for n in 0..20 {
        let id = reader.new_id();
        let topic = format!("t.{n}");
        reader
            .send(&json!({"type": "subscribe", "id": id, "topic": topic, "from": "earliest"}))
            .await;
    }
    let mut seen: Vec<Option<Seen>> = vec![None; 20];
    let mut open = 20;
    while open > 0 {
        let frame = reader.recv().await;
        let topic = frame["topic"].as_str().unwrap();
        let n: usize = topic.strip_prefix("t.").unwrap().parse().unwrap();
        match &mut seen[n] {
            none @ None => *none = Some(Seen::start(topic, &frame)),
            Some(seen) => {
                seen.take(&frame);
                open -= usize::from(frame["type"] == "caught_up");
            }
        }
    }
    for (acked, seen) in acked.iter().zip(seen.iter().flatten()) {
        seen.expect(1..=150);
        acked.check(seen);
    }
    reader.expect_quiet().await;
}

/// A reader that stops for so long that retention passes it is told so in the stream, and goes on.
#[tokio::test]
async fn retention_that_overtakes_a_lagging_reader_leaves_a_named_gap() {
    let broker = Setup::new().flag("retention-messages", 200).start();
    let mut ws = Ws::connect(&broker).await;
    let mut slow = RawWs::connect_small(&broker);
    slow.send_json(&json!({"type": "subscribe", "topic": "a", "from": "earliest"}));
    let mut seen = Seen::start("a", &slow.read_json());

    let acked = fill_with(&mut ws, "a", 20_000, |_| json!("x".repeat(1000))).await;
    until("retention has caught up", async || {
        let history = broker
            .http()
            .history("a", "from=earliest&limit=1")
            .ok()
            .json();
        history["messages"][0]["offset"]
            .as_u64()
            .filter(|first| *first > 19_000)
    })
    .await;
    while seen.position < 20_000 {
        seen.take(&slow.read_json());
    }

    assert!(
        !seen.gaps.is_empty(),
        "20 MB went by, and nothing was missed?"
    );
    assert!(
        seen.gaps.iter().all(|gap| gap["reason"] == "expired"),
        "{:?}",
        seen.gaps
    );
    acked.check(&seen);
}

/// Rooms retire when nobody needs them. Whoever comes back meets the same sequence, at whatever moment.
#[tokio::test]
async fn a_room_that_retires_changes_nothing() {
    let broker = Setup::new().flag("room-idle", "20ms").start();
    let mut acked = Acked::default();
    let mut reader: Option<Seen> = None;
    let mut ws = Ws::connect(&broker).await;

    for n in 0..300_u64 {
        // Around the time at which the room goes.
        let pause = Duration::from_micros(rand::rng().random_range(0..40_000));
        tokio::time::sleep(pause).await;
        let data = json!({"p": 0, "n": n});
        let mut frame = json!({"topic": "a", "data": data});
        frame["producer"] = json!("p");
        frame["seq"] = json!(n + 1);
        acked.receipt(&ws.publish_frame(frame.clone()).await, &data);
        if n % 10 == 3 {
            let again = ws.publish_frame(frame).await;
            assert_eq!(
                again["duplicate"], true,
                "the producer is known again: {again}"
            );
        }
        if n % 5 == 0 {
            let mut other = Ws::connect(&broker).await;
            let from = reader.as_ref().map_or(json!("earliest"), Seen::after);
            let subscribed = other.subscribe("a", from).await;
            let mut seen = reader
                .take()
                .unwrap_or_else(|| Seen::start("a", &subscribed));
            seen.resume(&subscribed);
            other.follow(&mut seen, |seen| seen.caught_up == 1).await;
            reader = Some(seen);
        }
    }

    let mut seen = reader.unwrap();
    let mut last = Ws::connect(&broker).await;
    seen.resume(&last.subscribe("a", seen.after()).await);
    last.follow(&mut seen, |seen| seen.caught_up == 1).await;
    seen.expect(1..=300);
    acked.check(&seen);
    acked.check_publishers();
}

#[tokio::test]
async fn a_room_does_not_retire_from_under_its_subscribers() {
    let broker = Setup::new().flag("room-idle", "20ms").start();
    let mut reader = Ws::connect(&broker).await;
    let mut seen = reader.watch("a", json!("now")).await;
    reader.follow(&mut seen, |seen| seen.caught_up == 1).await;
    let mut ws = Ws::connect(&broker).await;

    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        ws.publish("a", json!(n)).await;
        reader
            .follow(&mut seen, |seen| seen.position == n + 1)
            .await;
    }
    reader.expect_quiet().await;
}
