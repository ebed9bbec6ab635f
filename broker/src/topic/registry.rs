//! The registry: which room serves which topic, and who holds it. Owns the beginning of rooms (in turns: `openings`), the one place where a room may end
//! by itself, and how many may stay that nobody holds; knows nothing of what rooms do.
//!
//! ```text
//! held ──let go──▶ idle ──the longest, and too many are──▶ told to retire ──▶ retired
//!  ▲                ▲ │                                      │
//!  └───asked for────│─┘                                      │
//!                   └─────────needed after all───────────────┘
//! ```
//! Whatever a crowd of topics does, that costs a step or two for each handle let go: nothing ever looks at all rooms.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use actix::prelude::*;
use hark_protocol::TopicName;

use super::openings::{Line, Openings};
use super::retire::Retire;
use super::{Access, Mailbox, Room};
use crate::identity::Identity;
use crate::idle::{Idle, Since};
use crate::limits::Meter;
use crate::message_log::{Health, MessageLog, give_back};
use crate::settings::{Engines, RoomSettings};

/// How many of the longest idle rooms are told to retire when one more is idle than may be. More than one, so that those that
/// are needed after all do not add up.
const TOLD_AT_A_TIME: usize = 2;

/// Which room serves which topic.
#[derive(Debug)]
pub struct Registry {
    rooms: Mutex<Rooms>,
    next_room_id: AtomicU64,
    /// Where rooms live; may grow while connections are beginning to be served.
    arbiters: RwLock<Vec<ArbiterHandle>>,
    engines: Engines,
    settings: RoomSettings,
}

#[derive(Debug, Default)]
struct Rooms {
    open: HashMap<TopicName, OpenRoom>,
    /// Rooms that nobody holds, but for those that have just been told to retire.
    idle: Idle<TopicName>,
    openings: Openings,
}

#[derive(Debug)]
struct OpenRoom {
    id: u64,
    /// The one long-lived address everybody shares, so that the mailbox's bound holds for all together.
    address: Arc<Addr<Room>>,
    /// How many handles there are. While there is any, somebody may wait for an answer.
    holders: usize,
    idle_since: Option<Since>,
    /// What it is started with, until its turn comes.
    unstarted: Option<Unstarted>,
}

/// What a room is started with. What is sent to it meanwhile waits in its mailbox.
struct Unstarted {
    mailbox: Mailbox,
    line: Line,
}

impl std::fmt::Debug for Unstarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unstarted")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

/// A room that is being opened. Dropped when it is, or will not be: then it is the next one's turn.
pub(super) struct Opening(Arc<Registry>);

impl Opening {
    pub(super) fn of(registry: &Arc<Registry>) -> Self {
        Self(registry.clone())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.lock().openings.over();
        self.0.start_next();
    }
}

/// A way to a room. Whoever waits for an answer holds on to it: a room whose handle is held does not retire.
#[derive(Debug)]
pub(super) struct RoomHandle {
    topic: TopicName,
    id: u64,
    address: Arc<Addr<Room>>,
    registry: Arc<Registry>,
}

impl RoomHandle {
    /// Sends an order, unless the mailbox is full or the room has gone: then whoever waits for an answer is told so by the order's
    /// own drop guard, and `false` is returned.
    pub(super) fn order<M>(&self, order: M) -> bool
    where
        M: Message<Result = ()> + Send + 'static,
        Room: Handler<M>,
    {
        self.address.try_send(order).is_ok()
    }

    /// Whose room it is.
    pub(super) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Whether the room is still there; if not, the registry has or starts another.
    pub(super) fn is_connected(&self) -> bool {
        self.address.connected()
    }

    /// The topic's room as it is now.
    pub(super) fn anew(&self, line: Line) -> Arc<Self> {
        self.registry.room_for(&self.topic, line)
    }
}

impl Drop for RoomHandle {
    fn drop(&mut self) {
        self.registry.let_go(&self.topic, self.id);
    }
}

