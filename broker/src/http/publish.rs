//! `POST /v1/topics/{topic}/messages`: one message, or one a line.

use actix_web::http::header::{self, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use bytestring::ByteString;
use hark_protocol::codec::json::Publish;
use hark_protocol::{
    ErrorCode, Headers, HeadersError, Idempotency, JsonText, Message, MessageId, Payload,
    ProducerId, check_content_type,
};

use super::admitted::Admitted;
use super::body::Body;
use super::publishing::{self, Line};
use super::{ApiError, Gate, topics};

/// Request headers that become the message's, without the prefix.
pub(super) const MESSAGE_HEADER_PREFIX: &str = "hark-header-";

/// All others that begin with `hark-`.
pub(super) const PUBLISH_HEADERS: [&str; 3] = ["hark-producer", "hark-seq", "hark-message-id"];

/// The longest key behind which `#` and a line's number still fit: ten digits.
const MAX_KEY_OF_LINES: usize = 64 - 11;

pub(super) async fn publish(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    topic: web::Path<String>,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.check_open()?;
    let topic = topics::parse_own(&topic, "nobody can publish to it")?;
    // Before anything is received of it.
    access.check_publish(&topic)?;
    refuse_unknown(request.headers())?;
    let headers = message_headers(request.headers())?;
    let counted = Counted::read(request.headers())?;
    let content_type = content_type(request.headers())?;
    let body = Body::new(&request, payload, &gate)?;
    if content_type
        .as_deref()
        .is_some_and(|name| is_lines(&essence(name)))
    {
        counted.check_for_lines()?;
        // Lines that went to the room: what a producer counts.
        let mut published = 0;
        let read = move |line: Bytes| {
            let publish = JsonText::check(line)
                .map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()))
                .map(|json| {
                    published += 1;
                    Publish {
                        topic: topic.clone(),
                        message: Message {
                            payload: Payload::Json(json),
                            headers: headers.clone(),
                        },
                        idempotency: counted.of_line(published - 1),
                    }
                });
            Line::of_one_topic(publish)
        };
        return Ok(publishing::answer_lines(access, body, read).await);
    }
    let body = body.whole("a message").await?;
    let message = Message {
        payload: payload_of(body, content_type.as_deref())?,
        headers,
    };
    let receipt = publishing::publish_one(&access, topic, message, counted.of_line(0)).await?;
    Ok(HttpResponse::Ok().json(receipt))
}

/// What the request calls its body.
pub(super) fn content_type(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let name = headers.get(header::CONTENT_TYPE).map(|name| name.to_str());
    let name = name.transpose().map_err(|_| {
        let message = "Content-Type is not ASCII text, such as image/png";
        ApiError::new(ErrorCode::BadFrame, message)
    })?;
    Ok(name.map(|name| name.trim().to_owned()))
}

/// Refuses a header that is meant for Hark and that it does not know: a message kept without what was asked for it (a key, say) cannot be
/// taken back.
pub(super) fn refuse_unknown(headers: &HeaderMap) -> Result<(), ApiError> {
    let is_unknown = |name: &str| {
        name.starts_with("hark-")
            && !name.starts_with(MESSAGE_HEADER_PREFIX)
            && !PUBLISH_HEADERS.contains(&name)
    };
    match headers.keys().find(|name| is_unknown(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "the header {name} is not known; there are Hark-Producer with Hark-Seq, Hark-Message-Id, and Hark-Header-NAME for the \
                 message's own headers"
            );
            Err(ApiError::new(ErrorCode::BadFrame, message))
        }
    }
}

pub(super) fn message_headers(headers: &HeaderMap) -> Result<Headers, ApiError> {
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
pub(super) struct Counted(Idempotency);

impl Counted {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, ApiError> {
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
    pub(super) fn of_line(&self, n: u64) -> Idempotency {
        match &self.0 {
            Idempotency::Sequence { producer, seq } => Idempotency::Sequence {
                producer: producer.clone(),
                seq: seq.saturating_add(n),
            },
            Idempotency::Key(key) if n > 0 => MessageId::parse(&format!("{}#{n}", key.as_str()))
                // Not within the bound below, as no body has so many lines.
                .map_or(Idempotency::None, Idempotency::Key),
            same => same.clone(),
        }
    }

    /// Whether each line can be known for itself: behind a key there must be room for the line's number.
    fn check_for_lines(&self) -> Result<(), ApiError> {
        match &self.0 {
            Idempotency::Key(key) if key.as_str().len() > MAX_KEY_OF_LINES => Err(ApiError::new(
                ErrorCode::TooLarge,
                format!(
                    "for lines Hark-Message-Id has at most {MAX_KEY_OF_LINES} bytes: the line's number is put behind it"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// What a content type says without its parameters.
pub(super) fn essence(content_type: &str) -> String {
    content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// Whether a body of this type is one message a line. All these names are in use for the same, and none is registered.
pub(super) fn is_lines(essence: &str) -> bool {
    matches!(
        essence,
        "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
    )
}

/// Takes the body for what its type says (RFC 9110, section 8.3). `curl -d` says "form", whatever it sends.
fn payload_of(body: Bytes, content_type: Option<&str>) -> Result<Payload, ApiError> {
    let name = content_type.map(essence).unwrap_or_default();
    if name == "application/json" || name.ends_with("+json") {
        let json = JsonText::check(body).map(Payload::Json);
        return json.map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()));
    }
    if name.is_empty() || name == "application/x-www-form-urlencoded" {
        return Ok(Payload::undeclared(body));
    }
    let content_type = content_type.unwrap_or_default();
    check_content_type(content_type)
        .map_err(|error| ApiError::new(ErrorCode::BadFrame, error.to_string()))?;
    Ok(Payload::Bytes {
        data: body,
        content_type: Some(content_type.into()),
    })
}
