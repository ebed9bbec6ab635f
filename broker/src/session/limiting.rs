//! How much a session's client may send. Owns what is refused for it, and that a client which goes on regardless is not read; how much each
//! may is `limits`'.
//!
//! A refused command says when to send it again. Whoever waits so long has no more underway meanwhile than may be unanswered; who sends more
//! has not listened, and is not read until then.

use std::time::{Duration, Instant};

use actix::prelude::*;
use hark_protocol::{ClientFrame, CloseCode, ErrorCode, ServerFrame};

use super::Session;
use super::socket::SessionContext;
use crate::identity::Identity;
use crate::limits::{Held, Rated, TooMuch};
use crate::topic::Refusal;

/// What is counted of a session, and what it was refused.
#[derive(Debug, Default)]
pub(super) struct Limiting {
    /// It is counted as long as it is there.
    held: Vec<Held>,
    /// Until when the client was told to wait, and how many commands it has sent in vain meanwhile.
    waits_until: Option<Instant>,
    in_vain: usize,
    /// It is not read until then.
    is_unread: bool,
}

impl Limiting {
    /// Counted as long as the session is there.
    pub(super) fn holds(&mut self, held: Held) {
        self.held.push(held);
    }

    /// Whether the client is not read because it did not listen.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Something was refused for so long. Gives how long not to read, if the client goes on regardless.
    fn refused(
        &mut self,
        retry_after: Duration,
        most_in_vain: usize,
        now: Instant,
    ) -> Option<Duration> {
        if self.waits_until.is_none_or(|until| until <= now) {
            self.waits_until = now.checked_add(retry_after);
            self.in_vain = 0;
        }
        self.in_vain += 1;
        let left = self.waits_until?.saturating_duration_since(now);
        let pauses = self.in_vain > most_in_vain && !std::mem::replace(&mut self.is_unread, true);
        pauses.then_some(left)
    }
}

impl Session {
    /// Whether this command, of so many bytes, is within what the client may. If not, it is answered.
    pub(super) fn is_within_limits(
        &mut self,
        frame: &ClientFrame,
        bytes: usize,
        ctx: &mut SessionContext,
    ) -> bool {
        let wanted = [
            (Rated::Commands, weight(frame)),
            (Rated::Bytes, bytes as u64),
        ];
        let Err(too_much) = self.access.meter().take(&wanted) else {
            return true;
        };
        let most_in_vain = self.settings.max_inflight;
        let now = Instant::now();
        if let Some(wait) = self
            .limiting
            .refused(too_much.retry_after, most_in_vain, now)
        {
            self.flow.pause_inbound();
            ctx.run_later(wait, |session, _| {
                session.limiting.is_unread = false;
                session.read_on();
            });
        }
        match (frame, frame.id()) {
            // Whether Hark is there, and who the client is, is asked whatever else it has sent.
            (ClientFrame::Ping { .. } | ClientFrame::Auth { .. }, _) => return true,
            // It wants no answer.
            (ClientFrame::Publish { .. } | ClientFrame::PublishAll { .. }, None) => {}
            (_, id) => self.refuse_command(ctx, id, too_much.into()),
        }
        false
    }

    /// Reads on, if nothing speaks against it.
    pub(super) fn read_on(&self) {
        if !self.limiting.is_unread() && !self.publishing.is_full(&self.settings) {
            self.flow.resume_inbound();
        }
    }

    /// Answers a command with why it is not carried out.
    pub(super) fn refuse_command(
        &self,
        ctx: &mut SessionContext,
        id: Option<u64>,
        refusal: Refusal,
    ) {
        let Refusal {
            code,
            message,
            expected_seq,
            retry_after,
        } = refusal;
        self.send(
            ctx,
            &ServerFrame::Error {
                id,
                code,
                message,
                expected_seq,
                retry_after_ms: retry_after.map(in_ms),
            },
        );
    }

    /// The client turns out to be somebody: it and its subscriptions count among that one's, if that one may have more.
    pub(super) fn count_as(&mut self, identity: &Identity) -> Result<(), TooMuch> {
        if self.access.identity().who() != identity.who() {
            let meter = self.access.meter().of(identity.who());
            let held = meter.connect_as_known()?;
            self.subscriptions.count_as_known(&meter)?;
            self.limiting.holds(held);
        }
        Ok(())
    }

    /// There is no place for the client: it is told when to come back.
    pub(super) fn send_away(&mut self, ctx: &mut SessionContext, retry_after: Duration) {
        if self.is_ending() {
            return;
        }
        self.send(
            ctx,
            &ServerFrame::Goodbye {
                reason: ErrorCode::RateLimited.as_str().to_owned(),
                retry_after_ms: in_ms(retry_after),
            },
        );
        let reason = "too much at a time; come back later";
        self.close(ctx, CloseCode::TRY_LATER, reason);
    }
}

/// How many commands it counts as.
fn weight(frame: &ClientFrame) -> u64 {
    match frame {
        ClientFrame::PublishAll { publish, .. } => publish.topics().len() as u64,
        _ => 1,
    }
}

/// At least 1: 0 would say "at once".
fn in_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_on_regardless_is_not_read_until_then() {
        let (wait, now) = (Duration::from_millis(500), Instant::now());
        let mut limiting = Limiting::default();
        // Waiting each time, one may be refused for ever.
        for n in 0..100 {
            let then = now + n * wait;
            assert_eq!(limiting.refused(wait, 10, then), None);
        }
        let then = now + 100 * wait;
        for _ in 0..10 {
            assert_eq!(limiting.refused(wait, 10, then), None);
        }
        let later = then + Duration::from_millis(100);
        let pause = limiting.refused(wait, 10, later);
        assert_eq!(pause, Some(Duration::from_millis(400)));
        assert!(limiting.is_unread());
        // What was read already is refused still, and nothing is paused twice.
        assert_eq!(limiting.refused(wait, 10, later), None);
    }
}
