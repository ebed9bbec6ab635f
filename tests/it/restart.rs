//! A restart changes nothing: same epochs, same offsets, everybody resumes, whether the broker was stopped or killed.

use hark_protocol::Subprotocol;
use hark_tests::{Acked, Broker, Seen, Setup, Ws, publish_surely, subscribe_surely, until};
use serde_json::{Value, json};

type End = fn(&mut Broker);
const ENDS: [(&str, End); 2] = [("SIGTERM", Broker::stop), ("kill -9", Broker::kill9)];

#[tokio::test]
async fn a_restart_keeps_epochs_offsets_and_messages() {
    for (how, end) in ENDS {
        let mut broker = Setup::new().restarts().start();
        let mut ws = Ws::connect(&broker).await;
        let mut acked = Acked::default();
        for n in 1..=100 {
            let data = json!({"n": n});
            acked.receipt(&ws.publish("a", data.clone()).await, &data);
        }
        let idle = ws.watch_to_caught_up("never.used", json!("now")).await;
        let before = ws.watch_to_caught_up("a", json!("earliest")).await;

        end(&mut broker);
        broker.start_again();

        let mut ws = Ws::connect(&broker).await;
        let after = ws.watch_to_caught_up("a", json!("earliest")).await;
        assert_eq!(
            (&after.epoch, &after.messages),
            (&before.epoch, &before.messages),
            "{how}"
        );
        ws.unsubscribe("a").await;
        for position in [0, 1, 57, 99, 100] {
            let mut reader = Ws::connect(&broker).await;
            let subscribed = reader
                .subscribe("a", json!({"after": acked.cursor(position)}))
                .await;
            assert_eq!(subscribed["resumed"], true, "{how}: {subscribed}");
            let mut seen = Seen::start("a", &subscribed);
            reader.follow(&mut seen, |seen| seen.caught_up == 1).await;
            seen.expect(position + 1..=100);
        }
        let subscribed = ws.subscribe("never.used", idle.after()).await;
        assert_eq!(
            (&subscribed["cursor"], &subscribed["resumed"]),
            (&json!(idle.cursor()), &json!(true)),
            "{how}"
        );
        assert_eq!(
            ws.publish("a", json!("next")).await["cursor"],
            acked.cursor(101),
            "{how}"
        );
        assert_eq!(
            ws.publish("never.used", json!("first")).await["cursor"],
            format!("{}:1", idle.epoch),
            "{how}"
        );
    }
}

#[tokio::test]
async fn what_was_kept_keeps_its_parts() {
    let mut broker = Setup::new().restarts().start();
    let mut ws = Ws::connect(&broker).await;
    let messages = [
        json!({"topic": "a", "data": {"x": [1, "2"]}, "headers": {"trace": "t1", "b": ""}}),
        json!({"topic": "a", "data_base64": "AAEC/w==", "content_type": "image/png"}),
        json!({"topic": "a", "data_base64": ""}),
        json!({"topic": "a", "text": "Grüße\n", "content_type": "text/html"}),
        json!({"topic": "a", "data": "x".repeat(500_000)}),
    ];
    for message in &messages {
        ws.publish_frame(message.clone()).await;
    }
    let before = history(&broker);

    broker.kill9();
    broker.start_again();

    assert_eq!(history(&broker), before);
    for (kept, sent) in before.iter().zip(&messages) {
        for field in ["data", "text", "data_base64", "content_type", "headers"] {
            assert_eq!(kept[field], sent[field]);
        }
    }
}

