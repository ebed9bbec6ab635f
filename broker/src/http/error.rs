//! Errors of HTTP requests: a code for programs, a sentence for people, and the status that goes with them.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, ResponseError};
use hark_protocol::ErrorCode;
use serde_json::json;

use crate::identity;
use crate::message_log::LogError;
use crate::topic::Refusal;

/// Clients that are told to try again should wait so long.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Why a request was refused: `{"code","message"}` and a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    refusal: Refusal,
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

    /// The error as JSON.
    pub fn body(&self) -> serde_json::Value {
        let mut body =
            json!({ "code": self.refusal.code.as_str(), "message": self.refusal.message });
        if let Some(expected_seq) = self.refusal.expected_seq {
            body["expected_seq"] = expected_seq.into();
        }
        body
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::from_u16(refusal.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, refusal }
    }
}

impl From<identity::Refusal> for ApiError {
    fn from(identity::Refusal { code, message }: identity::Refusal) -> Self {
        Self::new(code, message)
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
        let mut response = HttpResponse::build(self.status);
        if self.refusal.code.try_again() {
            response.insert_header(("Retry-After", RETRY_AFTER_SECONDS));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.json(self.body())
    }
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
