//! `GET /ws`: checks the upgrade and chooses the subprotocol before there is a session.

use actix_http::RequestHead;
use actix_http::ws::{HandshakeError, verify_handshake};
use actix_web::http::{StatusCode, Version, header};
use actix_web::{HttpRequest, HttpResponse, web};
use hark_protocol::{ErrorCode, Subprotocol};

use super::admitted::Admitted;
use super::{ApiError, Gate};
use crate::session::{self, Session, Transport};

pub(super) async fn upgrade(
    Admitted { access, checkpoint }: Admitted,
    request: HttpRequest,
    payload: web::Payload,
    gate: web::Data<Gate>,
) -> actix_web::Result<HttpResponse> {
    if let Err((status, message)) = check_handshake(request.head()) {
        return Ok(refuse_handshake(status, message));
    }
    let chosen = choose(&request)?;
    gate.check_open()?;
    let held = access.meter().connect().map_err(ApiError::from)?;
    let about = gate.about(&request, Transport::WebSocket, access.identity());
    let session = Session::new(
        about,
        chosen.unwrap_or(Subprotocol::Json),
        access,
        checkpoint,
        gate.sessions.clone(),
        gate.session_settings.clone(),
    )
    .counted(held);
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
        // They are not repeated: some clients put their token there.
        let message = format!(
            "none of the subprotocols offered is known; Hark speaks {}",
            known.join(" and ")
        );
        ApiError::with_status(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
    })
}

/// What is wrong with the upgrade, if anything is (RFC 6455, sections 4.2.1 and 4.4; RFC 9110, section 7.8). actix-http finds `websocket` anywhere in
/// `Upgrade`, but hands on as a stream only what follows exactly that, and knows nothing of versions and bodies.
fn check_handshake(head: &RequestHead) -> Result<(), (StatusCode, &'static str)> {
    let bad = |message| Err((StatusCode::BAD_REQUEST, message));
    let headers = head.headers();
    let mut protocols = headers.get_all(header::UPGRADE);
    let (protocol, more) = (protocols.next(), protocols.next());
    let Some(protocol) = protocol else {
        return bad(
            "this is a WebSocket: ask for it with Upgrade: websocket and Connection: Upgrade",
        );
    };
    if head.version < Version::HTTP_11 {
        return bad("a WebSocket is asked for with HTTP/1.1, which HTTP/1.0 cannot become");
    }
    let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    if !is_websocket || more.is_some() {
        return Err((
            StatusCode::UPGRADE_REQUIRED,
            "this path serves WebSockets alone: send Upgrade: websocket, and nothing else in it",
        ));
    }
    let is_empty = |length: &header::HeaderValue| length.as_bytes().trim_ascii() == b"0";
    if headers.contains_key(header::TRANSFER_ENCODING)
        || !headers.get_all(header::CONTENT_LENGTH).all(is_empty)
    {
        return bad("a request for a WebSocket has no body; send it without one");
    }
    verify_handshake(head).map_err(|error| match error {
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => (
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version must be 13",
        ),
        HandshakeError::BadWebsocketKey => (
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key must be 16 bytes in base64",
        ),
        HandshakeError::GetMethodRequired
        | HandshakeError::NoWebsocketUpgrade
        | HandshakeError::NoConnectionUpgrade => (
            StatusCode::BAD_REQUEST,
            "Connection must be Upgrade, beside Upgrade: websocket",
        ),
    })
}

/// The answer. One that asks for another upgrade names it (RFC 9110, section 15.5.22; RFC 6455, section 4.4).
fn refuse_handshake(status: StatusCode, message: &str) -> HttpResponse {
    let error = ApiError::with_status(status, ErrorCode::Unsupported, message);
    let mut response = HttpResponse::build(status);
    if status == StatusCode::UPGRADE_REQUIRED {
        response.insert_header((header::UPGRADE, "websocket"));
        response.insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
    }
    response.json(error.body())
}
