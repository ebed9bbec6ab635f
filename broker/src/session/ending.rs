//! The end of a session: what arrived whole counts, and is answered before the close frame. Owns how long that may take; which end it is, and
//! why, is said by whoever ends it.

use std::time::Duration;

use actix::prelude::*;
use hark_protocol::CloseCode;

use super::Session;
use super::frames::{Incoming, MAX_CLOSE_REASON_BYTES};
use super::socket::SessionContext;

/// After this time the close frame comes without the receipts that are still owed.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_millis(500);

/// How far a session's end has come.
#[derive(Debug, Default)]
pub(super) enum Ending {
    /// It has not begun.
    #[default]
    No,
    /// Nothing more is taken. What was is being answered; then this is said.
    Answering { code: CloseCode, reason: String },
    /// The close frame has been written, or nobody is there any more to be sent one.
    Ended,
}

impl Session {
    /// Whether nothing more is taken.
    pub(super) fn is_ending(&self) -> bool {
        !matches!(self.ending, Ending::No)
    }

    /// Hark ends the session, with a code and a reason that also goes to the log. What has been read by now is handed to its rooms and
    /// answered first.
    pub(super) fn close(&mut self, ctx: &mut SessionContext, code: CloseCode, reason: &str) {
        self.close_within(ctx, code, reason, ANSWERS_WITHIN);
    }

    /// [`Self::close`], with another time for the answers.
    pub(super) fn close_within(
        &mut self,
        ctx: &mut SessionContext,
        code: CloseCode,
        reason: &str,
        answers_within: Duration,
    ) {
        if !self.is_ending() {
            self.log_end(code, reason);
            self.end_answered(ctx, code, reason, answers_within);
        }
    }

    /// The client closes, or has shut its side without a word.
    pub(super) fn close_as_asked(&mut self, ctx: &mut SessionContext) {
        if !self.is_ending() {
            tracing::debug!(session = self.name, "the client closes");
            if let Some(connection) = &self.connection {
                connection.close_when_sent();
            }
            self.end_answered(ctx, CloseCode::NORMAL, "", ANSWERS_WITHIN);
        }
    }

    /// Ends a session that has broken a rule. What it sent before is handed to its rooms; nobody waits for the answers.
    pub(super) fn close_at_once(
        &mut self,
        ctx: &mut SessionContext,
        code: CloseCode,
        reason: &str,
    ) {
        if let Some(inbound) = &self.inbound {
            inbound.end();
        }
        if !self.is_ending() {
            self.log_end(code, reason);
            self.flush_everything();
            self.say_last(ctx, code, reason);
        }
    }

    fn log_end(&self, code: CloseCode, reason: &str) {
        tracing::info!(
            session = self.name,
            peer = self.about.address,
            code = code.0,
            reason,
            "a session is ended"
        );
    }

    fn end_answered(
        &mut self,
        ctx: &mut SessionContext,
        code: CloseCode,
        reason: &str,
        answers_within: Duration,
    ) {
        let reason = reason.to_owned();
        self.ending = Ending::Answering { code, reason };
        // Whoever goes is sent no more messages.
        self.leave_all_rooms();
        self.hand_on_what_was_read(ctx);
        if !self.close_if_answered(ctx) {
            ctx.run_later(answers_within, |session, ctx| session.close_now(ctx));
        }
    }

    /// Closes a session that is ending, if nothing is unanswered any more; says whether it has.
    pub(super) fn close_if_answered(&mut self, ctx: &mut SessionContext) -> bool {
        let is_answered = self.publishing.is_answered();
        if is_answered {
            self.close_now(ctx);
        }
        is_answered
    }

    /// Closes a session that is ending, whatever is unanswered.
    fn close_now(&mut self, ctx: &mut SessionContext) {
        if let Ending::Answering { code, reason } = &mut self.ending {
            let (code, reason) = (*code, std::mem::take(reason));
            self.say_last(ctx, code, &reason);
        }
    }

    fn say_last(&mut self, ctx: &mut SessionContext, code: CloseCode, reason: &str) {
        debug_assert!(reason.len() <= MAX_CLOSE_REASON_BYTES);
        self.ending = Ending::Ended;
        self.flow.write_close(code, reason);
        ctx.stop();
    }

    /// Nobody waits for a session that is ending: what it has read goes to the rooms whatever is on its way there already.
    fn hand_on_what_was_read(&mut self, ctx: &mut SessionContext) {
        if let Some(inbound) = self.inbound.clone() {
            while let Some(incoming) = inbound.next_read() {
                if let Incoming::Message(bytes) = incoming {
                    self.take_message(&bytes, ctx);
                }
            }
            inbound.end();
        }
        self.flush_everything();
    }

    /// The actor stops: its end has been said, or the connection is gone.
    pub(super) fn end(&mut self, ctx: &mut SessionContext) {
        self.ending = Ending::Ended;
        self.hand_on_what_was_read(ctx);
        self.present = None;
        self.leave_all_rooms();
        tracing::debug!(
            session = self.name,
            seconds = self.started.elapsed().as_secs(),
            "a session ended"
        );
    }
}
