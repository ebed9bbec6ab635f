//! Who a session's client is, while it lasts: `auth` frames, tokens for one topic, and the end of what they gave. Owns when a client has to have said who it is, when it is
//! told that this runs out, and what ends with it, also when it is revoked; who it is the checkpoint says, and what that allows is asked by `topic::Access`.
//!
//! ```text
//! anonymous, may nothing ──auth, within 5 s──▶ identified ──expiring──▶ … ──auth──▶ identified
//!            └─────────────4401─────────────▶ ended ◀──────4401─────────┘
//! ```
//! The frozen session's own timers do not run: its connection is cut from outside (`connections`), a second after the end.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use hark_protocol::{CloseCode, ErrorCode, ServerFrame, TopicName};

use super::Session;
use super::frames::MAX_CLOSE_REASON_BYTES;
use super::socket::SessionContext;
use crate::audit;
use crate::connections::unix_ms;
use crate::identity::{Credential, Identity, Refusal};

/// A signature is checked: of the commands of a turn that takes so many more than its own.
const AUTH_WEIGHS: usize = 15;
/// Who may do nothing yet has so long to say who it is.
const AUTH_WITHIN: Duration = Duration::from_secs(5);
/// A client is told that its token runs out a tenth of its life ahead, within these bounds, and never before half of its life.
const LEAST_NOTICE: Duration = Duration::from_secs(10);
const MOST_NOTICE: Duration = Duration::from_secs(60);
/// The wall clock is looked at so often while it is waited for: it may be set, and the machine may sleep.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What of a client's identity is under way.
#[derive(Debug, Default)]
pub(super) struct Identifying {
    /// Runs until the client has to have said who it is, or the next look at the clock.
    timer: SpawnHandle,
    /// The end that it was told of last.
    told_end: Option<SystemTime>,
    /// Since when it is known, where what was shown does not say how old it is.
    known_since: Option<SystemTime>,
    /// Runs until the first of the tokens for one topic runs out, or the next look at the clock.
    added_timer: SpawnHandle,
}

impl Session {
    /// Begins to watch over what was settled when the connection began.
    pub(super) fn begin_identified(&mut self, ctx: &mut SessionContext) {
        let identity = self.access.identity();
        if identity.may_nothing() && identity.who().is_anonymous() {
            return self.wait_for_a_token(ctx);
        }
        self.watch_expiry(ctx);
    }

    /// A token for one topic will do, as long as it adds something; behind the last one there is as much time again.
    fn wait_for_a_token(&mut self, ctx: &mut SessionContext) {
        let had_added = self.access.has_more_added();
        self.identifying.timer = ctx.run_later(AUTH_WITHIN, move |session, ctx| {
            if session.is_ending() {
                return;
            }
            if had_added || session.access.has_more_added() {
                return session.wait_for_a_token(ctx);
            }
            let reason = "nothing may be done here without a token, and none came in time";
            session.close(ctx, CloseCode::UNAUTHENTICATED, reason);
        });
    }

    pub(super) fn authenticate(&mut self, id: Option<u64>, token: &str, ctx: &mut SessionContext) {
        if let Some(inbound) = &self.inbound {
            inbound.weighs(AUTH_WEIGHS);
        }
        let credential = Credential::Bearer(token);
        let refusal = match self.checkpoint.judge(credential) {
            Ok(identity) => return self.becomes(id, identity, ctx),
            Err(refusal) => refusal,
        };
        audit::refused(&self.about.address, credential, &refusal);
        let (code, retry_after) = (refusal.code, refusal.retry_after);
        self.refuse_command(ctx, id, refusal.into());
        let goes_on = match code {
            // Nobody was believed to be somebody, and nothing has changed.
            ErrorCode::Unsupported => true,
            // It may be good. Who was somebody before still is.
            ErrorCode::Busy => !self.access.identity().who().is_anonymous(),
            _ => false,
        };
        if goes_on {
            return;
        }
        // What stands behind it was meant to be said by somebody else than who is known so far.
        if let Some(inbound) = &self.inbound {
            inbound.end();
        }
        if let Some(retry_after) = retry_after {
            return self.send_away(ctx, retry_after);
        }
        let (close, reason) = match code {
            ErrorCode::Busy => (CloseCode::TRY_LATER, "the token cannot be judged just now"),
            _ => (CloseCode::UNAUTHENTICATED, "the token was refused"),
        };
        self.close(ctx, close, reason);
    }

    fn becomes(&mut self, id: Option<u64>, identity: Identity, ctx: &mut SessionContext) {
        let takes_another = self.checkpoint.takes_another();
        let before = self.access.identity();
        let is_another = !before.who().is_anonymous() && before.who() != identity.who();
        if is_another && !takes_another {
            let message = format!(
                "this connection is {}'s, by another issuer or subject; open another connection",
                before.name()
            );
            self.send_error(ctx, id, ErrorCode::Forbidden, message);
            return;
        }
        if let Err(too_much) = self.count_as(&identity) {
            if let Some(inbound) = &self.inbound {
                inbound.end();
            }
            self.refuse_command(ctx, id, too_much.into());
            return self.send_away(ctx, too_much.retry_after);
        }
        let expires_at = identity.expires_at();
        self.send(
            ctx,
            &ServerFrame::Authenticated {
                id,
                identity: identity.name().to_owned(),
                expires_at_ms: expires_at.map(unix_ms),
            },
        );
        self.is_from_now_on(identity, ctx);
    }

