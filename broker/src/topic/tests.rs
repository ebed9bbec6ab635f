//! Rooms without sessions: what cannot be seen, or not be brought about, through a socket.

mod copies;
mod delete;
mod gated;
mod lagging;
mod names;
mod openings;
mod remembered;
mod retire;
mod seats;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::Arbiter;
use bytes::Bytes;
use hark_protocol::{
    ErrorCode, Headers, Idempotency, JsonText, Message, Payload, Subprotocol, SubscribeFrom,
    TopicName,
};
use tokio::sync::oneshot;

use super::{
    Delivery, Outcome, Publish, PublishItem, Publisher, Receipt, Refused, Registry, RoomNews, Seat,
    Subscribe, Subscriber,
};
use crate::budget::Budget;
use crate::clock::Clock;
use crate::identity::Authority;
use crate::message_log::memory::MemoryLog;
use crate::message_log::{MessageLog, Retention};
use crate::remembered::Remembered;
use crate::settings::{Engines, Faults, RoomSettings};

const DEADLINE: Duration = Duration::from_secs(60);

/// More rooms than a test opens.
const MANY: usize = usize::MAX;

fn registry(faults: bool) -> Arc<Registry> {
    let clock = Clock::system();
    registry_over(memory_log(&clock), clock, faults, MANY)
}

/// Rooms that stay open until there are more idle ones than `max_idle_rooms`.
pub(crate) fn registry_of_few(max_idle_rooms: usize) -> Arc<Registry> {
    let clock = Clock::system();
    registry_over(memory_log(&clock), clock, false, max_idle_rooms)
}

fn memory_log(clock: &Clock) -> Arc<dyn MessageLog> {
    Arc::new(MemoryLog::new(
        clock.clone(),
        Arc::new(|_| Retention::default()),
        1000,
        u64::MAX,
    ))
}

fn registry_over(
    log: Arc<dyn MessageLog>,
    clock: Clock,
    faults: bool,
    max_idle_rooms: usize,
) -> Arc<Registry> {
    let remembered = Remembered::new(1 << 26, clock.clone());
    registry_that_remembers(log, clock, faults, max_idle_rooms, remembered)
}

fn registry_that_remembers(
    log: Arc<dyn MessageLog>,
    clock: Clock,
    faults: bool,
    max_idle_rooms: usize,
    remembered: Remembered,
) -> Arc<Registry> {
    let engines = Engines {
        synced: log.clone(),
        memory: log,
        memory_topics: Arc::new([]),
    };
    let settings = RoomSettings {
        idle: Duration::from_secs(60),
        max_idle_rooms,
        tail_budget: Budget::new("tail", 1 << 26),
        staged_budget: Budget::new("staged", 1 << 26),
        remembered,
        authority: Arc::new(Authority::open()),
        faults: Faults { enabled: faults },
        clock,
    };
    Registry::new(vec![Arbiter::new().handle()], engines, settings)
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// Takes everything, and counts.
#[derive(Default)]
struct Counting {
    delivered: AtomicU64,
    gone: AtomicU64,
    seats: Mutex<Vec<Seat>>,
}

impl Counting {
    fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }
}

