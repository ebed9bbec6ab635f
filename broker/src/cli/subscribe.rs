//! `hark sub`: prints the messages of topics.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::stream::SelectAll;
use futures_util::{FutureExt, StreamExt};
use hark_client::{Client, Cursor, Event, Gap, Message, SubscribeError, SubscribeFrom, TopicName};
use hark_protocol::{Encoded, Record, ServerFrame, Subprotocol, codec};

use super::CliError;
use super::connection::{ConnectionArgs, WaitArgs, connect};
use super::output::{Output, Reader, message_line, say};

/// How often the cursors are written while messages keep coming.
const CURSORS_EVERY: Duration = Duration::from_secs(1);

/// Print the messages of topics.
///
/// Goes on by itself, exactly where it was, when a connection was lost. On a terminal: time (UTC), topic, offset, headers and
/// content, with control characters shown. In a pipe: one line of JSON for each message, as the broker's `message` frame.
#[derive(Debug, clap::Args)]
pub(super) struct SubscribeArgs {
    /// Which topics, such as orders.eu.
    #[arg(required = true)]
    topics: Vec<TopicName>,

    /// Where to start: now, earliest, last:50, since:5m, since:2026-01-31T12:00:00Z, or (of one topic) a cursor.
    #[arg(long, default_value = "now")]
    from: SubscribeFrom,

    /// End after so many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End when everything that is kept has been printed.
    #[arg(long)]
    until_caught_up: bool,

    /// Keep the positions in this file, and go on there next time. What was printed just before a crash may be printed
    /// again.
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,

    /// Print JSON lines also on a terminal.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(super) async fn run(args: SubscribeArgs) -> Result<(), CliError> {
    if args.topics.len() > 1 && matches!(args.from, SubscribeFrom::After(_)) {
        return Err(CliError::usage(
            "a cursor is of one topic; give one topic, or another --from",
        ));
    }
    let mut cursors = Cursors::load(args.cursor_file.clone())?;
    let client = connect(args.connection.builder(), &args.wait).await?;
    let mut printer = Printer {
        output: Output::new(args.json),
        left: args.count,
        behind: args.until_caught_up.then(|| args.topics.clone()),
    };
    let printed = print(&client, &args, &mut printer, &mut cursors).await;
    // The process ends; the broker need not wait for a timeout to learn it.
    client.close(Duration::ZERO).await.ok();
    printed
}

type TopicEvent = (TopicName, Result<Event, SubscribeError>);

async fn print(
    client: &Client,
    args: &SubscribeArgs,
    printer: &mut Printer,
    cursors: &mut Cursors,
) -> Result<(), CliError> {
    let mut events = SelectAll::new();
    for topic in &args.topics {
        let from = cursors.of(topic).map_or(args.from, SubscribeFrom::After);
        let subscription = client.subscribe(topic.as_str()).from(from).await;
        let subscription = subscription.map_err(|e| CliError::failed(format!("{topic}: {e}")))?;
        cursors.moved(topic, subscription.cursor());
        let topic = topic.clone();
        events.push(subscription.map(move |event| (topic.clone(), event)));
    }
    while printer.wants_more() {
        // What is there is written in one go; before it waits, everything is out.
        let next: Option<TopicEvent> = match events.next().now_or_never() {
            Some(next) => next,
            None => {
                if printer.output.flush()? == Reader::Gone {
                    return Ok(());
                }
                cursors.store()?;
                events.next().await
            }
        };
        // Whoever ends a subscription says why, in an event.
        let Some((topic, event)) = next else {
            return Err(CliError::failed("the connection is gone without a reason"));
        };
        let event = event.map_err(|e| CliError::failed(format!("{topic}: {e}")))?;
        let (reader, cursor) = printer.print(&topic, event)?;
        if reader == Reader::Gone {
            return Ok(());
        }
        cursors.moved(&topic, cursor);
        if cursors.are_due() {
            // Stored only when what they stand for is out.
            if printer.output.flush()? == Reader::Gone {
                return Ok(());
            }
            cursors.store()?;
        }
    }
    match printer.output.flush()? {
        Reader::Listening => cursors.store(),
        Reader::Gone => Ok(()),
    }
}

struct Printer {
    output: Output,
    /// How many messages are still to be printed.
    left: Option<u64>,
    /// The topics that have not caught up, if that is waited for.
    behind: Option<Vec<TopicName>>,
}

impl Printer {
    fn wants_more(&self) -> bool {
        self.left != Some(0) && self.behind.as_ref().is_none_or(|behind| !behind.is_empty())
    }

