//! Retiring: a room that nobody needs ends, and is opened again when somebody does. Rooms are many, think of one a user.

use actix::prelude::*;

use super::Room;

/// Note to itself: look whether anybody needs me.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct IdleCheck;

impl Room {
    pub(super) fn note_idle_check(&self, ctx: &mut Context<Self>) {
        ctx.notify_later(IdleCheck, self.settings.idle);
    }
}

impl Handler<IdleCheck> for Room {
    type Result = ();

    fn handle(&mut self, _: IdleCheck, ctx: &mut Self::Context) {
        // One that went away while it was joining never said so.
        self.seats
            .retain(|_, seated| seated.subscriber.is_connected());
        let now_ms = self.settings.clock.settled_ms();
        let needed = !self.seats.is_empty()
            || !self.staged.is_empty()
            || self.appending.is_some()
            || self.deletes.are_owed()
            || self.last_used.elapsed() < self.settings.idle
            || self.producers.remembers_keys(now_ms);
        if !needed && self.registry.try_retire(&self.topic, self.id) {
            self.retired = true;
            ctx.stop();
        } else {
            self.note_idle_check(ctx);
        }
    }
}
