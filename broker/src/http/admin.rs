//! `/v1/sessions`: who is connected, and ending them. `/v1/revocations`: what is revoked before its time. For operators: each asks for a right
//! over the broker itself, and each act leaves a line of the audit.

use std::time::SystemTime;

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admitted::Admitted;
use super::body::Body;
use super::{ApiError, Gate, query};
use crate::audit;
use crate::identity::{Identity, Refusal, RevocationForm, Time};
use crate::session::About;

/// How many a page has at most, and if the request does not say.
const MAX_LIMIT: usize = 1000;
/// The most bytes of a revocation.
const MAX_REVOCATION_BYTES: usize = 16 * 1024;

/// What a listing of sessions may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionsQuery {
    after: Option<String>,
    limit: Option<String>,
    identity: Option<String>,
    issuer: Option<String>,
}

/// Which sessions are to end, and how.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndQuery {
    identity: Option<String>,
    issuer: Option<String>,
    r#final: Option<String>,
}

/// What a listing of revocations may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationsQuery {
    after: Option<String>,
    limit: Option<String>,
}

pub(super) async fn list_sessions(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let right = access.identity().monitor("list the sessions")?;
    let query: SessionsQuery = query::read(&request, "after, limit, identity and issuer")?;
    let limit = query::number("limit", query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
    let after = query.after.unwrap_or_default();
    let whose = Whose {
        identity: query.identity,
        issuer: query.issuer,
    };
    // One more than is shown tells whether there are more.
    let found = gate
        .sessions
        .page(&right, &after, limit + 1, |about| whose.is_of(about));
    let sessions: Vec<Value> = found.iter().take(limit).map(|one| json_of(one)).collect();
    Ok(page("sessions", sessions, found.len() > limit))
}

pub(super) async fn end_session(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    id: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let done = end(&request, &gate, access.identity(), Some(id.as_str()));
    let on = format!("the session {id}");
    tell(
        &request,
        &gate,
        access.identity(),
        "end a session",
        &on,
        &done,
    );
    let ended = done? > 0;
    Ok(HttpResponse::Ok().json(json!({ "id": *id, "ended": ended })))
}

pub(super) async fn end_sessions(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let done = end(&request, &gate, access.identity(), None);
    let on = request.query_string();
    tell(
        &request,
        &gate,
        access.identity(),
        "end sessions",
        on,
        &done,
    );
    Ok(HttpResponse::Ok().json(json!({ "ended": done? })))
}

/// Ends one session, or all of an identity; says how many.
fn end(
    request: &HttpRequest,
    gate: &Gate,
    by: &Identity,
    id: Option<&str>,
) -> Result<usize, ApiError> {
    let right = by.administer("end sessions")?;
    let query: EndQuery = query::read(request, "identity, issuer and final")?;
    let for_good = match query.r#final.as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad("final is true or false")),
    };
    let whose = Whose {
        identity: query.identity,
        issuer: query.issuer,
    };
    let names_somebody = whose.identity.is_some();
    match id {
        Some(_) if names_somebody || whose.issuer.is_some() => Err(bad(
            "a session is named by its id alone; give identity and issuer without one",
        )),
        Some(id) => Ok(gate.sessions.end(&right, for_good, |about| about.id == id)),
        None if names_somebody => Ok(gate
            .sessions
            .end(&right, for_good, |about| whose.is_of(about))),
        None => Err(bad(
            "whose sessions are to end? Give identity=SUBJECT, and issuer=NAME where the subject is known to several",
        )),
    }
}

