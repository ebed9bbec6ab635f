//! `GET /v1/topics/{topic}/messages` and `GET /v1/messages`: pages of the history of one topic or several, from any cursor. With `wait`
//! they are long-polls: where there is nothing yet, the answer waits for the first message.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{Cursor, CursorSet, ErrorCode, SubscribeFrom, TopicName};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::admitted::{Admitted, end_of};
use super::answers::{Held, Room};
use super::page::Page;
use super::reading::{self, Form, Reading};
use super::waiting::{Waiting, Woken};
use super::{ApiError, Gate};
use crate::connections::Connection;
use crate::session::{About, Transport, Why};
use crate::topic::{Access, History, join_again_after};

/// The most bytes that the pages of one answer have (but at least one message).
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// How long a client is still waited for that has closed its side.
const GONE_AFTER: Duration = Duration::from_secs(2);

/// How often a room that dies is asked for again: for about a third of a second.
const MAX_ATTEMPTS: u32 = 5;

pub(super) async fn of_topic(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let reading = reading::read(&request, Some(&topic), Form::Page)?;
    let (pages, room) = read(&request, &gate, &access, &reading).await?;
    let connection = Connection::of(&request);
    let cursor = cursor_of(&reading.topics, &pages);
    let body = pages.iter().map(|page| page.json(false)).collect();
    Ok(answer(cursor, Held::new(body, room, connection)))
}

pub(super) async fn of_topics(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let reading = reading::read(&request, None, Form::Page)?;
    let (pages, room) = read(&request, &gate, &access, &reading).await?;
    let connection = Connection::of(&request);
    let cursor = cursor_of(&reading.topics, &pages);
    let pages: Vec<String> = pages.iter().map(|page| page.json(true)).collect();
    let pages = pages.join(",");
    let body = format!("{{\"pages\":[{pages}],\"cursor\":\"{cursor}\"}}");
    Ok(answer(cursor, Held::new(body, room, connection)))
}

fn cursor_of(topics: &[TopicName], pages: &[Page]) -> String {
    let cursors: Vec<Cursor> = pages.iter().map(|page| page.cursor).collect();
    let mut text = String::new();
    CursorSet::of(topics).write(&cursors, &mut text);
    text
}

fn answer(cursor: String, body: Held) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(("Hark-Cursor", cursor))
        .content_type("application/json")
        .body(body)
}

/// Reads a page of each topic, and as long as all are empty waits for the first message.
async fn read(
    request: &HttpRequest,
    gate: &Gate,
    access: &Access,
    reading: &Reading,
) -> Result<(Vec<Page>, Room), ApiError> {
    // All of them before anything of one.
    for topic in &reading.topics {
        access.check_read(topic)?;
    }
    let mut end = Instant::now() + reading.wait;
    if let Some(expiry) = end_of(access.identity()) {
        end = end.min(expiry);
    }
    let connection = Connection::of(request);
    let expires_at = access.identity().expires_at();
    let _ends = connection
        .as_ref()
        .map(|connection| connection.ends_while(expires_at));
    let mut about: Option<Arc<About>> = None;
    let mut from = reading.from.clone();
    loop {
        let room = gate.answers.room().await?;
        let pages = read_pages(access, reading, &from).await?;
        let nothing = pages.iter().all(|page| page.is_empty() && page.caught_up);
        if !nothing || Instant::now() >= end {
            return Ok((pages, room));
        }
        // Nothing is held while it waits.
        drop(room);
        let _counted = access.meter().stay()?;
        let about = about.get_or_insert_with(|| {
            let about = gate.about(request, Transport::LongPoll, access.identity());
            about.has_subscriptions(reading.topics.len());
            Arc::new(about)
        });
        let waiting = Waiting::begin(gate, access, about, &reading.topics, &pages)?;
        let woken = tokio::select! {
            woken = waiting.until(end) => woken,
            () = client_seems_gone(connection.as_deref()) => Woken::Over,
        };
        match woken {
            Woken::Look => {}
            Woken::Over | Woken::ToldToGo(Why::Restart) => {
                return Ok((pages, gate.answers.room().await?));
            }
            Woken::ToldToGo(why @ (Why::EndedForNow | Why::Ended)) => return Err(ended(why)),
        }
        from = pages
            .iter()
            .map(|page| SubscribeFrom::After(page.cursor))
            .collect();
    }
}

/// What a request is answered that an administrator has ended.
fn ended(why: Why) -> ApiError {
    let code = match why {
        Why::Ended => ErrorCode::Forbidden,
        Why::EndedForNow | Why::Restart => ErrorCode::Busy,
    };
    ApiError::new(code, why.close().1)
}

/// Resolves a while after the client has closed its side: mostly it is gone, and one that is not has an answer that is legal, and asks again.
async fn client_seems_gone(connection: Option<&Connection>) {
    match connection {
        Some(connection) => connection.client_closes().await,
        None => std::future::pending().await,
    }
    tokio::time::sleep(GONE_AFTER).await;
}

/// Reads a page of each topic. They share the bytes of an answer, so they are read one after the other.
async fn read_pages(
    access: &Access,
    reading: &Reading,
    from: &[SubscribeFrom],
) -> Result<Vec<Page>, ApiError> {
    let mut pages = Vec::with_capacity(from.len());
    let mut left_bytes = MAX_ANSWER_BYTES;
    for (at, (topic, &from)) in reading.topics.iter().zip(from).enumerate() {
        let share = left_bytes / (reading.topics.len() - at);
        let limit = if left_bytes > 0 { reading.limit } else { 0 };
        let page = read_page(access, topic, from, limit, share).await?;
        left_bytes = left_bytes.saturating_sub(page.bytes());
        pages.push(page);
    }
    Ok(pages)
}

/// Reads a page. A room that dies meanwhile is asked for again, for a while.
async fn read_page(
    access: &Access,
    topic: &TopicName,
    from: SubscribeFrom,
    max_records: usize,
    max_bytes: usize,
) -> Result<Page, ApiError> {
    for attempt in 1..=MAX_ATTEMPTS {
        let (reply, page) = oneshot::channel();
        // Held until the answer, so that the room does not retire.
        let right = access.read(topic)?;
        right.history(History {
            from,
            max_records,
            max_bytes,
            reply,
        });
        match (page.await, join_again_after(attempt)) {
            (Ok(page), _) => {
                let page = page.map_err(|error| ApiError::from(&error))?;
                return Ok(Page::cut(page, topic));
            }
            (Err(_), Some(wait)) => tokio::time::sleep(wait).await,
            (Err(_), None) => break,
        }
    }
    Err(ApiError::new(
        ErrorCode::Busy,
        "the topic's room could not answer; ask again",
    ))
}
