//! What can be said on Hark's wire, version 1: frames, cursors, topic names, and the two forms (JSON and bincode) they
//! are written in.
//!
//! No IO, no async, no actors: whoever has bytes can use it. `README.md` beside this crate is the wire in full, for
//! somebody who writes a client in another language; `golden/` holds one file per frame.

pub mod close;
pub mod codec;
mod cursor;
mod cursor_set;
mod error;
mod frame;
mod message;
mod publish_all;
mod subprotocol;
mod subscribe_from;
mod topic_name;

pub use close::{CloseCode, ConnectAgain};
pub use cursor::{Cursor, CursorError, Epoch};
pub use cursor_set::{CursorSet, CursorSetError};
pub use error::{ErrorCode, FrameError};
pub use frame::{ClientFrame, GapReason, ServerFrame};
pub use message::{
    ContentTypeError, Headers, HeadersError, Idempotency, Identity, JsonError, JsonText,
    Key64Error, Message, MessageId, Payload, ProducerId, Record, TextTypeError, check_content_type,
};
pub use publish_all::{
    Destination, DestinationError, IdempotencyInEach, PublishAll, PublishAllError, TopicOutcome,
    TopicReceipt, takes_publish_all,
};
pub use subprotocol::{Encoded, Subprotocol};
pub use subscribe_from::{SubscribeFrom, SubscribeFromError};
pub use topic_name::{TopicName, TopicNameError, TopicPattern};

/// The most bytes a frame from a client may have, and so the most a message can have. One MiB.
pub const MAX_FRAME_BYTES: usize = 1024 * 1024;
/// The most messages a list of them may have, by HTTP. As lines there may be any number.
pub const MAX_LIST_MESSAGES: usize = 1024;
/// The most topics that one publish may name.
pub const MAX_PUBLISH_TOPICS: usize = 1024;
/// The most header pairs a message may have.
pub const MAX_HEADER_PAIRS: usize = 32;
/// The most bytes all names and values of a message's headers may have together.
pub const MAX_HEADER_BYTES: usize = 4 * 1024;
/// The most bytes a content type may have.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;
