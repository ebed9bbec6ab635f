//! The WebSocket under a session: the only file that knows actix-web-actors. Owns the upgrade's response, the session's turns, and the
//! pace of the body; `frames` cuts what comes in.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix::dev::AsyncContextParts as _;
use actix::prelude::*;
use actix_http::ws::OpCode;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::{HttpContext, ws};
use bytes::Bytes;
use futures_util::Stream;
use hark_protocol::{CloseCode, Subprotocol};

use super::Session;
use super::frames::{Inbound, Incoming, Taken, Violation};
use super::outbound::Flow;

/// What a session's handlers are given.
pub(super) type SessionContext = HttpContext<Session>;

/// Envelopes that may wait for a session. Full: the room makes the subscription lag.
const SESSION_MAILBOX: usize = 256;

/// Answers an upgrade that has been checked, and starts the session on it.
pub fn upgrade(
    request: &HttpRequest,
    payload: web::Payload,
    mut session: Session,
    answer_subprotocol: bool,
) -> actix_web::Result<HttpResponse> {
    let mut response = ws::handshake(request)?;
    if answer_subprotocol {
        // Not left to actix-web-actors, which looks at the first line of what the client offers alone.
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, session.subprotocol.name()));
    }
    let flow = session.flow.clone();
    let taken = Taken {
        text: session.subprotocol == Subprotocol::Json,
        max_bytes: session.settings.max_message_bytes,
    };
    let receiving = session.settings.receivings.of(&session.about.address);
    let payload = payload.into_inner();
    let connection = session.connection.clone();
    let inbound = Inbound::new(payload, flow.clone(), taken, receiving, connection);
    session.inbound = Some(inbound);
    Ok(response.streaming(PacedBody {
        body: Box::pin(HttpContext::create(session)),
        flow,
    }))
}

impl Actor for Session {
    type Context = SessionContext;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.parts().set_mailbox_capacity(SESSION_MAILBOX);
        if let Some(inbound) = self.inbound.clone() {
            ctx.add_stream(inbound);
        }
        ctx.add_stream(BodyTurns(self.flow.clone()));
        self.begin(ctx);
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        self.end(ctx);
    }
}

impl StreamHandler<Result<Incoming, Violation>> for Session {
    fn handle(&mut self, incoming: Result<Incoming, Violation>, ctx: &mut Self::Context) {
        match incoming {
            Ok(Incoming::Message(bytes)) => self.take_message(&bytes, ctx),
            Ok(Incoming::Ping(payload)) => self.flow.write(OpCode::Pong, payload),
            Ok(Incoming::Pong) => {}
            Ok(Incoming::Close) => self.close_as_asked(ctx),
            // It has broken nothing, and is told to come again.
            Err(Violation { code, reason }) if code == CloseCode::TRY_LATER => {
                self.close(ctx, code, &reason);
            }
            Err(Violation { code, reason }) => self.close_at_once(ctx, code, &reason),
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.close_as_asked(ctx);
    }
}

/// The session's output, which tells the flow each time it is asked for more: then what was given before is taken, or nearly. While the
/// socket is blocked it does not ask, and the session stands still.
struct PacedBody<S> {
    body: Pin<Box<S>>,
    flow: Rc<Flow>,
}

impl<S, E> Stream for PacedBody<S>
where
    S: Stream<Item = Result<Bytes, E>>,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.flow.body_polled();
        // It gives nothing itself: what it has to say is written to the flow. But it says when it ends.
        let given = self.body.as_mut().poll_next(cx);
        match self.flow.take_written() {
            Some(written) => Poll::Ready(Some(Ok(written))),
            None => given,
        }
    }
}

/// Gives the session a turn when a page has been written, so that it asks for the next. It is looked at whenever the session
/// runs, which it does after each piece of output: it needs no waker.
struct BodyTurns(Rc<Flow>);

/// The socket has taken the last page, or nearly.
#[derive(Debug)]
struct PageWritten;

impl Stream for BodyTurns {
    type Item = PageWritten;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<PageWritten>> {
        match self.0.take_page_turn() {
            true => Poll::Ready(Some(PageWritten)),
            false => Poll::Pending,
        }
    }
}

impl StreamHandler<PageWritten> for Session {
    fn handle(&mut self, PageWritten: PageWritten, ctx: &mut Self::Context) {
        self.pull_next(ctx);
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}
