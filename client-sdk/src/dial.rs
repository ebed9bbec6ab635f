//! One attempt to connect: TCP, TLS, the WebSocket upgrade, and the broker's `welcome`. Owns which failures are final.

use std::time::Duration;

use futures_util::StreamExt;
use hark_protocol::{CloseCode, ServerFrame, Subprotocol, codec};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::ClientError;
use crate::options::Options;
use crate::outbox::Limits;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The largest frame and message taken from the broker: a message of 1 MiB in base64, and what is around it.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// What the broker's `welcome` said.
#[derive(Debug)]
pub(crate) struct Welcome {
    pub(crate) session: String,
    pub(crate) version: String,
    pub(crate) heartbeat: Duration,
    pub(crate) limits: Limits,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) error: ClientError,
    /// Trying again makes no sense.
    pub(crate) is_final: bool,
    /// What the broker asked for.
    pub(crate) retry_after: Option<Duration>,
}

impl DialError {
    fn passing(error: ClientError) -> Self {
        Self {
            error,
            is_final: false,
            retry_after: None,
        }
    }

    fn last(error: ClientError) -> Self {
        Self {
            error,
            is_final: true,
            retry_after: None,
        }
    }
}

/// Checks the URL once, before the first attempt.
pub(crate) fn check_url(url: &str) -> Result<(), ClientError> {
    let bad = |reason: &str| ClientError::BadUrl {
        url: url.to_owned(),
        reason: reason.to_owned(),
    };
    let request = url.into_client_request().map_err(|e| bad(&e.to_string()))?;
    match request.uri().scheme_str() {
        Some("ws") => {}
        Some("wss") if cfg!(feature = "tls") => {}
        Some("wss") => {
            return Err(ClientError::TlsNotBuilt {
                url: url.to_owned(),
            });
        }
        _ => return Err(bad("the scheme is not ws or wss")),
    }
    match request.uri().host() {
        Some(host) if !host.is_empty() => Ok(()),
        _ => Err(bad("there is no host")),
    }
}

/// Connects and waits for `welcome`.
pub(crate) async fn dial(
    options: &Options,
    token: Option<String>,
) -> Result<(Socket, Welcome), DialError> {
    match tokio::time::timeout(options.connect_timeout, dial_patiently(options, token)).await {
        Ok(result) => result,
        Err(_) => {
            let reason = format!("no connection within {:?}", options.connect_timeout);
            Err(DialError::passing(ClientError::Unreachable {
                url: options.url.clone(),
                reason,
            }))
        }
    }
}

async fn dial_patiently(
    options: &Options,
    token: Option<String>,
) -> Result<(Socket, Welcome), DialError> {
    let request = request(options, token).map_err(DialError::last)?;
    let config = WebSocketConfig::default()
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES))
        .read_buffer_size(64 * 1024)
        .write_buffer_size(64 * 1024);
    let (mut socket, _) = upgrade(request, config)
        .await
        .map_err(|e| explain(&options.url, e))?;
    let welcome = welcome(&mut socket, options).await?;
    Ok((socket, welcome))
}

#[cfg(not(feature = "tls"))]
async fn upgrade(
    request: Request,
    config: WebSocketConfig,
) -> Result<(Socket, Response), tungstenite::Error> {
    tokio_tungstenite::connect_async_with_config(request, Some(config), true).await
}

#[cfg(feature = "tls")]
async fn upgrade(
    request: Request,
    config: WebSocketConfig,
) -> Result<(Socket, Response), tungstenite::Error> {
    let connector = tokio_tungstenite::Connector::Rustls(crate::tls::config()?);
    tokio_tungstenite::connect_async_tls_with_config(request, Some(config), true, Some(connector))
        .await
}

fn request(options: &Options, token: Option<String>) -> Result<Request, ClientError> {
    let bad = |e: tungstenite::Error| ClientError::BadUrl {
        url: options.url.clone(),
        reason: e.to_string(),
    };
    let mut request = options.url.as_str().into_client_request().map_err(bad)?;
    let headers = request.headers_mut();
    let subprotocol = HeaderValue::from_static(options.subprotocol.name());
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            ClientError::Token("it holds characters that no HTTP header may hold".to_owned())
        })?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// Says in a sentence what went wrong, and whether it will go wrong again.