pub(super) async fn list_revocations(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let right = access.identity().administer("list what is revoked")?;
    let query: RevocationsQuery = query::read(&request, "after and limit")?;
    let limit = query::number("limit", query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
    let after = query.after.unwrap_or_default();
    // Whoever revokes has the list until that is on the disk.
    let found = in_background(move || gate.authority.revoked(&right, &after, limit + 1)).await?;
    let lines: Vec<Value> = found.iter().take(limit).map(|line| json!(line)).collect();
    Ok(page("revocations", lines, found.len() > limit))
}

pub(super) async fn revoke(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let by = access.identity();
    let done = take_revocation(&request, payload, &gate, by).await;
    let on = done.as_ref().map(|(line, _)| line.in_words());
    tell(
        &request,
        &gate,
        by,
        "revoke",
        &on.unwrap_or_default(),
        &done,
    );
    let (line, ended) = done?;
    let mut answer = json!(line);
    answer["ended"] = ended.into();
    Ok(HttpResponse::Ok().json(answer))
}

/// Revokes; says what, and how many that were connected are ended by it.
async fn take_revocation(
    request: &HttpRequest,
    payload: web::Payload,
    gate: &web::Data<Gate>,
    by: &Identity,
) -> Result<(RevocationForm, usize), ApiError> {
    // Before anything is received of it.
    by.administer("revoke")?;
    let body = Body::new(request, payload, gate)?;
    let line = read_revocation(&body.whole("a revocation").await?)?;
    // It may have taken a while to come.
    let right = by.administer("revoke")?;
    let gate = gate.clone();
    // It waits for the disk, and tells all that are connected.
    in_background(move || {
        let line = gate.authority.revoke(&right, line);
        let ended = gate.sessions.judge_again();
        Ok((line?, ended))
    })
    .await
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, ApiError> {
    let done = web::block(work).await;
    let done = done.map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))?;
    Ok(done?)
}

pub(super) async fn lift(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    id: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let by = access.identity();
    let done = match by.administer("lift a revocation") {
        Ok(right) => {
            let (gate, id) = (gate.clone(), id.clone());
            in_background(move || gate.authority.lift(&right, &id)).await
        }
        Err(refusal) => Err(refusal.into()),
    };
    let on = match &done {
        Ok(Some(line)) => line.in_words(),
        _ => format!("the revocation {id}"),
    };
    tell(&request, &gate, by, "lift a revocation", &on, &done);
    let lifted = done?.is_some();
    Ok(HttpResponse::Ok().json(json!({ "id": *id, "lifted": lifted })))
}

fn read_revocation(body: &[u8]) -> Result<RevocationForm, ApiError> {
    if body.len() > MAX_REVOCATION_BYTES {
        let message = format!("a revocation has at most {MAX_REVOCATION_BYTES} bytes");
        return Err(ApiError::new(ErrorCode::TooLarge, message));
    }
    let mut line: RevocationForm = serde_json::from_slice(body)
        .map_err(|error| bad(&format!("this is no revocation: {error}")))?;
    if line.id.is_some() || line.made.is_some() {
        return Err(bad("id and made are given by Hark; leave them out"));
    }
    if line.subject.is_some() {
        line.issued_before.get_or_insert(Time(SystemTime::now()));
    }
    line.check().map_err(|error| bad(&error))?;
    Ok(line)
}

/// One line of the audit.
fn tell<T>(
    request: &HttpRequest,
    gate: &Gate,
    by: &Identity,
    act: &'static str,
    on: &str,
    done: &Result<T, ApiError>,
) {
    let result = done.as_ref().map(|_| ()).map_err(ToString::to_string);
    audit::act(by, &gate.client_address(request), act, on, result);
}

/// Whose sessions are meant.
#[derive(Debug)]
struct Whose {
    identity: Option<String>,
    issuer: Option<String>,
}

impl Whose {
    fn is_of(&self, about: &About) -> bool {
        if self.identity.is_none() && self.issuer.is_none() {
            return true;
        }
        let identity = about.identity();
        let (issuer, subject) = (identity.who().issuer(), identity.name());
        self.identity.as_deref().is_none_or(|name| name == subject)
            && self.issuer.as_deref().is_none_or(|name| name == issuer)
    }
}

fn json_of(about: &About) -> Value {
    let identity = about.identity();
    let mut json = json!({
        "id": about.id,
        "transport": about.transport.name(),
        "identity": identity.name(),
        "address": about.address,
        "since": Time(about.since),
        "subscriptions": about.subscriptions(),
    });
    if !identity.who().is_anonymous() {
        json["issuer"] = identity.who().issuer().into();
    }
    if let Some(user_agent) = &about.user_agent {
        json["user_agent"] = user_agent.as_str().into();
    }
    json
}

/// A page of a list; `next` is the id behind which the next one begins.
fn page(name: &str, entries: Vec<Value>, are_more: bool) -> HttpResponse {
    let next = entries.last().filter(|_| are_more);
    let next = next.map(|last| last["id"].clone());
    let mut body = json!({ name: entries });
    if let Some(next) = next {
        body["next"] = next;
    }
    HttpResponse::Ok().json(body)
}

fn bad(message: &str) -> ApiError {
    ApiError::new(ErrorCode::BadFrame, message)
}
