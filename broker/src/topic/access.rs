//! The one way to a topic: what an identity may do with it is asked before a room or the log is. Owns the question, and what is
//! answered where it is not granted; who somebody is, and what that grants, is `identity`'s.
//!
//! Each right is a type of its own, and outside of `topic` a room takes orders through these alone: whoever adds a way to read or to
//! publish cannot forget to ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use hark_protocol::{ErrorCode, Idempotency, Message, TopicName};
use tokio::sync::oneshot;

use super::openings::Line;
use super::{
    Delete, Deleted, History, Publish, PublishItem, Refusal, Registry, RoomHandle, Subscribe, names,
};
use crate::budget::Taken;
use crate::identity::{Act, Identity};
use crate::limits::Meter;
use crate::message_log::{Done, List, TopicInfo};
use crate::settings::RoomSettings;

/// What one identity may do with topics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Access {
    registry: Arc<Registry>,
    identity: Identity,
    /// What tokens for one topic each have added: who may read that topic. As many as whoever holds this has subscriptions.
    added: HashMap<TopicName, Identity>,
    meter: Meter,
}

/// The right to publish to a topic as somebody, with its room: as long as it is held, the room does not retire.
#[derive(Debug)]
pub struct MayPublish {
    room: Arc<RoomHandle>,
    meter: Meter,
    /// Whose name is put to what is published; nobody's who is anonymous.
    identity: Option<hark_protocol::Identity>,
}

/// The right to read a topic, with its room: as long as it is held, the room does not retire.
#[derive(Debug)]
pub struct MayRead(Arc<RoomHandle>);

impl Access {
    pub(super) fn new(registry: Arc<Registry>, identity: Identity, meter: Meter) -> Self {
        Self {
            meter: meter.of(identity.who()),
            registry,
            identity,
            added: HashMap::new(),
        }
    }

    /// Whose it is.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How much of it.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The same, for whom the client is from now on. What was added for somebody else goes.
    pub(crate) fn becomes(&mut self, identity: Identity) {
        let who = identity.who();
        self.added
            .retain(|_, added| who.is_anonymous() || added.who() == who);
        self.meter = self.meter.of(identity.who());
        self.identity = identity;
    }

    /// Adds what a token for one topic gives, until it runs out or is forgotten; nothing, where the client has become somebody else since it
    /// was shown.
    pub(crate) fn add(&mut self, topic: TopicName, added: Identity) {
        let who = self.identity.who();
        if who.is_anonymous() || who == added.who() {
            self.added.insert(topic, added);
        }
    }

    /// Takes back what was added for a topic.
    pub(crate) fn forget(&mut self, topic: &TopicName) {
        self.added.remove(topic);
    }

    /// Takes back what has run out, or is revoked.
    pub(crate) fn forget_what_is_over(&mut self) {
        self.added.retain(|_, added| added.current().is_ok());
    }

    /// Whether tokens for one topic have added anything.
    pub(crate) fn has_more_added(&self) -> bool {
        !self.added.is_empty()
    }

    /// When the first of what was added runs out.
    pub(crate) fn added_until(&self) -> Option<SystemTime> {
        self.added.values().filter_map(Identity::expires_at).min()
    }

    /// What rooms share.
    pub fn settings(&self) -> &RoomSettings {
        self.registry.settings()
    }

    /// Whether it may publish to `topic`, for whoever has its room already or will need it later.
    pub fn check_publish(&self, topic: &TopicName) -> Result<(), Refusal> {
        self.ask(Act::Publish, topic)
    }

    /// The room of `topic`, to publish to.
    pub fn publish_to(&self, topic: &TopicName) -> Result<MayPublish, Refusal> {
        self.ask(Act::Publish, topic)?;
        Ok(MayPublish {
            room: self.registry.room(topic),
            meter: self.meter.clone(),
            identity: self.identity.who().as_publisher().cloned(),
        })
    }

    /// Asks again for a right that is held, as who the client is by now.
    pub fn publish_again(&self, right: &mut MayPublish) -> Result<(), Refusal> {
        self.ask(Act::Publish, right.room.topic())?;
        right.meter = self.meter.clone();
        right.identity = self.identity.who().as_publisher().cloned();
        Ok(())
    }

    /// Whether it may read `topic`.
    pub fn check_read(&self, topic: &TopicName) -> Result<(), Refusal> {
        self.ask(Act::Subscribe, topic)
    }

    /// The room of `topic`, to read.
    pub fn read(&self, topic: &TopicName) -> Result<MayRead, Refusal> {
        self.ask(Act::Subscribe, topic)?;
        Ok(MayRead(self.registry.room(topic)))
    }

