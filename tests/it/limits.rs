//! Each limit, at it and just over it. Those of frames are in `bad_input`, those of HTTP bodies in `http`.

use std::time::Duration;

use hark_protocol::Subprotocol;
use hark_tests::{Broker, Op, Preload, RawWs, Setup, Ws};
use serde_json::{Map, Value, json};

/// Publishes what is at the limit, then what is over it; the second must be refused and the session go on.
async fn at_and_over(at: Value, over: Value, code: &str) {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    ws.publish_frame(at).await;

    let mut over = over;
    over["type"] = json!("publish");
    let error = ws.ask(over).await;

    assert_eq!(
        (&error["type"], &error["code"]),
        (&json!("error"), &json!(code)),
        "{error}"
    );
    ws.expect_quiet().await;
}

fn with_headers(pairs: usize, value_bytes: usize) -> Value {
    let headers: Map<String, Value> = (0..pairs)
        .map(|n| (format!("{n:04}"), json!("v".repeat(value_bytes))))
        .collect();
    json!({"topic": "a", "data": 1, "headers": headers})
}

#[tokio::test]
async fn a_message_has_32_headers() {
    at_and_over(with_headers(32, 1), with_headers(33, 1), "too_large").await;
}

#[tokio::test]
async fn headers_have_4096_bytes_with_their_names() {
    at_and_over(with_headers(1, 4092), with_headers(1, 4093), "too_large").await;
}

#[tokio::test]
async fn a_producer_has_64_bytes() {
    let frame = |bytes| json!({"topic": "a", "data": 1, "producer": "p".repeat(bytes), "seq": 1});
    at_and_over(frame(64), frame(65), "bad_frame").await;
}

#[tokio::test]
async fn a_message_id_has_64_bytes() {
    let frame = |bytes| json!({"topic": "a", "data": 1, "message_id": "m".repeat(bytes)});
    at_and_over(frame(64), frame(65), "bad_frame").await;
}

#[tokio::test]
async fn a_topic_name_has_255_bytes() {
    let frame = |bytes| json!({"topic": "t".repeat(bytes), "data": 1});
    at_and_over(frame(255), frame(256), "bad_topic").await;
}

#[tokio::test]
async fn a_session_has_1000_subscriptions() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        for n in 0..1000 {
            ws.subscribe(&format!("t.{n}"), json!("now")).await;
        }

        let error = ws
            .ask(json!({"type": "subscribe", "topic": "t.1000", "from": "now"}))
            .await;
        assert_eq!(error["code"], "too_many_subscriptions", "{error}");

        // One given up makes room for one.
        ws.unsubscribe("t.7").await;
        ws.subscribe("t.1000", json!("now")).await;
        let mut other = Ws::connect(&broker).await;
        other.publish("t.1000", json!("heard")).await;
        while ws.recv().await["data"] != "heard" {}
    }
}

/// A publisher that does not read its receipts is held up, not kept in memory, and gets them all in the end.
#[tokio::test]
async fn a_publisher_that_does_not_read_its_receipts_is_held_up() {
    const MESSAGES: u64 = 100_000;
    let broker = Broker::start();
    let mut raw = RawWs::connect_small(&broker);
    let before = broker.rss_bytes();

    let mut writer = raw.second_hand();
    let writing = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        for id in 1..=MESSAGES {
            let text = json!({"type": "publish", "id": id, "topic": "a", "data": id}).to_string();
            bytes.extend(RawWs::fragment(Op::TEXT, true, text.as_bytes()));
        }
        writer.write(&bytes);
    });
    // It writes as long as it is let, while nothing is read.
    let mut most = before;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        most = most.max(broker.rss_bytes());
    }
    for id in 1..=MESSAGES {
        let receipt = raw.read_json();
        assert_eq!(
            (&receipt["type"], &receipt["id"]),
            (&json!("published"), &json!(id)),
            "{receipt}"
        );
    }
    writing.join().unwrap();

    let grown = most - before;
    assert!(
        grown < 64 << 20,
        "the broker grew by {grown} bytes for one session"
    );
}

