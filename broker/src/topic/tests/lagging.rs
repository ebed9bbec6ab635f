//! What a room tells a subscriber that cannot take what comes: that it lags, and with each page how far.

use std::sync::{Arc, Mutex};

use hark_protocol::{Subprotocol, SubscribeFrom};

use super::{is_kept, message, publish, registry, topic, until};
use crate::identity::Identity;
use crate::limits::Meter;
use crate::topic::{
    Delivery, Pull, Refused, RoomNews, Seat, Seating, Subscribe, Subscriber, Subscription,
};

/// A subscriber that refuses all live messages, and takes down what it is told.
#[derive(Default)]
struct Slow {
    told: Mutex<Vec<Told>>,
    /// Kept, or it would be given up.
    seat: Mutex<Option<Seat>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Told {
    Subscribed(hark_protocol::Cursor),
    Lagging(Option<u64>),
    Page {
        position: u64,
        behind: Option<u64>,
        live: bool,
    },
}

impl Slow {
    async fn nth(&self, count: usize) -> Told {
        let told = || self.told.lock().unwrap().clone();
        until("it is told", || told().len() >= count).await;
        assert_eq!(told().len(), count, "{:?}", told());
        told()[count - 1]
    }
}

impl Subscriber for Slow {
    fn try_deliver(&self, _: Delivery) -> Result<(), Refused> {
        Err(Refused)
    }

    fn tell(&self, news: RoomNews) {
        self.told.lock().unwrap().push(match news {
            RoomNews::Subscribed {
                seat,
                seating: Seating { position, .. },
                ..
            } => {
                *self.seat.lock().unwrap() = Some(seat);
                Told::Subscribed(position)
            }
            RoomNews::Lagging { behind, .. } => Told::Lagging(behind),
            RoomNews::Page {
                position,
                behind,
                live,
                ..
            } => Told::Page {
                position,
                behind,
                live,
            },
            other => panic!("{other:?}"),
        });
    }

    fn is_connected(&self) -> bool {
        true
    }
}

#[actix_web::test]
async fn a_subscriber_that_falls_behind_is_told_how_far() {
    const A_BATCH: usize = 1000;
    let registry = registry(false);
    let publish_batch = async || {
        let outcomes = publish(&registry, "a", vec![message(&[]); A_BATCH]).await;
        assert!(outcomes.iter().all(is_kept));
    };
    // What it has never had is not what it is behind.
    publish_batch().await;
    let slow = Arc::new(Slow::default());
    let room = registry.room(&topic("a"));
    room.order(Subscribe::new(
        slow.clone(),
        1,
        SubscribeFrom::Now,
        Subprotocol::Json,
    ));
    let Told::Subscribed(mut position) = slow.nth(1).await else {
        panic!("it is seated");
    };
    let seat = slow.seat.lock().unwrap().as_ref().unwrap().number;

    publish_batch().await;

    assert_eq!(slow.nth(2).await, Told::Lagging(Some(1000)));
    // More than the room keeps in memory: the first pages come from the log.
    for _ in 0..6 {
        publish_batch().await;
    }
    for count in 3.. {
        room.order(Pull { seat, position });
        let Told::Page {
            position: reached,
            behind,
            live,
        } = slow.nth(count).await
        else {
            panic!("a page was asked for");
        };
        assert_eq!(behind, Some(8000 - reached), "the engine is dense");
        assert_eq!(live, reached == 8000);
        position.offset = reached;
        if live {
            assert!(count > 6, "all of it came in a few pages");
            break;
        }
    }
}

/// What subscribes is told of each time messages came by it that are not taken, and once in a while.
#[actix_web::test]
async fn what_lies_unacknowledged_is_said_of_what_was_fed() {
    let access = registry(false).access(Identity::unrestricted(), Meter::unlimited());
    let mut subscription = Subscription::new(&access, topic("a"), SubscribeFrom::Now).unwrap();
    assert!(!subscription.was_fed());
    subscription.fed(1);
    assert_eq!(subscription.position.offset, 1);
    assert!(subscription.was_fed() && !subscription.was_fed());
    assert!(!subscription.falls_behind(), "it has not been live yet");
    assert!(subscription.catches_up());
    assert!(subscription.falls_behind() && !subscription.falls_behind());
}