fn explain(url: &str, error: tungstenite::Error) -> DialError {
    let unreachable = |reason: String| ClientError::Unreachable {
        url: url.to_owned(),
        reason,
    };
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status().as_u16();
            let text = response
                .body()
                .as_deref()
                .map(String::from_utf8_lossy)
                .unwrap_or_default();
            let message = sentence_of(&text);
            let retry_after = response
                .headers()
                .get(header::RETRY_AFTER)
                .and_then(|value| value.to_str().ok());
            let error = ClientError::Refused {
                url: url.to_owned(),
                status,
                message,
            };
            match status {
                // No authentication is configured there: a token will not be looked at the next time either.
                501 if field_of(&text, "code").as_deref() == Some("unsupported") => {
                    DialError::last(error)
                }
                408 | 429 | 500.. => DialError {
                    error,
                    is_final: false,
                    retry_after: retry_after
                        .and_then(|s| s.parse().ok())
                        .map(Duration::from_secs),
                },
                _ => DialError::last(error),
            }
        }
        tungstenite::Error::Io(error) => DialError::passing(unreachable(error.to_string())),
        // It answered, but not as a broker does, and will again.
        tungstenite::Error::Protocol(
            error @ (tungstenite::error::ProtocolError::SecWebSocketSubProtocolError(_)
            | tungstenite::error::ProtocolError::SecWebSocketAcceptKeyMismatch
            | tungstenite::error::ProtocolError::HttparseError(_)),
        ) => DialError::last(unreachable(format!(
            "what listens there is no Hark broker ({error})"
        ))),
        error => DialError::passing(unreachable(error.to_string())),
    }
}

/// The `message` of an error's body, or the body itself, shortened.
fn sentence_of(body: &str) -> String {
    let message = field_of(body, "message");
    let message = message.as_deref().unwrap_or(body);
    message.trim().chars().take(300).collect()
}

fn field_of(body: &str, name: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(body.get(name)?.as_str()?.to_owned())
}

async fn welcome(socket: &mut Socket, options: &Options) -> Result<Welcome, DialError> {
    let lost = |reason: String| {
        DialError::passing(ClientError::Unreachable {
            url: options.url.clone(),
            reason,
        })
    };
    loop {
        let message = match socket.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(explain(&options.url, error)),
            None => return Err(lost("the connection ended before `welcome`".to_owned())),
        };
        let (bytes, subprotocol) = match message {
            Message::Text(text) => (text.into(), Subprotocol::Json),
            Message::Binary(bytes) => (bytes, Subprotocol::Bincode),
            Message::Close(close) => {
                let close =
                    close.map(|close| (CloseCode(close.code.into()), close.reason.to_string()));
                return Err(match close {
                    Some((code, reason)) if !code.should_reconnect() => {
                        DialError::last(ClientError::ClosedByBroker { code, reason })
                    }
                    Some((code, reason)) => lost(format!("closed with code {}: {reason}", code.0)),
                    None => lost("closed before `welcome`".to_owned()),
                });
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        return match codec::decode_server(&bytes, subprotocol) {
            Ok(ServerFrame::Welcome {
                session,
                version,
                heartbeat_ms,
                max_message_bytes,
                max_inflight,
            }) => {
                let at_least_one = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
                let several = hark_protocol::takes_publish_all(&version);
                Ok(Welcome {
                    session,
                    version,
                    heartbeat: Duration::from_millis(heartbeat_ms.clamp(100, 3_600_000)),
                    limits: Limits {
                        frame_bytes: at_least_one(max_message_bytes),
                        in_flight: at_least_one(max_inflight),
                        several,
                    },
                })
            }
            Ok(other) => Err(lost(format!("expected `welcome`, got {other:?}"))),
            Err(error) => Err(lost(format!(
                "expected `welcome`, got what cannot be read: {error}"
            ))),
        };
    }
}
