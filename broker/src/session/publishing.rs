//! A session's publishes: what is unanswered, and the envelopes they travel in. Owns the bounds on both; order and keeping are the
//! room's.

use std::collections::hash_map::Entry;
use std::sync::Arc;

use actix::prelude::*;
use hark_protocol::{
    Destination, ErrorCode, Idempotency, Message as Published, PublishAll, ServerFrame, TopicName,
    TopicReceipt,
};
use slab::Slab;

use super::socket::SessionContext;
use super::{ByTopic, Session};
use crate::budget::Taken;
use crate::idle::{Idle, Since};
use crate::settings::SessionSettings;
use crate::topic::{Access, MayPublish, Outcome, Publish, PublishItem, Receipt, Refusal};

/// Envelopes a session may have on their way to one room: one that is being committed, and the next. What comes meanwhile is
/// collected, and goes together.
const ENVELOPES_A_ROOM: usize = 2;
/// Rooms that a session holds though nothing of it is on its way to them: enough that whoever publishes to a few topics in turn finds
/// them open whatever crowd comes by, few enough that a crowd of topics is not held open by those who publish to it.
const MAX_UNUSED_ROOMS: usize = 64;
/// Room for so many unanswered publishes is kept while there are none.
const WINDOW_WORTH_KEEPING: usize = 64;
/// Beside its content and headers, what an unanswered publish costs in memory, roughly, for each of its topics. It counts in the budget of
/// all sessions, but not in `max_inflight_bytes`: clients count those too, and know nothing of it.
const PUBLISH_OVERHEAD_BYTES: usize = 256;

/// What is unanswered.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    rooms: ByTopic<ToRoom>,
    /// Those of the rooms that nothing is on its way to.
    unused: Idle<TopicName>,
    /// Topics with messages collected that no flush has looked at since.
    ready: Vec<TopicName>,
    /// One for each topic of a message.
    in_flight: Slab<InFlight>,
    /// The publishes to several topics.
    to_several: Slab<ToSeveral>,
    /// Of payloads.
    in_flight_bytes: usize,
    flush_noted: bool,
}

/// What is on its way to one room.
#[derive(Debug)]
struct ToRoom {
    /// Held while anything is unanswered, and mostly a while longer: a room whose handle is held does not retire.
    right: MayPublish,
    collected: Vec<PublishItem>,
    envelopes_out: usize,
    unused_since: Option<Since>,
    /// Something was published to it since `let_go_of_unused_rooms` was last called.
    used: bool,
}

#[derive(Debug)]
struct InFlight {
    topic: TopicName,
    asked: Asked,
}

/// Who waits for an answer.
#[derive(Debug)]
enum Asked {
    /// A publish to one topic.
    One {
        /// The client's; without one it wants no receipt.
        id: Option<u64>,
        payload_bytes: usize,
    },
    /// One of the topics of a publish to several: which publish, and its place there.
    OneOf { several: usize, at: usize },
}

/// A publish to several topics: answered when all of them are.
#[derive(Debug)]
struct ToSeveral {
    id: Option<u64>,
    topics: Vec<Destination>,
    outcomes: Vec<Option<Outcome>>,
    unanswered: usize,
    /// Its content is held once, until the last topic has it.
    payload_bytes: usize,
}

/// Note: envelopes of publishes were answered; the port has the receipts.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Receipts;

/// Note to itself: send what was collected.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Flush;

impl Publishing {
    /// Whether as much is unanswered as may be.
    pub(super) fn is_full(&self, settings: &SessionSettings) -> bool {
        self.in_flight.len() >= settings.max_inflight
            || self.in_flight_bytes >= settings.max_inflight_bytes
    }

