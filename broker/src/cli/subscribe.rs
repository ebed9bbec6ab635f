//! `hark sub`: prints the messages of topics.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::stream::SelectAll;
use futures_util::{FutureExt, StreamExt};
use hark_client::{Client, Cursor, Event, Gap, Message, SubscribeError, SubscribeFrom, TopicName};
use hark_protocol::{Encoded, Record, ServerFrame, Subprotocol, codec};

use super::CliError;
use super::connection::{ConnectionArgs, WaitArgs, connect};
use super::cursor_file::Cursors;
use super::output::{Output, Reader, message_line, say};
use super::trouble;

/// Print the messages of topics.
///
/// Goes on by itself, exactly where it was, when a connection was lost. On a terminal: time (UTC), topic, cursor, headers and
/// content, with control characters shown. In a pipe: one line of JSON for each message, the broker's `message` frame with its `cursor`.
/// A cursor is what --from takes to go on behind a message.
#[derive(Debug, clap::Args)]
pub(super) struct SubscribeArgs {
    /// Print the messages of these topics, such as orders.eu; each is a name, not a pattern.
    #[arg(required = true)]
    topics: Vec<TopicName>,

    /// Start here: now, earliest, last:50, since:5m, since:2026-01-31T12:00:00Z, or (of one topic) a cursor.
    #[arg(long, default_value = "now")]
    from: SubscribeFrom,

    /// End after this many messages.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    /// End when everything that is kept has been printed.
    #[arg(long)]
    until_caught_up: bool,

    /// Keep the positions in this file, and go on there next time; --from is for topics that it does not name. What was printed
    /// just before a crash may be printed again.
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
    let mut cursors = Cursors::load(args.cursor_file.as_deref())?;
    let client = connect(&args.connection, &args.wait, |builder| builder).await?;
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
        let subscription = subscription.map_err(|error| ended(topic, &error))?;
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
                match cursors.due_in() {
                    // It lies on a disk, so not for each message that comes by itself.
                    Some(wait) => match tokio::time::timeout(wait, events.next()).await {
                        Ok(next) => next,
                        Err(_) => {
                            cursors.store()?;
                            continue;
                        }
                    },
                    None => events.next().await,
                }
            }
        };
        // Whoever ends a subscription says why, in an event.
        let Some((topic, event)) = next else {
            return Err(CliError::failed("the connection is gone without a reason"));
        };
        let event = event.map_err(|error| ended(&topic, &error))?;
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

/// Why there is no subscription, for people.
fn ended(topic: &TopicName, error: &SubscribeError) -> CliError {
    let why = match error {
        SubscribeError::Ended(error) => trouble::of_end(error),
        error => error.to_string(),
    };
    CliError::failed(format!("{topic}: {why}"))
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
                    true => self.output.line(message_json(message).as_bytes()),
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

/// The message as the broker's frame has it, on one line, and its cursor.
fn message_json(message: Message) -> String {
    let Message {
        topic,
        cursor,
        time_ms,
        identity,
        payload,
        headers,
    } = message;
    let message = hark_protocol::Message { payload, headers };
    let record = Record {
        offset: cursor.offset,
        prev: None,
        time_ms,
        identity,
        message,
    };
    let frame = codec::json::encode_message(&topic, &record);
    // A frame is an object, and holds something.
    let fields = frame.strip_suffix('}').unwrap_or(&frame);
    format!(r#"{fields},"cursor":"{cursor}"}}"#)
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
