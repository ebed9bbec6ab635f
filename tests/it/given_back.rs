//! Memory that clients take for a while is given back while they stay.

use hark_tests::{Broker, RawWs, Ws, until};
use serde_json::{Value, json};

const CLIENTS: usize = 300;
const MESSAGES: usize = 300;
/// What a client that has caught up may keep, by what an idle one has.
const MOST: u64 = 2;

/// One that has read everything of a topic, and stays.
fn catch_up(raw: &mut RawWs) {
    raw.send_json(&json!({"type": "subscribe", "topic": "a", "from": "earliest"}));
    let mut messages = 0;
    loop {
        let frame: Value = raw.read_json();
        match frame["type"].as_str() {
            Some("message") => messages += 1,
            Some("caught_up") => break,
            other => assert_eq!(other, Some("subscribed"), "{frame}"),
        }
    }
    assert_eq!(messages, MESSAGES);
}

#[tokio::test]
async fn a_client_that_has_caught_up_keeps_little_more_than_an_idle_one() {
    let broker = Broker::start();
    let mut ws = Ws::connect(&broker).await;
    let publish = |n| json!({"topic": "a", "data": {"n": n, "x": "x".repeat(200)}});
    ws.publish_all((0..MESSAGES).map(publish), 300).await;
    // Everything that is there once, whoever comes: the topic's room, its tail, the allocator's own.
    for _ in 0..20 {
        catch_up(&mut RawWs::connect(&broker));
    }
    let without = broker.rss_bytes();

    let mut clients: Vec<RawWs> = (0..CLIENTS).map(|_| RawWs::connect(&broker)).collect();
    let idle = broker.rss_bytes() - without;
    clients.iter_mut().for_each(catch_up);

    let kib = |bytes: u64| bytes / CLIENTS as u64 / 1024;
    let mut least = u64::MAX;
    until("what they took is given back", async || {
        least = least.min(broker.rss_bytes().saturating_sub(without));
        println!(
            "an idle client has {} KiB, one that has caught up {}",
            kib(idle),
            kib(least)
        );
        (least <= MOST * idle).then_some(())
    })
    .await;
}
