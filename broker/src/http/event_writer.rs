//! Server-Sent Events as text (HTML, section 9.2.6): the frames of the WebSocket, each with the cursor behind it as its `id`.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use hark_protocol::{Cursor, CursorSet, Encoded, ErrorCode, ServerFrame, TopicName, codec};

/// Writes the events of one stream, and knows how far it has come in each of its topics.
#[derive(Debug)]
pub(super) struct EventWriter {
    topics: Vec<TopicName>,
    set: CursorSet,
    cursors: Vec<Cursor>,
    text: String,
}

impl EventWriter {
    /// A writer for a stream of these topics; where they begin is told by `begin`.
    pub(super) fn new(topics: Vec<TopicName>) -> Self {
        Self {
            set: CursorSet::of(&topics),
            topics,
            cursors: Vec::new(),
            text: String::new(),
        }
    }

    /// The positions at which the topics begin. Before this there are no ids.
    pub(super) fn begin(&mut self, cursors: Vec<Cursor>) {
        self.cursors = cursors;
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Room for so many bytes at once, where many events follow.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Takes what was written since the last call.
    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.text).into()
    }

    /// Takes what was written, where no event follows.
    pub(super) fn take_and_end(&mut self) -> Bytes {
        self.text.push('\n');
        self.take()
    }

    /// How long a client is to wait before it comes back.
    pub(super) fn retry(&mut self, wait: Duration) {
        self.write(format_args!("retry: {}\n", wait.as_millis()));
    }

    /// A line that says nothing, so that nobody on the way takes the stream for dead.
    pub(super) fn heartbeat(&mut self) {
        self.text.push_str(":\n\n");
    }

    /// A message, or a gap, of the `at`th topic; the position is `cursor` then.
    pub(super) fn frame(&mut self, at: usize, is_gap: bool, cursor: Cursor, frame: &Encoded) {
        self.cursors[at] = cursor;
        if is_gap {
            self.text.push_str("event: gap\n");
        }
        self.id();
        match frame {
            Encoded::Text(json) => self.data(json),
            Encoded::Binary(_) => debug_assert!(false, "streams read JSON"),
        }
    }

    pub(super) fn welcome(&mut self, welcome: &ServerFrame) {
        self.event("welcome", welcome);
    }

    pub(super) fn subscribed(&mut self, at: usize, cursor: Cursor, head: u64, resumed: bool) {
        let topic = self.topics[at].clone();
        self.text.push_str("event: subscribed\n");
        self.id();
        self.data(&codec::json::encode_server(&ServerFrame::Subscribed {
            id: None,
            topic,
            cursor,
            head,
            resumed,
        }));
    }

    pub(super) fn caught_up(&mut self, at: usize) {
        let topic = self.topics[at].clone();
        let cursor = self.cursors[at];
        self.text.push_str("event: caught_up\n");
        self.id();
        self.data(&codec::json::encode_server(&ServerFrame::CaughtUp {
            topic,
            cursor,
        }));
    }

    /// Leaves the reader where it is: it has no id.
    pub(super) fn lagging(&mut self, at: usize, behind: Option<u64>) {
        let lagging = ServerFrame::Lagging {
            topic: self.topics[at].clone(),
            cursor: self.cursors[at],
            behind,
        };
        self.event("lagging", &lagging);
    }

    pub(super) fn error(&mut self, code: ErrorCode, message: String) {
        let error = ServerFrame::Error {
            id: None,
            code,
            message,
            expected_seq: None,
            retry_after_ms: None,
        };
        self.event("error", &error);
    }

    pub(super) fn goodbye(&mut self, reason: &str, retry_after_ms: u64) {
        self.retry(Duration::from_millis(retry_after_ms));
        let reason = reason.to_owned();
        self.event(
            "goodbye",
            &ServerFrame::Goodbye {
                reason,
                retry_after_ms,
            },
        );
    }

    fn event(&mut self, name: &str, frame: &ServerFrame) {
        self.write(format_args!("event: {name}\n"));
        self.data(&codec::json::encode_server(frame));
    }

    fn id(&mut self) {
        self.text.push_str("id: ");
        self.set.write(&self.cursors, &mut self.text);
        self.text.push('\n');
    }

    /// A frame is one line: line breaks in a message's text are escaped, and those between its parts are taken out when it is published.
    fn data(&mut self, json: &str) {
        debug_assert!(!json.contains(['\n', '\r']), "a frame is one line");
        self.text.push_str("data: ");
        self.text.push_str(json);
        self.text.push_str("\n\n");
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        let written = self.text.write_fmt(what);
        debug_assert!(written.is_ok(), "a string takes all");
    }
}
