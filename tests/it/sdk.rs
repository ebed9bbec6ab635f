//! The Rust SDK against the real broker: what its own tests hold against a stand-in.

use std::time::Duration;

use hark_client::{Client, Subprotocol, SubscribeFrom};
use hark_tests::{Broker, Setup, Ws, subscribe_surely};
use serde_json::json;

#[tokio::test]
async fn the_sdk_publishes_and_receives_in_both_subprotocols() {
    let broker = Broker::start();
    for subprotocol in Subprotocol::ALL {
        let client = Client::builder(broker.ws_url())
            .subprotocol(subprotocol)
            .connect()
            .await
            .unwrap();
        let mut subscription = client
            .subscribe(subprotocol.name())
            .from(SubscribeFrom::Earliest)
            .await
            .unwrap();

        let receipt = client
            .publish(subprotocol.name(), &json!({"n": 1}))
            .header("k", "v")
            .receipt()
            .await
            .unwrap();
        let message = subscription.next_message().await.unwrap();

        assert_eq!(message.cursor, receipt.cursor);
        assert!(!receipt.duplicate);
        assert_eq!(
            message.json::<serde_json::Value>().unwrap(),
            json!({"n": 1})
        );
        assert_eq!(message.headers.get("k"), Some("v"));
        client.close(Duration::from_secs(30)).await.unwrap();
    }
}

/// Broken connections are the SDK's business: the application publishes and reads, and notices nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_sees_nothing_of_a_broker_killed_again_and_again() {
    const MESSAGES: u64 = 12_000;
    let mut broker = Setup::new().restarts().start();
    let url = broker.ws_url();
    let reading = tokio::spawn({
        let client = Client::connect(url.clone()).await.unwrap();
        async move {
            let mut subscription = client
                .subscribe("a")
                .from(SubscribeFrom::Earliest)
                .await
                .unwrap();
            for n in 1..=MESSAGES {
                let message = subscription.next_message().await.unwrap();
                assert_eq!((message.offset(), message.json::<u64>().unwrap()), (n, n));
            }
        }
    });
    let publishing = tokio::spawn(async move {
        let client = Client::connect(url).await.unwrap();
        let mut receipts = Vec::new();
        for n in 1..=MESSAGES {
            receipts.push(client.publish("a", &n).send().await.unwrap());
        }
        let mut last = 0;
        for receipt in receipts {
            let receipt = receipt.await.unwrap();
            let offset = receipt.cursor.offset;
            // Of a duplicate the place may not be known after a restart; what is said is true.
            assert!(offset > last || receipt.duplicate && offset == 0);
            last = last.max(offset);
        }
        client.stats()
    });

    for kill in 1..=4 {
        subscribe_surely(broker.addr(), "a", None, |seen| {
            seen.position >= kill * MESSAGES / 6
        })
        .await;
        broker.kill9();
        broker.start_again();
    }

    let stats = publishing.await.unwrap();
    assert!(
        stats.connections > 1,
        "the broker was killed and the publisher did not notice"
    );
    println!("{} publishes were sent again", stats.publishes_resent);
    assert!(stats.publishes_resent > 0, "{stats:?}");
    reading.await.unwrap();
    let all = Ws::connect(&broker)
        .await
        .watch_to_caught_up("a", json!("earliest"))
        .await;
    all.expect(1..=MESSAGES);
}

/// An application that stores its cursor goes on there after its own restart.
#[tokio::test]
async fn an_application_comes_back_with_its_cursor() {
    let mut broker = Setup::new().restarts().start();
    let client = Client::connect(broker.ws_url()).await.unwrap();
    for n in 0..20 {
        client.publish("a", &n).receipt().await.unwrap();
    }
    let mut subscription = client
        .subscribe("a")
        .from(SubscribeFrom::Earliest)
        .await
        .unwrap();
    for _ in 0..7 {
        subscription.next_message().await.unwrap();
    }
    let stored = subscription.cursor().to_string();
    drop((subscription, client));
    broker.kill9();
    broker.start_again();

    let client = Client::connect(broker.ws_url()).await.unwrap();
    let mut subscription = client
        .subscribe("a")
        .after(stored.parse().unwrap())
        .await
        .unwrap();

    for n in 7..20 {
        assert_eq!(
            subscription
                .next_message()
                .await
                .unwrap()
                .json::<u64>()
                .unwrap(),
            n
        );
    }
}
