//! One attempt to connect: TCP, TLS and the WebSocket upgrade. Owns what a failure of it means: whether it is final, and what was asked for.
//! What is said over the connection, `welcome` first, is `connection`'s.

use std::net::SocketAddr;
#[cfg(feature = "tls")]
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hark_protocol::ErrorCode;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::ClientError;
use crate::options::Options;
use crate::race::{self, Doubts};
use crate::stream::Stream;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<Stream>>;

/// The largest frame and message taken from the broker: a message of 1 MiB in base64, and what is around it.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// A connection that was upgraded. Nothing has been said yet.
pub(crate) struct Dialed {
    pub(crate) socket: Socket,
    pub(crate) suspect: Suspect,
}

/// An address that answered, and is doubted all the same if this is dropped before it is [`cleared`](Self::clear).
#[derive(Debug)]
pub(crate) struct Suspect {
    address: Option<SocketAddr>,
    doubts: Doubts,
}

impl Suspect {
    /// Hark is there.
    pub(crate) fn clear(&mut self) {
        self.address = None;
    }
}

impl Drop for Suspect {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.doubts.doubt(address);
        }
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct DialError {
    pub(crate) error: ClientError,
    pub(crate) kind: Failure,
    /// What was asked for.
    pub(crate) retry_after: Option<Duration>,
}

/// What a failure says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may succeed.
    Passing,
    /// It may succeed with another token.
    TokenRefused,
    /// It would fail the same way.
    Final,
}

impl DialError {
    fn new(error: ClientError, kind: Failure) -> Self {
        Self {
            error,
            kind,
            retry_after: None,
        }
    }
}

/// Checks once, before the first attempt, what an application may have written wrong: the URL, and the files for TLS.
pub(crate) fn check(options: &Options) -> Result<(), ClientError> {
    check_url(&options.url)?;
    #[cfg(feature = "tls")]
    if options
        .url
        .get(..4)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("wss:"))
    {
        let read = options.tls_files.read();
        read.map_err(|reason| ClientError::BadCertificates { reason })?;
    }
    Ok(())
}

fn check_url(url: &str) -> Result<(), ClientError> {
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

/// Connects to the address of the host that answers first, and asks for the upgrade.
pub(crate) async fn dial(
    options: &Options,
    token: Option<String>,
    doubts: &Doubts,
) -> Result<Dialed, DialError> {
    let request = request(options, token)?;
    let passing = |reason: String| {
        let url = options.url.clone();
        DialError::new(ClientError::Unreachable { url, reason }, Failure::Passing)
    };
    let (address, stream) = connect(options, &request, doubts)
        .await
        .map_err(|error| passing(error.to_string()))?;
    let suspect = Suspect {
        address,
        doubts: doubts.clone(),
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MOST_BYTES))
        .max_frame_size(Some(MOST_BYTES))
        .read_buffer_size(64 * 1024)
        .write_buffer_size(64 * 1024);
    #[cfg(feature = "tls")]
    let connector = match is_tls(&request) {
        true => {
            let certificates = options.tls_files.read().map_err(passing)?;
            tokio_tungstenite::Connector::Rustls(Arc::new(certificates.config))
        }
        false => tokio_tungstenite::Connector::Plain,
    };
    #[cfg(not(feature = "tls"))]
    let connector = ();
    match upgrade(request, stream, config, connector).await {
        Ok(socket) => Ok(Dialed { socket, suspect }),
        Err(error) => Err(explain(&options.url, error)),
    }
}

async fn connect(
    options: &Options,
    request: &Request,
    doubts: &Doubts,
) -> std::io::Result<(Option<SocketAddr>, Stream)> {
    #[cfg(test)]
    if let Some(peer) = &options.memory {
        let (here, there) = tokio::io::duplex(64 * 1024);
        let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        peer.send(there).map_err(refused)?;
        return Ok((None, here.into()));
    }
    let uri = request.uri();
    let port = uri.port_u16().unwrap_or(match is_tls(request) {
        true => 443,
        false => 80,
    });
    let host = uri.host().unwrap_or_default();
    let (address, stream) = race::connect(host, port, &options.resolver, doubts).await?;
    Ok((Some(address), stream.into()))
}

fn is_tls(request: &Request) -> bool {
    request.uri().scheme_str() == Some("wss")
}

#[cfg(not(feature = "tls"))]
async fn upgrade(
    request: Request,
    stream: Stream,
    config: WebSocketConfig,
    _: (),
) -> Result<Socket, tungstenite::Error> {
    let stream = MaybeTlsStream::Plain(stream);
    let upgraded =
        tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await?;
    Ok(upgraded.0)
}

#[cfg(feature = "tls")]
async fn upgrade(
    request: Request,
    stream: Stream,
    config: WebSocketConfig,
    connector: tokio_tungstenite::Connector,
) -> Result<Socket, tungstenite::Error> {
    let (config, connector) = (Some(config), Some(connector));
    let upgraded =
        tokio_tungstenite::client_async_tls_with_config(request, stream, config, connector).await?;
    Ok(upgraded.0)
}

