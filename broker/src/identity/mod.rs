//! Who somebody is and what that allows. Owns the settled `Identity`, what was shown for it, and why it is refused; how a credential
//! is judged is in `authority`, what is granted in `grants`. Leaves to transports where a credential is read from.

mod api_keys;
mod authority;
mod checkpoint;
mod file;
mod grants;
mod jwks;
mod jwt;
mod kept;
mod proxy;
mod revocations;
mod ring_backend;
mod standing;
mod verified;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hark_protocol::{ErrorCode, TopicName};

use crate::certificate::Certificate;

pub(crate) use api_keys::{KeyFile, KeyForm, NewKey, random_id};
pub(crate) use authority::{Authority, Explanation, secret};
pub(crate) use checkpoint::Checkpoint;
pub(crate) use file::{read_bytes, read_private};
pub(crate) use grants::Grants;
pub(crate) use jwt::{unverified_names, unverified_parts};
pub(crate) use kept::{FILE_NAME as KEPT_FILE_NAME, Kept};
pub(crate) use revocations::{RevocationForm, Time};
pub(crate) use ring_backend::{MIN_SECRET_BYTES, install as install_backend};

use standing::Standing;

/// What the one without a credential is called on the wire.
const ANONYMOUS: &str = "anonymous";

/// Who somebody is and what that allows, settled once for a request or connection. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Identity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    who: Who,
    /// By a token for this topic: it may read it, and nothing else.
    only: Option<TopicName>,
    grants: Grants,
    /// When it ends by itself.
    expires_at: Option<SystemTime>,
    /// What it can be revoked by, and when it was made.
    token_id: Option<Box<str>>,
    issued_at: Option<SystemTime>,
    shown: Shown,
    /// None: no authentication is configured.
    standing: Option<Standing>,
}

/// What an identity was settled by, as far as it takes to judge it again without what was shown.
#[derive(Clone, Debug, Default)]
enum Shown {
    #[default]
    Nothing,
    /// What a proxy says stands as long as it is believed.
    ByProxy,
    Certificate(Arc<Certificate>),
    Token(Arc<jwt::Known>),
    /// The one whose id is the identity's token id.
    ApiKey(api_keys::Hash),
}

/// The right to look at the broker: lists, sessions, metrics.
#[derive(Debug)]
pub(crate) struct MayMonitor(());

/// The right to change the broker itself.
#[derive(Debug)]
pub(crate) struct MayAdmin(());

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
    /// A token or an API key: of the `Authorization` header, the `auth` frame, `access_token`, or a cookie.
    Bearer(&'a str),
    /// Whom a declared proxy has let in, by its own word.
    Proxy(&'a str),
    /// The client's certificate, signed by whom its listener believes.
    Certificate(&'a Arc<Certificate>),
}

/// Why a credential is refused: a code of the wire and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    /// With `rate_limited`: when another may be shown.
    pub(crate) retry_after: Option<Duration>,
}

impl Identity {
    /// Anybody may everything: no authentication is configured.
    pub(crate) fn unrestricted() -> Self {
        Self(Arc::new(Inner {
            who: Who::anonymous(),
            only: None,
            grants: Grants::everything(),
            expires_at: None,
            token_id: None,
            issued_at: None,
            shown: Shown::Nothing,
            standing: None,
        }))
    }

    /// Who it is and what it may do now: the same, or, where keys, rules or revocations have changed since, what has become of it. To be
    /// asked whenever something new is granted; it costs next to nothing while nothing has changed.
    pub(crate) fn current(&self) -> Result<Cow<'_, Self>, Refusal> {
        if let Some(expires_at) = self.0.expires_at
            && expires_at <= SystemTime::now()
        {
            return Err(Refusal::unauthenticated(
                "the token has run out; send a new one",
            ));
        }
        match &self.0.standing {
            Some(standing) => standing.of(self),
            None => Ok(Cow::Borrowed(self)),
        }
    }

    /// Whether nothing that can be seen of it is otherwise in `other`, who is the same.
    fn is_like(&self, other: &Self) -> bool {
        self.0.grants == other.0.grants && self.0.expires_at == other.0.expires_at
    }

    /// The right to look at the broker, to do `what`.
    pub(crate) fn monitor(&self, what: &str) -> Result<MayMonitor, Refusal> {
        match self.current()?.0.grants.monitor() {
            true => Ok(MayMonitor(())),
            false => Err(self.may_not(&format!("{what} (that takes `monitor`)"))),
        }
    }

    /// The right to change the broker, to do `what`.
    pub(crate) fn administer(&self, what: &str) -> Result<MayAdmin, Refusal> {
        match self.current()?.0.grants.admin() {
            true => Ok(MayAdmin(())),
            false => Err(self.may_not(&format!("{what} (that takes `admin`)"))),
        }
    }

    /// Who has shown nothing is asked for something; with the same identity the others will be refused again.
    pub(crate) fn may_not(&self, what: &str) -> Refusal {
        match self.0.who.is_anonymous() {
            true => {
                Refusal::unauthenticated(format!("without a token nobody may {what}; give one"))
            }
            false => Refusal::new(
                ErrorCode::Forbidden,
                format!("{} may not {what}", self.name()),
            ),
        }
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

    /// The SHA-256 fingerprint, in hexadecimal, of the client certificate that it was settled by: what it can be revoked by.
    pub(crate) fn certificate(&self) -> Option<&str> {
        match &self.0.shown {
            Shown::Certificate(certificate) => Some(&certificate.fingerprint),
            _ => None,
        }
    }

    /// When the token, key or certificate was made, where it says so.
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
            Self::Proxy(_) => "Proxy(…)",
            Self::Certificate(_) => "Certificate(…)",
        })
    }
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
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
