//! A topic that the log cannot open: its newest records are damaged, say. The room stays for a while all the same and says
//! why to whoever comes, so that nobody is told to try again at once, and the log is not asked with every order.

use std::time::Duration;

use actix::prelude::*;

use super::publish::{Outcome, Publish, Refusal};
use super::{Delete, History, Room, Subscribe};
use crate::message_log::LogError;

/// The log is asked again by the room that comes after this one.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Note to itself: another room may try it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(super) struct AskAgain;

/// What a room has for everybody that the log has not opened.
#[derive(Debug)]
pub(super) struct Unopened(LogError);

impl Room {
    pub(super) fn stay_unopened(&mut self, error: LogError, ctx: &mut Context<Self>) {
        self.unopened = Some(Unopened(error));
        ctx.notify_later(AskAgain, ASK_AGAIN_AFTER);
    }
}

impl Unopened {
    pub(super) fn publish(&self, order: Publish) {
        let refused = Outcome::Refused(Refusal::from(&self.0));
        order.answer_all(&refused);
    }

    pub(super) fn subscribe(&self, order: Subscribe) {
        let refusal = Refusal::from(&self.0);
        order.refuse(refusal.code, refusal.message);
    }

    pub(super) fn history(&self, order: History) {
        // Whoever asked may have given up meanwhile.
        drop(order.reply.send(Err(self.0.clone())));
    }

    pub(super) fn delete(&self, order: Delete) {
        drop(order.reply.send(Err(Refusal::from(&self.0))));
    }
}

impl Handler<AskAgain> for Room {
    type Result = ();
    fn handle(&mut self, _: AskAgain, ctx: &mut Self::Context) {
        ctx.stop();
    }
}