    /// Prints what is to be printed; the position behind it.
    fn print(&mut self, topic: &TopicName, event: Event) -> Result<(Reader, Cursor), CliError> {
        match event {
            Event::Message(message) => {
                self.left = self.left.map(|left| left - 1);
                let cursor = message.cursor;
                let reader = match self.output.json {
                    true => self.output.line(message_frame(message).as_bytes()),
                    false => self.output.line(message_line(&message).as_bytes()),
                };
                Ok((reader?, cursor))
            }
            Event::Gap(gap) => {
                say(&format!("{topic}: {gap}"));
                let reader = match self.output.json {
                    true => self.output.line(gap_frame(topic, gap).as_bytes())?,
                    false => Reader::Listening,
                };
                Ok((reader, gap.cursor))
            }
            Event::CaughtUp(cursor) => {
                if let Some(behind) = &mut self.behind {
                    behind.retain(|other| other != topic);
                }
                Ok((Reader::Listening, cursor))
            }
        }
    }
}

/// The message as the broker's frame has it, on one line.
fn message_frame(message: Message) -> Encoded {
    let Message {
        topic,
        cursor,
        time_ms,
        payload,
        headers,
    } = message;
    let message = hark_protocol::Message { payload, headers };
    codec::encode_message(
        &topic,
        &Record {
            offset: cursor.offset,
            prev: None,
            time_ms,
            message,
        },
        Subprotocol::Json,
    )
}

fn gap_frame(topic: &TopicName, gap: Gap) -> Encoded {
    let Gap {
        reason,
        from,
        to,
        cursor,
    } = gap;
    codec::encode_server(
        &ServerFrame::Gap {
            topic: topic.clone(),
            reason,
            from,
            to,
            cursor,
        },
        Subprotocol::Json,
    )
}

/// The positions, and the file that keeps them: a line `topic cursor` for each topic.
struct Cursors {
    file: Option<PathBuf>,
    positions: BTreeMap<String, Cursor>,
    changed: bool,
    stored: Instant,
}

impl Cursors {
    fn load(file: Option<PathBuf>) -> Result<Self, CliError> {
        let positions = match &file {
            None => BTreeMap::new(),
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => parse_cursors(&text).map_err(|line| {
                    CliError::failed(format!(
                        "{}: {line:?} is no topic and cursor",
                        path.display()
                    ))
                })?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
                Err(error) => {
                    return Err(CliError::failed(format!(
                        "cannot read {}: {error}",
                        path.display()
                    )));
                }
            },
        };
        Ok(Self {
            file,
            positions,
            changed: false,
            stored: Instant::now(),
        })
    }

    fn of(&self, topic: &TopicName) -> Option<Cursor> {
        self.positions.get(topic.as_str()).copied()
    }

    fn moved(&mut self, topic: &TopicName, cursor: Cursor) {
        if self.file.is_none() {
            return;
        }
        self.changed = true;
        match self.positions.get_mut(topic.as_str()) {
            Some(position) => *position = cursor,
            None => drop(self.positions.insert(topic.to_string(), cursor)),
        }
    }

    fn are_due(&self) -> bool {
        self.changed && self.stored.elapsed() >= CURSORS_EVERY
    }

    fn store(&mut self) -> Result<(), CliError> {
        let Some(path) = self.file.as_ref().filter(|_| self.changed) else {
            return Ok(());
        };
        let text: String = self
            .positions
            .iter()
            .map(|(topic, cursor)| format!("{topic} {cursor}\n"))
            .collect();
        write_atomically(path, &text).map_err(|error| {
            CliError::failed(format!("cannot write {}: {error}", path.display()))
        })?;
        self.changed = false;
        self.stored = Instant::now();
        Ok(())
    }
}

/// The line that cannot be read, if there is one.
fn parse_cursors(text: &str) -> Result<BTreeMap<String, Cursor>, String> {
    let parse = |line: &str| {
        let (topic, cursor) = line.split_once(' ')?;
        Some((
            TopicName::parse(topic).ok()?.to_string(),
            cursor.parse().ok()?,
        ))
    };
    text.lines()
        .map(|line| parse(line).ok_or_else(|| line.to_owned()))
        .collect()
}

/// Whoever reads the file finds the old text or the new one.
fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    drop(file);
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_kept_across_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursors");
        let topics: Vec<TopicName> = ["a", "b.c"]
            .map(|name| TopicName::parse(name).unwrap())
            .into();
        let mut cursors = Cursors::load(Some(path.clone())).unwrap();
        for (topic, cursor) in topics.iter().zip(["k3:7", "k3:0"]) {
            cursors.moved(topic, cursor.parse().unwrap());
        }
        cursors.store().unwrap();

        let mut again = Cursors::load(Some(path.clone())).unwrap();
        assert_eq!(again.of(&topics[0]).unwrap().to_string(), "k3:7");
        assert_eq!(again.of(&topics[1]).unwrap().to_string(), "k3:0");
        again.moved(&topics[0], "k3:8".parse().unwrap());
        again.store().unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "a k3:8\nb.c k3:0\n"
        );

        std::fs::write(&path, "a 7\n").unwrap();
        assert!(Cursors::load(Some(path)).is_err());
    }
}