/// Or a client that keeps to the bounds would think that a Hark whose log stands still is dead.
#[tokio::test]
async fn who_has_as_much_unanswered_as_may_be_has_its_pings_answered() {
    const MIB: usize = 1 << 20;
    let text = |payload_bytes: usize| json!("x".repeat(payload_bytes - 2));
    let many = json!((0..1024).map(|n| format!("a.{n}")).collect::<Vec<_>>());
    let full = [
        // Both bounds at once; bytes; one message that goes to as many topics.
        vec![json!({"topic": "a", "data": text(MIB / 1024)}); 1024],
        vec![json!({"topic": "a", "data": text(MIB / 4)}); 4],
        vec![json!({"topics": many, "data": 1})],
    ];
    let disk = Preload::new();
    let broker = disk.under(Setup::new()).start();
    disk.expect_loaded(1);
    for publishes in full {
        let mut raw = RawWs::connect(&broker);
        disk.slow_syncs(Duration::from_secs(8));
        let count = publishes.len();
        for (id, mut publish) in (1..).zip(publishes) {
            publish["type"] = json!("publish");
            publish["id"] = json!(id);
            raw.send_json(&publish);
        }
        raw.send(Op::PING, b"there?");
        raw.send_json(&json!({"type": "ping", "id": 2_000}));
        // Both before any receipt.
        let pong = raw.read_frame();
        assert_eq!(pong, (Op::PONG, b"there?".to_vec()), "behind {count}");
        assert_eq!(raw.read_json(), json!({"type": "pong", "id": 2_000}));
        // With what goes beyond, Hark stops reading until some are answered.
        if count > 1 {
            raw.send_json(&json!({"type": "publish", "topic": "a", "data": 1}));
            raw.send_json(&json!({"type": "ping", "id": 3_000}));
            disk.slow_syncs(Duration::ZERO);
            let next = raw.read_json();
            assert_eq!(next["type"], "published", "{next}");
        }
        disk.slow_syncs(Duration::ZERO);
    }
}

#[tokio::test]
async fn how_much_may_be_unanswered_is_a_setting_and_said() {
    let broker = Setup::new()
        .flag("max-inflight", 4096)
        .flag("max-inflight-bytes", 4 << 20)
        .start();
    let mut ws = Ws::connect(&broker).await;
    assert_eq!(ws.welcome["max_inflight"], 4096);
    let publish = |n| json!({"topic": "a", "data": n});
    let answers = ws.publish_all((0..10_000).map(publish), 4096).await;
    assert!(answers.iter().all(|answer| answer["type"] == "published"));
    for none in [
        "max-inflight",
        "max-inflight-bytes",
        "receiving-total-bytes",
    ] {
        let refused = Setup::new().flag(none, 0).try_start();
        assert_eq!(refused.unwrap_err().code, Some(2), "--{none} 0");
    }
}

#[tokio::test]
async fn the_largest_message_arrives_live_and_from_the_log() {
    let broker = Broker::start();
    let mut live: Vec<Ws> = Vec::new();
    for subprotocol in Subprotocol::ALL {
        let mut ws = Ws::connect_as(&broker, subprotocol).await;
        ws.subscribe("a", json!("now")).await;
        ws.expect("caught_up").await;
        live.push(ws);
    }
    // Four in a row are far more than a session's credit.
    let body = vec![0xa5; 1024 * 1024];
    for _ in 0..4 {
        let type_of_bytes = [("content-type", "application/octet-stream")];
        broker
            .http()
            .post("/v1/topics/a/messages", &type_of_bytes, &body)
            .ok();
    }

    for ws in &mut live {
        for offset in 1..=4 {
            let message = ws.message().await;
            assert_eq!(message["offset"], offset);
            // Base64 of 0xa5 repeated is "paWl" repeated, and the last of 1024 * 1024 = 3 n + 1 bytes is "pQ==".
            let base64 = format!("{}pQ==", "paWl".repeat(1024 * 1024 / 3));
            assert!(
                message["data_base64"] == base64,
                "other bytes than those published"
            );
        }
        ws.expect_quiet().await;
    }
    let history = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    assert_eq!(history.offsets(), [1, 2, 3, 4]);
}

also_over_tls! {
    a_session_has_1000_subscriptions,
    a_publisher_that_does_not_read_its_receipts_is_held_up,
    who_has_as_much_unanswered_as_may_be_has_its_pings_answered,
    the_largest_message_arrives_live_and_from_the_log,
}
