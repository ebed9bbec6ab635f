//! What holds for every request and every answer, whatever the route. Owns rules of HTTP that actix-http leaves to its users, and what browsers are
//! told to do with pages; who may come in is asked of `guard`.

use std::sync::Arc;

use actix_http::{ConnectionType, RequestHead};
use actix_web::HttpRequest;
use actix_web::ResponseError;
use actix_web::body::{BodySize, BoxBody, EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::middleware::Next;
use actix_web::web;
use hark_protocol::ErrorCode;

use super::{ApiError, Gate, error, guard};
use crate::connections::Connection;

/// Request headers that say one thing. Of two lines the first would win for one reader, and the last for another (RFC 9110, section 5.3).
/// actix-http refuses a second `Host`, `Content-Length` and `Transfer-Encoding` itself.
const SAID_ONCE: [&str; 13] = [
    "Access-Control-Request-Method",
    "Authorization",
    "Content-Type",
    "Hark-Message-Id",
    "Hark-Producer",
    "Hark-Seq",
    "Last-Event-ID",
    "Origin",
    "Sec-Fetch-Dest",
    "Sec-Fetch-Mode",
    "Sec-Fetch-Site",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
];

/// What goes with every HTML page: it uses what comes from here, and connects to here. No script stands in a page itself, and no other page can
/// frame it, hold a handle to its window, or learn its address from a link.
pub(super) const OF_HTML: [(&str, &str); 3] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The middleware around every route: refuses what no route may be asked, and makes of each answer one that its reader can take.
pub async fn keep_rules<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let version = request.version();
    let names_websocket = names_websocket(request.head());
    let asks_to_upgrade = request.head().upgrade();
    let checked = check(request.request()).and_then(|()| check_is_served(&request));
    let mut response = match checked {
        Err(error) => request
            .into_response(error.error_response())
            .map_into_right_body(),
        Ok(()) => {
            let response = next.call(request).await?;
            match guard::refused_preflight(&response) {
                Some(error) => response
                    .into_response(error.error_response())
                    .map_into_right_body(),
                None => response.map_into_left_body(),
            }
        }
    };
    tell_browsers(response.headers_mut());
    // actix-http would say `Connection: upgrade` where there is none, and close without a word.
    if asks_to_upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let head = response.response_mut().head_mut();
        head.set_connection_type(ConnectionType::Close);
    }
    // Chunks are of HTTP/1.1 (RFC 9112, section 7.1); before it, a body of unknown length ends with the connection. So it does where
    // actix-http takes the request for an upgrade: it would announce chunks and write none.
    let knows_chunks = version >= Version::HTTP_11 && !names_websocket;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if !knows_chunks && !upgraded && response.response().body().size() == BodySize::Stream {
        let head = response.response_mut().head_mut();
        head.no_chunking(true);
        head.set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

/// What is served is of the type that it says, whatever it looks like; and what holds for pages.
fn tell_browsers(headers: &mut HeaderMap) {
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    let content_type = headers.get(header::CONTENT_TYPE);
    if content_type.is_some_and(|of| of.as_bytes().starts_with(b"text/html")) {
        for (name, value) in OF_HTML {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
    }
}

/// What actix-http takes for an upgrade.
fn names_websocket(head: &RequestHead) -> bool {
    let mut upgrades = head.headers().get_all(header::UPGRADE);
    upgrades.any(|to| {
        let to = to.as_bytes().trim_ascii();
        to.eq_ignore_ascii_case(b"websocket")
    })
}

/// A route that its listener does not serve is not there. By the path that routes are found by, in which nothing is hidden by `%`.
fn check_is_served(request: &ServiceRequest) -> Result<(), ApiError> {
    let path = request.match_info().unprocessed();
    match request.conn_data::<Arc<Connection>>() {
        Some(connection) if !connection.serves(path) => Err(error::nothing_at(request.path())),
        _ => Ok(()),
    }
}

fn check(request: &HttpRequest) -> Result<(), ApiError> {
    let head = request.head();
    let bad = |message: String| Err(ApiError::new(ErrorCode::BadFrame, message));
    let twice = |name: &&&str| head.headers().get_all(**name).count() > 1;
    if let Some(name) = SAID_ONCE.iter().find(twice) {
        return bad(format!("{name} stands twice in the request; send it once"));
    }
    // actix-http would take all that follows for the body.
    if head.method != Method::GET && names_websocket(head) {
        return bad(format!(
            "a WebSocket is asked for with GET, not with {} (RFC 6455, section 4.1); leave Upgrade out",
            head.method
        ));
    }
    let no_gate = || ApiError::new(ErrorCode::Internal, "there is no broker behind this route");
    let gate = request.app_data::<web::Data<Gate>>().ok_or_else(no_gate)?;
    gate.admission.check(request, gate.is_by_https(request))
}
