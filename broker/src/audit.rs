//! The audit: one line of the log for each act of an administrator, and for each credential that was refused. Owns what such a line says, and
//! which of them peers cannot make too many of; where lines go is `logging`'s. A credential is never in it, only what it calls itself.

use hark_protocol::ErrorCode;

use crate::identity::{Credential, Identity, Refusal, unverified_names};

/// What administrators did. None of these lines is ever left out.
pub(crate) const ACTS: &str = "audit";
/// What anybody can cause: bounded, as other lines are.
const BOUNDED: &str = "audit::bounded";
/// So much is said of a name that anybody may have written.
const NAME_CHARS: usize = 64;

/// Somebody at the address `from` wanted to do `what` to `on`.
pub(crate) fn act(
    by: &Identity,
    from: &str,
    what: &'static str,
    on: &str,
    result: Result<(), String>,
) {
    let issuer = by.who().issuer();
    let subject = by.name();
    let result = result.err().unwrap_or_else(|| "done".to_owned());
    // Who may administer may fill the log too.
    match by.may_admin() {
        true => {
            tracing::info!(target: ACTS, issuer, subject, from, what, on, result, "an act of an administrator");
        }
        false => tracing::info!(target: BOUNDED, issuer, subject, from, what, on, result, "an act"),
    }
}

/// Settings were read again because of `why`, which is a signal or that files have changed.
pub(crate) fn read_again(why: &'static str, result: Result<usize, &str>) {
    match result {
        Ok(ended) => {
            tracing::info!(target: ACTS, why, ended, "settings were read again, and are in force");
        }
        Err(error) => {
            tracing::warn!(target: ACTS, why, error, "settings could not be read again; those from before stay in force");
        }
    }
}

/// A credential was refused that somebody at the address `from` has shown.
pub(crate) fn refused(from: &str, credential: Credential<'_>, refusal: &Refusal) {
    // Not what cannot be judged just now, nor what is never looked at here.
    if refusal.code != ErrorCode::Unauthenticated {
        return;
    }
    let names = match credential {
        Credential::Bearer(token) => unverified_names(token),
        Credential::None | Credential::Proxy(_) | Credential::Certificate(_) => None,
    };
    let (issuer, key) = names.unwrap_or_default();
    let clipped = |name: &str| -> String { name.chars().take(NAME_CHARS).collect() };
    tracing::info!(
        target: BOUNDED,
        from,
        issuer = clipped(&issuer),
        key = key.as_deref().map(clipped),
        reason = refusal.message,
        "a credential was refused"
    );
}
