//! Seats of those who go while they join: given up at once, whatever became of the answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hark_protocol::{Subprotocol, SubscribeFrom};

use super::gated::Gated;
use super::{MANY, registry, registry_over, topic, until};
use crate::clock::Clock;
use crate::topic::{Delivery, Refused, Registry, RoomNews, Subscribe, Subscriber};

const CROWD: u32 = 1000;

/// Somebody whose answers lie unread.
#[derive(Default)]
struct Unread {
    has_gone: AtomicBool,
    news: Mutex<Vec<RoomNews>>,
}

impl Unread {
    fn heard(&self) -> usize {
        self.news.lock().unwrap().len()
    }
}

impl Subscriber for Unread {
    fn try_deliver(&self, _: Delivery) -> Result<(), Refused> {
        Err(Refused)
    }

    fn tell(&self, news: RoomNews) {
        self.news.lock().unwrap().push(news);
    }

    fn is_connected(&self) -> bool {
        !self.has_gone.load(Ordering::Relaxed)
    }
}

fn join(registry: &Arc<Registry>, who: &Arc<Unread>, from: SubscribeFrom) {
    let order = Subscribe::new(who.clone(), 1, from, Subprotocol::Json);
    assert!(registry.room(&topic("a")).order(order));
}

/// Nobody but the test knows of them any more: the room does not.
async fn until_forgotten(crowd: &[Arc<Unread>]) {
    until("nothing is kept of those who went", || {
        crowd.iter().all(|one| Arc::strong_count(one) == 1)
    })
    .await;
}

/// The answer was on its way, as in the mailbox of a session that ends: it goes with the mailbox, unread.
#[actix_web::test]
async fn a_seat_that_is_dropped_unread_is_given_up() {
    let registry = registry(false);
    let crowd: Vec<Arc<Unread>> = (0..CROWD).map(|_| Arc::default()).collect();
    for one in &crowd {
        join(&registry, one, SubscribeFrom::Now);
    }
    until("all have been answered", || {
        crowd.iter().all(|one| one.heard() == 1)
    })
    .await;
    for one in &crowd {
        assert_eq!(Arc::strong_count(one), 2, "it sits");
        drop(std::mem::take(&mut *one.news.lock().unwrap()));
    }
    until_forgotten(&crowd).await;
}

/// They went before the room got round to them.
#[actix_web::test]
async fn who_has_gone_is_given_no_seat() {
    let clock = Clock::system();
    let log = Gated::new(&clock);
    let registry = registry_over(log.clone(), clock, false, MANY);
    // They wait for the log, which is asked where they begin.
    log.times.shut();
    let crowd: Vec<Arc<Unread>> = (0..CROWD).map(|_| Arc::default()).collect();
    for one in &crowd {
        join(&registry, one, SubscribeFrom::SinceAgo(1));
    }
    until("all wait for the log", || log.times.held() == crowd.len()).await;
    for one in &crowd {
        one.has_gone.store(true, Ordering::Relaxed);
    }
    log.times.open();
    until_forgotten(&crowd).await;
    assert!(crowd.iter().all(|one| one.heard() == 0));
}
