//! Doors for what is fuzzed (`fuzz/src/targets.rs`): everything here that reads bytes of a request, without a socket. Nothing else
//! uses them.

use std::time::Duration;

use actix_web::http::Uri;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::test::TestRequest;
use actix_web::{FromRequest, dev, web};
use bytes::Bytes;
use futures_util::stream;
use hark_protocol::codec::json::AnyPublish;
use hark_protocol::{Headers, Idempotency, Subprotocol, SubscribeFrom, TopicName};

use super::body::{Body, Lines};
use super::publish::Counted;
use super::publishing::Line;
use super::reading::{self, Form};
use super::{Admission, ApiError, client_address, publish, publish_many, upgrade};
use crate::receiving::Receivings;

/// Whose `Forwarded` is believed.
const PROXIES: [&str; 2] = ["127.0.0.1/32", "10.0.0.0/8"];

/// A body cut into lines, as it comes in these pieces.
pub async fn lines(pieces: Vec<Bytes>) -> Vec<Result<Bytes, ApiError>> {
    let pieces = stream::iter(pieces.into_iter().map(Ok));
    let mut payload: dev::Payload = dev::Payload::Stream {
        payload: Box::pin(pieces),
    };
    let request = TestRequest::default().to_http_request();
    let mut read = Vec::new();
    let Ok(payload) = web::Payload::from_request(&request, &mut payload).await else {
        return read;
    };
    let receiving = Receivings::new(usize::MAX).of("");
    let mut lines = Lines::new(Body::coming(payload, Duration::from_secs(60), receiving));
    while let Some(more) = lines.next_lines(|line| line).await {
        read.extend(more);
    }
    read
}

/// A line of `POST /v1/messages`: what to publish, and the client's own number.
pub fn line(line: Bytes) -> (Result<AnyPublish, ApiError>, Option<u64>) {
    let Line { publish, id, .. } = publish_many::read_line(line);
    (publish, id)
}

/// A list of `POST /v1/messages`.
#[expect(
    clippy::type_complexity,
    reason = "what is refused within what may be refused"
)]
pub fn list(body: &Bytes) -> Result<Vec<(Result<AnyPublish, ApiError>, Option<u64>)>, ApiError> {
    let lines = publish_many::read_list(body)?;
    let parts = |Line { publish, id, .. }: Line| (publish, id);
    Ok(lines.into_iter().map(parts).collect())
}

/// What a read asks for.
#[derive(Debug)]
pub struct Asked {
    /// The topics.
    pub topics: Vec<TopicName>,
    /// Where to start in each.
    pub from: Vec<SubscribeFrom>,
    /// Messages of a page.
    pub limit: usize,
    /// How long to wait.
    pub wait: Duration,
}

/// A read, for a page or for a stream; `None` where the query could not come by HTTP at all.
pub fn query(
    query: &str,
    stream: bool,
    last_event_id: Option<&[u8]>,
) -> Option<Result<Asked, ApiError>> {
    let uri = format!("/v1/messages?{query}");
    Uri::try_from(&uri).ok()?;
    let mut request = TestRequest::default().uri(&uri);
    if let Some(id) = last_event_id {
        request = request.append_header(("last-event-id", HeaderValue::from_bytes(id).ok()?));
    }
    let form = if stream { Form::Stream } else { Form::Page };
    let asked = reading::read(&request.to_http_request(), None, form);
    Some(asked.map(|reading| Asked {
        topics: reading.topics,
        from: reading.from,
        limit: reading.limit,
        wait: reading.wait,
    }))
}

/// What the lines of a head say.
#[derive(Debug)]
pub struct Head {
    /// Whether it is let in.
    pub admitted: Result<(), ApiError>,
    /// Who the client is, behind a proxy that is believed.
    pub client: String,
    /// The subprotocol of a WebSocket.
    pub subprotocol: Result<Option<Subprotocol>, ApiError>,
    /// The headers of a message.
    pub headers: Result<Headers, ApiError>,
    /// How a message is known again.
    pub idempotency: Result<Idempotency, ApiError>,
    /// What the body is, without parameters.
    pub content_type: Result<Option<String>, ApiError>,
}

/// A request with these lines, by name and value; those that could not come by HTTP are left out.
pub fn head(lines: &[(&[u8], &[u8])]) -> Head {
    let mut request = TestRequest::default().peer_addr(([127, 0, 0, 1], 9).into());
    for (name, value) in lines {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        request = request.append_header((name, value));
    }
    let request = request.to_http_request();
    let admission = Admission {
        allowed_origins: "https://app.example".parse().into_iter().collect(),
        ..Admission::default()
    };
    let proxies: Vec<_> = PROXIES.iter().flat_map(|proxy| proxy.parse()).collect();
    let headers = request.headers();
    Head {
        admitted: admission.check(&request, client_address::is_https(&request, &proxies)),
        client: client_address::client_address(&request, &proxies),
        subprotocol: upgrade::choose(&request),
        headers: publish::message_headers(headers),
        idempotency: Counted::read(headers).map(|counted| counted.of_line(1)),
        content_type: publish::content_type(headers)
            .map(|name| name.map(|name| publish::essence(&name))),
    }
}
