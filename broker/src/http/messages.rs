//! `GET /v1/topics/{topic}/messages` and `GET /v1/messages`: pages of the history of one topic or several, from any cursor. With `wait`
//! they are long-polls: where there is nothing yet, the answer waits for the first message.

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::future::try_join_all;
use hark_protocol::{Cursor, CursorSet, ErrorCode, SubscribeFrom, TopicName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::page::Page;
use super::reading::{self, Form, Reading};
use super::waiting::Waiting;
use super::{ApiError, Gate};
use crate::topic::History;

/// The most bytes of payload that the pages of one answer have (but at least one message of each topic).
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

pub(super) async fn of_topic(
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let reading = reading::read(&request, Some(&topic), Form::Page)?;
    let pages = read(&gate, &reading).await?;
    let cursor = cursor_of(&reading.topics, &pages);
    let body = pages.iter().map(|page| page.json(false)).collect();
    Ok(answer(cursor, body))
}

pub(super) async fn of_topics(
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let reading = reading::read(&request, None, Form::Page)?;
    let pages = read(&gate, &reading).await?;
    let cursor = cursor_of(&reading.topics, &pages);
    let pages: Vec<String> = pages.iter().map(|page| page.json(true)).collect();
    let pages = pages.join(",");
    let body = format!("{{\"pages\":[{pages}],\"cursor\":\"{cursor}\"}}");
    Ok(answer(cursor, body))
}

fn cursor_of(topics: &[TopicName], pages: &[Page]) -> String {
    let cursors: Vec<Cursor> = pages.iter().map(|page| page.cursor).collect();
    let mut text = String::new();
    CursorSet::of(topics).write(&cursors, &mut text);
    text
}

fn answer(cursor: String, body: String) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(("Hark-Cursor", cursor))
        .insert_header(("Cache-Control", "no-store"))
        .content_type("application/json")
        .body(body)
}

/// Reads a page of each topic, and as long as all are empty waits for the first message.
async fn read(gate: &Gate, reading: &Reading) -> Result<Vec<Page>, ApiError> {
    let end = Instant::now() + reading.wait;
    let mut from = reading.from.clone();
    loop {
        let each = reading.topics.iter().zip(&from);
        let pages = each.map(|(topic, &from)| read_page(gate, reading, topic, from));
        let pages = try_join_all(pages).await?;
        let nothing = pages.iter().all(|page| page.is_empty() && page.caught_up);
        if !nothing || Instant::now() >= end {
            return Ok(pages);
        }
        let ends_first = !Waiting::begin(gate, &reading.topics, &pages)?
            .until(end)
            .await;
        if ends_first {
            return Ok(pages);
        }
        from = pages
            .iter()
            .map(|page| SubscribeFrom::After(page.cursor))
            .collect();
    }
}

async fn read_page(
    gate: &Gate,
    reading: &Reading,
    topic: &TopicName,
    from: SubscribeFrom,
) -> Result<Page, ApiError> {
    let (reply, page) = oneshot::channel();
    // Held until the answer, so that the room does not retire.
    let room = gate.registry.room(topic);
    room.order(History {
        from,
        max_records: reading.limit,
        max_bytes: MAX_ANSWER_BYTES / reading.topics.len(),
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
    Ok(Page::cut(page, topic))
}
