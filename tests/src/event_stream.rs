//! A reader of Server-Sent Events that keeps to the letter (HTML, section 9.2.6), so that what a browser would pass over in silence is
//! noticed. What browsers and other people's clients make of the same streams is tested with them.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use crate::http::tls_config;
use crate::{Broker, DEADLINE};

/// An event as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `message` where there was no name.
    pub name: String,
    /// The `id`, if it had one.
    pub id: Option<String>,
    /// What it says.
    pub data: Value,
}

/// One stream.
pub struct EventStream {
    lines: BufReader<Box<dyn Read + Send>>,
    /// The `retry` lines so far, in milliseconds.
    pub retries: Vec<u64>,
    /// How many comments there were.
    pub comments: usize,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").finish_non_exhaustive()
    }
}

impl EventStream {
    /// Opens `path`, which must be answered with a stream.
    pub fn open(broker: &Broker, path: &str) -> Self {
        Self::open_after(broker, path, None)
    }

    /// Opens `path` as a browser does that comes back: with the id of the last event.
    pub fn open_after(broker: &Broker, path: &str, last_event_id: Option<&str>) -> Self {
        let config = ureq::Agent::config_builder()
            .tls_config(tls_config(broker.tls()))
            .timeout_global(Some(DEADLINE))
            .build();
        let mut request = ureq::Agent::from(config).get(broker.url(path));
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.call().unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let body: Box<dyn Read + Send> = Box::new(response.into_body().into_reader());
        Self {
            lines: BufReader::new(body),
            retries: Vec::new(),
            comments: 0,
        }
    }

    /// The next event; `None` when the stream has ended, however it did.
    pub fn try_next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = ("message".to_owned(), None, None::<String>);
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).unwrap_or_default() == 0 {
                assert_eq!(data, None, "half an event at the end");
                return None;
            }
            let line = line.strip_suffix('\n')?;
            assert!(!line.contains('\r'), "lines end alike: {line:?}");
            let Some((field, value)) = line.split_once(':') else {
                assert_eq!(line, "", "a field without a value");
                match data {
                    Some(data) => {
                        let data = serde_json::from_str(&data)
                            .unwrap_or_else(|e| panic!("{e} in {data:?}"));
                        return Some(Event { name, id, data });
                    }
                    None => continue,
                }
            };
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.comments += 1,
                "retry" => self.retries.push(value.parse().expect("milliseconds")),
                "event" => name = value.to_owned(),
                "id" => id = Some(value.to_owned()),
                "data" => assert_eq!(data.replace(value.to_owned()), None, "one line of data"),
                _ => panic!("no field of an event: {line:?}"),
            }
        }
    }

    /// The next event.
    pub fn event(&mut self) -> Event {
        self.try_next().expect("the stream goes on")
    }

    /// The next event, which must have this name. That the stream lags, as a slow machine may make it, is passed over unless it is asked for.
    #[track_caller]
    pub fn expect(&mut self, name: &str) -> Event {
        let mut event = self.event();
        while name != "lagging" && event.name == "lagging" {
            assert_eq!(event.id, None, "{event:?}");
            event = self.event();
        }
        assert_eq!(event.name, name, "{event:?}");
        if name != "message" && name != "welcome" {
            assert_eq!(event.data["type"], name, "{event:?}");
        }
        event
    }

    /// Reads `welcome`, `subscribed` and `caught_up`, as a stream of one topic begins that nothing is missing of; gives `subscribed`.
    pub fn begin(&mut self) -> Event {
        self.expect("welcome");
        let subscribed = self.expect("subscribed");
        self.expect("caught_up");
        subscribed
    }
}
