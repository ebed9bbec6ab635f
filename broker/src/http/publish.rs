//! `POST /v1/topics/{topic}/messages`: one message, or one a line. Goes the way of every publish: to the room, which answers when
//! it is kept.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use futures_util::{StreamExt, stream};
use hark_protocol::{
    ErrorCode, Headers, HeadersError, Idempotency, JsonText, MAX_FRAME_BYTES, Message, MessageId,
    Payload, ProducerId, TopicName,
};
use serde_json::json;
use tokio::sync::oneshot;

use super::{ApiError, Gate, topics};
use crate::topic::{Outcome, Publish, PublishItem, Publisher, Receipt, Refusal, Registry};

/// Request headers that become the message's, without the prefix.
const MESSAGE_HEADER_PREFIX: &str = "hark-header-";
/// Lines that are published together, at most; the next ones are read when these are kept.
const MAX_LINES_A_TURN: usize = 512;
/// Bytes of lines that are published together (but at least one line).
const MAX_LINE_BYTES_A_TURN: usize = 256 * 1024;

pub(super) async fn publish(
    request: HttpRequest,
    topic: web::Path<String>,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check(&request)?;
    gate.check_open()?;
    let topic = topics::parse_own(&topic, "nobody can publish to it")?;
    let headers = message_headers(request.headers())?;
    let counted = Counted::read(request.headers())?;
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default().trim().to_owned());
    let line = Line {
        topic,
        registry: gate.registry.clone(),
        headers,
    };
    let payload = Body {
        payload: Box::pin(payload),
        patience: gate.session_settings.stall_timeout,
    };
    if content_type
        .as_deref()
        .is_some_and(|name| essence(name) == "application/x-ndjson")
    {
        return Ok(publish_lines(line, counted, payload));
    }
    let body = read_body(payload).await?;
    let message = line.message(payload_of(body, content_type.as_deref())?);
    let outcome = line.publish(vec![(message, counted.of_line(0))]).await?;
    match outcome.into_iter().next() {
        Some(Outcome::Kept { cursor, duplicate }) => Ok(HttpResponse::Ok()
            .json(json!({ "cursor": cursor.to_string(), "duplicate": duplicate }))),
        Some(Outcome::Refused(refusal)) => Err(refusal.into()),
        None => Err(no_answer()),
    }
}

fn message_headers(headers: &HeaderMap) -> Result<Headers, ApiError> {
    let mut pairs = Vec::new();
    for (name, value) in headers {
        if let Some(name) = name.as_str().strip_prefix(MESSAGE_HEADER_PREFIX) {
            let value = value.to_str().map_err(|_| {
                ApiError::new(
                    ErrorCode::BadFrame,
                    format!("the value of {MESSAGE_HEADER_PREFIX}{name} is not ASCII text"),
                )
            })?;
            pairs.push((ByteString::from(name), ByteString::from(value)));
        }
    }
    Headers::new(pairs).map_err(|error| {
        let code = match error {
            HeadersError::TooMany(_) | HeadersError::TooLarge(_) => ErrorCode::TooLarge,
            HeadersError::BadName(_) => ErrorCode::BadFrame,
        };
        ApiError::new(code, error.to_string())
    })
}

/// How the messages of a request are known when it is sent again.
struct Counted(Idempotency);

impl Counted {
    fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
        let bad = |message: String| ApiError::new(ErrorCode::BadFrame, message);
        let text = |name: &str| match headers.get(name).map(|value| value.to_str()) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.to_owned())),
            Some(Err(_)) => Err(bad(format!("{name} is not ASCII text"))),
        };
        let key64 = |error: hark_protocol::Key64Error| bad(error.to_string());
        Ok(Self(
            match (
                text("hark-producer")?,
                text("hark-seq")?,
                text("hark-message-id")?,
            ) {
                (None, None, None) => Idempotency::None,
                (None, None, Some(key)) => Idempotency::Key(MessageId::parse(&key).map_err(key64)?),
                (Some(producer), Some(seq), None) => {
                    let seq = seq.parse().ok().filter(|&seq| seq > 0);
                    let seq = seq.ok_or_else(|| bad("Hark-Seq is a number from 1".to_owned()))?;
                    Idempotency::Sequence {
                        producer: ProducerId::parse(&producer).map_err(key64)?,
                        seq,
                    }
                }
                _ => {
                    return Err(bad(
                        "give Hark-Producer and Hark-Seq together, or Hark-Message-Id alone"
                            .to_owned(),
                    ));
                }
            },
        ))
    }

    /// The `n`th published line's: a producer counts on from the request's number, a key has the line's number behind it.
    fn of_line(&self, n: u64) -> Idempotency {
        match &self.0 {
            Idempotency::Sequence { producer, seq } => Idempotency::Sequence {
                producer: producer.clone(),
                seq: seq.saturating_add(n),
            },
            Idempotency::Key(key) if n > 0 => {
                // A key too long to be told apart by line leaves the line without one.
                MessageId::parse(&format!("{}#{n}", key.as_str()))
                    .map_or(Idempotency::None, Idempotency::Key)
            }
            same => same.clone(),
        }
    }
}

