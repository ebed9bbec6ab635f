//! What comes in: messages become frames, frames become orders. One function shows all the cases; each is carried out
//! in the file of its subject.

use bytes::Bytes;
use hark_protocol::{ClientFrame, CloseCode, FrameError, ServerFrame, codec};

use super::Session;
use super::socket::SessionContext;

/// So many frames in a row that could not be understood end a session.
const MAX_BAD_FRAMES_IN_A_ROW: u32 = 10;

impl Session {
    pub(super) fn take_message(&mut self, bytes: &Bytes, ctx: &mut SessionContext) {
        match codec::decode_client(bytes, self.subprotocol) {
            Ok(frame) => {
                self.bad_frames_in_a_row = 0;
                if self.is_within_limits(&frame, bytes.len(), ctx) {
                    self.carry_out(frame, ctx);
                }
            }
            Err(error) => self.refuse(error, ctx),
        }
    }

    fn refuse(&mut self, error: FrameError, ctx: &mut SessionContext) {
        self.bad_frames_in_a_row += 1;
        self.send_error(ctx, error.id, error.code, error.message);
        if self.bad_frames_in_a_row >= MAX_BAD_FRAMES_IN_A_ROW {
            self.close_at_once(
                ctx,
                CloseCode::BAD_FRAMES,
                "ten frames in a row could not be understood",
            );
        }
    }

    fn carry_out(&mut self, frame: ClientFrame, ctx: &mut SessionContext) {
        match frame {
            // At the end what was published counts; nobody is there any more to be sent anything.
            ClientFrame::Auth { .. }
            | ClientFrame::Subscribe { .. }
            | ClientFrame::Unsubscribe { .. }
                if self.is_ending() => {}
            ClientFrame::Publish {
                id,
                topic,
                message,
                idempotency,
            } => self.publish(id, topic, message, idempotency, ctx),
            ClientFrame::PublishAll { id, publish } => self.publish_all(id, publish, ctx),
            ClientFrame::Subscribe {
                id,
                topic,
                from,
                token,
            } => self.subscribe_with(id, topic, from, token, ctx),
            ClientFrame::Unsubscribe { id, topic } => self.unsubscribe(id, &topic, ctx),
            ClientFrame::Ping { id } => self.send(ctx, &ServerFrame::Pong { id }),
            ClientFrame::Auth { id, token } => self.authenticate(id, &token, ctx),
        }
    }
}
