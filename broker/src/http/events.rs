//! `GET /v1/topics/{topic}/events` and `GET /v1/events`: one topic or several as Server-Sent Events (HTML, section 9.2), for browsers'
//! `EventSource` and for `curl -N`.
//!
//! A browser that is answered anything but 200 gives up for good. So whatever passes is answered with `retry` and an end.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::time::Instant;

use super::event_writer::EventWriter;
use super::follow::Follower;
use super::reading::{self, Form, Reading};
use super::{ApiError, Gate};
use crate::session::{self, Present};

/// How long a browser waits before it comes back when a stream has broken.
const COME_BACK_AFTER: Duration = Duration::from_secs(2);

pub(super) async fn of_topic(
    request: HttpRequest,
    topic: web::Path<String>,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let reading = reading::read(&request, Some(&topic), Form::Stream)?;
    Ok(answer(&request, &gate, reading))
}

pub(super) async fn of_topics(
    request: HttpRequest,
    gate: web::Data<Gate>,
) -> Result<HttpResponse, ApiError> {
    gate.admission.check_host(&request)?;
    let reading = reading::read(&request, None, Form::Stream)?;
    Ok(answer(&request, &gate, reading))
}

fn answer(request: &HttpRequest, gate: &Gate, reading: Reading) -> HttpResponse {
    let Reading { topics, from, .. } = reading;
    let mut out = EventWriter::new(topics.clone());
    out.retry(COME_BACK_AFTER);
    let starts = topics.into_iter().zip(from);
    let follower = Follower::new(gate.registry.clone(), starts);
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        // nginx would collect the events until there are enough of them.
        .insert_header(("X-Accel-Buffering", "no"));
    let Some(present) = gate.sessions.enter(follower.inbox().clone()) else {
        // Hark is about to end.
        return response.body(out.take_and_end());
    };
    let name = session::new_name();
    let settings = &gate.session_settings;
    out.welcome(&settings.welcome(&name));
    let peer = gate.client_address(request);
    tracing::debug!(session = name, peer, "an event stream began");
    response.streaming(events(EventStream {
        follower,
        out,
        heartbeat: settings.heartbeat,
        _ended: Ended { name, peer },
        _present: present,
    }))
}

/// A stream under way.
struct EventStream {
    follower: Follower,
    out: EventWriter,
    heartbeat: Duration,
    _ended: Ended,
    _present: Present,
}

/// Says that a stream has ended, however it does.
struct Ended {
    name: String,
    peer: String,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let Self { name, peer } = self;
        tracing::debug!(session = name, peer, "an event stream ended");
    }
}

/// The stream's text, a piece each time the socket asks for more.
fn events(stream: EventStream) -> impl Stream<Item = Result<Bytes, actix_web::Error>> {
    stream::unfold(stream, |mut stream| async move {
        let EventStream {
            follower,
            out,
            heartbeat,
            ..
        } = &mut stream;
        if follower.has_ended() {
            return None;
        }
        // At once the first time: `retry` and `welcome` wait to be sent.
        if out.is_empty() {
            follower.turn(out, Instant::now() + *heartbeat).await;
        }
        if out.is_empty() {
            out.heartbeat();
        }
        Some((Ok(out.take()), stream))
    })
}
