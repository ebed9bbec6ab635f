//! The door of every route that has to do with topics: whose a request is, settled here once for each request or connection, and that it is counted.
//! Owns where a token is shown, and that what is shown beats what comes along by itself (`ambient`); what the identity allows is asked by
//! `topic::Access`, the only way to topics. That the name and the page of a request may come in was checked before (`rules`).

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_web::dev::Payload;
use actix_web::http::{Method, header};
use actix_web::{FromRequest, HttpRequest, web};
use hark_protocol::ErrorCode;
use tokio::time::Instant;

use super::{ApiError, Gate, ambient, client_address};
use crate::audit;
use crate::certificate::Certificate;
use crate::identity::{Checkpoint, Credential, Identity, Refusal};
use crate::limits::Rated;
use crate::topic::Access;

/// The name of a token in a query.
pub(super) const ACCESS_TOKEN: &str = "access_token";
/// A token in a query ends up in logs and histories: it may not be good for longer than this.
const LONGEST_IN_QUERY: Duration = Duration::from_secs(3600);

/// A request that may come in.
#[derive(Debug)]
pub(super) struct Admitted {
    /// What it may do with topics.
    pub(super) access: Access,
    /// Where its connection may show something else.
    pub(super) checkpoint: Checkpoint,
}

impl FromRequest for Admitted {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // A browser's `EventSource` that is answered anything but 200 gives up for good.
        let is_stream = is_stream(request);
        ready(admit(request).map_err(|error| match is_stream {
            true => error.for_stream(),
            false => error,
        }))
    }
}

/// When what was granted to an identity ends, by the clock that timers go by.
pub(super) fn end_of(identity: &Identity) -> Option<Instant> {
    let expires_at = identity.expires_at()?;
    let left = expires_at.duration_since(SystemTime::now());
    Instant::now().checked_add(left.unwrap_or_default())
}

fn admit(request: &HttpRequest) -> Result<Admitted, ApiError> {
    let gate = request.app_data::<web::Data<Gate>>();
    let no_gate = || ApiError::new(ErrorCode::Internal, "there is no broker behind this route");
    let gate = gate.ok_or_else(no_gate)?;
    let is_overheard =
        !gate.takes_plaintext && client_address::is_overheard(request, &gate.trusted_proxies);
    let meter = gate.meter(request);
    let checkpoint = Checkpoint::new(gate.authority.clone(), is_overheard, meter.clone());
    let shown = shown(request, gate)?;
    let identity = identify(&shown, &checkpoint)
        .inspect_err(|refusal| {
            audit::refused(&gate.client_address(request), shown.credential(), refusal);
        })
        // Who has shown too many bad credentials pays for each further one with a connection.
        .map_err(|refusal| ApiError::from(refusal).closing_if_rate_limited())?;
    let access = gate.registry.access(identity, meter);
    access.meter().take(&[(Rated::Commands, 1)])?;
    Ok(Admitted {
        access,
        checkpoint: match shown {
            Shown::InCookie(_) | Shown::ByProxy(_) => checkpoint.where_nothing_was_shown(),
            Shown::Nothing | Shown::InHeader(_) | Shown::InQuery(_) | Shown::InHandshake(_) => {
                checkpoint
            }
        },
    })
}

fn is_stream(request: &HttpRequest) -> bool {
    let route = request.match_pattern().unwrap_or_default();
    route.ends_with("/events")
}

/// What a request shows, and where.
pub(super) enum Shown {
    Nothing,
    InHeader(String),
    InQuery(String),
    InCookie(String),
    /// By the word of a proxy, for this subject.
    ByProxy(String),
    InHandshake(Arc<Certificate>),
}

impl Shown {
    fn credential(&self) -> Credential<'_> {
        match self {
            Self::Nothing => Credential::None,
            Self::InHeader(token) | Self::InQuery(token) | Self::InCookie(token) => {
                Credential::Bearer(token)
            }
            Self::ByProxy(subject) => Credential::Proxy(subject),
            Self::InHandshake(certificate) => Credential::Certificate(certificate),
        }
    }
}

/// The first that is there counts, whatever it is worth.
fn shown(request: &HttpRequest, gate: &Gate) -> Result<Shown, ApiError> {
    match (bearer(request), token_in_query(request)?) {
        (None, None) => ambient::shown(request, gate),
        (Some(token), None) => Ok(Shown::InHeader(token)),
        (None, Some(token)) => Ok(Shown::InQuery(token)),
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::BadFrame,
            "a token stands in the header and in the address; send one",
        )),
    }
}

fn identify(shown: &Shown, checkpoint: &Checkpoint) -> Result<Identity, Refusal> {
    let identity = checkpoint.judge(shown.credential())?;
    let longest = SystemTime::now() + LONGEST_IN_QUERY;
    match (shown, identity.expires_at()) {
        (Shown::InQuery(_), Some(expires_at)) if expires_at <= longest => Ok(identity),
        (Shown::InQuery(_), _) => Err(Refusal::new(
            ErrorCode::Unauthenticated,
            "a token in the address must run out within an hour, since addresses are logged and kept; send one that does, or this \
             one as `Authorization: Bearer`",
        )),
        _ => Ok(identity),
    }
}

/// The token of `Authorization: Bearer` (RFC 6750, section 2.1). Other schemes are for a proxy in front.
fn bearer(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(header::AUTHORIZATION)?.as_bytes();
    let value = value.trim_ascii();
    let end = value.iter().position(|&byte| byte == b' ');
    let (scheme, token) = value.split_at(end.unwrap_or(value.len()));
    // What is no text is no token that is known, and refused as such.
    let token = || String::from_utf8_lossy(token.trim_ascii()).into_owned();
    scheme.eq_ignore_ascii_case(b"bearer").then(token)
}

/// The token of the query (RFC 6750, section 2.3), for readers that can send no header: a browser's `EventSource`.
fn token_in_query(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let query = request.query_string();
    // `%` may hide any letter of the name.
    if !query.contains(ACCESS_TOKEN) && !query.contains('%') {
        return Ok(None);
    }
    // A query that cannot be read is refused by whoever reads it.
    let Ok(pairs) = web::Query::<Vec<(String, String)>>::from_query(query) else {
        return Ok(None);
    };
    let mut tokens = pairs
        .into_inner()
        .into_iter()
        .filter_map(|(name, value)| (name == ACCESS_TOKEN).then_some(value));
    let (token, more) = (tokens.next(), tokens.next());
    let bad = |message: &str| Err(ApiError::new(ErrorCode::BadFrame, message));
    match token {
        None => Ok(None),
        Some(_) if more.is_some() => bad("`access_token` can be given once only"),
        Some(token) if takes_token_in_query(request) => Ok(Some(token)),
        Some(_) => bad(
            "`access_token` is for event streams and pages of messages alone; send `Authorization: Bearer`, or on a WebSocket an `auth` \
             frame",
        ),
    }
}

fn takes_token_in_query(request: &HttpRequest) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let route = request.match_pattern().unwrap_or_default();
    is_read && !is_upgrade && (is_stream(request) || route.ends_with("/messages"))
}
