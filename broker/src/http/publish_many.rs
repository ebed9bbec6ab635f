//! `POST /v1/messages`: messages for many topics, each with its own name and number, answered one by one.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use hark_protocol::{ErrorCode, codec};
use serde_json::value::RawValue;

use super::body::Body;
use super::publish::{content_type, essence};
use super::publishing::{self, Line};
use super::{ApiError, Gate};

pub(super) async fn publish(
    request: HttpRequest,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check(&request)?;
    gate.check_open()?;
    let body = Body::new(payload, &gate);
    let content_type = content_type(request.headers()).unwrap_or_default();
    match essence(&content_type).as_str() {
        "application/json" => {
            let lines = read_list(&body.whole("a list of messages").await?)?;
            let answers = publishing::publish_all(&gate.registry, lines).await;
            Ok(HttpResponse::Ok().json(answers))
        }
        // `curl --data-binary` says "form", whatever it sends.
        "" | "application/x-ndjson" | "application/x-www-form-urlencoded" => {
            Ok(publishing::answer_lines(gate.registry.clone(), body, read))
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
fn read_list(body: &Bytes) -> Result<Vec<Line>, ApiError> {
    let bad = |error: serde_json::Error| {
        let message = format!("not a list of messages as JSON: {error}");
        ApiError::new(ErrorCode::BadFrame, message)
    };
    let list: Vec<&RawValue> = match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body).map_err(bad)?,
        _ => vec![serde_json::from_slice(body).map_err(bad)?],
    };
    let line = |message: &RawValue| read(Bytes::copy_from_slice(message.get().as_bytes()));
    Ok(list.into_iter().map(line).collect())
}