/// What a content type says without its parameters.
fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Takes the body for what its type says (RFC 9110, section 8.3). `curl -d` says "form", whatever it sends.
fn payload_of(body: Bytes, content_type: Option<&str>) -> Result<Payload, ApiError> {
    let name = content_type.map(essence).unwrap_or_default();
    let json = || JsonText::check(body.clone()).map(Payload::Json);
    if name == "application/json" || name.ends_with("+json") {
        return json().map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()));
    }
    if name.is_empty() || name == "application/x-www-form-urlencoded" {
        return Ok(json().unwrap_or_else(|_| {
            let text = std::str::from_utf8(&body).is_ok();
            let content_type = text.then(|| ByteString::from_static("text/plain; charset=utf-8"));
            Payload::Bytes {
                data: body.clone(),
                content_type,
            }
        }));
    }
    let content_type = content_type.unwrap_or_default();
    if content_type.len() > 255 {
        return Err(ApiError::new(
            ErrorCode::TooLarge,
            "a content type has at most 255 bytes",
        ));
    }
    Ok(Payload::Bytes {
        data: body.clone(),
        content_type: Some(content_type.into()),
    })
}

/// A request's body. One that dawdles is given up: no timer of the server runs once the head is there.
struct Body {
    payload: Pin<Box<web::Payload>>,
    patience: Duration,
}

impl Body {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        match tokio::time::timeout(self.patience, self.payload.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(error))) => Err(ApiError::new(
                ErrorCode::BadFrame,
                format!("the body ended early: {error}"),
            )),
            Err(_) => Err(ApiError::with_status(
                StatusCode::REQUEST_TIMEOUT,
                ErrorCode::BadFrame,
                "the body did not come; send it without a pause",
            )),
        }
    }
}

