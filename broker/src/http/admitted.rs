//! The door of every route that has to do with topics: a request that has come in. Owns that its name and its page were checked (`guard`), whose it
//! is, settled here once for each request or connection, and that it is counted; what that allows is asked by `topic::Access`, the only way
//! to topics.

use std::future::{Ready, ready};
use std::time::{Duration, SystemTime};

use actix_web::dev::Payload;
use actix_web::http::{Method, header};
use actix_web::{FromRequest, HttpRequest, web};
use hark_protocol::ErrorCode;
use tokio::time::Instant;

use super::{ApiError, Gate, client_address};
use crate::identity::{Checkpoint, Credential, Identity};
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
    match is_plain_read(request) {
        true => gate.admission.check_host(request)?,
        false => gate.admission.check(request)?,
    }
    let is_overheard =
        !gate.takes_plaintext && client_address::is_overheard(request, &gate.trusted_proxies);
    let meter = gate.meter(request);
    let checkpoint = Checkpoint::new(gate.authority.clone(), is_overheard, meter.clone());
    // Who has shown too many bad credentials pays for each further one with a connection.
    let identity = identify(request, &checkpoint).map_err(ApiError::closing_if_rate_limited)?;
    let access = gate.registry.access(identity, meter);
    access.meter().take(&[(Rated::Commands, 1)])?;
    Ok(Admitted { access, checkpoint })
}

fn is_stream(request: &HttpRequest) -> bool {
    let route = request.match_pattern().unwrap_or_default();
    route.ends_with("/events")
}

/// Whether it changes nothing, and its answer is kept from foreign pages by their browser (CORS), which it does not do for WebSockets.
fn is_plain_read(request: &HttpRequest) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key(header::UPGRADE)
}

fn identify(request: &HttpRequest, checkpoint: &Checkpoint) -> Result<Identity, ApiError> {
    let in_header = bearer(request);
    let in_query = token_in_query(request)?;
    match (in_header, in_query) {
        (None, None) => Ok(checkpoint.judge(Credential::None)?),
        (Some(token), None) => Ok(checkpoint.judge(Credential::Bearer(&token))?),
        (None, Some(token)) => {
            let identity = checkpoint.judge(Credential::Bearer(&token))?;
            let longest = SystemTime::now() + LONGEST_IN_QUERY;
            match identity.expires_at() {
                Some(expires_at) if expires_at <= longest => Ok(identity),
                _ => Err(ApiError::new(
                    ErrorCode::Unauthenticated,
                    "a token in the address must run out within an hour, since addresses are logged and kept; send one that does, or this \
                     one as `Authorization: Bearer`",
                )),
            }
        }
        (Some(_), Some(_)) => Err(ApiError::new(
            ErrorCode::BadFrame,
            "a token stands in the header and in the address; send one",
        )),
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
    let route = request.match_pattern().unwrap_or_default();
    is_plain_read(request) && (is_stream(request) || route.ends_with("/messages"))
}