impl Subscriber for Counting {
    fn try_deliver(&self, delivery: Delivery) -> Result<(), Refused> {
        self.delivered
            .fetch_add(delivery.frames().len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn tell(&self, news: RoomNews) {
        match news {
            RoomNews::Subscribed { seat, .. } => self.seats.lock().unwrap().push(seat),
            RoomNews::Gone { .. } => drop(self.gone.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    fn is_connected(&self) -> bool {
        true
    }
}

struct Reply(Mutex<Option<oneshot::Sender<Vec<Receipt>>>>);

impl Publisher for Reply {
    fn take_receipts(&self, receipts: Vec<Receipt>) {
        let reply = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        reply
            .expect("an envelope is answered once")
            .send(receipts)
            .ok();
    }
}

fn message(headers: &[(&str, &str)]) -> Message {
    let json = JsonText::check(Bytes::from_static(b"1")).unwrap();
    let pairs = headers
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    Message {
        payload: Payload::Json(json),
        headers: Headers::new(pairs).unwrap(),
    }
}

async fn publish(registry: &Arc<Registry>, name: &str, messages: Vec<Message>) -> Vec<Outcome> {
    let unnumbered = |message| (message, Idempotency::None);
    let messages = messages.into_iter().map(unnumbered).collect();
    outcomes(send(registry, name, messages)).await
}

/// Publishes, and does not wait.
fn send(
    registry: &Arc<Registry>,
    name: &str,
    messages: Vec<(Message, Idempotency)>,
) -> oneshot::Receiver<Vec<Receipt>> {
    let room = registry.room(&topic(name));
    let (send, receipts) = oneshot::channel();
    let item = |(tag, (message, idempotency))| PublishItem {
        tag,
        message,
        identity: None,
        idempotency,
        taken: Arc::new(registry.settings().staged_budget.try_take(1).unwrap()),
    };
    let items = messages.into_iter().enumerate().map(item).collect();
    room.order(Publish::new(Arc::new(Reply(Mutex::new(Some(send)))), items));
    receipts
}

async fn outcomes(receipts: oneshot::Receiver<Vec<Receipt>>) -> Vec<Outcome> {
    let receipts = tokio::time::timeout(DEADLINE, receipts)
        .await
        .expect("a publish is answered")
        .unwrap();
    receipts
        .into_iter()
        .map(|receipt| receipt.outcome)
        .collect()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, met).await.expect(what);
}

fn is_kept(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Kept {
            duplicate: false,
            ..
        }
    )
}

/// A pass over many seats is cut into turns, and in between the other rooms of the thread have theirs.
#[actix_web::test]
async fn a_long_fan_out_lets_other_rooms_run() {
    const SEATS: u32 = 20_000;
    let registry = registry(false);
    let crowd = Arc::new(Counting::default());
    let busy = registry.room(&topic("busy"));
    for key in 0..SEATS {
        let order = || Subscribe::new(crowd.clone(), key, SubscribeFrom::Now, Subprotocol::Json);
        while !busy.order(order()) {
            tokio::task::yield_now().await;
        }
    }
    let (stop, published) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let (stopped, counted, flooded) = (stop.clone(), published.clone(), registry.clone());
    let flood = actix::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let outcomes = publish(&flooded, "busy", vec![message(&[])]).await;
            assert!(outcomes.iter().all(is_kept));
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    until("the flood has begun", || {
        published.load(Ordering::Relaxed) > 0
    })
    .await;
    for _ in 0..20 {
        let outcomes = publish(&registry, "quiet", vec![message(&[])]).await;
        assert!(outcomes.iter().all(is_kept));
    }
    stop.store(true, Ordering::Relaxed);
    flood.await.unwrap();
    let published = published.load(Ordering::Relaxed);
    let everything = published * u64::from(SEATS);
    until("everybody gets everything", || {
        crowd.delivered.load(Ordering::Relaxed) >= everything
    })
    .await;
}

/// Whatever waits for a room that panics is answered: subscribers hear that it is gone, publishers `busy`.
#[actix_web::test]
async fn a_room_that_panics_leaves_nobody_waiting() {
    let registry = registry(true);
    let subscriber = Arc::new(Counting::default());
    let room = registry.room(&topic("a"));
    room.order(Subscribe::new(
        subscriber.clone(),
        1,
        SubscribeFrom::Now,
        Subprotocol::Json,
    ));
    let outcomes = publish(
        &registry,
        "a",
        vec![message(&[]), message(&[("hark-fault", "room-panic")])],
    )
    .await;
    let busy = |outcome: &Outcome| matches!(outcome, Outcome::Refused(refusal) if refusal.code == ErrorCode::Busy);
    assert!(
        outcomes.len() == 2 && outcomes.iter().all(busy),
        "{outcomes:?}"
    );
    until("the subscriber is told", || {
        subscriber.gone.load(Ordering::Relaxed) > 0
    })
    .await;
    let outcomes = publish(&registry, "a", vec![message(&[])]).await;
    assert!(outcomes.iter().all(is_kept), "there is a new room");
    let budget = &registry.settings().staged_budget;
    until("nothing is held for what was answered", || {
        budget.used() == 0
    })
    .await;
}

/// An envelope without messages is answered too.
#[actix_web::test]
async fn an_empty_envelope_is_answered() {
    assert!(publish(&registry(false), "a", Vec::new()).await.is_empty());
}

/// From the first order on, a room's mailbox has the room it should have.
#[actix_web::test]
async fn a_new_room_takes_a_crowd() {
    let registry = registry(false);
    let crowd = Arc::new(Counting::default());
    let room = registry.room(&topic("a"));
    let taken = (0..2000).filter(|key| {
        room.order(Subscribe::new(
            crowd.clone(),
            *key,
            SubscribeFrom::Now,
            Subprotocol::Json,
        ))
    });
    assert_eq!(taken.count(), 2000);
}