impl Registry {
    /// A registry without rooms. They will live on `arbiters`, and on those that are added before the first is needed.
    pub fn new(
        arbiters: Vec<ArbiterHandle>,
        engines: Engines,
        settings: RoomSettings,
    ) -> Arc<Self> {
        let arbiters = RwLock::new(arbiters);
        Arc::new(Self {
            rooms: Mutex::default(),
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

    /// The room of `topic`, for somebody who publishes or reads; started if there is none. There has to be a thread for rooms by now.
    pub(super) fn room(self: &Arc<Self>, topic: &TopicName) -> Arc<RoomHandle> {
        self.room_for(topic, Line::First)
    }

    /// The room of `topic`, for somebody who may want a crowd of them: if it has to be opened, then behind those of [`Self::room`].
    pub(super) fn room_in_turn(self: &Arc<Self>, topic: &TopicName) -> Arc<RoomHandle> {
        self.room_for(topic, Line::Crowd)
    }

    fn room_for(self: &Arc<Self>, topic: &TopicName, line: Line) -> Arc<RoomHandle> {
        let mut rooms = self.lock();
        let Rooms {
            open,
            idle,
            openings,
        } = &mut *rooms;
        let (id, address) = match open.get_mut(topic) {
            Some(room) if room.address.connected() => {
                room.holders += 1;
                if let Some(since) = room.idle_since.take() {
                    idle.leave(since);
                }
                if let Some(unstarted) = &mut room.unstarted
                    && (unstarted.line, line) == (Line::Crowd, Line::First)
                {
                    unstarted.line = line;
                    openings.wait(topic.clone(), line);
                }
                (room.id, room.address.clone())
            }
            _ => {
                rooms.take_out(topic);
                let id = self.next_room_id.fetch_add(1, Ordering::Relaxed);
                let (address, mailbox) = Room::mailbox();
                let room = OpenRoom {
                    id,
                    address: address.clone(),
                    holders: 1,
                    idle_since: None,
                    unstarted: Some(Unstarted { mailbox, line }),
                };
                rooms.open.insert(topic.clone(), room);
                rooms.openings.wait(topic.clone(), line);
                drop(rooms);
                self.start_next();
                (id, address)
            }
        };
        Arc::new(RoomHandle {
            topic: topic.clone(),
            id,
            address,
            registry: self.clone(),
        })
    }

    /// Starts the rooms whose turn it is.
    fn start_next(self: &Arc<Self>) {
        loop {
            let next = self.lock().next_to_start();
            let Some((topic, id, address, mailbox)) = next else {
                return;
            };
            let arbiters = self.arbiters.read().unwrap_or_else(PoisonError::into_inner);
            let arbiter = &arbiters[id as usize % arbiters.len()];
            if !Room::start_on(arbiter, topic, id, self.clone(), (address, mailbox)) {
                // Its thread has ended, and so does Hark.
                self.lock().openings.over();
            }
        }
    }

    /// What rooms share.
    pub fn settings(&self) -> &RoomSettings {
        &self.settings
    }

    /// The way to topics for whoever has this identity, as much as the meter says. There is no other.
    pub(crate) fn access(self: &Arc<Self>, identity: Identity, meter: Meter) -> Access {
        Access::new(self.clone(), identity, meter)
    }

    /// How the log is.
    pub fn health(&self) -> Health {
        self.engines.synced.health()
    }

    /// Commits what was taken, and closes the log. Blocks until that is done.
    pub fn shut_down(&self) {
        self.engines.synced.shutdown();
        self.engines.memory.shutdown();
    }

    /// The engines, for what goes beyond one topic.
    pub(super) fn engines(&self) -> &Engines {
        &self.engines
    }

    pub(super) fn log_of(&self, topic: &TopicName) -> Arc<dyn MessageLog> {
        self.engines.log_of(topic)
    }

    /// A handle is gone. Where it was the room's last, the room is idle; where too many are, the longest idle are told to retire.
    fn let_go(&self, topic: &TopicName, id: u64) {
        let mut rooms = self.lock();
        let Some(room) = rooms.open.get_mut(topic).filter(|room| room.id == id) else {
            return;
        };
        room.holders -= 1;
        rooms.is_idle(topic, id);
        let told: Vec<_> = (0..TOLD_AT_A_TIME)
            .map_while(|_| rooms.longest_idle(self.settings.max_idle_rooms))
            .collect();
        drop(rooms);
        for room in told {
            // One that cannot be told has gone, or is held again: a full mailbox is no idle room's.
            drop(room.try_send(Retire));
        }
    }

    /// A room that was told to retire is needed though nobody holds it: it is told again when it is the longest idle once more.
    pub(super) fn stay(&self, topic: &TopicName, id: u64) {
        self.lock().is_idle(topic, id);
    }

    /// Takes a room out, but only while nobody holds its handle: then nobody can have sent it anything it has not seen.
    pub(super) fn try_retire(&self, topic: &TopicName, id: u64) -> bool {
        let mut rooms = self.lock();
        let alone = rooms
            .open
            .get(topic)
            .is_some_and(|room| room.id == id && room.holders == 0);
        if alone {
            rooms.take_out(topic);
        }
        alone
    }

    /// Takes a room out that has ended.
    pub(super) fn forget(&self, topic: &TopicName, id: u64) {
        let mut rooms = self.lock();
        if rooms.open.get(topic).is_some_and(|room| room.id == id) {
            rooms.take_out(topic);
        }
    }

    /// The topics that have a room, sorted.
    #[cfg(test)]
    pub(super) fn open(&self) -> Vec<TopicName> {
        let mut open: Vec<TopicName> = self.lock().open.keys().cloned().collect();
        open.sort_unstable();
        open
    }

    /// Nothing that could panic happens under the lock, and what it guards is whole after each step: poison does not matter.
    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    fn next_to_start(&mut self) -> Option<(TopicName, u64, Arc<Addr<Room>>, Mailbox)> {
        let Self { open, openings, .. } = self;
        openings.next(|topic| {
            let room = open.get_mut(topic)?;
            let unstarted = room.unstarted.take()?;
            let address = room.address.clone();
            Some((topic.clone(), room.id, address, unstarted.mailbox))
        })
    }

    /// Notes that a room is idle, if nobody holds it.
    fn is_idle(&mut self, topic: &TopicName, id: u64) {
        let Self { open, idle, .. } = self;
        if let Some(room) = open.get_mut(topic)
            && room.id == id
            && room.holders == 0
        {
            room.idle_since
                .get_or_insert_with(|| idle.enter(topic.clone()));
        }
    }

    /// The room that has been idle the longest, if more than `most` are. It is no longer counted among them.
    fn longest_idle(&mut self, most: usize) -> Option<Arc<Addr<Room>>> {
        let topic = self.idle.take_beyond(most)?;
        let room = self.open.get_mut(&topic)?;
        room.idle_since = None;
        Some(room.address.clone())
    }

    fn take_out(&mut self, topic: &TopicName) {
        let room = self.open.remove(topic);
        give_back(&mut self.open);
        if let Some(since) = room.and_then(|room| room.idle_since) {
            self.idle.leave(since);
        }
    }
}