    /// Whether nothing is unanswered.
    pub(super) fn is_answered(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Lets go of rooms that nothing was published to since the last call.
    pub(super) fn let_go_of_unused_rooms(&mut self) {
        let unused = &mut self.unused;
        self.rooms.retain(|_, to_room| {
            if std::mem::take(&mut to_room.used) {
                return true;
            }
            match to_room.unused_since {
                None => true,
                Some(since) => {
                    unused.leave(since);
                    false
                }
            }
        });
    }

    /// The room of `topic`, for something that is to be sent there, where that is granted.
    fn use_room(&mut self, topic: &TopicName, access: &Access) -> Result<&mut ToRoom, Refusal> {
        let to_room = match self.rooms.entry(topic.clone()) {
            Entry::Occupied(held) => {
                let held = held.into_mut();
                // The client may have become another since.
                access.publish_again(&mut held.right)?;
                held
            }
            Entry::Vacant(place) => place.insert(ToRoom {
                right: access.publish_to(topic)?,
                collected: Vec::new(),
                envelopes_out: 0,
                unused_since: None,
                used: true,
            }),
        };
        to_room.used = true;
        if let Some(since) = to_room.unused_since.take() {
            self.unused.leave(since);
        }
        Ok(to_room)
    }

    /// One of the topics of a publish is answered. Gives the publish if it was the last.
    fn topic_answered(&mut self, several: usize, at: usize, outcome: Outcome) -> Option<ToSeveral> {
        let to_several = self.to_several.get_mut(several)?;
        to_several.outcomes[at] = Some(outcome);
        to_several.unanswered -= 1;
        match to_several.unanswered {
            0 => self.to_several.try_remove(several),
            _ => None,
        }
    }

    /// Everything sent to a room is answered: it is held a while longer, as one of a few.
    fn is_unused(&mut self, topic: &TopicName) {
        if let Some(to_room) = self.rooms.get_mut(topic) {
            to_room.unused_since = Some(self.unused.enter(topic.clone()));
        }
        if let Some(longest_unused) = self.unused.take_beyond(MAX_UNUSED_ROOMS) {
            self.rooms.remove(&longest_unused);
        }
    }
}

impl Session {
    pub(super) fn publish(
        &mut self,
        id: Option<u64>,
        topic: TopicName,
        message: Published,
        idempotency: Idempotency,
        ctx: &mut SessionContext,
    ) {
        let Some(taken) = self.stage(id, &message, 1, ctx) else {
            return;
        };
        let payload_bytes = message.payload.len();
        let asked = Asked::One { id, payload_bytes };
        if let Err(refusal) = self.collect(topic, asked, message, idempotency, taken) {
            self.publishing.in_flight_bytes -= payload_bytes;
            if id.is_some() {
                self.refuse_command(ctx, id, refusal);
            }
            return;
        }
        self.note_flush(ctx);
    }

    /// Publishes one message to several topics. Each takes it as if it had been published there alone; what is shared is the way in,
    /// the content, and the answer.
    pub(super) fn publish_all(
        &mut self,
        id: Option<u64>,
        publish: PublishAll,
        ctx: &mut SessionContext,
    ) {
        let message = publish.message();
        let count = publish.topics().len();
        let Some(taken) = self.stage(id, message, count, ctx) else {
            return;
        };
        let payload_bytes = message.payload.len();
        let several = self.publishing.to_several.vacant_key();
        let mut outcomes = vec![None; count];
        let mut unanswered = 0;
        for (at, destination) in publish.topics().iter().enumerate() {
            let collected = match destination.topic() {
                Ok(topic) => {
                    let asked = Asked::OneOf { several, at };
                    let idempotency = publish.idempotency_at(at);
                    let (topic, message, taken) = (topic.clone(), message.clone(), taken.clone());
                    self.collect(topic, asked, message, idempotency, taken)
                }
                Err(error) => Err(Refusal::new(ErrorCode::BadTopic, error.to_string())),
            };
            match collected {
                Ok(()) => unanswered += 1,
                Err(refusal) => outcomes[at] = Some(Outcome::Refused(refusal)),
            }
        }
        let to_several = ToSeveral {
            id,
            topics: publish.into_topics(),
            outcomes,
            unanswered,
            payload_bytes,
        };
        if unanswered == 0 {
            self.publishing.in_flight_bytes -= payload_bytes;
            self.answer_all(to_several, ctx);
            return;
        }
        self.publishing.to_several.insert(to_several);
        self.note_flush(ctx);
    }

