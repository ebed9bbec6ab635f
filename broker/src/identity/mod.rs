//! Who somebody is and what that allows. Owns the settled `Identity`, what was shown for it, and why it is refused; how a credential
//! is judged is in `authority`, what is granted in `grants`. Leaves to transports where a credential is read from.

mod api_keys;
mod authority;
mod checkpoint;
mod file;
mod grants;
mod jwks;
mod jwt;
mod ring_backend;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use hark_protocol::{ErrorCode, TopicName};

pub(crate) use api_keys::{KeyFile, KeyForm, NewKey, random_id};
pub(crate) use authority::{Authority, Explanation, secret};
pub(crate) use checkpoint::Checkpoint;
pub(crate) use file::read_private;
pub(crate) use grants::Grants;
pub(crate) use jwt::unverified_parts;
pub(crate) use ring_backend::{MIN_SECRET_BYTES, install as install_backend};

/// What the one without a credential is called on the wire.
const ANONYMOUS: &str = "anonymous";

/// Who somebody is and what that allows, settled once for a request or connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    who: Who,
    grants: Grants,
    expires_at: Option<SystemTime>,
    token_id: Option<Box<str>>,
    issued_at: Option<SystemTime>,
}

/// (issuer, subject): equal subjects of two issuers never meet. The anonymous one has neither.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Who(Option<hark_protocol::Identity>);

/// What somebody wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Write to it.
    Publish,
    /// Read it, in whatever way: messages, history, description.
    Subscribe,
    /// Delete it.
    Manage,
}

/// What was shown.
#[derive(Clone, Copy)]
pub(crate) enum Credential<'a> {
    /// Nothing.
    None,
    /// A token or an API key: of the `Authorization` header, the `auth` frame, or `access_token`.
    Bearer(&'a str),
}

/// Why a credential is refused: a code of the wire and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl Identity {
    /// Anybody may everything: no authentication is configured.
    pub(crate) fn unrestricted() -> Self {
        Self::new(Who::anonymous(), Grants::everything(), None, None, None)
    }

    /// `expires_at`: when it ends by itself. `token_id` and `issued_at` are what it can be revoked by.
    pub(crate) fn new(
        who: Who,
        grants: Grants,
        expires_at: Option<SystemTime>,
        token_id: Option<Box<str>>,
        issued_at: Option<SystemTime>,
    ) -> Self {
        Self(Arc::new(Inner {
            who,
            grants,
            expires_at,
            token_id,
            issued_at,
        }))
    }

    pub(crate) fn who(&self) -> &Who {
        &self.0.who
    }

    /// What `authenticated` says: the subject, or `anonymous`.
    pub(crate) fn name(&self) -> &str {
        match self.0.who.is_anonymous() {
            true => ANONYMOUS,
            false => self.0.who.subject(),
        }
    }

    /// When it ends by itself: the token's `exp` and the issuer's leeway.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.0.expires_at
    }

    /// What it can be revoked by: the `jti` of a token, the id of an API key.
    pub(crate) fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// When the token or key was made, where it says so.
    pub(crate) fn issued_at(&self) -> Option<SystemTime> {
        self.0.issued_at
    }

    /// Whether it is granted. What is not granted is refused.
    pub(crate) fn may(&self, act: Act, topic: &TopicName) -> bool {
        self.0.grants.may(act, topic)
    }

    /// Whether nothing at all is granted.
    pub(crate) fn may_nothing(&self) -> bool {
        self.0.grants.is_nothing()
    }

    /// Lists, sessions, metrics.
    pub(crate) fn may_monitor(&self) -> bool {
        self.0.grants.monitor()
    }

    /// What changes the broker itself.
    pub(crate) fn may_admin(&self) -> bool {
        self.0.grants.admin()
    }

    /// All it may do.
    pub(crate) fn grants(&self) -> &Grants {
        &self.0.grants
    }
}

impl Who {
    pub(crate) fn new(issuer: &str, subject: &str) -> Self {
        Self(Some(hark_protocol::Identity::new(issuer, subject)))
    }

    /// The one without a credential.
    pub(crate) fn anonymous() -> Self {
        Self(None)
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }

    /// Empty of the anonymous one alone.
    pub(crate) fn issuer(&self) -> &str {
        self.0.as_ref().map_or("", |identity| identity.issuer())
    }

    /// Empty of the anonymous one alone.
    pub(crate) fn subject(&self) -> &str {
        self.0.as_ref().map_or("", |identity| identity.subject())
    }

    /// As what it publishes: its messages bear this, and its producers and keys count within it. The anonymous one publishes as nobody.
    pub(crate) fn as_publisher(&self) -> Option<&hark_protocol::Identity> {
        self.0.as_ref()
    }
}

/// Never what was shown.
impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The credential is bad. Nothing weaker is tried in its place.
    fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unauthenticated, message)
    }

    /// The credential cannot be judged now: it may be good.
    fn busy(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Busy, message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}
