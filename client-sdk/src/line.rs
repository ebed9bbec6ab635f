//! One connection while it stands: its socket, what is written to it and in which order, and whether the other side is there. What is said and
//! heard over it is `connection`'s.
//!
//! Nobody waits for `welcome`. As soon as the upgrade is answered, what there is to say goes out in one write: the **first flight**. It is
//! small, because its limits are not known yet, and because what listens may be something else than Hark.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{SinkExt, StreamExt};
use hark_protocol::{Encoded, MAX_FRAME_BYTES};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCloseCode;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage, Utf8Bytes};

use crate::clock::Moment;
use crate::dial::{Dialed, Socket, Suspect};
use crate::liveness::{Liveness, Verdict};
use crate::options::TokenError;
use crate::outage::Proof;
use crate::outbox::Limits;
use crate::stream::Stream;

/// The first flight has no more bytes of frames than that. A frame that is larger waits for `welcome`.
const FIRST_FLIGHT_BYTES: usize = 64 * 1024;
/// What Hark allows unless it is configured otherwise.
const FIRST_FLIGHT: Limits = Limits {
    frame_bytes: MAX_FRAME_BYTES,
    in_flight: 1024,
    several: false,
};
/// Until the broker has said its own.
const FIRST_HEARTBEAT: Duration = Duration::from_secs(25);
/// How long the close may take to leave, and how long the broker's is waited for.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// A frame as it goes out.
pub(crate) struct Said {
    pub(crate) id: Option<u64>,
    /// It asks Hark to do something: it is no ping and no token.
    pub(crate) asks: bool,
    pub(crate) encoded: Encoded,
}

pub(crate) struct Line {
    pub(crate) socket: Socket,
    suspect: Suspect,
    /// Hark has said `welcome`: it is Hark, and the limits are its own.
    pub(crate) welcomed: bool,
    /// Without it the attempt has failed by then.
    pub(crate) welcome_by: Instant,
    limits: Limits,
    /// What is left of the first flight.
    flight_bytes: usize,
    /// What was too large for it.
    held: Option<Said>,
    pub(crate) live: Liveness,
    proof: Proof,
    /// Hark was asked to do something.
    pub(crate) something_asked: bool,
    /// The socket is not read, so that nothing can be heard.
    pub(crate) paused: bool,
    pub(crate) unflushed: bool,
    /// The question that is in the socket's buffer, and nothing behind it.
    asking: Option<u64>,
    /// The one that Hark was shown last.
    pub(crate) shown: Option<String>,
    /// The one that is asked for.
    pub(crate) token: Option<BoxFuture<'static, Result<String, TokenError>>>,
    pub(crate) alarm: Pin<Box<Sleep>>,
}

impl Line {
    pub(crate) fn new(
        dialed: Dialed,
        shown: Option<String>,
        welcome_by: Instant,
        now: Moment,
    ) -> Self {
        let Dialed { socket, suspect } = dialed;
        let traffic = socket.get_ref().get_ref().traffic();
        Self {
            socket,
            suspect,
            welcomed: false,
            welcome_by,
            limits: FIRST_FLIGHT,
            flight_bytes: FIRST_FLIGHT_BYTES,
            held: None,
            live: Liveness::new(FIRST_HEARTBEAT, traffic, now),
            proof: Proof::default(),
            something_asked: false,
            paused: false,
            unflushed: false,
            asking: None,
            shown,
            token: None,
            alarm: Box::pin(tokio::time::sleep_until(now.monotonic)),
        }
    }

    fn stream(&self) -> &Stream {
        self.socket.get_ref().get_ref()
    }

    /// Hark is there. What was held back and may not be sent after all.
    pub(crate) fn welcome(&mut self, limits: Limits, heartbeat: Duration) -> Option<Said> {
        self.welcomed = true;
        self.limits = limits;
        self.live.set_heartbeat(heartbeat);
        self.held
            .take_if(|said| said.encoded.len() > limits.frame_bytes)
    }

    /// Hark has answered what proves the connection, if it goes on so: see [`Proof`].
    pub(crate) fn served(&mut self, now: Instant) {
        if let Some(proven_at) = self.proof.served(now) {
            self.live.ask_at_the_latest(proven_at);
        }
    }

    /// Whether the connection, which is lost now, had proven itself. It had served until the last byte came: who swallows everything and
    /// ends it later has not served meanwhile.
    pub(crate) fn has_proven_itself(&mut self, now: Moment) -> bool {
        if self.paused {
            self.live.not_reading(now);
        }
        let traffic = self.stream().traffic();
        self.live.moved(traffic, now);
        self.proof.holds(self.live.heard())
    }

