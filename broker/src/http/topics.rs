//! `GET /v1/topics`: which topics there are, by name, page by page. `GET` and `DELETE /v1/topics/{topic}`: what one of them holds, and
//! its end. Describing asks the log and opens no room; deleting is the room's.

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, TopicName};
use serde::Deserialize;
use serde_json::json;

use super::admitted::Admitted;
use super::{ApiError, Gate, query};
use crate::audit;
use crate::message_log::{List, TopicInfo};
use crate::topic::Deleted;

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
    Admitted { access, .. }: Admitted,
    topic: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let info = access.describe(parse(&topic)?).await?;
    Ok(HttpResponse::Ok().json(json_of(&info)))
}

pub(super) async fn delete(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.check_open()?;
    let topic = parse_own(&topic, "nobody can delete it")?;
    let done = access.delete(&topic).await;
    let (by, from) = (access.identity(), gate.client_address(&request));
    let result = done
        .as_ref()
        .map(drop)
        .map_err(|refusal| refusal.message.clone());
    audit::act(by, &from, "delete a topic", topic.as_str(), result);
    let Deleted { deleted, epoch } = done?;
    let (topic, epoch) = (topic.as_str(), epoch.to_string());
    Ok(HttpResponse::Ok().json(json!({ "topic": topic, "deleted": deleted, "epoch": epoch })))
}

pub(super) async fn list(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let query: Query = query::read(&request, "prefix, after and limit")?;
    let limit = query::number("limit", query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
    let order = List {
        prefix: query.prefix.unwrap_or_default(),
        after: query.after.as_deref().map(parse).transpose()?,
        // One more than is shown tells whether there are more.
        limit: limit + 1,
    };
    let mut found = access.list(order).await?;
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
