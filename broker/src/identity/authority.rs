//! Judges credentials: which identity a token or key stands for, and what it may do. Owns the order of the checks; leaves tokens to
//! `jwt`, keys to `api_keys`, the form of the configuration to `file`.

use std::path::Path;
use std::time::SystemTime;

use hark_protocol::ErrorCode;

use super::{Credential, Identity, Refusal};

/// Judges credentials. Cheap to share in an `Arc`.
#[derive(Debug)]
pub(crate) struct Authority {}

impl Authority {
    /// No authentication is configured: anybody may everything, and a credential cannot be looked at.
    pub(crate) fn open() -> Self {
        Self {}
    }

    /// Reads the configuration and all that it names. The error is one sentence that names file and setting.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        Err(format!("{}: not yet read", path.display()))
    }

    /// Who shows this, and what may they do?
    pub(crate) fn judge(
        &self,
        credential: Credential<'_>,
        _now: SystemTime,
    ) -> Result<Identity, Refusal> {
        match credential {
            Credential::None => Ok(Identity::unrestricted()),
            Credential::Bearer(_) => Err(Refusal::new(
                ErrorCode::Unsupported,
                "authentication is not configured on this broker; connect without a token",
            )),
        }
    }
}
