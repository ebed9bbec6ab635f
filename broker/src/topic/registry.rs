//! The registry: which room serves which topic. Owns their beginning, and the one place where a room may end by itself;
//! knows nothing of what rooms do.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix::prelude::*;
use hark_protocol::TopicName;

use super::Room;
use crate::message_log::{MessageLog, give_back};
use crate::settings::{Engines, RoomSettings};

/// Which room serves which topic.
#[derive(Debug)]
pub struct Registry {
    rooms: Mutex<HashMap<TopicName, Arc<RoomHandle>>>,
    next_room_id: AtomicU64,
    /// Where rooms live; may grow while connections are beginning to be served.
    arbiters: RwLock<Vec<ArbiterHandle>>,
    engines: Engines,
    settings: RoomSettings,
}

/// A way to a room. Whoever waits for an answer holds on to it: a room whose handle is held does not retire.
#[derive(Debug)]
pub struct RoomHandle {
    id: u64,
    /// The one long-lived address everybody shares, so that the mailbox's bound holds for all together.
    address: Addr<Room>,
}

impl RoomHandle {
    /// Sends an order, unless the mailbox is full or the room has gone: then whoever waits for an answer is told so by the order's
    /// own drop guard, and `false` is returned.
    pub fn order<M>(&self, order: M) -> bool
    where
        M: Message<Result = ()> + Send + 'static,
        Room: Handler<M>,
    {
        self.address.try_send(order).is_ok()
    }

    /// Whether the room is still there; if not, the registry has or starts another.
    pub fn is_connected(&self) -> bool {
        self.address.connected()
    }
}

impl Registry {
    /// A registry without rooms. They will live on `arbiters`, and on those that are added before the first is needed.
    pub fn new(
        arbiters: Vec<ArbiterHandle>,
        engines: Engines,
        settings: RoomSettings,
    ) -> Arc<Self> {
        let rooms = Mutex::new(HashMap::new());
        let arbiters = RwLock::new(arbiters);
        Arc::new(Self {
            rooms,
            next_room_id: AtomicU64::new(1),
            arbiters,
            engines,
            settings,
        })
    }

    /// Adds a thread for rooms to live on.
    pub fn add_arbiter(&self, arbiter: ArbiterHandle) {
        self.arbiters
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(arbiter);
    }

    /// The room of `topic`, started if there is none. There has to be a thread for rooms by now.
    pub fn room(self: &Arc<Self>, topic: &TopicName) -> Arc<RoomHandle> {
        let mut rooms = self.lock();
        if let Some(handle) = rooms.get(topic).filter(|handle| handle.address.connected()) {
            return handle.clone();
        }
        let id = self.next_room_id.fetch_add(1, Ordering::Relaxed);
        let arbiters = self.arbiters.read().unwrap_or_else(PoisonError::into_inner);
        let arbiter = &arbiters[id as usize % arbiters.len()];
        let address = Room::start_on(arbiter, topic.clone(), id, self.clone());
        let handle = Arc::new(RoomHandle { id, address });
        rooms.insert(topic.clone(), handle.clone());
        handle
    }

    /// What rooms share.
    pub fn settings(&self) -> &RoomSettings {
        &self.settings
    }

    /// The engines, for what goes beyond one topic.
    pub fn engines(&self) -> &Engines {
        &self.engines
    }

    pub(super) fn log_of(&self, topic: &TopicName) -> Arc<dyn MessageLog> {
        self.engines.log_of(topic)
    }

    /// Takes a room out, but only while nobody else holds its handle: then nobody can have sent it anything it has not seen.
    pub(super) fn try_retire(&self, topic: &TopicName, id: u64) -> bool {
        let mut rooms = self.lock();
        let alone = rooms
            .get(topic)
            .is_some_and(|handle| handle.id == id && Arc::strong_count(handle) == 1);
        if alone {
            rooms.remove(topic);
            give_back(&mut rooms);
        }
        alone
    }

    /// Takes a room out that has ended.
    pub(super) fn forget(&self, topic: &TopicName, id: u64) {
        let mut rooms = self.lock();
        if rooms.get(topic).is_some_and(|handle| handle.id == id) {
            rooms.remove(topic);
        }
    }

    /// Nothing that could panic happens under the lock, and a map is whole after each step: poison does not matter.
    fn lock(&self) -> MutexGuard<'_, HashMap<TopicName, Arc<RoomHandle>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
