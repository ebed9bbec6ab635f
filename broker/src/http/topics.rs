//! `GET /v1/topics`: which topics there are, by name, page by page. `GET` and `DELETE /v1/topics/{topic}`: what one of them holds, and
//! its end. Describing asks the log and opens no room; deleting is the room's.

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, TopicName};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{ApiError, Gate, query};
use crate::message_log::{Done, List, TopicInfo};
use crate::topic::{Delete, Deleted, names};

/// How many topics a page has at most, and if the request does not say.
const MAX_LIMIT: usize = 1000;

/// What a listing may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    prefix: Option<String>,
    after: Option<String>,
    limit: Option<String>,
}

pub(super) fn parse(topic: &str) -> Result<TopicName, ApiError> {
    TopicName::parse(topic).map_err(|error| ApiError::new(ErrorCode::BadTopic, error.to_string()))
}

/// A name that clients may do something to; `refusal` says what they cannot do to the others.
pub(super) fn parse_own(topic: &str, refusal: &str) -> Result<TopicName, ApiError> {
    let topic = parse(topic)?;
    match topic.is_system() {
        true => Err(ApiError::new(
            ErrorCode::BadTopic,
            format!("{topic} belongs to the system: {refusal}"),
        )),
        false => Ok(topic),
    }
}

pub(super) async fn describe(
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let topic = parse(&topic)?;
    let engine = gate.registry.engines().log_of(&topic);
    let info = ask(|done| engine.describe(topic, done)).await?;
    Ok(HttpResponse::Ok().json(json_of(&info)))
}

pub(super) async fn delete(
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check(&request)?;
    gate.check_open()?;
    let topic = parse_own(&topic, "nobody can delete it")?;
    let hidden = names::delete_hidden(gate.registry.engines(), &topic).await;
    let hidden = hidden.map_err(|error| ApiError::from(&error))?;
    let (reply, answer) = oneshot::channel();
    // Held until the answer, so that the room does not retire.
    let room = gate.registry.room(&topic);
    room.order(Delete { reply });
    let gone = || {
        ApiError::new(
            ErrorCode::Busy,
            "the topic's room could not answer; see what the topic holds, and ask again",
        )
    };
    let Deleted { deleted, epoch } = answer.await.map_err(|_| gone())??;
    let (topic, epoch, deleted) = (topic.as_str(), epoch.to_string(), deleted || hidden);
    Ok(HttpResponse::Ok().json(json!({ "topic": topic, "deleted": deleted, "epoch": epoch })))
}

pub(super) async fn list(
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let query: Query = query::read(&request, "prefix, after and limit")?;
    let limit = query::number("limit", query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
    let order = List {
        prefix: query.prefix.unwrap_or_default(),
        after: query.after.as_deref().map(parse).transpose()?,
        // One more than is shown tells whether there are more.
        limit: limit + 1,
    };
    let found = names::list(gate.registry.engines(), order).await;
    let mut found = found.map_err(|error| ApiError::from(&error))?;
    let are_more = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| are_more)
        .map(|last| last.topic.to_string());
    let topics: Vec<_> = found.iter().map(json_of).collect();
    let mut body = json!({ "topics": topics });
    if let Some(next) = next {
        body["next"] = next.into();
    }
    Ok(HttpResponse::Ok().json(body))
}

/// Asks an engine, and awaits its answer.
async fn ask<T: Send + 'static>(question: impl FnOnce(Done<T>)) -> Result<T, ApiError> {
    let (send, answer) = oneshot::channel();
    // The request may be given up meanwhile.
    question(Box::new(move |found| drop(send.send(found))));
    let unanswered = || ApiError::new(ErrorCode::Internal, "the log did not answer; ask again");
    answer
        .await
        .map_err(|_| unanswered())?
        .map_err(|error| ApiError::from(&error))
}

fn json_of(info: &TopicInfo) -> serde_json::Value {
    let TopicInfo {
        topic,
        epoch,
        first,
        head,
        bytes,
    } = info;
    let (topic, epoch) = (topic.as_str(), epoch.to_string());
    json!({ "topic": topic, "epoch": epoch, "first": first, "head": head, "bytes": bytes })
}
