//! Rooms that break in the middle of their work. The room is told to by a header, which only a broker started for tests
//! obeys.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hark_protocol::Subprotocol;
use hark_tests::{Acked, Broker, Seen, Setup, Ws, publish_surely, subscribe_surely};
use serde_json::{Value, json};

use crate::restart::each_publisher_in_order;

/// The room breaks on receiving the message, which is not kept.
const ON_RECEIPT: &str = "room-panic";
/// The room breaks when the message is kept, before anybody is told.
const AFTER_COMMIT: &str = "room-panic-after-commit";

fn breaking(how: &str, data: Value) -> Value {
    json!({"type": "publish", "topic": "a", "data": data, "headers": {"hark-fault": how}})
}

#[tokio::test]
async fn without_being_told_to_a_room_does_not_break() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish_frame(breaking(ON_RECEIPT, json!(1))).await;
    ws.publish_frame(breaking(AFTER_COMMIT, json!(2))).await;

    let history = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;

    assert_eq!(history.data(), ["1", "2"]);
}

#[tokio::test]
async fn a_room_that_breaks_on_receipt_is_there_again_at_once() {
    let broker = Setup::new().faults().start();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        let mut reader = Ws::connect_as(&broker, subprotocol).await;
        let mut seen = reader.watch("a", json!("now")).await;
        let start = seen.start;
        ws.publish("a", json!("before")).await;

        let answer = ws.ask(breaking(ON_RECEIPT, json!("boom"))).await;
        assert_eq!(
            (&answer["type"], &answer["code"]),
            (&json!("error"), &json!("busy")),
            "{answer}"
        );
        publish_until_taken(&mut ws, json!("after")).await;

        // The session has subscribed again by itself, from where it was: the client notices nothing.
        reader
            .follow(&mut seen, |seen| seen.position == start + 2)
            .await;
        assert_eq!(seen.data(), [r#""before""#, r#""after""#]);
        assert_eq!(seen.gaps, Vec::<Value>::new());
        reader.expect_quiet().await;
    }
}

/// Publishes, and again while the answer is `busy`.
async fn publish_until_taken(ws: &mut Ws, data: Value) -> Value {
    loop {
        let answer = ws
            .ask(json!({"type": "publish", "topic": "a", "data": data}))
            .await;
        if answer["type"] == "published" {
            return answer;
        }
        assert_eq!(answer["code"], "busy", "{answer}");
    }
}

#[tokio::test]
async fn what_was_kept_when_the_room_broke_is_a_duplicate_when_it_is_sent_again() {
    let broker = Setup::new().faults().start();
    let mut ws = Ws::connect(&broker).await;
    let mut reader = Ws::connect(&broker).await;
    let mut seen = reader.watch("a", json!("now")).await;
    let numbered = |mut frame: Value, seq: u64| {
        frame["producer"] = json!("p");
        frame["seq"] = json!(seq);
        frame
    };
    let plain = |seq| numbered(json!({"type": "publish", "topic": "a", "data": seq}), seq);
    ws.publish_frame(plain(1)).await;

    let answer = ws.ask(numbered(breaking(AFTER_COMMIT, json!(2)), 2)).await;
    assert_eq!(
        (&answer["type"], &answer["code"]),
        (&json!("error"), &json!("busy")),
        "{answer}"
    );
    let again = loop {
        let answer = ws.ask(plain(2)).await;
        if answer["code"] != "busy" {
            break answer;
        }
    };
    ws.publish_frame(plain(3)).await;

    assert_eq!(
        (&again["type"], &again["duplicate"]),
        (&json!("published"), &json!(true)),
        "{again}"
    );
    reader.follow(&mut seen, |seen| seen.position == 3).await;
    assert_eq!(seen.data(), ["1", "2", "3"]);
    reader.expect_quiet().await;
}

#[tokio::test]
async fn a_broken_room_takes_no_other_with_it() {
    let broker = Setup::new().faults().start();
    let mut ws = Ws::connect(&broker).await;
    let mut seen = ws.watch("other", json!("now")).await;
    ws.follow(&mut seen, |seen| seen.caught_up == 1).await;
    let mut breaker = Ws::connect(&broker).await;

    for n in 0..20 {
        breaker.ask(breaking(ON_RECEIPT, json!(n))).await;
        breaker.publish("other", json!(n)).await;
    }

    ws.follow(&mut seen, |seen| seen.position == 20).await;
    ws.expect_quiet().await;
}

#[tokio::test]
async fn a_lagging_reader_survives_a_broken_room() {
    let broker = Setup::new().faults().start();
    let mut ws = Ws::connect(&broker).await;
    let frames = (0..4000).map(|n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(1000)}}));
    ws.publish_all(frames, 256).await;

    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = Ws::connect(&broker).await;
        let seen = reader.watch("a", json!("earliest")).await;
        readers.push((reader, seen));
        ws.ask(breaking(ON_RECEIPT, json!("boom"))).await;
    }

    for (mut reader, mut seen) in readers {
        reader.follow(&mut seen, |seen| seen.caught_up == 1).await;
        seen.expect(1..=4000);
        reader.expect_quiet().await;
    }
}

/// Publishers and subscribers at work, and the room broken again and again, in both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_broken_under_load_loses_and_doubles_nothing() {
    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 3000;
    let broker = Setup::new().faults().start();
    let addr = broker.addr();
    let over = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|p| tokio::spawn(async move { publish_surely(addr, "a", p, EACH).await }))
        .collect();
    let last = json!({"last": true});
    let subscribers: Vec<_> = [None, Some(Subprotocol::Bincode), None]
        .into_iter()
        .map(|subprotocol| {
            let last = last.to_string();
            let all =
                move |seen: &Seen| seen.messages.last().is_some_and(|(_, data)| *data == last);
            tokio::spawn(async move { subscribe_surely(addr, "a", subprotocol, all).await })
        })
        .collect();
    let breaker = tokio::spawn({
        let (over, mut ws) = (Arc::clone(&over), Ws::connect(&broker).await);
        async move {
            let mut broken = 0;
            while !over.load(Ordering::Relaxed) {
                let how = if broken % 2 == 0 {
                    ON_RECEIPT
                } else {
                    AFTER_COMMIT
                };
                let answer = ws.ask(breaking(how, json!({"broken": broken}))).await;
                assert_eq!(answer["code"], "busy", "{answer}");
                broken += 1;
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
            broken
        }
    });

    let mut acked = Acked::default();
    for publisher in publishers {
        for (data, receipt) in publisher.await.unwrap() {
            if receipt["duplicate"] == false {
                acked.receipt(&receipt, &data);
            }
        }
    }
    over.store(true, Ordering::Relaxed);
    let broken = breaker.await.unwrap();
    publish_until_taken(&mut Ws::connect(&broker).await, last).await;

    assert!(broken > 3, "the room broke only {broken} times");
    acked.check_publishers();
    for subscriber in subscribers {
        let seen = subscriber.await.unwrap();
        assert_eq!(seen.gaps, Vec::<Value>::new());
        acked.check(&seen);
        each_publisher_in_order(&seen.messages, PUBLISHERS, EACH);
    }
}
