//! A crowd of topics that is asked for at once: opened in turns, and nobody waits for all of it.

use std::sync::Arc;

use hark_protocol::{Idempotency, Subprotocol, SubscribeFrom};

use super::gated::Gated;
use super::{
    Counting, MANY, is_kept, message, outcomes, publish, registry_over, send, topic, until,
};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::limits::Meter;
use crate::topic::Subscription;
use crate::topic::openings::MAX_OPENING;

const CROWD: usize = 8 * MAX_OPENING;

#[actix_web::test]
async fn a_crowd_is_opened_in_turns_behind_whoever_publishes() {
    let clock = Clock::system();
    let log = Gated::new(&clock);
    let registry = registry_over(log.clone(), clock, false, MANY);
    let opened = || log.opened.lock().unwrap().len();
    assert!(is_kept(
        &publish(&registry, "open", vec![message(&[])]).await[0]
    ));
    log.opens.shut();

    let subscriber = Arc::new(Counting::default());
    let access = registry.access(Identity::unrestricted(), Meter::unlimited());
    let mut crowd = Vec::new();
    for n in 0..CROWD {
        let from = SubscribeFrom::Now;
        let mut one = Subscription::new(&access, topic(&format!("crowd.{n}")), from).unwrap();
        let key = u32::try_from(n).unwrap();
        one.join(subscriber.clone(), key, Subprotocol::Json);
        crowd.push(one);
    }
    until("the first of the crowd are being opened", || {
        log.opens.held() == MAX_OPENING
    })
    .await;
    // Topics that are open have nothing to do with it.
    assert!(is_kept(
        &publish(&registry, "open", vec![message(&[])]).await[0]
    ));
    assert_eq!(opened(), 1 + MAX_OPENING);

    // Whoever publishes goes before the rest: to a topic of its own, or to the last of the crowd.
    let last = format!("crowd.{}", CROWD - 1);
    let to = |name: &str| send(&registry, name, vec![(message(&[]), Idempotency::None)]);
    let published = [to("new"), to(&last)];
    log.opens.open();
    for receipts in published {
        assert!(is_kept(&outcomes(receipts).await[0]));
    }
    until("all sit", || {
        subscriber.seats.lock().unwrap().len() == CROWD
    })
    .await;
    let opened = log.opened.lock().unwrap();
    assert_eq!(opened.len(), 2 + CROWD, "each once");
    let turns = &opened[1 + MAX_OPENING..];
    assert_eq!(turns[..2], [topic("new"), topic(&last)]);
    assert_eq!(
        turns[2],
        topic(&format!("crowd.{MAX_OPENING}")),
        "and then in their order"
    );
}
