//! Which rooms end where more of them are idle than may be.

use std::sync::Arc;

use hark_protocol::{Idempotency, MessageId, Subprotocol, SubscribeFrom, TopicName};

use super::gated::Gated;
use super::{
    Counting, is_kept, message, outcomes, publish, registry_of_few, registry_over, send, topic,
    until,
};
use crate::clock::Clock;
use crate::topic::{Registry, RoomHandle, Subscribe};

/// Publishes, and holds the room.
async fn used(registry: &Arc<Registry>, name: &str) -> Arc<RoomHandle> {
    let room = registry.room(&topic(name));
    let outcomes = publish(registry, name, vec![message(&[])]).await;
    assert!(outcomes.iter().all(is_kept), "{outcomes:?}");
    room
}

async fn crowd_comes_by(registry: &Arc<Registry>) {
    for n in 0..100 {
        drop(used(registry, &format!("crowd.{n}")).await);
    }
}

async fn until_open_are(registry: &Arc<Registry>, names: &[&str]) {
    let mut expected: Vec<TopicName> = names.iter().map(|name| topic(name)).collect();
    expected.sort_unstable();
    until(&format!("open are {names:?}"), || {
        registry.open() == expected
    })
    .await;
}

#[actix_web::test]
async fn the_longest_idle_end_first() {
    let registry = registry_of_few(3);
    let mut held = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        held.push(used(&registry, name).await);
    }
    until_open_are(&registry, &["a", "b", "c", "d", "e"]).await;

    held.into_iter().for_each(drop);
    until_open_are(&registry, &["c", "d", "e"]).await;

    drop(registry.room(&topic("c")));
    drop(used(&registry, "f").await);
    until_open_are(&registry, &["c", "e", "f"]).await;
}

#[actix_web::test]
async fn a_crowd_leaves_no_more_rooms_than_may_be_idle() {
    let registry = registry_of_few(10);
    let held = used(&registry, "held").await;
    for _ in 0..3 {
        crowd_comes_by(&registry).await;
    }
    until("ten of the crowd are left", || registry.open().len() == 11).await;
    assert!(held.is_connected());
    assert!(registry.open().contains(&topic("held")));

    drop(held);
    crowd_comes_by(&registry).await;
    until("it ends as others do", || {
        !registry.open().contains(&topic("held"))
    })
    .await;
}

#[actix_web::test]
async fn a_room_with_a_subscriber_stays_though_nobody_holds_it() {
    let registry = registry_of_few(0);
    let subscriber = Arc::new(Counting::default());
    let join = Subscribe::new(subscriber.clone(), 1, SubscribeFrom::Now, Subprotocol::Json);
    assert!(registry.room(&topic("a")).order(join));
    crowd_comes_by(&registry).await;
    until_open_are(&registry, &["a"]).await;

    drop(used(&registry, "a").await);
    until("it is still fed", || subscriber.delivered() == 1).await;
}

#[actix_web::test]
async fn a_room_that_waits_for_the_log_stays_until_it_is_answered() {
    let clock = Clock::system();
    let log = Gated::new(&clock);
    let registry = registry_over(log.clone(), clock, false, 0);
    log.appends.shut();
    let receipts = send(&registry, "a", vec![(message(&[]), Idempotency::None)]);
    until("it is on its way", || log.appends.held() == 1).await;
    for _ in 0..100 {
        drop(registry.room(&topic("b")));
    }
    until_open_are(&registry, &["a"]).await;

    log.appends.open();
    assert!(outcomes(receipts).await.iter().all(is_kept));
    drop(registry.room(&topic("b")));
    until_open_are(&registry, &[]).await;
}

/// The log finds keys again, so a room does not stay for them.
#[actix_web::test]
async fn keys_are_known_again() {
    let registry = registry_of_few(0);
    let key = MessageId::parse("k").unwrap();
    let send = || {
        send(
            &registry,
            "a",
            vec![(message(&[]), Idempotency::Key(key.clone()))],
        )
    };
    let first = outcomes(send()).await;
    assert!(is_kept(&first[0]), "{first:?}");
    for _ in 0..10 {
        crowd_comes_by(&registry).await;
        until_open_are(&registry, &[]).await;
        let again = outcomes(send()).await;
        assert!(!is_kept(&again[0]), "kept twice: {again:?}");
    }
}