    /// The room of `topic`, to subscribe to, as one of a crowd: if it has to be opened, then behind those of the others.
    pub fn read_in_turn(&self, topic: &TopicName) -> Result<MayRead, Refusal> {
        self.ask(Act::Subscribe, topic)?;
        Ok(MayRead(self.registry.room_in_turn(topic)))
    }

    /// Deletes everything the topic has, also what is hidden behind its name.
    pub async fn delete(&self, topic: &TopicName) -> Result<Deleted, Refusal> {
        self.ask(Act::Manage, topic)?;
        let hidden = names::delete_hidden(self.registry.engines(), topic).await;
        let hidden = hidden.map_err(|error| Refusal::from(&error))?;
        let (reply, answer) = oneshot::channel();
        // Held until the answer, so that the room does not retire.
        let room = self.registry.room(topic);
        room.order(Delete { reply });
        let gone = || {
            Refusal::new(
                ErrorCode::Busy,
                "the topic's room could not answer; see what the topic holds, and ask again",
            )
        };
        let Deleted { deleted, epoch } = answer.await.map_err(|_| gone())??;
        Ok(Deleted {
            deleted: deleted || hidden,
            epoch,
        })
    }

    /// What a topic holds. Asks the log, and opens no room.
    pub async fn describe(&self, topic: TopicName) -> Result<TopicInfo, Refusal> {
        if !self.identity.current()?.may_monitor() {
            self.ask(Act::Subscribe, &topic)?;
        }
        let engine = self.registry.engines().log_of(&topic);
        ask_log(|done| engine.describe(topic, done)).await
    }

    /// Lists topics, whatever may be read of them.
    pub async fn list(&self, order: List) -> Result<Vec<TopicInfo>, Refusal> {
        self.identity.monitor("list the topics")?;
        let found = names::list(self.registry.engines(), order).await;
        found.map_err(|error| Refusal::from(&error))
    }

    fn ask(&self, act: Act, topic: &TopicName) -> Result<(), Refusal> {
        let identity = self.identity.current()?;
        let is_added = || {
            let added = self.added.get(topic).map(Identity::current);
            added.is_some_and(|added| added.is_ok_and(|added| added.may(act, topic)))
        };
        match identity.may(act, topic) || is_added() {
            true => Ok(()),
            false => Err(identity
                .may_not(&match act {
                    Act::Publish => format!("publish to {topic}"),
                    Act::Subscribe => format!("read {topic}"),
                    Act::Manage => format!("delete {topic}"),
                })
                .into()),
        }
    }
}

impl MayPublish {
    /// A message to be sent to the room, now or later. `tag` is the publisher's own name for it.
    pub fn item(
        &self,
        tag: usize,
        message: Message,
        idempotency: Idempotency,
        taken: Arc<Taken>,
    ) -> PublishItem {
        PublishItem {
            tag,
            message,
            identity: self.identity.clone(),
            idempotency,
            taken,
        }
    }

    /// Sends them to the room. Where that cannot be, the envelope answers `busy` by itself.
    pub fn publish(&self, order: Publish) {
        self.room.order(order.metered(self.meter.clone()));
    }

    /// Asks for the room anew, if it has died.
    pub fn renew(&mut self) {
        if !self.room.is_connected() {
            self.room = self.room.anew(Line::First);
        }
    }
}

impl MayRead {
    /// Asks for a seat. Where it cannot be sent, the order's drop guard says that the room is gone.
    pub fn subscribe(&self, order: Subscribe) {
        self.0.order(order);
    }

    /// Asks for a page. Where it cannot be sent, its answer does not come.
    pub fn history(&self, order: History) {
        self.0.order(order);
    }

    pub(super) fn room(&self) -> &RoomHandle {
        &self.0
    }

    /// Asks for the room anew, as one of a crowd, if it has died.
    pub(super) fn renew_in_turn(&mut self) {
        if !self.0.is_connected() {
            self.0 = self.0.anew(Line::Crowd);
        }
    }
}

/// Asks an engine, and awaits its answer.
async fn ask_log<T: Send + 'static>(question: impl FnOnce(Done<T>)) -> Result<T, Refusal> {
    let (send, answer) = oneshot::channel();
    // Whoever asked may have given up meanwhile.
    question(Box::new(move |found| drop(send.send(found))));
    let unanswered = || Refusal::new(ErrorCode::Internal, "the log did not answer; ask again");
    let found = answer.await.map_err(|_| unanswered())?;
    found.map_err(|error| Refusal::from(&error))
}
