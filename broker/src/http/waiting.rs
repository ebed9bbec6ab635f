//! Waiting for the first message: what a long-poll does between two looks at the history. Owns a place in each topic's room, where it takes
//! nothing and only notices that there is something; what it is, is read as a page.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hark_protocol::{Subprotocol, SubscribeFrom, TopicName};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::page::Page;
use super::{ApiError, Gate, stopping};
use crate::session::{About, Goodbye, Leave, Present, Why};
use crate::topic::{
    Access, Delivery, MayRead, Refusal, Refused, RoomNews, Seat, Subscribe, Subscriber,
};

/// A wait for the first message of some topics.
pub(super) struct Waiting {
    bell: Arc<Bell>,
    /// Held, so that they do not retire.
    rooms: Vec<MayRead>,
    _present: Present,
}

/// Rung when there is something.
#[derive(Debug, Default)]
struct Bell {
    rung: Notify,
    /// The seats it has been given.
    seats: Mutex<Vec<Seat>>,
    gone: AtomicBool,
    /// Why it is to go.
    told_to_go: OnceLock<Why>,
}

/// How a wait ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    /// There may be something, or what may be read has changed.
    Look,
    /// The time is over.
    Over,
    ToldToGo(Why),
}

impl Waiting {
    /// Begins to wait for what comes after these pages.
    pub(super) fn begin(
        gate: &Gate,
        access: &Access,
        about: &Arc<About>,
        topics: &[TopicName],
        pages: &[Page],
    ) -> Result<Self, ApiError> {
        let bell = Arc::<Bell>::default();
        let present = gate.sessions.enter(bell.clone(), about.clone());
        let present = present.ok_or_else(stopping)?;
        let rooms = topics.iter().map(|topic| access.read(topic));
        let waiting = Self {
            rooms: rooms.collect::<Result<_, Refusal>>()?,
            bell,
            _present: present,
        };
        for (key, (room, page)) in (0_u32..).zip(waiting.rooms.iter().zip(pages)) {
            let from = SubscribeFrom::After(page.cursor);
            let bell = waiting.bell.clone();
            // Where it cannot be sent, the room is gone, which rings.
            room.subscribe(Subscribe::new(bell, key, from, Subprotocol::Json));
        }
        Ok(waiting)
    }

    /// Waits until `end`, or until something is there before that.
    pub(super) async fn until(self, end: Instant) -> Woken {
        let rung = tokio::time::timeout_at(end, self.bell.rung.notified()).await;
        match (self.bell.told_to_go.get(), rung) {
            (Some(why), _) => Woken::ToldToGo(*why),
            (None, Ok(())) => Woken::Look,
            (None, Err(_)) => Woken::Over,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Within the lock: a seat that it is given after this is given up at once.
        let mut seats = self.bell.seats();
        self.bell.gone.store(true, Ordering::Release);
        seats.clear();
    }
}

impl Bell {
    fn seats(&self) -> std::sync::MutexGuard<'_, Vec<Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for Bell {
    fn try_deliver(&self, _: Delivery) -> Result<(), Refused> {
        self.rung.notify_one();
        Err(Refused)
    }

    fn tell(&self, news: RoomNews) {
        if let RoomNews::Subscribed { seat, seating, .. } = news {
            let mut seats = self.seats();
            if !self.is_connected() {
                return;
            }
            seats.push(seat);
            drop(seats);
            if seating.live && seating.gap.is_none() {
                return;
            }
        }
        self.rung.notify_one();
    }

    fn is_connected(&self) -> bool {
        !self.gone.load(Ordering::Acquire)
    }
}

impl Leave for Bell {
    fn leave(&self, goodbye: Goodbye) {
        self.told_to_go.get_or_init(|| goodbye.why);
        self.rung.notify_one();
    }

    /// Whoever looks what there is asks again whether it may.
    fn reconsider(&self) {
        self.rung.notify_one();
    }
}
