//! Deleting: everything a topic has goes, and it goes on as another sequence. Owns a delete's place among the appends, and how
//! subscribers learn of it; the deleting is the log's.
//!
//! One order at a time is on its way to the log. A delete waits for the append in flight, whose messages it deletes; what is staged
//! then, or comes later, is kept in the new sequence. Producers and keys are forgotten, but for those of staged messages.
//!
//! Each seat knows of which epoch it is. A live one is told of another by the next pass of `fan_out`, a lagging one in answer to its
//! next pull, and both go on by pulling. So a page of the old sequence that the reader pool still holds comes before the
//! gap (a subscriber has one pull outstanding), and there is one gap on its way to a subscriber that does not read, however often
//! the topic is deleted meanwhile.

use actix::prelude::*;
use hark_protocol::{Epoch, GapReason, codec};
use tokio::sync::oneshot;

use super::publish::Refusal;
use super::subscribe::Missing;
use super::{Place, Room, RoomNews, tell_room};
use crate::message_log::{LogError, OpenedTopic};

/// Order: delete everything the topic has. Answered through `reply`; dropped unanswered if the room dies, and then it is not known
/// whether it was done.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Delete {
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Deleted, Refusal>>,
}

/// What came of a [`Delete`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deleted {
    /// Whether there was anything.
    pub deleted: bool,
    /// The sequence with which the topic goes on.
    pub epoch: Epoch,
}

/// Deletes that are not answered. Bounded by who waits for them: one each.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    /// Those who wait for the append in flight. One delete will do for all of them.
    waiting: Vec<Delete>,
    /// Those who wait for the log; empty while it has no delete.
    in_flight: Vec<Delete>,
}

impl Deletes {
    pub(super) fn are_in_flight(&self) -> bool {
        !self.in_flight.is_empty()
    }

    pub(super) fn are_owed(&self) -> bool {
        self.are_in_flight() || !self.waiting.is_empty()
    }
}

/// The log's answer to the delete in flight.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct DeleteAnswered(Result<OpenedTopic, LogError>);

impl Room {
    pub(super) fn delete(&mut self, order: Delete, ctx: &mut Context<Self>) {
        self.last_used = std::time::Instant::now();
        self.deletes.waiting.push(order);
        self.delete_if_wanted(ctx);
    }

    /// Sends a delete that is wanted to the log, unless something is in flight already.
    pub(super) fn delete_if_wanted(&mut self, ctx: &mut Context<Self>) {
        if self.log_is_busy() || self.deletes.waiting.is_empty() {
            return;
        }
        self.deletes.in_flight = std::mem::take(&mut self.deletes.waiting);
        let room: Recipient<DeleteAnswered> = ctx.address().recipient();
        let done = Box::new(move |answer| tell_room(&room, DeleteAnswered(answer)));
        self.log.delete(self.topic.clone(), self.generation, done);
    }

    pub(super) fn delete_answered(
        &mut self,
        DeleteAnswered(answer): DeleteAnswered,
        ctx: &mut Context<Self>,
    ) {
        self.last_used = std::time::Instant::now();
        let owed = std::mem::take(&mut self.deletes.in_flight);
        let is_stale = answer == Err(LogError::StaleGeneration);
        let answer = match answer {
            Ok(opened) => {
                let deleted = opened.epoch != self.place.epoch;
                let epoch = opened.epoch;
                self.generation = opened.generation;
                if deleted {
                    tracing::info!(topic = %self.topic, messages_up_to = self.place.head, "a topic was deleted");
                    self.begin_anew(opened);
                }
                Ok(Deleted { deleted, epoch })
            }
            Err(error) => {
                tracing::warn!(topic = %self.topic, %error, "a topic was not deleted");
                Err(Refusal::from(&error))
            }
        };
        for Delete { reply } in owed {
            // Whoever asked may have given up meanwhile.
            drop(reply.send(answer.clone()));
        }
        if is_stale {
            // Another room serves the topic: this one must not go on.
            ctx.stop();
            return;
        }
        // What was staged first: deletes that keep coming must not hold up publishes for ever.
        self.append_staged(ctx);
        self.delete_if_wanted(ctx);
        self.fan_out(ctx);
    }

    /// Goes on with the sequence that came in the place of the deleted one.
    fn begin_anew(&mut self, mut opened: OpenedTopic) {
        self.tail.reset(opened.head);
        self.place = Place::take(&mut opened);
        let now_ms = self.settings.clock.passed_ms();
        self.remember(opened);
        for staged in &self.staged {
            self.producers.take_again(staged.known_by(), now_ms);
        }
    }

    /// Tells a seat of an earlier epoch that the rest of it was deleted. It goes on by pulling.
    pub(super) fn tell_deleted(&mut self, index: usize) {
        let place = &self.place;
        let Some(seated) = self.seats.get_mut(index) else {
            return;
        };
        if !seated.subscriber.is_connected() {
            self.seats.remove(index);
            return;
        }
        seated.epoch = place.epoch;
        seated.sent_up_to = 0;
        seated.live = false;
        let position = place.cursor(0);
        let gap = Missing {
            reason: GapReason::Deleted,
            range: None,
        };
        let gap = codec::encode_server(&gap.frame(&self.topic, position), seated.subprotocol);
        seated.subscriber.tell(RoomNews::Deleted {
            key: seated.key,
            gap,
            position,
        });
    }
}