fn history(broker: &Broker) -> Vec<Value> {
    broker
        .http()
        .history("a", "from=earliest&limit=100")
        .ok()
        .json()["messages"]
        .as_array()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn what_has_expired_stays_expired() {
    let mut broker = Setup::new()
        .restarts()
        .flag("retention-messages", 100)
        .start();
    let mut ws = Ws::connect(&broker).await;
    let frames: Vec<Value> = (0..2000)
        .map(|n| json!({"topic": "a", "data": n}))
        .collect();
    let receipts = ws.publish_all(frames, 128).await;
    let (epoch, _) = receipts[0]["cursor"]
        .as_str()
        .unwrap()
        .split_once(':')
        .unwrap();
    let first = |broker: &Broker| {
        broker
            .http()
            .history("a", "from=earliest&limit=1")
            .ok()
            .json()["messages"][0]["offset"]
            .as_u64()
            .unwrap()
    };
    let before = until("retention has caught up", async || {
        Some(first(&broker)).filter(|first| *first > 1500)
    })
    .await;

    broker.kill9();
    broker.start_again();

    assert!(first(&broker) >= before, "{} is back", first(&broker));
    let mut ws = Ws::connect(&broker).await;
    let seen = ws
        .watch_to_caught_up("a", json!({"after": format!("{epoch}:10")}))
        .await;
    assert_eq!(seen.gaps.len(), 1, "{:?}", seen.gaps);
    assert_eq!(seen.gaps[0]["from"], 11);
    assert_eq!(seen.position, 2000);
    assert_eq!(
        ws.publish("a", json!("next")).await["cursor"],
        format!("{epoch}:2001")
    );
}

#[tokio::test]
async fn time_never_goes_back_over_a_restart() {
    let mut broker = Setup::new().restarts().start();
    for _ in 0..3 {
        Ws::connect(&broker).await.publish("a", json!(1)).await;
        broker.kill9();
        broker.start_again();
    }
    let times: Vec<u64> = history(&broker)
        .iter()
        .map(|message| message["time"].as_u64().unwrap())
        .collect();
    assert_eq!(times.len(), 3);
    assert!(times.is_sorted(), "{times:?}");
}

/// The heart of it: publishers and subscribers at work, and the broker killed again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_load_loses_and_doubles_nothing() {
    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 4000;
    let mut broker = Setup::new().restarts().start();
    let addr = broker.addr();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|p| tokio::spawn(async move { publish_surely(addr, "a", p, EACH).await }))
        .collect();
    let subscribers: Vec<_> = [None, Some(Subprotocol::Bincode)]
        .into_iter()
        .map(|subprotocol| {
            let all = |seen: &Seen| seen.messages.len() as u64 == PUBLISHERS * EACH;
            tokio::spawn(async move { subscribe_surely(addr, "a", subprotocol, all).await })
        })
        .collect();

    let mut cursor = json!("earliest");
    for kill in 1..=6 {
        // Each time when so many more have been kept, so that there is work under way at every kill.
        let goal = kill * PUBLISHERS * EACH / 8;
        let seen = subscribe_surely(addr, "a", None, |seen| seen.position >= goal).await;
        cursor = seen.after();
        broker.kill9();
        broker.start_again();
    }

    let mut acked = Acked::default();
    for publisher in publishers {
        for (data, receipt) in publisher.await.unwrap() {
            // A duplicate's place may not be known after a restart; what is said is true.
            let nowhere = receipt["cursor"].as_str().unwrap().ends_with(":0");
            assert!(receipt["duplicate"] == true || !nowhere, "{receipt}");
            if !nowhere {
                acked.receipt(&receipt, &data);
            }
        }
    }
    assert!(acked.len() as u64 <= PUBLISHERS * EACH);
    acked.check_publishers();
    let mut all = Vec::new();
    for subscriber in subscribers {
        let seen = subscriber.await.unwrap();
        seen.expect(1..=PUBLISHERS * EACH);
        acked.check(&seen);
        all.push(seen.messages);
    }
    assert_eq!(all[0], all[1], "everybody sees the same");
    each_publisher_in_order(&all[0], PUBLISHERS, EACH);
    let late = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", cursor)
        .await;
    assert_eq!(late.position, PUBLISHERS * EACH, "nothing was kept twice");
}

/// Checks that of each publisher all messages are there, in order, once.
pub(crate) fn each_publisher_in_order(messages: &[(u64, String)], publishers: u64, each: u64) {
    let mut numbers = vec![Vec::new(); usize::try_from(publishers).unwrap()];
    for (_, data) in messages {
        let data: Value = serde_json::from_str(data).unwrap();
        if let Some(p) = data["p"].as_u64() {
            numbers[usize::try_from(p).unwrap()].push(data["n"].as_u64().unwrap());
        }
    }
    for (p, numbers) in numbers.iter().enumerate() {
        assert!(
            numbers.iter().copied().eq(1..=each),
            "publisher {p} of {} messages is out of order",
            numbers.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_graceful_restart_under_load_loses_and_doubles_nothing() {
    let mut broker = Setup::new().restarts().start();
    let addr = broker.addr();
    let publisher = tokio::spawn(async move { publish_surely(addr, "a", 0, 6000).await });
    let subscriber = tokio::spawn(async move {
        subscribe_surely(addr, "a", None, |seen| seen.messages.len() == 6000).await
    });

    for goal in [1500, 3000, 4500] {
        subscribe_surely(addr, "a", None, |seen| seen.position >= goal).await;
        broker.stop();
        broker.start_again();
    }

    publisher.await.unwrap();
    let seen = subscriber.await.unwrap();
    seen.expect(1..=6000);
    each_publisher_in_order(&seen.messages, 1, 6000);
}
