//! Fan-out: passing on what was committed to every live subscriber. Owns who gets what next; a subscriber that cannot take it
//! becomes a reader of the log (`subscribe`).
//!
//! Each seat knows `sent_up_to`, and is sent what the tail holds after it. So turns, joins and leaves in between can
//! neither skip nor repeat.

use actix::prelude::*;

use super::{Delivery, Room, RoomNews};

/// So many seats are served in one turn; then the other actors of the thread have theirs.
const SEATS_A_TURN: usize = 1024;

/// How far a pass over all seats has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The next seat to be served, while a pass is under way.
    next: Option<usize>,
    /// Something was committed, or the topic deleted, since the pass began: seats served before that need another one.
    again: bool,
}

impl Room {
    /// Passes on what the tail holds and subscribers have not.
    pub(super) fn fan_out(&mut self, ctx: &mut Context<Self>) {
        if self.fan_out.next.is_some() {
            self.fan_out.again = true;
            return;
        }
        if self.seats.len() * 4 < self.seats.capacity() {
            // Few are left of many, and a pass goes over all the places there are.
            self.seats.shrink_to_fit();
        }
        self.fan_out.next = Some(0);
        self.continue_fan_out(ctx);
    }

    fn continue_fan_out(&mut self, ctx: &mut Context<Self>) {
        let Some(from) = self.fan_out.next else {
            return;
        };
        let end = self.seats.capacity();
        let to = end.min(from + SEATS_A_TURN);
        for index in from..to {
            self.feed(index);
        }
        self.fan_out.next = match to < end {
            true => Some(to),
            false if std::mem::take(&mut self.fan_out.again) => Some(0),
            false => None,
        };
        if self.fan_out.next.is_some() {
            // A note to itself would be read in the same turn: only this lets others run.
            let others_have_run = tokio::task::yield_now().into_actor(self);
            ctx.spawn(others_have_run.map(|(), room, ctx| room.continue_fan_out(ctx)));
        }
    }

    /// Sends one seat what it has not been sent; one that cannot take it is lagging from then on.
    fn feed(&mut self, index: usize) {
        let Some(seated) = self.seats.get_mut(index).filter(|seated| seated.live) else {
            return;
        };
        if seated.epoch != self.place.epoch {
            self.tell_deleted(index);
            return;
        }
        if seated.sent_up_to >= self.place.head {
            return;
        }
        if self.tail.covers(seated.sent_up_to) {
            for batch in self.tail.after(seated.sent_up_to) {
                let (start, bytes) = batch.part_after(seated.sent_up_to, seated.subprotocol);
                let batch = batch.clone();
                let last = batch.last_offset();
                let delivery = Delivery {
                    key: seated.key,
                    batch,
                    start,
                    bytes,
                    subprotocol: seated.subprotocol,
                };
                if seated.subscriber.try_deliver(delivery).is_err() {
                    seated.live = false;
                    break;
                }
                seated.sent_up_to = last;
            }
        } else {
            seated.live = false;
        }
        if !seated.subscriber.is_connected() && !seated.live {
            self.seats.remove(index);
        } else if !seated.live {
            let behind = self
                .place
                .behind(&*self.log, &self.topic, seated.sent_up_to);
            let key = seated.key;
            seated.subscriber.tell(RoomNews::Lagging { key, behind });
        }
    }
}
