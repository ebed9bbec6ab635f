//! Things that happen at the same time: subscribing while others publish, leaving and coming back while batches are
//! queued, full speed from several sessions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hark_protocol::Subprotocol;
use hark_tests::{Acked, Broker, Seen, Setup, Ws};
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::restart::each_publisher_in_order;

fn offset_of(cursor: &Value) -> u64 {
    cursor
        .as_str()
        .unwrap()
        .split_once(':')
        .unwrap()
        .1
        .parse()
        .unwrap()
}

#[tokio::test]
async fn a_subscribe_that_races_a_publish_a_thousand_times() {
    let broker = Broker::start();
    let mut publisher = Ws::connect(&broker).await;
    let mut readers = [
        Ws::connect(&broker).await,
        Ws::connect_as(&broker, Subprotocol::Bincode).await,
    ];
    let mut behind = publisher.publish("a", json!("start")).await["cursor"].clone();

    for round in 0..1000_usize {
        let reader = &mut readers[round % 2];
        let from = match round % 3 {
            0 => json!("now"),
            1 => json!({"after": behind}),
            _ => json!({"last": 1}),
        };
        let (asked, told) = (reader.new_id(), publisher.new_id());
        let subscribe = json!({"type": "subscribe", "id": asked, "topic": "a", "from": from});
        let publish = json!({"type": "publish", "id": told, "topic": "a", "data": round});
        if round % 4 < 2 {
            tokio::join!(reader.send(&subscribe), publisher.send(&publish));
        } else {
            tokio::join!(publisher.send(&publish), reader.send(&subscribe));
        }
        let (subscribed, receipt) = tokio::join!(reader.answer(asked), publisher.answer(told));
        let published = offset_of(&receipt["cursor"]);

        let mut seen = Seen::start("a", &subscribed);
        reader
            .follow(&mut seen, |seen| {
                seen.position >= published && seen.caught_up == 1
            })
            .await;
        let start = match round % 3 {
            0 => seen.start,
            1 => offset_of(&behind),
            _ => seen.start.clamp(published.saturating_sub(2), published - 1),
        };
        assert_eq!(seen.start, start, "round {round} from {from}");
        seen.expect(seen.start + 1..=published);
        reader.unsubscribe("a").await;
        reader.expect_quiet().await;
        behind = receipt["cursor"].clone();
    }
}

/// With room for none, a room ends as soon as nobody holds it, and whoever comes next opens the topic again: here that is
/// at every moment, with readers that come and go and publishers that send again what is kept already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_that_end_at_once_lose_and_double_nothing() {
    const TOPICS: usize = 4;
    const EACH: u64 = 100;
    let broker = Setup::new().flag("max-idle-rooms", 0).start();
    let publisher = |p: u64| {
        let http = broker.http();
        move || {
            let mut told = Vec::new();
            for n in 1..=EACH {
                for topic in 0..TOPICS {
                    let path = format!("/v1/topics/t.{topic}/messages");
                    let (producer, seq) = (format!("p{p}"), n.to_string());
                    let message_id = format!("{p}-{n}");
                    let known_by = match p % 2 {
                        0 => vec![("hark-producer", &*producer), ("hark-seq", &*seq)],
                        _ => vec![("hark-message-id", &*message_id)],
                    };
                    let headers = [&[("content-type", "application/json")], &*known_by].concat();
                    let data = json!({"p": p, "n": n});
                    let post = || http.post(&path, &headers, data.to_string()).ok().json();
                    let receipt = post();
                    assert_eq!(receipt["duplicate"], false, "{receipt}");
                    if (n + p).is_multiple_of(5) {
                        let again = post();
                        assert_eq!(again["duplicate"], true, "{data}: {receipt}, {again}");
                    }
                    told.push((topic, receipt, data));
                }
            }
            told
        }
    };
    let publishers: Vec<_> = (0..3)
        .map(|p| tokio::task::spawn_blocking(publisher(p)))
        .collect();

    let mut seen: [Option<Seen>; TOPICS] = Default::default();
    let mut reader = Ws::connect(&broker).await;
    while !publishers.iter().all(|publisher| publisher.is_finished()) {
        for (topic, seen) in seen.iter_mut().enumerate() {
            let name = format!("t.{topic}");
            let from = seen.as_ref().map_or(json!("earliest"), Seen::after);
            let subscribed = reader.subscribe(&name, from).await;
            let seen = seen.get_or_insert_with(|| Seen::start(&name, &subscribed));
            seen.resume(&subscribed);
            reader.follow(seen, |seen| seen.caught_up == 1).await;
            let leave = reader.new_id();
            reader
                .send(&json!({"type": "unsubscribe", "id": leave, "topic": name}))
                .await;
            loop {
                let frame = reader.recv().await;
                if frame["id"] == leave {
                    break;
                }
                seen.take(&frame);
            }
        }
    }

    let mut acked: [Acked; TOPICS] = Default::default();
    for publisher in publishers {
        for (topic, receipt, data) in publisher.await.unwrap() {
            acked[topic].kept(&receipt["cursor"], &data);
        }
    }
    for (topic, (acked, seen)) in acked.iter().zip(seen).enumerate() {
        let all = Ws::connect(&broker)
            .await
            .watch_to_caught_up(&format!("t.{topic}"), json!("earliest"))
            .await;
        all.expect(1..=3 * EACH);
        acked.check(&all);
        acked.check_publishers();
        let seen = seen.unwrap();
        seen.expect(1..=seen.position);
        acked.check(&seen);
    }
}