    /// Takes what a publish to so many topics holds until it is answered. Where that is too much, it is refused. Where as much is
    /// unanswered as may be, it is taken still, and nothing more is read: so a client that keeps to the bounds always has its `ping` answered.
    fn stage(
        &mut self,
        id: Option<u64>,
        message: &Published,
        topics: usize,
        ctx: &mut SessionContext,
    ) -> Option<Arc<Taken>> {
        let bytes = message.size_bytes() + topics * PUBLISH_OVERHEAD_BYTES;
        let taken = self.access.settings().staged_budget.try_take(bytes);
        match &taken {
            Some(_) => {
                if self.publishing.is_full(&self.settings) {
                    self.flow.pause_inbound();
                }
                self.publishing.in_flight_bytes += message.payload.len();
            }
            None if id.is_some() => self.send_error(
                ctx,
                id,
                ErrorCode::Busy,
                "too much is waiting to be kept; send it again in a moment",
            ),
            None => {}
        }
        taken.map(Arc::new)
    }

    /// Puts it with what goes to the topic's room, where that is granted.
    fn collect(
        &mut self,
        topic: TopicName,
        asked: Asked,
        message: Published,
        idempotency: Idempotency,
        taken: Arc<Taken>,
    ) -> Result<(), Refusal> {
        let publishing = &mut self.publishing;
        let tag = publishing.in_flight.vacant_key();
        let to_room = publishing.use_room(&topic, &self.access)?;
        if to_room.collected.is_empty() {
            // Mostly it stays the only one, and of a message for many topics there are many such lists: no room for more at first.
            to_room.collected.reserve_exact(1);
        }
        let item = to_room.right.item(tag, message, idempotency, taken);
        to_room.collected.push(item);
        if to_room.collected.len() == 1 {
            publishing.ready.push(topic.clone());
        }
        publishing.in_flight.insert(InFlight { topic, asked });
        Ok(())
    }

    fn note_flush(&mut self, ctx: &mut SessionContext) {
        if !std::mem::replace(&mut self.publishing.flush_noted, true) {
            ctx.notify(Flush);
        }
    }

    pub(super) fn flush_publishes(&mut self) {
        self.publishing.flush_noted = false;
        self.send_collected(ENVELOPES_A_ROOM);
    }

    /// Sends all that was collected, whatever is on its way already: at the end nothing comes behind it.
    pub(super) fn flush_everything(&mut self) {
        let rooms = self.publishing.rooms.iter();
        let collected = rooms.filter(|(_, to_room)| !to_room.collected.is_empty());
        self.publishing.ready = collected.map(|(topic, _)| topic.clone()).collect();
        self.send_collected(usize::MAX);
    }

    /// Sends what was collected to the rooms that are ready and have fewer than `envelopes` on their way.
    fn send_collected(&mut self, envelopes: usize) {
        let Some(port) = &self.port else { return };
        for topic in self.publishing.ready.drain(..) {
            let Some(to_room) = self.publishing.rooms.get_mut(&topic) else {
                continue;
            };
            if to_room.collected.is_empty() || to_room.envelopes_out >= envelopes {
                continue;
            }
            to_room.envelopes_out += 1;
            let collected = std::mem::take(&mut to_room.collected);
            to_room.right.renew();
            to_room.right.publish(Publish::new(port.clone(), collected));
        }
    }

    pub(super) fn take_receipts(&mut self, ctx: &mut SessionContext) {
        let Some(port) = self.port.clone() else {
            return;
        };
        for receipts in port.take_answered() {
            self.take_receipts_of_envelope(receipts, ctx);
        }
        self.read_on();
    }

