//! What the command line says to people and to programs: errors and how the program ends, lines on standard output, news
//! on standard error. Control characters of messages are shown, never sent to a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use futures_util::StreamExt;
use hark_client::{ConnectionEvent, ConnectionEvents, Message, Payload};
use jiff::Timestamp;
use serde::Serialize;

use super::trouble::plain;
use crate::logging;
pub(super) use crate::logging::shown;

/// Why a command failed: a sentence for people and an exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    message: String,
    exit_code: u8,
}

impl CliError {
    /// The command could not do what it was told to: exit code 1.
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: 1,
        }
    }

    /// The command was told something it does not understand: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            exit_code: 2,
        }
    }

    /// How the program ends.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

/// Says what went wrong.
pub(super) fn complain(error: &CliError) {
    say(&error.to_string());
}

/// Says something to the person in front of the program, whatever standard output is for.
pub(super) fn say(sentence: &str) {
    logging::say_now(&format!("hark: {}\n", shown(sentence)));
}

/// Standard output: lines for people on a terminal, JSON lines for programs.
///
/// Buffered; `flush` when there is nothing more to write for now.
pub(super) struct Output {
    stdout: io::BufWriter<io::Stdout>,
    /// JSON lines: asked for, or a pipe.
    pub(super) json: bool,
}

/// Whether anybody still reads standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    Listening,
    /// As with `hark sub t | head -1`. A normal ending.
    Gone,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        let json = json || !stdout.is_terminal();
        Self {
            stdout: io::BufWriter::with_capacity(64 * 1024, stdout),
            json,
        }
    }

    pub(super) fn line(&mut self, line: &[u8]) -> Result<Reader, CliError> {
        Self::check(
            self.stdout
                .write_all(line)
                .and_then(|()| self.stdout.write_all(b"\n")),
        )
    }

    /// Prints what a broker has answered: as JSON, or as a line for people.
    pub(super) fn answer<T: Serialize>(
        &mut self,
        answer: &T,
        line: impl FnOnce(&T) -> String,
    ) -> Result<Reader, CliError> {
        let line = match self.json {
            true => serde_json::to_string(answer).map_err(|e| CliError::failed(e.to_string()))?,
            false => line(answer),
        };
        self.line(line.as_bytes())
    }

    pub(super) fn flush(&mut self) -> Result<Reader, CliError> {
        Self::check(self.stdout.flush())
    }

    fn check(written: io::Result<()>) -> Result<Reader, CliError> {
        match written {
            Ok(()) => Ok(Reader::Listening),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(CliError::failed(
                "standard output cannot be written: its disk is full; make room, or write elsewhere",
            )),
            Err(error) => Err(CliError::failed(format!(
                "standard output cannot be written: {error}; write elsewhere"
            ))),
        }
    }
}

/// A message on one line, for people: time, topic, cursor, headers, content.
pub(super) fn message_line(message: &Message) -> String {
    let mut line = format!(
        "{}  {}  {}  ",
        time_of(message.time_ms),
        message.topic,
        message.cursor
    );
    for (name, value) in message.headers.iter() {
        // Writing to a string does not fail.
        write!(line, "{}={}  ", shown(name), shown(value)).unwrap_or_default();
    }
    match &message.payload {
        Payload::Json(text) => line.push_str(&shown(text.as_str())),
        Payload::Bytes { data, content_type } => match std::str::from_utf8(data) {
            Ok(text) => line.push_str(&shown(text)),
            Err(_) => {
                let content_type = content_type
                    .as_deref()
                    .unwrap_or("application/octet-stream");
                write!(line, "<{} bytes of {}>", data.len(), shown(content_type))
                    .unwrap_or_default();
            }
        },
    }
    line
}

/// A time of UTC, to the millisecond.
fn time_of(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}

/// Tells a person of lost connections and other trouble, until the client ends. Each trouble once, not every attempt.
pub(super) async fn tell_of_trouble(mut events: ConnectionEvents) {
    let mut trouble = None;
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Connected { .. } if trouble.take().is_some() => say("connected"),
            ConnectionEvent::Reconnecting { reason, .. } => {
                say_once(&mut trouble, format!("{}; trying again", plain(&reason)));
            }
            ConnectionEvent::PublishDelayed { topic, code, .. } => {
                let delay = format!("{topic}: the broker says {code}; trying again");
                say_once(&mut trouble, delay);
            }
            ConnectionEvent::Unreadable { reason } => {
                say(&format!("the broker sent what cannot be read: {reason}"))
            }
            ConnectionEvent::Lagging { topic, behind, .. } => say(&match behind {
                Some(behind) => {
                    format!("{topic}: messages come faster than they are read; {behind} behind")
                }
                None => format!("{topic}: messages come faster than they are read"),
            }),
            ConnectionEvent::Stuck {
                topic,
                cursor,
                tries,
            } => say(&format!(
                "{topic}: what comes behind {cursor} broke {tries} connections in a row; trying again every minute"
            )),
            ConnectionEvent::TokenFailed { reason } => say(&format!("no token: {reason}")),
            _ => {}
        }
    }
}

pub(super) fn say_once(said: &mut Option<String>, sentence: String) {
    if said.as_ref() != Some(&sentence) {
        say(&sentence);
        *said = Some(sentence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(time_of(1_769_860_800_123), "2026-01-31T12:00:00.123Z");
        assert_eq!(time_of(u64::MAX), "18446744073709551615 ms");
    }
}