/// Publishers at full speed until told to stop; gives what each was told.
struct Crowd {
    stop: Arc<AtomicBool>,
    publishers: Vec<tokio::task::JoinHandle<Vec<(Value, Value)>>>,
}

impl Crowd {
    /// `publishers` sessions, each publishing `{"p": …, "n": …}` in rounds of `window`, at least 20 rounds.
    fn start(broker: &Broker, topic: &'static str, publishers: u64, window: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let addr = broker.addr();
        let publishers = (0..publishers)
            .map(|p| {
                let stop = Arc::clone(&stop);
                tokio::spawn(async move {
                    let mut ws = Ws::try_connect(addr, None).await.unwrap();
                    let mut told = Vec::new();
                    let mut rounds = 0;
                    while rounds < 20 || !stop.load(Ordering::Relaxed) {
                        let numbers = rounds * window + 1..=(rounds + 1) * window;
                        let data: Vec<Value> = numbers.map(|n| json!({"p": p, "n": n})).collect();
                        let frames: Vec<Value> = data
                            .iter()
                            .map(|data| json!({"topic": topic, "data": data}))
                            .collect();
                        let receipts = ws.publish_all(frames, window).await;
                        told.extend(data.into_iter().zip(receipts));
                        rounds += 1;
                    }
                    told
                })
            })
            .collect();
        Self { stop, publishers }
    }

