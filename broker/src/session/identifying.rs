//! Who a session's client is, while it lasts: `auth` frames, and the end of what they gave. Owns when a client has to have said who it is, when it is
//! told that this runs out, and what ends with it; who it is the checkpoint says, and what that allows is asked by `topic::Access`.
//!
//! ```text
//! anonymous, may nothing ──auth, within 5 s──▶ identified ──expiring──▶ … ──auth──▶ identified
//!            └─────────────4401─────────────▶ ended ◀──────4401─────────┘
//! ```
//! The frozen session's own timers do not run: its connection is cut from outside (`connections`), a second after the end.

use std::time::{Duration, SystemTime};

use actix::prelude::*;
use hark_protocol::{CloseCode, ErrorCode, ServerFrame};

use super::Session;
use super::socket::SessionContext;
use crate::connections::unix_ms;
use crate::identity::{Credential, Identity, Refusal};

/// A signature is checked: of the commands of a turn that takes so many more than its own.
const AUTH_WEIGHS: usize = 15;
/// Who may do nothing yet has so long to say who it is.
const AUTH_WITHIN: Duration = Duration::from_secs(5);
/// A client is told that its token runs out a tenth of its life ahead, within these bounds.
const LEAST_NOTICE: Duration = Duration::from_secs(10);
const MOST_NOTICE: Duration = Duration::from_secs(60);
/// The wall clock is looked at so often while it is waited for: it may be set, and the machine may sleep.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What of a client's identity is under way.
#[derive(Debug, Default)]
pub(super) struct Identifying {
    /// Runs until the client has to have said who it is, or the next look at the clock.
    timer: SpawnHandle,
    told_expiring: bool,
}

impl Session {
    /// Begins to watch over what was settled when the connection began.
    pub(super) fn begin_identified(&mut self, ctx: &mut SessionContext) {
        let identity = self.access.identity();
        if identity.may_nothing() && identity.who().is_anonymous() {
            self.identifying.timer = ctx.run_later(AUTH_WITHIN, |session, ctx| {
                let reason = "nothing may be done here without a token, and none came in time";
                session.close(ctx, CloseCode::UNAUTHENTICATED, reason);
            });
            return;
        }
        self.watch_expiry(ctx);
    }

    pub(super) fn authenticate(&mut self, id: Option<u64>, token: &str, ctx: &mut SessionContext) {
        if let Some(inbound) = &self.inbound {
            inbound.weighs(AUTH_WEIGHS);
        }
        let refusal = match self.checkpoint.judge(Credential::Bearer(token)) {
            Ok(identity) => return self.becomes(id, identity, ctx),
            Err(refusal) => refusal,
        };
        let Refusal { code, message } = refusal;
        self.send_error(ctx, id, code, message);
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
        let (close, reason) = match code {
            ErrorCode::Busy => (CloseCode::TRY_LATER, "the token cannot be judged just now"),
            _ => (CloseCode::UNAUTHENTICATED, "the token was refused"),
        };
        self.close(ctx, close, reason);
    }

    fn becomes(&mut self, id: Option<u64>, identity: Identity, ctx: &mut SessionContext) {
        let before = self.access.identity();
        if !before.who().is_anonymous() && before.who() != identity.who() {
            let message = format!(
                "this connection is {}'s, by another issuer or subject; open another connection",
                before.name()
            );
            self.send_error(ctx, id, ErrorCode::Forbidden, message);
            return;
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
        self.access.becomes(identity);
        ctx.cancel_future(std::mem::take(&mut self.identifying).timer);
        self.watch_expiry(ctx);
        self.end_what_is_no_longer_granted(ctx);
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
        let since = identity.issued_at().unwrap_or(now);
        let life = expires_at.duration_since(since).unwrap_or_default();
        let notice = (life / 10).clamp(LEAST_NOTICE, MOST_NOTICE);
        let mut wait = left;
        if left > notice {
            wait = left - notice;
        } else if !std::mem::replace(&mut self.identifying.told_expiring, true) {
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