fn request(options: &Options, token: Option<String>) -> Result<Request, DialError> {
    let bad = |e: tungstenite::Error| {
        let (url, reason) = (options.url.clone(), e.to_string());
        DialError::new(ClientError::BadUrl { url, reason }, Failure::Final)
    };
    let mut request = options.url.as_str().into_client_request().map_err(bad)?;
    let headers = request.headers_mut();
    let subprotocol = HeaderValue::from_static(options.subprotocol.name());
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    if let Some(token) = token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            let reason = "it holds characters that no HTTP header may hold".to_owned();
            DialError::new(ClientError::Token(reason), Failure::TokenRefused)
        })?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(request)
}

/// Says in a sentence what went wrong, and whether it will go wrong again. Whatever stands between may say anything, so only what Hark
/// itself says is final: its own code behind the status.
fn explain(url: &str, error: tungstenite::Error) -> DialError {
    let unreachable = |reason: String| {
        let url = url.to_owned();
        DialError::new(ClientError::Unreachable { url, reason }, Failure::Passing)
    };
    match error {
        tungstenite::Error::Http(response) => {
            let status = response.status().as_u16();
            let text = response
                .body()
                .as_deref()
                .map(String::from_utf8_lossy)
                .unwrap_or_default();
            let (code, message) = code_and_sentence_of(&text);
            let kind = match (status, code) {
                (401, Some(_)) => Failure::TokenRefused,
                (403, Some(_)) => Failure::Final,
                // No authentication is configured there: a token will not be looked at the next time either.
                (501, Some(ErrorCode::Unsupported)) => Failure::Final,
                _ => Failure::Passing,
            };
            let retry_after = retry_after(response.headers());
            DialError {
                error: ClientError::Refused {
                    url: url.to_owned(),
                    status,
                    code,
                    message,
                    retry_after,
                },
                kind,
                retry_after,
            }
        }
        tungstenite::Error::Io(error) => unreachable(reason_of(&error)),
        // It answered, but not as a broker does; perhaps a proxy whose broker is away.
        tungstenite::Error::Protocol(
            error @ (ProtocolError::SecWebSocketSubProtocolError(_)
            | ProtocolError::SecWebSocketAcceptKeyMismatch
            | ProtocolError::HttparseError(_)),
        ) => unreachable(format!("what listens there is no Hark broker ({error})")),
        error => unreachable(error.to_string()),
    }
}

fn reason_of(error: &std::io::Error) -> String {
    #[cfg(feature = "tls")]
    if let Some(advice) = crate::tls::advice(error) {
        return advice;
    }
    error.to_string()
}

/// What `Retry-After` asks for: seconds, or a date (RFC 9110, section 10.2.3). A date is read by the clock of whoever set it, where that is told.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = text(header::DATE)
        .and_then(|date| httpdate::parse_http_date(date).ok())
        .unwrap_or_else(SystemTime::now);
    until.duration_since(now).ok()
}

/// Hark's code, if there is one, and the `message` of an error's body, or the body itself, shortened.
fn code_and_sentence_of(body: &str) -> (Option<ErrorCode>, String) {
    let parsed: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let field = |name| parsed.as_ref()?.get(name)?.as_str();
    let code = field("code")
        .map(ErrorCode::by_name)
        .filter(|code| *code != ErrorCode::Unknown);
    let message = field("message").unwrap_or(body);
    (code, message.trim().chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::Response;

    use super::*;

    fn refused(status: u16, headers: &[(&str, &str)], body: &str) -> DialError {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let response = response.body(Some(body.as_bytes().to_vec())).unwrap();
        explain("ws://h/ws", tungstenite::Error::Http(response.into()))
    }

    #[test]
    fn only_harks_own_refusals_are_final() {
        use Failure::{Final, Passing, TokenRefused};
        let page = "<html>Sign in</html>";
        for (status, body, kind) in [
            (403, r#"{"code":"forbidden","message":"no"}"#, Final),
            (
                401,
                r#"{"code":"unauthenticated","message":"no"}"#,
                TokenRefused,
            ),
            (403, page, Passing),
            (401, page, Passing),
            (401, r#"{"code":"weather","message":"no"}"#, Passing),
            (403, r#"{"error":"forbidden"}"#, Passing),
            (501, r#"{"code":"unsupported","message":"no"}"#, Final),
            (501, page, Passing),
            (404, page, Passing),
            (404, r#"{"code":"not_found","message":"no"}"#, Passing),
            (400, r#"{"code":"unsupported","message":"no"}"#, Passing),
            (200, page, Passing),
            (302, "", Passing),
            (503, r#"{"code":"busy","message":"no"}"#, Passing),
        ] {
            assert_eq!(refused(status, &[], body).kind, kind, "{status} {body}");
        }
        let mismatch = ProtocolError::SecWebSocketAcceptKeyMismatch;
        let error = explain("ws://h/ws", tungstenite::Error::Protocol(mismatch));
        assert_eq!(error.kind, Passing);
    }

    #[test]
    fn how_long_was_asked_for() {
        let asked = |headers: &[(&str, &str)]| refused(503, headers, "").retry_after;
        assert_eq!(asked(&[]), None);
        assert_eq!(asked(&[("retry-after", "soon")]), None);
        assert_eq!(asked(&[("retry-after", "-1")]), None);
        assert_eq!(asked(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let long = u64::MAX.to_string();
        assert_eq!(
            asked(&[("retry-after", &long)]),
            Some(Duration::from_secs(u64::MAX))
        );
        // By the clock of the one who says so, whatever it shows.
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let until = ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(asked(&[date, until]), Some(Duration::from_secs(60)));
        assert_eq!(asked(&[until]), None, "that is over");
    }
}