    fn take_receipts_of_envelope(&mut self, receipts: Vec<Receipt>, ctx: &mut SessionContext) {
        let mut answered_topic = None;
        for Receipt { tag, outcome } in receipts {
            let Some(InFlight { topic, asked }) = self.publishing.in_flight.try_remove(tag) else {
                continue;
            };
            match asked {
                Asked::One { id, payload_bytes } => {
                    self.publishing.in_flight_bytes -= payload_bytes;
                    match (id, outcome) {
                        (None, _) => {}
                        (Some(id), Outcome::Kept { cursor, duplicate }) => {
                            let topic = topic.clone();
                            self.send(
                                ctx,
                                &ServerFrame::Published {
                                    id,
                                    topic,
                                    cursor,
                                    duplicate,
                                },
                            );
                        }
                        (id, Outcome::Refused(refusal)) => self.refuse_command(ctx, id, refusal),
                    }
                }
                Asked::OneOf { several, at } => {
                    if let Some(answered) = self.publishing.topic_answered(several, at, outcome) {
                        self.publishing.in_flight_bytes -= answered.payload_bytes;
                        self.answer_all(answered, ctx);
                    }
                }
            }
            answered_topic = Some(topic);
        }
        let in_flight = &mut self.publishing.in_flight;
        if in_flight.is_empty() && in_flight.capacity() > WINDOW_WORTH_KEEPING {
            in_flight.shrink_to_fit();
        }
        // An envelope holds messages of one topic.
        if let Some(topic) = answered_topic
            && let Some(to_room) = self.publishing.rooms.get_mut(&topic)
        {
            to_room.envelopes_out -= 1;
            if !to_room.collected.is_empty() {
                self.publishing.ready.push(topic);
                self.note_flush(ctx);
            } else if to_room.envelopes_out == 0 {
                self.publishing.is_unused(&topic);
            }
        }
    }

    fn answer_all(&self, answered: ToSeveral, ctx: &mut SessionContext) {
        let Some(id) = answered.id else { return };
        let topics = answered.topics.into_iter().zip(answered.outcomes);
        let receipts = topics
            .filter_map(|(topic, outcome)| {
                let outcome = outcome?.into();
                Some(TopicReceipt { topic, outcome })
            })
            .collect();
        self.send(ctx, &ServerFrame::PublishedAll { id, receipts });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::limits::Meter;
    use crate::topic::tests::registry_of_few;

    fn topic(n: usize) -> TopicName {
        TopicName::parse(&format!("t.{n}")).unwrap()
    }

    #[actix_web::test]
    async fn of_rooms_it_does_not_use_a_session_holds_a_few_for_a_while() {
        let access = registry_of_few(0).access(Identity::unrestricted(), Meter::unlimited());
        let mut publishing = Publishing::default();
        publishing
            .use_room(&topic(0), &access)
            .unwrap()
            .envelopes_out = 1;
        for n in 1..1000 {
            publishing.use_room(&topic(n), &access).unwrap();
            publishing.is_unused(&topic(n));
            publishing.use_room(&topic(1), &access).unwrap();
            publishing.is_unused(&topic(1));
        }
        assert_eq!(publishing.rooms.len(), 1 + MAX_UNUSED_ROOMS);
        let newest = 1000 - (MAX_UNUSED_ROOMS - 1)..1000;
        for n in newest.chain([0, 1]) {
            assert!(publishing.rooms.contains_key(&topic(n)), "{n} is let go");
        }

        publishing.let_go_of_unused_rooms();
        publishing.use_room(&topic(1), &access).unwrap();
        publishing.is_unused(&topic(1));
        publishing.let_go_of_unused_rooms();
        assert_eq!(
            publishing.rooms.len(),
            2,
            "what is not answered, and what was used since"
        );
        publishing.let_go_of_unused_rooms();
        assert!(publishing.rooms.contains_key(&topic(0)) && publishing.rooms.len() == 1);
        assert!(publishing.unused.take_beyond(0).is_none());
    }
}
