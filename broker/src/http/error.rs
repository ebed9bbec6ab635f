//! Errors of HTTP requests: a code for programs, a sentence for people, and the status that goes with them.

use std::fmt;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use hark_protocol::ErrorCode;
use serde_json::json;

use crate::identity;
use crate::limits::TooMuch;
use crate::message_log::LogError;
use crate::topic::Refusal;

/// Clients that are told to try again should wait so long, where nothing else is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request was refused: `{"code","message"}` and a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    refusal: Refusal,
    /// Its connection ends with it.
    closes: bool,
    /// Who asked reads an event stream.
    is_for_stream: bool,
}

impl ApiError {
    /// An error with the status that its code stands for.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal::new(code, message).into()
    }

    /// An error with another status than the code's own.
    pub fn with_status(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status,
            ..Self::new(code, message)
        }
    }

    /// The same to whoever asked for an event stream: where it passes, it is said as a stream that ends at once, and when to come back.
    pub(super) fn for_stream(self) -> Self {
        Self {
            is_for_stream: true,
            ..self
        }
    }

    /// The same; where too much was asked for, the connection ends with it.
    pub(super) fn closing_if_rate_limited(self) -> Self {
        Self {
            closes: self.refusal.code == ErrorCode::RateLimited,
            ..self
        }
    }

    /// How long to wait before it is tried again, if it may be.
    fn retry_after(&self) -> Option<Duration> {
        let else_known = || self.refusal.code.try_again().then_some(RETRY_AFTER);
        self.refusal.retry_after.or_else(else_known)
    }

    /// The error as JSON.
    pub fn body(&self) -> serde_json::Value {
        let mut body =
            json!({ "code": self.refusal.code.as_str(), "message": self.refusal.message });
        if let Some(expected_seq) = self.refusal.expected_seq {
            body["expected_seq"] = expected_seq.into();
        }
        if let Some(retry_after) = self.refusal.retry_after {
            body["retry_after_ms"] = ms(retry_after).into();
        }
        body
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            refusal,
            closes: false,
            is_for_stream: false,
        }
    }
}

impl From<TooMuch> for ApiError {
    fn from(too_much: TooMuch) -> Self {
        Refusal::from(too_much).into()
    }
}

impl From<identity::Refusal> for ApiError {
    fn from(refusal: identity::Refusal) -> Self {
        Refusal::from(refusal).into()
    }
}

impl From<&LogError> for ApiError {
    fn from(error: &LogError) -> Self {
        Refusal::from(error).into()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.refusal.code, self.refusal.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        if self.is_for_stream
            && let Some(retry_after) = self.retry_after()
        {
            let mut response = HttpResponse::Ok();
            if self.closes {
                response.force_close();
            }
            return response
                .content_type("text/event-stream")
                .body(format!("retry: {}\n\n", ms(retry_after)));
        }
        let mut response = HttpResponse::build(self.status);
        if let Some(retry_after) = self.retry_after() {
            // In whole seconds (RFC 9110, section 10.2.3).
            let seconds = ms(retry_after).div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if self.closes {
            response.force_close();
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self.body())
    }
}

/// At least 1: 0 would say "at once".
fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

pub(super) async fn no_such_route(request: HttpRequest) -> HttpResponse {
    nothing_at(request.path()).error_response()
}

/// There is no such route, or none that this listener serves.
pub(super) fn nothing_at(path: &str) -> ApiError {
    let message = format!("there is nothing at {path}; protocol/README.md lists the routes");
    ApiError::with_status(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message)
}

/// A method that the path does not have; `allowed` are those it has (RFC 9110, section 15.5.6).
pub(super) async fn wrong_method(request: HttpRequest, allowed: &'static str) -> HttpResponse {
    let message = format!(
        "{} cannot be done to {}; {allowed} can",
        request.method(),
        request.path()
    );
    let error = ApiError::with_status(
        StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Unsupported,
        message,
    );
    HttpResponse::MethodNotAllowed()
        .insert_header((header::ALLOW, allowed))
        .json(error.body())
}
