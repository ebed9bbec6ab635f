//! What comes in: WebSocket messages become frames, frames become orders. One function shows all the cases; each is carried out
//! in the file of its subject.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use hark_protocol::{ClientFrame, CloseCode, FrameError, ServerFrame, Subprotocol, codec};

use super::Session;
use super::socket::SessionContext;

/// So many frames in a row that could not be understood end a session.
const MAX_BAD_FRAMES_IN_A_ROW: u32 = 10;

/// A message that comes in fragments (RFC 6455, section 5.4). The total is bounded where frames are cut (`socket`).
#[derive(Debug)]
pub(super) struct Assembling {
    text: bool,
    bytes: BytesMut,
}

/// A piece of what came in, as the socket cut it.
#[derive(Debug)]
pub(super) enum Piece {
    Whole { text: bool, bytes: Bytes },
    First { text: bool, bytes: Bytes },
    Next(Bytes),
    Last(Bytes),
}

impl Session {
    pub(super) fn heard(&mut self) {
        self.last_heard = Instant::now();
        self.flow.heard();
    }

    pub(super) fn take_piece(&mut self, piece: Piece, ctx: &mut SessionContext) {
        match piece {
            Piece::Whole { text, bytes } => self.take_bytes(text, &bytes, ctx),
            Piece::First { text, bytes } => {
                if self.is_right_kind(text, ctx) {
                    self.assembling = Some(Assembling {
                        text,
                        bytes: BytesMut::from(bytes),
                    });
                }
            }
            Piece::Next(bytes) => {
                if let Some(assembling) = &mut self.assembling {
                    assembling.bytes.extend_from_slice(&bytes);
                }
            }
            Piece::Last(bytes) => {
                let Some(mut assembling) = self.assembling.take() else {
                    return;
                };
                assembling.bytes.extend_from_slice(&bytes);
                let (text, bytes) = (assembling.text, assembling.bytes.freeze());
                if text && std::str::from_utf8(&bytes).is_err() {
                    self.close(ctx, CloseCode::BAD_TEXT, "the text is not UTF-8");
                    return;
                }
                self.take_bytes(text, &bytes, ctx);
            }
        }
    }

    fn is_right_kind(&mut self, text: bool, ctx: &mut SessionContext) -> bool {
        let right = text == (self.subprotocol == Subprotocol::Json);
        if !right {
            let reason = match text {
                true => "hark.v1.bincode has binary frames only",
                false => "hark.v1.json has text frames only",
            };
            self.close(ctx, CloseCode::UNSUPPORTED, reason);
        }
        right
    }

    fn take_bytes(&mut self, text: bool, bytes: &Bytes, ctx: &mut SessionContext) {
        if !self.is_right_kind(text, ctx) {
            return;
        }
        match codec::decode_client(bytes, self.subprotocol) {
            Ok(frame) => {
                self.bad_frames_in_a_row = 0;
                self.carry_out(frame, ctx);
            }
            Err(error) => self.refuse(error, ctx),
        }
    }

    fn refuse(&mut self, error: FrameError, ctx: &mut SessionContext) {
        self.bad_frames_in_a_row += 1;
        self.send_error(ctx, error.id, error.code, error.message);
        if self.bad_frames_in_a_row >= MAX_BAD_FRAMES_IN_A_ROW {
            self.close(
                ctx,
                CloseCode::BAD_FRAMES,
                "ten frames in a row could not be understood",
            );
        }
    }

    fn carry_out(&mut self, frame: ClientFrame, ctx: &mut SessionContext) {
        match frame {
            ClientFrame::Publish {
                id,
                topic,
                message,
                idempotency,
            } => self.publish(id, topic, message, idempotency, ctx),
            ClientFrame::PublishAll { id, publish } => self.publish_all(id, publish, ctx),
            ClientFrame::Subscribe { id, topic, from } => self.subscribe(id, topic, from, ctx),
            ClientFrame::Unsubscribe { id, topic } => self.unsubscribe(id, &topic, ctx),
            ClientFrame::Ping { id } => self.send(ctx, &ServerFrame::Pong { id }),
            // Without configured authentication everybody is the same, and a token is neither needed nor looked at.
            ClientFrame::Auth { id, .. } => {
                let identity = "anonymous".to_owned();
                self.send(
                    ctx,
                    &ServerFrame::Authenticated {
                        id,
                        identity,
                        expires_at_ms: None,
                    },
                );
            }
        }
    }
}
