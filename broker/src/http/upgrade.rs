//! `GET /ws`: checks the upgrade and chooses the subprotocol before there is a session.

use actix_http::ws::HandshakeError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, Subprotocol};

use super::{ApiError, Gate};
use crate::session::{self, Session};

pub(super) async fn upgrade(
    request: HttpRequest,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> actix_web::Result<HttpResponse> {
    gate.admission.check(&request)?;
    if let Err(error) = actix_http::ws::verify_handshake(request.head()) {
        return Ok(refuse_handshake(&error));
    }
    let chosen = choose(&request)?;
    gate.check_open()?;
    let session = Session::new(
        gate.client_address(&request),
        chosen.unwrap_or(Subprotocol::Json),
        gate.registry.clone(),
        gate.sessions.clone(),
        gate.session_settings.clone(),
    );
    session::upgrade(&request, payload, session, chosen.is_some())
}

/// The first subprotocol the client offers that is known; `None` if it offers none.
///
/// All `Sec-WebSocket-Protocol` lines count as one list (RFC 6455, section 11.3.4).
pub(super) fn choose(request: &HttpRequest) -> Result<Option<Subprotocol>, ApiError> {
    let lines = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if offered.is_empty() {
        return Ok(None);
    }
    let chosen = offered.iter().find_map(|name| Subprotocol::by_name(name));
    chosen.map(Some).ok_or_else(|| {
        let known: Vec<_> = Subprotocol::ALL.iter().map(|known| known.name()).collect();
        let message = format!(
            "of the subprotocols offered ({}) none is known; Hark speaks {}",
            offered.join(", "),
            known.join(" and ")
        );
        ApiError::with_status(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
    })
}

/// What is wrong with the upgrade (RFC 6455, sections 4.2.1 and 4.4).
fn refuse_handshake(error: &HandshakeError) -> HttpResponse {
    let (status, message) = match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => (
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        ),
        HandshakeError::BadWebsocketKey => (
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        _ => (
            StatusCode::BAD_REQUEST,
            "this is a WebSocket: ask for it with Upgrade: websocket and Connection: Upgrade",
        ),
    };
    let error = ApiError::with_status(status, ErrorCode::Unsupported, message);
    let mut response = HttpResponse::build(status);
    if status == StatusCode::UPGRADE_REQUIRED {
        response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
    }
    response.json(error.body())
}
