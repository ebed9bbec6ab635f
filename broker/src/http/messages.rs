//! `GET /v1/topics/{topic}/messages`: a page of a topic's history, from any cursor.

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{Cursor, ErrorCode, ServerFrame, SubscribeFrom, TopicName, codec};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::{ApiError, Gate, query, topics};
use crate::message_log::PageItem;
use crate::topic::{History, HistoryPage};

/// How many messages a page has, if the request does not say.
const DEFAULT_LIMIT: usize = 100;
/// The most messages a page can be asked for.
const MAX_LIMIT: usize = 1000;
/// The most bytes of payload a page has (but at least one message).
const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// What a read may ask for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    after: Option<String>,
    from: Option<String>,
    limit: Option<String>,
}

impl Query {
    /// A read starts with the oldest message, unless it says where.
    fn start(&self) -> Result<SubscribeFrom, ApiError> {
        let bad = |message: String| ApiError::new(ErrorCode::BadCursor, message);
        match (&self.after, &self.from) {
            (None, None) => Ok(SubscribeFrom::Earliest),
            (Some(after), None) => after
                .parse()
                .map(SubscribeFrom::After)
                .map_err(|error: hark_protocol::CursorError| bad(error.to_string())),
            (None, Some(from)) => from
                .parse()
                .map_err(|error: hark_protocol::SubscribeFromError| bad(error.to_string())),
            (Some(_), Some(_)) => Err(bad("give after or from, not both".to_owned())),
        }
    }
}

pub(super) async fn history(
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let topic = topics::parse(&topic)?;
    let query: Query = query::read(&request, "after, from and limit")?;
    let from = query.start()?;
    let max_records = query::limit(query.limit.as_deref(), DEFAULT_LIMIT, 1..=MAX_LIMIT)?;
    let (reply, page) = oneshot::channel();
    // Held until the answer, so that the room does not retire.
    let room = gate.registry.room(&topic);
    room.order(History {
        from,
        max_records,
        max_bytes: MAX_PAGE_BYTES,
        reply,
    });
    let gone = || {
        ApiError::new(
            ErrorCode::Busy,
            "the topic's room could not answer; ask again",
        )
    };
    let page = page
        .await
        .map_err(|_| gone())?
        .map_err(|error| ApiError::from(&error))?;
    let page = Page::cut(page, &topic);
    let cursor = page.cursor.to_string();
    Ok(HttpResponse::Ok()
        .insert_header(("Hark-Cursor", cursor))
        .content_type("application/json")
        .body(page.body()))
}

/// A page as it is answered: at most one gap, and that before the messages. What comes behind a second one is the next page's.
struct Page {
    gap: Option<String>,
    messages: Vec<String>,
    cursor: Cursor,
    caught_up: bool,
}

impl Page {
    fn cut(found: HistoryPage, topic: &TopicName) -> Self {
        let HistoryPage {
            gap,
            page,
            cursor,
            caught_up,
        } = found;
        let at = |offset| Cursor {
            epoch: cursor.epoch,
            offset,
        };
        let gap_frame = |frame: &ServerFrame| codec::json::encode_server(frame).to_string();
        let mut cut = Self {
            gap: gap.as_ref().map(gap_frame),
            messages: Vec::new(),
            cursor,
            caught_up,
        };
        let mut position = match gap {
            Some(ServerFrame::Gap { cursor, .. }) => Some(cursor),
            _ => None,
        };
        for item in page.items {
            match item {
                PageItem::Record(record) => {
                    position = Some(at(record.offset));
                    cut.messages
                        .push(codec::json::encode_message(topic, &record).to_string());
                }
                PageItem::Gap { reason, from, to }
                    if cut.gap.is_none() && cut.messages.is_empty() =>
                {
                    position = Some(at(to));
                    let (topic, cursor) = (topic.clone(), at(to));
                    cut.gap = Some(gap_frame(&ServerFrame::Gap {
                        topic,
                        reason,
                        from: Some(from),
                        to: Some(to),
                        cursor,
                    }));
                }
                PageItem::Gap { .. } => {
                    cut.cursor = position.unwrap_or(cursor);
                    cut.caught_up = false;
                    break;
                }
            }
        }
        cut
    }

    fn body(&self) -> String {
        let gap = self
            .gap
            .as_ref()
            .map(|gap| format!(",\"gap\":{gap}"))
            .unwrap_or_default();
        let messages = self.messages.join(",");
        format!(
            "{{\"messages\":[{messages}],\"cursor\":\"{}\",\"caught_up\":{}{gap}}}",
            self.cursor, self.caught_up
        )
    }
}