async fn read_body(mut payload: Body) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await? {
        if body.len() + chunk.len() > MAX_FRAME_BYTES {
            return Err(too_large("a message"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

fn too_large(what: &str) -> ApiError {
    ApiError::new(
        ErrorCode::TooLarge,
        format!("{what} has at most {MAX_FRAME_BYTES} bytes"),
    )
}

fn no_answer() -> ApiError {
    ApiError::new(
        ErrorCode::Busy,
        "the topic's room could not answer; send it again",
    )
}

/// Where a request publishes to.
struct Line {
    topic: TopicName,
    registry: Arc<Registry>,
    headers: Headers,
}

impl Line {
    fn message(&self, payload: Payload) -> Message {
        Message {
            payload,
            headers: self.headers.clone(),
        }
    }

    /// Publishes messages together and waits until they are answered.
    async fn publish(
        &self,
        messages: Vec<(Message, Idempotency)>,
    ) -> Result<Vec<Outcome>, ApiError> {
        let mut items = Vec::with_capacity(messages.len());
        let budget = &self.registry.settings().staged_budget;
        for (tag, (message, idempotency)) in messages.into_iter().enumerate() {
            let taken = budget.try_take(message.size_bytes()).ok_or_else(|| {
                ApiError::new(
                    ErrorCode::Busy,
                    "too much is waiting to be kept; send it again in a moment",
                )
            })?;
            items.push(PublishItem {
                tag,
                message,
                idempotency,
                taken,
            });
        }
        let (send, receipts) = oneshot::channel();
        let reply = Arc::new(Reply(Mutex::new(Some(send))));
        // Held until the answer, so that the room does not retire; asked for each time, since one may have died meanwhile.
        let room = self.registry.room(&self.topic);
        // Where it cannot be sent, the envelope answers `busy` by itself.
        room.order(Publish::new(reply, items));
        let receipts = receipts.await.map_err(|_| no_answer())?;
        Ok(receipts
            .into_iter()
            .map(|receipt| receipt.outcome)
            .collect())
    }
}

/// Where the receipts of one envelope go.
struct Reply(Mutex<Option<oneshot::Sender<Vec<Receipt>>>>);

impl Publisher for Reply {
    fn take_receipts(&self, receipts: Vec<Receipt>) {
        if let Some(reply) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The request may have been given up meanwhile.
            drop(reply.send(receipts));
        }
    }
}

/// One message a line, each answered by a line, as they are kept: the answer begins while the body still comes.
fn publish_lines(line: Line, counted: Counted, payload: Body) -> HttpResponse {
    let lines = Lines {
        payload,
        buffer: BytesMut::new(),
        searched: 0,
        skipping: false,
        ended: false,
    };
    let state = LinesTurn {
        line,
        counted,
        lines,
        published: 0,
    };
    let answers = stream::unfold(state, |mut state| async move {
        let answer = state.turn().await?;
        Some((Ok::<_, actix_web::Error>(answer), state))
    });
    HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .streaming(answers)
}

struct LinesTurn {
    line: Line,
    counted: Counted,
    lines: Lines,
    /// Lines that went to the room: what a producer counts.
    published: u64,
}

impl LinesTurn {
    /// Publishes the lines that are there, and gives their answers. `None` at the end of the body.
    async fn turn(&mut self) -> Option<Bytes> {
        let lines = self.lines.next_lines().await?;
        let mut messages = Vec::new();
        let mut refused = VecDeque::new();
        for (at, line) in lines.into_iter().enumerate() {
            let message = line.and_then(|line| {
                JsonText::check(line)
                    .map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()))
            });
            match message {
                Ok(json) => {
                    let idempotency = self.counted.of_line(self.published);
                    self.published += 1;
                    messages.push((self.line.message(Payload::Json(json)), idempotency));
                }
                Err(error) => refused.push_back((at, error)),
            }
        }
        let wanted = messages.len();
        let outcomes = match self.line.publish(messages).await {
            Ok(outcomes) => outcomes,
            Err(error) => {
                vec![Outcome::Refused(Refusal::new(ErrorCode::Busy, error.to_string())); wanted]
            }
        };
        let mut answer = BytesMut::new();
        let mut outcomes = outcomes.into_iter();
        for at in 0.. {
            let line = match refused.front() {
                Some((refused_at, _)) if *refused_at == at => {
                    refused.pop_front().map(|(_, error)| error.body())
                }
                _ => outcomes.next().map(|outcome| match outcome {
                    Outcome::Kept { cursor, duplicate } => {
                        json!({ "cursor": cursor.to_string(), "duplicate": duplicate })
                    }
                    Outcome::Refused(refusal) => ApiError::from(refusal).body(),
                }),
            };
            let Some(line) = line else { break };
            answer.extend_from_slice(line.to_string().as_bytes());
            answer.extend_from_slice(b"\n");
        }
        Some(answer.freeze())
    }
}

/// A body cut into lines. Holds one line of at most the largest message, and what came behind it.
struct Lines {
    payload: Body,
    buffer: BytesMut,
    /// So many bytes of the buffer hold no line break.
    searched: usize,
    /// Inside a line that is too long: it has been answered, the rest of it is passed over.
    skipping: bool,
    ended: bool,
}

impl Lines {
    /// The lines that are there, but at least one; empty lines do not count. `None` at the end.
    async fn next_lines(&mut self) -> Option<Vec<Result<Bytes, ApiError>>> {
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            while lines.len() < MAX_LINES_A_TURN && bytes < MAX_LINE_BYTES_A_TURN {
                let Some(line) = self.cut() else { break };
                bytes += line.as_ref().map_or(0, Bytes::len);
                lines.push(line);
            }
            if !lines.is_empty() {
                return Some(lines);
            }
            if self.ended {
                return None;
            }
            match self.payload.next().await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk),
                Ok(None) => self.ended = true,
                // What is left is a part of a line, and must not be taken for a whole one.
                Err(_) => {
                    self.buffer.clear();
                    self.ended = true;
                }
            }
        }
    }

    /// The next line of the buffer that is not empty.
    fn cut(&mut self) -> Option<Result<Bytes, ApiError>> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            let end = unsearched.iter().position(|&byte| byte == b'\n');
            let end = end.map(|end| self.searched + end);
            self.searched = if end.is_some() { 0 } else { self.buffer.len() };
            let line = match end {
                Some(end) => self.buffer.split_to(end + 1),
                None if self.buffer.len() > MAX_FRAME_BYTES => {
                    self.buffer.clear();
                    self.searched = 0;
                    match std::mem::replace(&mut self.skipping, true) {
                        true => return None,
                        false => return Some(Err(too_large("a line"))),
                    }
                }
                None if self.ended && !self.buffer.is_empty() => {
                    self.searched = 0;
                    self.buffer.split()
                }
                None => return None,
            };
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            let line = line.trim_ascii();
            match line.len() {
                0 => {}
                1..=MAX_FRAME_BYTES => return Some(Ok(Bytes::copy_from_slice(line))),
                _ => return Some(Err(too_large("a line"))),
            }
        }
    }
}
