//! What a read asks for: which topics, where to start in each, how much. The same for a page, a long-poll and an event stream.

use std::time::Duration;

use actix_web::{HttpRequest, web};
use hark_protocol::{CursorSet, ErrorCode, SubscribeFrom, TopicName};

use super::admitted::ACCESS_TOKEN;
use super::{ApiError, query, topics};

/// Topics that one read may be of.
const MAX_TOPICS: usize = 32;
/// How many messages a page has of each topic, if the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// The most messages of a topic that a page can be asked for.
const MAX_LIMIT: usize = 1000;
/// The longest a page can be waited for: less than the minute after which proxies take a request for dead.
const MAX_WAIT_SECONDS: usize = 55;

/// A read, as it was asked for.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) topics: Vec<TopicName>,
    /// Where to start, in each of the topics.
    pub(super) from: Vec<SubscribeFrom>,
    /// Messages of a page, of each topic.
    pub(super) limit: usize,
    /// How long to wait for the first message, if there is none.
    pub(super) wait: Duration,
}

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A page: with `limit` and `wait`, from the oldest message unless told.
    Page,
    /// A stream: from now on unless told; `Last-Event-ID` says where it was left.
    Stream,
}

impl Form {
    fn known(self, many: bool) -> &'static str {
        match (self, many) {
            (Self::Page, false) => "after, from, limit and wait",
            (Self::Page, true) => "topic, after, from, limit and wait",
            (Self::Stream, false) => "after and from",
            (Self::Stream, true) => "topic, after and from",
        }
    }

    fn default_start(self) -> SubscribeFrom {
        match self {
            Self::Page => SubscribeFrom::Earliest,
            Self::Stream => SubscribeFrom::Now,
        }
    }
}

/// Reads a request for the topic of its path, or without one for those of its query.
pub(super) fn read(
    request: &HttpRequest,
    topic: Option<&str>,
    form: Form,
) -> Result<Reading, ApiError> {
    let pairs: Vec<(String, String)> = web::Query::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()))?;
    let mut asked_topics: Vec<&str> = topic.into_iter().collect();
    let (mut after, mut from, mut limit, mut wait) = (Vec::new(), Vec::new(), None, None);
    for (key, value) in &pairs {
        let twice = match key.as_str() {
            "topic" if topic.is_none() => {
                asked_topics.push(value);
                false
            }
            "after" => {
                after.push(value.as_str());
                after.len() > 1
            }
            "from" => {
                from.push(value.as_str());
                false
            }
            // Whose it is is settled already.
            ACCESS_TOKEN => false,
            "limit" if form == Form::Page => limit.replace(value.as_str()).is_some(),
            "wait" if form == Form::Page => wait.replace(value.as_str()).is_some(),
            _ => {
                let known = form.known(topic.is_none());
                let message = format!("unknown field `{key}`; there are {known}");
                return Err(ApiError::new(ErrorCode::BadFrame, message));
            }
        };
        if twice {
            let message = format!("`{key}` can be given once only");
            return Err(ApiError::new(ErrorCode::BadFrame, message));
        }
    }
    let topics = parse_topics(&asked_topics)?;
    let last_event_id = match form {
        Form::Stream => last_event_id(request)?,
        Form::Page => None,
    };
    let from = match last_event_id {
        Some(id) => after_id(&topics, id)?,
        None => starts(&topics, after.pop(), &from, form.default_start())?,
    };
    let wait = query::number("wait", wait, 0, 0..=MAX_WAIT_SECONDS)?;
    Ok(Reading {
        limit: query::number("limit", limit, DEFAULT_LIMIT, 1..=MAX_LIMIT)?,
        wait: Duration::from_secs(wait as u64),
        topics,
        from,
    })
}

fn parse_topics(names: &[&str]) -> Result<Vec<TopicName>, ApiError> {
    if !(1..=MAX_TOPICS).contains(&names.len()) {
        let code = match names.len() {
            0 => ErrorCode::BadTopic,
            _ => ErrorCode::TooManySubscriptions,
        };
        let message = format!("give `topic` from 1 to {MAX_TOPICS} times");
        return Err(ApiError::new(code, message));
    }
    let mut topics = Vec::with_capacity(names.len());
    for name in names {
        let topic = topics::parse(name)?;
        if topics.contains(&topic) {
            let message = format!("the topic {topic} is asked for twice");
            return Err(ApiError::new(ErrorCode::AlreadySubscribed, message));
        }
        topics.push(topic);
    }
    Ok(topics)
}

/// What a browser's `EventSource` sends when it comes back (HTML, section 9.2.4). Counts more than the query, which stays what it was.
fn last_event_id(request: &HttpRequest) -> Result<Option<&str>, ApiError> {
    let Some(id) = request.headers().get("last-event-id") else {
        return Ok(None);
    };
    let id = id.to_str().map_err(|_| {
        ApiError::new(
            ErrorCode::BadCursor,
            "Last-Event-ID is the `id` of an event, as Hark gave it out",
        )
    })?;
    Ok(Some(id).filter(|id| !id.is_empty()))
}

fn after_id(topics: &[TopicName], id: &str) -> Result<Vec<SubscribeFrom>, ApiError> {
    let cursors = CursorSet::of(topics)
        .read(id)
        .map_err(|error| ApiError::new(ErrorCode::BadCursor, format!("{id:?}: {error}")))?;
    Ok(cursors.into_iter().map(SubscribeFrom::After).collect())
}

fn starts(
    topics: &[TopicName],
    after: Option<&str>,
    from: &[&str],
    default: SubscribeFrom,
) -> Result<Vec<SubscribeFrom>, ApiError> {
    let bad = |message: String| ApiError::new(ErrorCode::BadCursor, message);
    let parse = |from: &&str| {
        from.parse()
            .map_err(|error: hark_protocol::SubscribeFromError| bad(error.to_string()))
    };
    match (after, from) {
        (Some(_), [_, ..]) => Err(bad("give after or from, not both".to_owned())),
        (Some(after), []) => after_id(topics, after),
        (None, []) => Ok(vec![default; topics.len()]),
        (None, [from]) => Ok(vec![parse(from)?; topics.len()]),
        (None, each) if each.len() == topics.len() => each.iter().map(parse).collect(),
        (None, each) => Err(bad(format!(
            "give `from` once for all topics, or once for each of them in the same order: there are {} topics and {} times `from`",
            topics.len(),
            each.len()
        ))),
    }
}