    /// Stops them, checks each one's order, and gives what was acknowledged.
    async fn finish(self) -> Acked {
        self.stop.store(true, Ordering::Relaxed);
        let mut acked = Acked::default();
        for publisher in self.publishers {
            for (data, receipt) in publisher.await.unwrap() {
                acked.receipt(&receipt, &data);
            }
        }
        acked.check_publishers();
        acked
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_four_publish_at_full_speed_misses_nothing() {
    let broker = Broker::start();
    let epoch = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("now"))
        .await
        .epoch;
    let crowd = Crowd::start(&broker, "a", 4, 200);
    let mut readers = Vec::new();
    for n in 0..12_u64 {
        let subprotocol = if n % 2 == 0 {
            Subprotocol::Json
        } else {
            Subprotocol::Bincode
        };
        let head = Ws::connect(&broker)
            .await
            .watch_to_caught_up("a", json!("now"))
            .await
            .position;
        let from = match n % 4 {
            0 => json!("earliest"),
            1 => json!("now"),
            2 => json!({"last": rand::rng().random_range(1..500)}),
            _ => json!({"after": format!("{epoch}:{}", rand::rng().random_range(0..=head))}),
        };
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        readers.push(tokio::spawn(async move {
            let mut seen = ws.watch("a", from).await;
            ws.follow(&mut seen, |seen| {
                seen.messages
                    .last()
                    .is_some_and(|(_, data)| data == "\"end\"")
            })
            .await;
            ws.expect_quiet().await;
            seen
        }));
    }

    let mut acked = crowd.finish().await;
    let end = Ws::connect(&broker).await.publish("a", json!("end")).await;
    let total = offset_of(&end["cursor"]);
    assert_eq!(total, acked.len() as u64 + 1, "offsets are dense");
    acked.kept(&end["cursor"], &json!("end"));
    for reader in readers {
        let seen = reader.await.unwrap();
        assert_eq!(seen.caught_up, 1);
        seen.expect(seen.start + 1..=total);
        acked.check(&seen);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_and_coming_back_with_batches_queued_neither_skips_nor_repeats() {
    let broker = Broker::start();
    let crowd = Crowd::start(&broker, "a", 2, 200);
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let mut seen = ws.watch("a", json!("earliest")).await;

        for round in 0..150 {
            let some = seen.position + rand::rng().random_range(0..50);
            ws.follow(&mut seen, |seen| seen.position >= some).await;
            // Both go out at once, so that the new subscription begins while the old one's batches are still queued.
            let (leave, join) = (ws.new_id(), ws.new_id());
            let from = if round % 3 == 0 {
                json!("now")
            } else {
                seen.after()
            };
            ws.try_feed(&json!({"type": "unsubscribe", "id": leave, "topic": "a"}))
                .await
                .unwrap();
            ws.send(&json!({"type": "subscribe", "id": join, "topic": "a", "from": from}))
                .await;

            let mut left = false;
            let subscribed = loop {
                let frame = ws.recv().await;
                if frame["id"] == join {
                    break frame;
                }
                assert!(
                    !left,
                    "after `unsubscribed` nothing comes of the old subscription: {frame}"
                );
                left = frame["id"] == leave;
                if !left {
                    seen.take(&frame);
                }
            };
            assert!(left, "`unsubscribed` comes before the next `subscribed`");
            if round % 3 != 0 {
                assert_eq!(from["after"], subscribed["cursor"], "{subscribed}");
            }
            seen = Seen::start("a", &subscribed);
        }
        ws.follow(&mut seen, |seen| seen.caught_up == 1).await;
    }
    let acked = crowd.finish().await;
    let all = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    acked.check(&all);
    assert_eq!(all.position, acked.head());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_topics_at_full_speed_keep_apart() {
    const TOPICS: [&str; 8] = ["t.0", "t.1", "t.2", "t.3", "t.4", "t.5", "t.6", "t.7"];
    let broker = Setup::new().flag("memory-topics", "t.7").start();
    let mut reader = Ws::connect(&broker).await;
    let mut seen = Vec::new();
    for topic in TOPICS {
        seen.push(reader.watch(topic, json!("now")).await);
    }
    let crowds: Vec<Crowd> = TOPICS
        .map(|topic| Crowd::start(&broker, topic, 2, 50))
        .into();
    for crowd in &crowds {
        crowd.stop.store(true, Ordering::Relaxed);
    }

    while seen.iter().any(|seen| seen.position < 2000) {
        let frame = reader.recv().await;
        let n = TOPICS
            .iter()
            .position(|topic| frame["topic"] == *topic)
            .unwrap();
        seen[n].take(&frame);
    }

    for (crowd, seen) in crowds.into_iter().zip(&seen) {
        let acked = crowd.finish().await;
        seen.expect(1..=2000);
        acked.check(seen);
        each_publisher_in_order(&seen.messages, 2, 1000);
    }
    reader.expect_quiet().await;
}
