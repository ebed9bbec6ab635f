//! Where one connection shows who it is. Owns that a credential which others could read on its way is not taken; whether it is good the
//! authority knows.

use std::sync::Arc;
use std::time::SystemTime;

use hark_protocol::ErrorCode;

use super::{Authority, Credential, Identity, Refusal};

/// Judges what one request or connection shows. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    authority: Arc<Authority>,
    is_overheard: bool,
}

impl Checkpoint {
    /// `is_overheard`: what is shown came in plain text over a network.
    pub(crate) fn new(authority: Arc<Authority>, is_overheard: bool) -> Self {
        Self {
            authority,
            is_overheard,
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
        self.authority.judge(credential, SystemTime::now())
    }
}
