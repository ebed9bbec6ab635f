//! `curl -N` as a reader of server-sent events: the plainest client there is. Owns the grammar of `text/event-stream` as the standard has it (HTML,
//! section 9.2.6), read as clients read it: what is not complete when the stream is cut is no event. `EventStream` is stricter, and does not come back.

use std::time::Duration;

use serde_json::Value;

use crate::peers::program;
use crate::{Cli, Exit, pause};

/// What comes on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sse {
    /// An event that a page would be given.
    Event {
        /// What `event:` said; `message` where nothing did.
        kind: String,
        /// The last event ID as of this event.
        id: String,
        /// The lines of `data:`.
        data: String,
    },
    /// A line that begins with a colon, between events.
    Comment,
}

/// A stream that `curl` reads.
#[derive(Debug)]
pub struct Curl {
    url: String,
    cli: Cli,
    /// The last `id:`, to come back with.
    pub last_event_id: String,
    /// How long `retry:` said to wait before coming back.
    pub retry: Option<Duration>,
}

/// Before the stream is asked for again. Shorter than Hark says, so that tests take less time.
const PAUSE: Duration = Duration::from_millis(50);

impl Curl {
    /// Asks for `url`, with `Last-Event-ID` unless that is empty.
    pub fn open(url: &str, last_event_id: &str) -> Self {
        let mut curl = program("curl");
        curl.args(["--no-buffer", "--silent", "--show-error", "--fail"]);
        curl.args(["--header", "Accept: text/event-stream"]);
        if !last_event_id.is_empty() {
            curl.args(["--header", &format!("Last-Event-ID: {last_event_id}")]);
        }
        curl.arg(url);
        Self {
            url: url.to_owned(),
            cli: Cli::spawn(curl),
            last_event_id: last_event_id.to_owned(),
            retry: None,
        }
    }

    /// What comes next; `None` at the stream's end, however it came. Panics if nothing comes for too long.
    pub fn read(&mut self) -> Option<Sse> {
        let (mut kind, mut data) = (String::new(), Vec::new());
        loop {
            // What is not complete at the end is no event.
            let line = self.cli.line_or_end()?;
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() && data.is_empty() => kind.clear(),
                "" if line.is_empty() => {
                    return Some(Sse::Event {
                        kind: match kind.is_empty() {
                            true => "message".to_owned(),
                            false => kind,
                        },
                        id: self.last_event_id.clone(),
                        data: data.join("\n"),
                    });
                }
                "" if kind.is_empty() && data.is_empty() => return Some(Sse::Comment),
                "" => {}
                "event" => value.clone_into(&mut kind),
                "data" => data.push(value.to_owned()),
                "id" => value.clone_into(&mut self.last_event_id),
                "retry" => {
                    let millis = value.parse();
                    let millis = millis.unwrap_or_else(|_| panic!("retry: {value:?}"));
                    self.retry = Some(Duration::from_millis(millis));
                }
                _ => panic!("not a line of a stream of events: {line:?}"),
            }
        }
    }

    /// The next event's frame; `None` at the stream's end.
    pub fn frame(&mut self) -> Option<Value> {
        loop {
            if let Sse::Event { kind, data, .. } = self.read()? {
                let frame: Value =
                    serde_json::from_str(&data).unwrap_or_else(|e| panic!("{e} in {data:?}"));
                assert_eq!(
                    frame["type"], kind,
                    "an event's kind is its frame's type: {data}"
                );
                return Some(frame);
            }
        }
    }

    /// The next event's frame, also of the streams that follow: at a stream's end it comes back with the last ID.
    pub fn frame_surely(&mut self) -> Value {
        loop {
            if let Some(frame) = self.frame() {
                return frame;
            }
            pause(PAUSE);
            *self = Self::open(&self.url, &self.last_event_id);
        }
    }

    /// The next frame of this type, passing over others; `None` at the stream's end.
    pub fn expect(&mut self, kind: &str) -> Option<Value> {
        loop {
            let frame = self.frame()?;
            if frame["type"] == kind {
                return Some(frame);
            }
        }
    }

    /// Whether the stream has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.cli.is_running()
    }

    /// How curl ended: with 0, if the stream ended as the broker meant it to.
    pub fn wait(self) -> Exit {
        self.cli.wait()
    }
}