    /// The connection had proven itself: its address is good.
    pub(crate) fn clear(&mut self) {
        self.suspect.clear();
    }

    /// Whether the other side is there, as far as that can be said now.
    pub(crate) fn judge(&mut self, now: Moment) -> Verdict {
        if self.paused {
            self.live.not_reading(now);
        }
        let stream = self.socket.get_ref().get_ref();
        self.live.moved(stream.traffic(), now);
        match self.welcomed {
            true => self.live.judge(now, || stream.look()),
            false => Verdict::Alive,
        }
    }

    /// When the other side is to be asked or judged, or must have said `welcome`.
    pub(crate) fn next_wakeup(&self, now: Instant) -> Option<Instant> {
        match (self.welcomed, self.paused) {
            (false, _) => Some(self.welcome_by),
            (true, true) => None,
            (true, false) => self.live.next_wakeup(now),
        }
    }

    /// Writes what may be written, and flushes once. `next` gives the next frame.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        mut next: impl FnMut(Limits, bool) -> Option<Said>,
    ) -> Result<(), tungstenite::Error> {
        match self.poll_ask(cx, now) {
            Poll::Pending => return Ok(()),
            Poll::Ready(asked) => asked?,
        }
        while let Poll::Ready(ready) = self.socket.poll_ready_unpin(cx) {
            ready?;
            let Some(said) = self.next_said(&mut next) else {
                break;
            };
            self.something_asked |= said.asks;
            if let Some(id) = said.id {
                self.live.said(id, now.monotonic);
            }
            self.socket.start_send_unpin(match said.encoded {
                // Text was made from a string, so this check finds nothing.
                Encoded::Text(text) => WsMessage::Text(Utf8Bytes::try_from(text.into_bytes())?),
                Encoded::Binary(bytes) => WsMessage::Binary(bytes),
            })?;
            self.unflushed = true;
        }
        if self.unflushed
            && let Poll::Ready(flushed) = self.socket.poll_flush_unpin(cx)
        {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    fn next_said(&mut self, next: &mut impl FnMut(Limits, bool) -> Option<Said>) -> Option<Said> {
        if self.welcomed {
            return self.held.take().or_else(|| next(self.limits, true));
        }
        if self.held.is_some() {
            return None;
        }
        let said = next(self.limits, false)?;
        match self.flight_bytes.checked_sub(said.encoded.len()) {
            Some(left) => {
                self.flight_bytes = left;
                Some(said)
            }
            None => {
                self.held = Some(said);
                None
            }
        }
    }

    /// Asks whether the other side is there, if that is due. Pending: the question has not left the client's own buffer, and nothing is
    /// put behind it, so that the kernel can tell when it has left altogether.
    fn poll_ask(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
    ) -> Poll<Result<(), tungstenite::Error>> {
        if !self.welcomed || self.paused {
            return Poll::Ready(Ok(()));
        }
        let Some(number) = self.live.next_question(now) else {
            return Poll::Ready(Ok(()));
        };
        if self.asking != Some(number) {
            ready!(self.socket.poll_ready_unpin(cx))?;
            let ping = number.to_be_bytes().to_vec();
            self.socket.start_send_unpin(WsMessage::Ping(ping.into()))?;
            self.asking = Some(number);
        }
        ready!(self.socket.poll_flush_unpin(cx))?;
        self.unflushed = false;
        let (traffic, look) = (self.stream().traffic(), self.stream().look());
        self.live.written(traffic, look, now);
        Poll::Ready(Ok(()))
    }

    /// The closing handshake (RFC 6455, section 7.1.1). Over when the close has left: a client whose messages are all answered does not
    /// wait another round trip to end. The broker's close is waited for beside it, so that the connection ends in order if the process
    /// goes on.
    pub(crate) async fn say_goodbye(mut self) {
        let close = CloseFrame {
            code: WsCloseCode::Normal,
            reason: Utf8Bytes::from_static(""),
        };
        let close = self.socket.send(WsMessage::Close(Some(close)));
        match tokio::time::timeout(CLOSE_PATIENCE, close).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::debug!(%error, "the closing handshake failed"),
            Err(_) => return tracing::debug!("the close could not leave"),
        }
        let answer = async move {
            // Not to the end of the connection: the broker may linger for a client that goes first.
            while let Some(Ok(message)) = self.socket.next().await {
                if message.is_close() {
                    return;
                }
            }
        };
        tokio::spawn(tokio::time::timeout(CLOSE_PATIENCE, answer));
    }
}
