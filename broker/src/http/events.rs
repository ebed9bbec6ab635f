//! `GET /v1/topics/{topic}/events` and `GET /v1/events`: one topic or several as Server-Sent Events (HTML, section 9.2), for browsers'
//! `EventSource` and for `curl -N`.
//!
//! A browser that is answered anything but 200 gives up for good. So whatever passes is answered with `retry` and an end.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use hark_protocol::ErrorCode;
use tokio::time::Instant;

use super::admitted::{Admitted, end_of};
use super::event_writer::EventWriter;
use super::follow::Follower;
use super::reading::{self, Form, Reading};
use super::{ApiError, Gate};
use crate::connections::{Connection, Ends};
use crate::limits::{Counted, Held};
use crate::session::{About, Leave as _, Present, Transport};
use crate::topic::Access;

/// How long a browser waits before it comes back when a stream has broken.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

/// A client that has closed its side may read on, or be gone; written to, the system of one that is gone answers with a reset, and the next
/// write finds it. So one that is gone holds its place for little more than a second, and not until two heartbeats have failed.
const PROBES: u32 = 3;
const PROBE_EVERY: Duration = Duration::from_secs(1);

pub(super) async fn of_topic(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let reading = reading::read(&request, Some(&topic), Form::Stream)?;
    answer(&request, &gate, &access, reading).map_err(ApiError::for_stream)
}

pub(super) async fn of_topics(
    Admitted { access, .. }: Admitted,
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    let reading = reading::read(&request, None, Form::Stream)?;
    answer(&request, &gate, &access, reading).map_err(ApiError::for_stream)
}

fn answer(
    request: &HttpRequest,
    gate: &Gate,
    access: &Access,
    reading: Reading,
) -> Result<HttpResponse, ApiError> {
    let Reading { topics, from, .. } = reading;
    let meter = access.meter();
    let held = [
        meter.connect()?,
        meter.hold(Counted::Subscriptions, topics.len())?,
    ];
    let mut out = EventWriter::new(topics.clone());
    out.retry(COME_BACK_AFTER);
    let about = gate.about(request, Transport::EventStream, access.identity());
    about.has_subscriptions(topics.len());
    let about = Arc::new(about);
    let starts = topics.into_iter().zip(from);
    let follower = Follower::new(access, about.clone(), starts)?;
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        // nginx would collect the events until there are enough of them.
        .insert_header(("X-Accel-Buffering", "no"));
    let Some(present) = gate.sessions.enter(follower.inbox().clone(), about.clone()) else {
        // Hark is about to end.
        return Ok(response.body(out.take_and_end()));
    };
    // Something may have changed before it was in the list.
    follower.inbox().reconsider();
    let settings = &gate.session_settings;
    out.welcome(&settings.welcome(&about.id));
    tracing::debug!(
        session = about.id,
        peer = about.address,
        "an event stream began"
    );
    let connection = about.connection.clone();
    if let Some(connection) = &connection {
        let tell = follower.inbox().clone();
        connection.when_behind(move || tell.lag());
    }
    let expires_at = access.identity().expires_at();
    let ends = connection
        .as_ref()
        .map(|connection| connection.ends_while(expires_at));
    Ok(response.streaming(events(EventStream {
        follower,
        out,
        heartbeat: settings.heartbeat,
        connection,
        probes_left: PROBES,
        _ends: ends,
        _held: held,
        _ended: Ended(about),
        _present: present,
    })))
}

/// A stream under way.
struct EventStream {
    follower: Follower,
    out: EventWriter,
    heartbeat: Duration,
    connection: Option<Arc<Connection>>,
    /// How often a client that has closed its side is still written to, to see whether it reads.
    probes_left: u32,
    _ends: Option<Ends>,
    /// It is counted as long as it goes on.
    _held: [Held; 2],
    _ended: Ended,
    _present: Present,
}

/// Says that a stream has ended, however it does.
struct Ended(Arc<About>);

impl Drop for Ended {
    fn drop(&mut self) {
        let About { id, address, .. } = &*self.0;
        tracing::debug!(session = id, peer = address, "an event stream ended");
    }
}

/// The stream's text, a piece each time the socket asks for more.
fn events(stream: EventStream) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::unfold(stream, |mut stream| async move {
        let EventStream {
            follower,
            out,
            heartbeat,
            connection,
            probes_left,
            ..
        } = &mut stream;
        if follower.has_ended() {
            return None;
        }
        // At once the first time: `retry` and `welcome` wait to be sent.
        if out.is_empty() {
            let probe = async {
                match connection {
                    Some(connection) if *probes_left > 0 => connection.client_closes().await,
                    _ => std::future::pending().await,
                }
                if *probes_left < PROBES {
                    tokio::time::sleep(PROBE_EVERY).await;
                }
                *probes_left -= 1;
            };
            // When what its reader has shown runs out.
            let expiry = end_of(follower.identity());
            let expires = async {
                match expiry {
                    Some(expiry) => tokio::time::sleep_until(expiry).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = expires => {
                    let message = "the token has run out; come back with a new one";
                    follower.end_with(ErrorCode::Unauthenticated, message.to_owned(), out);
                }
                () = follower.turn(out, Instant::now() + *heartbeat) => {}
                () = probe => {}
            }
        }
        if out.is_empty() {
            out.heartbeat();
        }
        Some((Ok(out.take()), stream))
    })
}
