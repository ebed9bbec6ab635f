//! `GET /v1/topics`: which topics there are, by name, page by page. `GET` and `DELETE /v1/topics/{topic}`: what one of them holds, and
//! its end. Describing asks the log and opens no room; deleting is the room's.

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, TopicName};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{ApiError, Gate, query};
use crate::message_log::{Done, TopicInfo};
use crate::topic::{Delete, Deleted};

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
    let (topic, epoch) = (topic.as_str(), epoch.to_string());
    Ok(HttpResponse::Ok().json(json!({ "topic": topic, "deleted": deleted, "epoch": epoch })))
}

pub(super) async fn list(
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let query: Query = query::read(&request, "prefix, after and limit")?;
    let limit = query::number("limit", query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
    let mut after = query.after.as_deref().map(parse).transpose()?;
    let prefix = query.prefix.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = names_after(&gate, after.clone()).await?;
        let full = page.len() == MAX_LIMIT;
        after = page.last().map(|info| info.topic.clone());
        let beyond = page.last().is_some_and(|last| {
            last.topic.as_str() > prefix && !last.topic.as_str().starts_with(prefix)
        });
        for info in page
            .into_iter()
            .filter(|info| info.topic.as_str().starts_with(prefix))
        {
            if found.len() == limit {
                next = found.last().map(|last: &TopicInfo| last.topic.to_string());
                break;
            }
            found.push(info);
        }
        if next.is_some() || !full || beyond {
            break;
        }
    }
    let topics: Vec<_> = found.iter().map(json_of).collect();
    let mut body = json!({ "topics": topics });
    if let Some(next) = next {
        body["next"] = next.into();
    }
    Ok(HttpResponse::Ok().json(body))
}

/// The next topics of all engines together, by name.
async fn names_after(gate: &Gate, after: Option<TopicName>) -> Result<Vec<TopicInfo>, ApiError> {
    let engines = gate.registry.engines();
    let mut found = Vec::new();
    for engine in [&engines.synced, &engines.memory] {
        found.extend(ask(|done| engine.list(after.clone(), MAX_LIMIT, done)).await?);
    }
    found.sort_by(|a, b| a.topic.cmp(&b.topic));
    found.truncate(MAX_LIMIT);
    Ok(found)
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
