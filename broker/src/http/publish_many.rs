//! `POST /v1/messages`: messages for many topics, each with its own name and number, answered one by one.

use actix_web::http::StatusCode;
use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use hark_protocol::{ErrorCode, MAX_LIST_MESSAGES, codec};
use serde_json::value::RawValue;

use super::admitted::Admitted;
use super::body::Body;
use super::publish::{
    MESSAGE_HEADER_PREFIX, PUBLISH_HEADERS, content_type, essence, is_lines, refuse_unknown,
};
use super::publishing::{self, Line};
use super::{ApiError, Gate};

pub(super) async fn publish(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.check_open()?;
    refuse_headers(request.headers())?;
    let body = Body::new(&request, payload, &gate)?;
    let content_type = content_type(request.headers())?.unwrap_or_default();
    match essence(&content_type).as_str() {
        "application/json" => {
            let lines = read_list(&body.whole("a list of messages").await?)?;
            let answers = publishing::publish_all(&access, lines).await;
            Ok(HttpResponse::Ok().json(answers))
        }
        // `curl --data-binary` says "form", whatever it sends.
        name if matches!(name, "" | "application/x-www-form-urlencoded") || is_lines(name) => {
            Ok(publishing::answer_lines(access, body, read_line).await)
        }
        other => {
            let message = format!(
                "messages come as lines (application/x-ndjson) or as a list (application/json), not as {other}"
            );
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(ApiError::with_status(
                status,
                ErrorCode::Unsupported,
                message,
            ))
        }
    }
}

/// What is said in headers where there is one topic, is said in each message here.
fn refuse_headers(headers: &HeaderMap) -> Result<(), ApiError> {
    refuse_unknown(headers)?;
    let meant_for_one =
        |name: &str| PUBLISH_HEADERS.contains(&name) || name.starts_with(MESSAGE_HEADER_PREFIX);
    match headers.keys().find(|name| meant_for_one(name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "{name} does not go with many messages: each has its own producer and seq, message_id and headers"
            );
            Err(ApiError::new(ErrorCode::BadFrame, message))
        }
    }
}

pub(super) fn read_line(line: Bytes) -> Line {
    match line.first() {
        Some(b'[') => {
            let message = "a list is sent as application/json; here each line is one message";
            Line::refused(ApiError::new(ErrorCode::BadFrame, message))
        }
        _ => read(line),
    }
}

fn read(line: Bytes) -> Line {
    let (id, publish) = match codec::json::decode_publish(&line) {
        Ok((id, publish)) => (id, Ok(publish)),
        Err(error) => (error.id, Err(ApiError::new(error.code, error.message))),
    };
    Line {
        publish,
        id,
        names_topic: true,
    }
}

/// A list of messages, or a single one.
pub(super) fn read_list(body: &Bytes) -> Result<Vec<Line>, ApiError> {
    let bad = |error: serde_json::Error| {
        let message = format!("not a list of messages as JSON: {error}");
        ApiError::new(ErrorCode::BadFrame, message)
    };
    let list: Vec<&RawValue> = match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body).map_err(bad)?,
        _ => vec![serde_json::from_slice(body).map_err(bad)?],
    };
    let mut lines = Vec::new();
    let mut count = 0;
    for message in &list {
        let line = read(Bytes::copy_from_slice(message.get().as_bytes()));
        count += line.count();
        if count.max(list.len()) > MAX_LIST_MESSAGES {
            let message = format!(
                "a list has at most {MAX_LIST_MESSAGES} messages, where one for several topics counts once for each; send more as \
                 lines (application/x-ndjson)"
            );
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
        lines.push(line);
    }
    Ok(lines)
}
