//! What the broker says of messages and subscriptions, handed on to those whom it is for. Owns which frame is for the outbox and which for the
//! inbox; what a frame says of the connection itself is for the caller.

use std::time::Duration;

use hark_protocol::{ErrorCode, ServerFrame, TopicOutcome, TopicReceipt};
use tokio::time::Instant;

use crate::Gap;
use crate::inbox::{Inbox, ToSay};
use crate::outbox::Outbox;

/// What is left to do with a frame.
pub(crate) enum Heard {
    /// Nothing.
    Taken,
    /// Nothing; and Hark has done what it was asked for.
    Served,
    /// It is about the connection.
    Connection(ServerFrame),
}

/// Hands a frame on.
pub(crate) fn hand_on(
    frame: ServerFrame,
    outbox: &mut Outbox,
    inbox: &mut Inbox,
    to_say: &mut ToSay,
    now: Instant,
) -> Heard {
    match frame {
        ServerFrame::Message { topic, record } => inbox.message(topic, record, now, to_say),
        ServerFrame::Published {
            id,
            cursor,
            duplicate,
            ..
        } => {
            outbox.published(id, cursor, duplicate);
            return Heard::Served;
        }
        ServerFrame::PublishedAll { id, receipts } => {
            let kept =
                |receipt: &TopicReceipt| matches!(receipt.outcome, TopicOutcome::Kept { .. });
            let is_served = receipts.iter().any(kept);
            outbox.published_all(id, receipts, now);
            if is_served {
                return Heard::Served;
            }
        }
        ServerFrame::Subscribed {
            id,
            cursor,
            resumed,
            ..
        } => {
            if inbox.subscribed(id, cursor, resumed, now, to_say) {
                return Heard::Served;
            }
        }
        ServerFrame::Unsubscribed { id, topic } => inbox.unsubscribed(id, &topic, to_say),
        ServerFrame::CaughtUp { topic, cursor } => inbox.caught_up(&topic, cursor, now),
        ServerFrame::Lagging { topic, behind, .. } => inbox.lagging(topic, behind),
        ServerFrame::Gap {
            topic,
            reason,
            from,
            to,
            cursor,
        } => {
            let gap = Gap {
                reason,
                from,
                to,
                cursor,
            };
            inbox.gap(&topic, gap, now);
        }
        ServerFrame::Error {
            id: Some(id),
            code,
            message,
            expected_seq,
            retry_after_ms,
        } if code != ErrorCode::Expiring => {
            let retry_after = retry_after_ms.map(Duration::from_millis);
            match inbox.owns(id) {
                true => inbox.refused(id, code, message, retry_after, now, to_say),
                false => outbox.refused(id, code, message, expected_seq, retry_after, now),
            }
        }
        of_connection => return Heard::Connection(of_connection),
    }
    Heard::Taken
}
