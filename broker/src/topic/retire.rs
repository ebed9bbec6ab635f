//! Retiring: a room that nobody needs ends, and is opened again when somebody does. Rooms are many, think of one a user. It does
//! so after a while, and at once where too many are idle: which, the registry says.

use actix::prelude::*;

use super::Room;

/// Note to itself: look whether anybody needs me.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct IdleCheck;

/// Order of the registry: end now, if nobody needs you. Nobody held the room when it was sent.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct Retire;

impl Room {
    pub(super) fn note_idle_check(&self, ctx: &mut Context<Self>) {
        ctx.notify_later(IdleCheck, self.settings.idle);
    }

    /// Whether there is anything here that would be lost.
    fn is_needed(&mut self) -> bool {
        // A seat that was lost on its way may not have been given up.
        self.seats
            .retain(|_, seated| seated.subscriber.is_connected());
        self.seats.shrink_to_fit();
        let now_ms = self.settings.clock.passed_ms();
        !self.seats.is_empty()
            || !self.staged.is_empty()
            || self.appending.is_some()
            || self.deletes.are_owed()
            || self.producers.know_more_than_the_log(&self.place, now_ms)
    }

    /// Ends the room, unless somebody holds it. Says whether it does.
    fn retire(&mut self, ctx: &mut Context<Self>) -> bool {
        self.retired = self.registry.try_retire(&self.topic, self.id);
        if self.retired {
            ctx.stop();
        }
        self.retired
    }
}

impl Handler<IdleCheck> for Room {
    type Result = ();

    fn handle(&mut self, _: IdleCheck, ctx: &mut Self::Context) {
        let needed = self.is_needed() || self.last_used.elapsed() < self.settings.idle;
        if needed || !self.retire(ctx) {
            self.note_idle_check(ctx);
        }
    }
}

impl Handler<Retire> for Room {
    type Result = ();

    fn handle(&mut self, _: Retire, ctx: &mut Self::Context) {
        if self.is_needed() || !self.retire(ctx) {
            self.registry.stay(&self.topic, self.id);
        }
    }
}
