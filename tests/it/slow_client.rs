//! Clients that stop reading: what they cost the broker, that they cost nobody else, and that they lose nothing.

use std::time::{Duration, Instant};

use hark_tests::{Broker, DEADLINE, RawWs, Seen, Ws};
use serde_json::{Value, json};

/// How many messages of about 1 KB are published, in how many rounds.
const ROUNDS: u64 = 40;
const A_ROUND: u64 = 200;
const READERS: u64 = 50;
const SLOW: usize = 20;
/// What a client that does not read may cost (promise 7, as issue and README put it in figures).
const MOST_PER_SLOW_CLIENT: u64 = 2 << 20;

/// A subscriber over bare TCP that has read `subscribed` and `caught_up`, and reads no more.
fn stopped(broker: &Broker) -> (RawWs, Seen) {
    let mut raw = RawWs::connect_small(broker);
    raw.send_json(&json!({"type": "subscribe", "topic": "a", "from": "now"}));
    let mut seen = Seen::start("a", &raw.read_json());
    seen.take(&raw.read_json());
    (raw, seen)
}

/// What a run came to.
struct Run {
    /// Bytes the broker had resident after the last message, while the slow clients still read nothing.
    rss: u64,
    /// How long each round took until all readers had all of it, in milliseconds, sorted.
    rounds_ms: Vec<u128>,
}

/// Publishes round by round; each round ends when all readers have all of its messages, whatever the slow clients do.
async fn run(broker: &Broker, messages: &[Value]) -> Run {
    let mut publisher = Ws::connect(broker).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut ws = Ws::connect(broker).await;
        let seen = ws.watch("a", json!("now")).await;
        readers.push((ws, seen));
    }
    let mut rounds_ms = Vec::new();
    for (round, messages) in (1..).zip(messages.chunks(usize::try_from(A_ROUND).unwrap())) {
        let start = Instant::now();
        publisher.publish_all(messages.iter().cloned(), 64).await;
        for (ws, seen) in &mut readers {
            ws.follow(seen, |seen| seen.position == round * A_ROUND)
                .await;
        }
        rounds_ms.push(start.elapsed().as_millis());
    }
    for (_, seen) in &readers {
        seen.expect(1..=ROUNDS * A_ROUND);
    }
    rounds_ms.sort_unstable();
    Run {
        rss: broker.rss_bytes(),
        rounds_ms,
    }
}

fn messages() -> Vec<Value> {
    (1..=ROUNDS * A_ROUND)
        .map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(1000)}}))
        .collect()
}

/// Reads on to the end and checks that nothing is missing.
fn read_to_the_end(raw: &mut RawWs, seen: &mut Seen) {
    while seen.position < ROUNDS * A_ROUND {
        seen.take(&raw.read_json());
    }
    seen.expect(1..=ROUNDS * A_ROUND);
}

#[tokio::test]
async fn clients_that_stop_reading_cost_little_and_lose_nothing() {
    let messages = messages();
    let without = run(&Broker::start(), &messages).await;

    let broker = Broker::start();
    let mut slow: Vec<(RawWs, Seen)> = (0..SLOW).map(|_| stopped(&broker)).collect();
    let with = run(&broker, &messages).await;

    println!(
        "rounds of {A_ROUND} messages to {READERS} readers: median {} ms alone, {} ms beside {SLOW} that do not read; \
         the broker's memory: {} and {} bytes",
        without.rounds_ms[without.rounds_ms.len() / 2],
        with.rounds_ms[with.rounds_ms.len() / 2],
        without.rss,
        with.rss
    );
    // That the readers had everything while the others had read nothing is the proof that they did not wait for them: the
    // 8 MB published are far more than the system's buffers for the slow clients hold.
    let each = with.rss.saturating_sub(without.rss) / SLOW as u64;
    assert!(each < MOST_PER_SLOW_CLIENT, "each costs {each} bytes");

    let (here, gone) = slow.split_at_mut(SLOW / 2);
    for (raw, seen) in here {
        read_to_the_end(raw, seen); // It reads again, on the same connection.
    }
    for (raw, seen) in gone {
        for _ in 0..3 {
            seen.take(&raw.read_json());
        }
        *raw = RawWs::connect(&broker); // It comes back, with its cursor.
        raw.send_json(&json!({"type": "subscribe", "topic": "a", "from": seen.after()}));
        seen.resume(&raw.read_json());
        read_to_the_end(raw, seen);
    }
}

/// It cannot know by itself that it is behind: what comes is in order, and late. It is told, once it has been live, how far.
#[tokio::test]
async fn a_client_that_falls_behind_is_told() {
    let began = Instant::now();
    let broker = Broker::start();
    let (mut raw, mut seen) = stopped(&broker);
    let mut quick = Ws::connect(&broker).await;
    let mut all = quick.watch("a", json!("now")).await;
    let mut publisher = Ws::connect(&broker).await;
    publisher.publish_all(messages(), 64).await;
    quick
        .follow(&mut all, |seen| seen.position == ROUNDS * A_ROUND)
        .await;

    read_to_the_end(&mut raw, &mut seen); // that its cursor is the client's position, `seen` has checked

    let most = 1 + began.elapsed().as_secs() / 10;
    let told = seen.lagging.len() as u64;
    assert!((1..=most).contains(&told), "{:?}", seen.lagging);
    for lagging in &seen.lagging {
        let offset = lagging["cursor"].as_str().unwrap().rsplit(':').next();
        let position: u64 = offset.unwrap().parse().unwrap();
        let behind = lagging["behind"].as_u64().unwrap();
        assert!(
            behind > 0 && position + behind <= ROUNDS * A_ROUND,
            "{lagging}"
        );
    }
    // One that begins with the first message has as much before it, and has asked for that.
    let mut raw = RawWs::connect_small(&broker);
    raw.send_json(&json!({"type": "subscribe", "topic": "a", "from": "earliest"}));
    let mut seen = Seen::start("a", &raw.read_json());
    while seen.caught_up == 0 {
        seen.take(&raw.read_json());
    }
    assert_eq!(seen.lagging, Vec::<Value>::new());
}

