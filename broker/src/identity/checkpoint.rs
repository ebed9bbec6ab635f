//! Where one connection shows who it is. Owns that a credential which others could read on its way is not taken, and that bad ones are counted;
//! whether it is good the authority knows.

use std::sync::Arc;
use std::time::SystemTime;

use hark_protocol::ErrorCode;

use super::{Authority, Credential, Identity, Refusal};
use crate::limits::{Meter, Rated};

/// Judges what one request or connection shows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    authority: Arc<Authority>,
    is_overheard: bool,
    meter: Meter,
}

impl Checkpoint {
    /// `is_overheard`: what is shown came in plain text over a network. `meter`: the client's, whoever it is.
    pub(crate) fn new(authority: Arc<Authority>, is_overheard: bool, meter: Meter) -> Self {
        Self {
            authority,
            is_overheard,
            meter,
        }
    }

    /// Who shows this. What is refused is never taken for something weaker.
    pub(crate) fn judge(&self, credential: Credential<'_>) -> Result<Identity, Refusal> {
        if self.is_overheard && matches!(credential, Credential::Bearer(_)) {
            return Err(Refusal::new(
                ErrorCode::Forbidden,
                "a token is not taken over a connection that anybody on the way can read: use https or wss, by a proxy that is named with \
                 --trusted-proxy and sends X-Forwarded-Proto; or start Hark with --insecure-plaintext",
            ));
        }
        let judged = self.authority.judge(credential, SystemTime::now());
        judged.map_err(|refusal| self.count(refusal))
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