    fn is_from_now_on(&mut self, identity: Identity, ctx: &mut SessionContext) {
        self.about.becomes(identity.clone());
        self.access.becomes(identity);
        ctx.cancel_future(std::mem::take(&mut self.identifying.timer));
        self.identifying.known_since = None;
        self.begin_identified(ctx);
        self.end_what_is_no_longer_granted(ctx);
    }

    /// What a token for one topic adds to what the client may read.
    pub(super) fn judge_for_topic(
        &self,
        topic: &TopicName,
        token: &str,
    ) -> Result<Identity, Refusal> {
        if let Some(inbound) = &self.inbound {
            inbound.weighs(AUTH_WEIGHS);
        }
        let identity = self.access.identity();
        let judged = self.checkpoint.judge_for_topic(identity, topic, token);
        judged.inspect_err(|refusal| {
            audit::refused(&self.about.address, Credential::Bearer(token), refusal);
        })
    }

    /// A token for one topic was refused, and its `subscribe` with it. Who has shown too many that are no good has to come back later.
    pub(super) fn refuse_token(
        &mut self,
        id: Option<u64>,
        refusal: Refusal,
        ctx: &mut SessionContext,
    ) {
        let retry_after = refusal.retry_after;
        self.refuse_command(ctx, id, refusal.into());
        if let Some(retry_after) = retry_after {
            if let Some(inbound) = &self.inbound {
                inbound.end();
            }
            self.send_away(ctx, retry_after);
        }
    }

    /// Looks at the clock until what tokens for one topic have added runs out; then the subscriptions end that need it.
    pub(super) fn watch_what_was_added(&mut self, ctx: &mut SessionContext) {
        ctx.cancel_future(std::mem::take(&mut self.identifying.added_timer));
        self.about.has_topic_tokens(self.access.has_more_added());
        let Some(until) = self.access.added_until() else {
            return;
        };
        let wait = left(until, SystemTime::now()).unwrap_or_default();
        self.identifying.added_timer = ctx.run_later(wait.min(LOOK_EVERY), |session, ctx| {
            if session.is_ending() {
                return;
            }
            session.access.forget_what_is_over();
            session.end_what_is_no_longer_granted(ctx);
            session.watch_what_was_added(ctx);
        });
    }

    /// Keys, rules or revocations may have changed: what the client has shown is judged again.
    pub(super) fn reconsider(&mut self, ctx: &mut SessionContext) {
        self.doubted.store(false, Ordering::Release);
        if self.is_ending() {
            return;
        }
        let current = match self.access.identity().current() {
            Ok(Cow::Borrowed(_)) => Ok(None),
            Ok(Cow::Owned(identity)) => Ok(Some(identity)),
            Err(refusal) => Err(refusal),
        };
        match current {
            // What tokens for one topic have added may be gone.
            Ok(None) if self.access.has_more_added() => {
                self.access.forget_what_is_over();
                self.end_what_is_no_longer_granted(ctx);
            }
            Ok(None) => {}
            Ok(Some(identity)) => self.is_from_now_on(identity, ctx),
            Err(refusal) => {
                // A new token may have given it more time since it was told.
                self.about.has_to_go();
                let reason = match refusal.message.len() <= MAX_CLOSE_REASON_BYTES {
                    true => refusal.message.as_str(),
                    false => "the token is no good any more",
                };
                self.close(ctx, CloseCode::UNAUTHENTICATED, reason);
            }
        }
    }

    /// Looks at the clock until what the client has shown runs out; then the session ends.
    fn watch_expiry(&mut self, ctx: &mut SessionContext) {
        let identity = self.access.identity();
        if let Some(connection) = &self.connection {
            connection.ends_at(identity.expires_at());
        }
        let Some(expires_at) = identity.expires_at() else {
            return;
        };
        let now = SystemTime::now();
        let (shown, next) = match identity.certificate() {
            None => ("token", "send a new one"),
            Some(_) => ("certificate", "connect with a new one"),
        };
        let Some(left) = left(expires_at, now) else {
            let reason = &format!("the {shown} has run out");
            self.close(ctx, CloseCode::UNAUTHENTICATED, reason);
            return;
        };
        let identifying = &mut self.identifying;
        let known_since = *identifying.known_since.get_or_insert(now);
        let since = identity.issued_at().unwrap_or(known_since);
        let life = expires_at.duration_since(since).unwrap_or_default();
        let notice = (life / 10).clamp(LEAST_NOTICE, MOST_NOTICE).min(life / 2);
        let mut wait = left;
        if left > notice {
            wait = left - notice;
        } else if identifying.told_end.is_none_or(|told| told < expires_at) {
            // Once for each end: or who answers with the same token would be told at once again.
            identifying.told_end = Some(expires_at);
            let message = format!("the {shown} runs out in {} s; {next}", left.as_secs());
            self.send_error(ctx, None, ErrorCode::Expiring, message);
        }
        let wait = wait.min(LOOK_EVERY);
        self.identifying.timer = ctx.run_later(wait, |session, ctx| {
            if !session.is_ending() {
                session.watch_expiry(ctx);
            }
        });
    }
}

/// How long it is until then; `None` if it is over.
fn left(expires_at: SystemTime, now: SystemTime) -> Option<Duration> {
    let left = expires_at.duration_since(now).ok();
    left.filter(|left| !left.is_zero())
}
