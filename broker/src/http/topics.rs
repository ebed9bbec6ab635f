//! `GET /v1/topics`: which topics there are, by name, page by page.

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, TopicName};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::{ApiError, Gate, query};
use crate::message_log::{MessageLog, TopicInfo};

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

pub(super) async fn list(
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let query: Query = query::read(&request, "prefix, after and limit")?;
    let limit = query::limit(query.limit.as_deref(), MAX_LIMIT, 1..=MAX_LIMIT)?;
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
    let topics: Vec<_> = found
        .iter()
        .map(|info| {
            let (topic, epoch) = (info.topic.as_str(), info.epoch.to_string());
            json!({ "topic": topic, "epoch": epoch, "first": info.first, "head": info.head })
        })
        .collect();
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
        found.extend(list_of(&**engine, after.clone()).await?);
    }
    found.sort_by(|a, b| a.topic.cmp(&b.topic));
    found.truncate(MAX_LIMIT);
    Ok(found)
}

async fn list_of(
    engine: &dyn MessageLog,
    after: Option<TopicName>,
) -> Result<Vec<TopicInfo>, ApiError> {
    let (send, found) = oneshot::channel();
    engine.list(
        after,
        MAX_LIMIT,
        Box::new(move |list| drop(send.send(list))),
    );
    let unanswered = || ApiError::new(ErrorCode::Internal, "the log did not answer; ask again");
    found
        .await
        .map_err(|_| unanswered())?
        .map_err(|error| ApiError::from(&error))
}