/// One that stops again and again goes back and forth between live and lagging, and notices nothing.
#[tokio::test]
async fn a_client_that_stops_again_and_again_sees_one_unbroken_stream() {
    let broker = Broker::start();
    let (mut raw, mut seen) = stopped(&broker);
    let mut publisher = Ws::connect(&broker).await;
    let messages = messages();

    for (round, messages) in (1..).zip(messages.chunks(500)) {
        publisher.publish_all(messages.iter().cloned(), 128).await;
        // Reads nearly all on some rounds and little on others.
        let goal = if round % 3 == 0 {
            round * 500
        } else {
            seen.position + 10
        };
        while seen.position < goal {
            seen.take(&raw.read_json());
        }
    }

    read_to_the_end(&mut raw, &mut seen);
    raw.send_json(&json!({"type": "ping", "id": 1}));
    assert_eq!(raw.read_json(), json!({"type": "pong", "id": 1}));
}

/// The commands of a session that does not read wait with it; they are not lost either.
#[tokio::test]
async fn a_blocked_session_answers_when_it_is_read_again() {
    let broker = Broker::start();
    let (mut raw, mut seen) = stopped(&broker);
    let mut publisher = Ws::connect(&broker).await;
    publisher.publish_all(messages(), 256).await;

    raw.send_json(
        &json!({"type": "publish", "id": 7, "topic": "b", "data": "from a blocked session"}),
    );
    raw.send_json(&json!({"type": "unsubscribe", "id": 8, "topic": "a"}));

    let (mut published, mut unsubscribed) = (false, false);
    while !(published && unsubscribed) {
        let frame = raw.read_json();
        match frame["id"].as_u64() {
            Some(7) => published = frame["type"] == "published",
            Some(8) => unsubscribed = frame["type"] == "unsubscribed",
            _ => {
                assert!(
                    !unsubscribed,
                    "after `unsubscribed` nothing comes of the topic: {frame}"
                );
                seen.take(&frame);
            }
        }
    }
    let heard = Ws::connect(&broker)
        .await
        .watch_to_caught_up("b", json!("earliest"))
        .await;
    assert_eq!(heard.data(), [r#""from a blocked session""#]);
}

/// One session with many topics has one credit, whatever the topics do.
#[tokio::test]
async fn a_stopped_client_of_many_topics_loses_nothing() {
    const TOPICS: u64 = 10;
    let broker = Broker::start();
    let mut raw = RawWs::connect_small(&broker);
    let mut seen = Vec::new();
    for n in 0..TOPICS {
        raw.send_json(&json!({"type": "subscribe", "topic": format!("t.{n}"), "from": "now"}));
        let mut one = Seen::start(&format!("t.{n}"), &raw.read_json());
        one.take(&raw.read_json());
        seen.push(one);
    }
    let mut publisher = Ws::connect(&broker).await;
    let frames =
        (0..6000).map(|n| json!({"topic": format!("t.{}", n % TOPICS), "data": "x".repeat(1000)}));
    publisher.publish_all(frames, 256).await;

    while seen.iter().any(|seen| seen.position < 6000 / TOPICS) {
        let frame = raw.read_json();
        let n: usize = frame["topic"]
            .as_str()
            .unwrap()
            .strip_prefix("t.")
            .unwrap()
            .parse()
            .unwrap();
        seen[n].take(&frame);
    }
    for seen in seen {
        seen.expect(1..=6000 / TOPICS);
    }
}

/// Promise 7: only who takes nothing at all for a minute is ended, or so little that not even a page gets through; and both
/// can resume.
#[tokio::test]
async fn who_takes_nothing_for_a_minute_is_ended_and_can_resume() {
    let broker = Broker::start();
    let mut publisher = Ws::connect(&broker).await;
    let sockets = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", broker.pid()))
            .unwrap()
            .filter_map(Result::ok);
        let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    };
    publisher
        .publish("b", json!("so that everything is open"))
        .await;
    let without = sockets();
    let (mut stopped_one, mut stopped_seen) = stopped(&broker);
    let (mut trickling, trickling_seen) = stopped(&broker);
    publisher.publish_all(messages(), 256).await;

    let start = Instant::now();
    while sockets() > without {
        tokio::time::sleep(Duration::from_millis(200)).await;
        trickling.take_bytes(10);
        assert!(
            start.elapsed() < 4 * DEADLINE,
            "{} of {without} sockets are open",
            sockets()
        );
    }
    assert!(
        start.elapsed() > DEADLINE / 2,
        "ended after {:?}, long before a minute",
        start.elapsed()
    );

    // What had been sent is still to be read, by one that knows its place.
    for _ in 0..3 {
        stopped_seen.take(&stopped_one.read_json());
    }
    for mut seen in [stopped_seen, trickling_seen] {
        let mut ws = Ws::connect(&broker).await;
        let subscribed = ws.subscribe("a", seen.after()).await;
        seen.resume(&subscribed);
        ws.follow(&mut seen, |seen| seen.position == ROUNDS * A_ROUND)
            .await;
        seen.expect(1..=ROUNDS * A_ROUND);
    }
}
