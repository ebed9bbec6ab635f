//! Both sides at once, against the stand-in that keeps what it gets.

use std::time::Duration;

use futures_util::TryStreamExt;
use hark_client::{Client, Event, SubscribeFrom};

use crate::fake::within;
use crate::mini;

#[tokio::test]
async fn what_is_published_is_received() {
    let client = Client::connect(mini::start().await).await.unwrap();
    let mut subscription = client
        .subscribe("t")
        .from(SubscribeFrom::Earliest)
        .await
        .unwrap();
    let publisher = client.clone();
    let publishing = tokio::spawn(async move {
        for n in 1..=5_000_u64 {
            // Dropping the receipts: the window is what counts here.
            drop(publisher.publish("t", &n).send().await.unwrap());
        }
        publisher
    });
    let mut expected = 1;
    while expected <= 5_000 {
        if let Event::Message(message) = within("a message", subscription.try_next())
            .await
            .unwrap()
            .unwrap()
        {
            assert_eq!(
                (message.offset(), message.json().ok()),
                (expected, Some(expected))
            );
            expected += 1;
        }
    }
    let publisher = within("the publisher", publishing).await.unwrap();
    assert_eq!(publisher.close(Duration::from_secs(20)).await, Ok(()));
}
