//! Where one connection shows who it is. Owns that a credential which others could read on its way is not taken, that bad ones are counted, and for
//! whom a token for one topic is; whether it is good the authority knows.

use std::sync::Arc;
use std::time::SystemTime;

use hark_protocol::{ErrorCode, TopicName};

use super::{Authority, Credential, Identity, Refusal};
use crate::limits::{Meter, Rated};

/// Judges what one request or connection shows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    authority: Arc<Authority>,
    is_overheard: bool,
    nothing_was_shown: bool,
    meter: Meter,
}

impl Checkpoint {
    /// `is_overheard`: what is shown came in plain text over a network. `meter`: the client's, whoever it is.
    pub(crate) fn new(authority: Arc<Authority>, is_overheard: bool, meter: Meter) -> Self {
        Self {
            authority,
            is_overheard,
            nothing_was_shown: false,
            meter,
        }
    }

    /// Who the client is was settled by what came along with its request: what it shows itself counts more.
    pub(crate) fn where_nothing_was_shown(self) -> Self {
        Self {
            nothing_was_shown: true,
            ..self
        }
    }

    /// Whether that is so still. To be asked once, when something is shown.
    pub(crate) fn takes_another(&mut self) -> bool {
        std::mem::take(&mut self.nothing_was_shown)
    }

    /// Who shows this. What is refused is never taken for something weaker.
    pub(crate) fn judge(&self, credential: Credential<'_>) -> Result<Identity, Refusal> {
        self.check_overheard(credential)?;
        let judged = self.authority.judge(credential, SystemTime::now());
        judged.map_err(|refusal| self.count(refusal))
    }

    /// What a token for one topic, shown by `identity`, adds: an identity that may read this topic, and nothing else.
    pub(crate) fn judge_for_topic(
        &self,
        identity: &Identity,
        topic: &TopicName,
        token: &str,
    ) -> Result<Identity, Refusal> {
        self.check_overheard(Credential::Bearer(token))?;
        let now = SystemTime::now();
        let added = self.authority.judge_for_topic(token, topic, now);
        let added = added.map_err(|refusal| self.count(refusal))?;
        match identity.who().is_anonymous() || identity.who() == added.who() {
            true => Ok(added),
            false => Err(Refusal::new(
                ErrorCode::Forbidden,
                format!(
                    "the token for {topic} is {}'s, and this connection {}'s, by another issuer or subject",
                    added.name(),
                    identity.name()
                ),
            )),
        }
    }

    fn check_overheard(&self, credential: Credential<'_>) -> Result<(), Refusal> {
        match credential {
            Credential::None | Credential::Certificate(_) => Ok(()),
            _ if !self.is_overheard => Ok(()),
            Credential::Bearer(_) | Credential::Proxy(_) => Err(Refusal::new(
                ErrorCode::Forbidden,
                "a token is not taken over a connection that anybody on the way can read: use https or wss, by a proxy that is named with \
                 --trusted-proxy and sends X-Forwarded-Proto; or start Hark with --insecure-plaintext",
            )),
        }
    }

    /// Who has shown too many that are no good is told to wait, and not that this one is. It was looked at all the same: a good one is
    /// taken, whatever others from the same address have shown.
    fn count(&self, refusal: Refusal) -> Refusal {
        if refusal.code != ErrorCode::Unauthenticated {
            return refusal;
        }
        match self.meter.take(&[(Rated::FailedAuths, 1)]) {
            Ok(()) => refusal,
            Err(too_much) => Refusal {
                retry_after: Some(too_much.retry_after),
                ..Refusal::new(too_much.code(), too_much.to_string())
            },
        }
    }
}
