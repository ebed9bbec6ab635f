//! `hark pub`: publishes one message, or the lines of standard input, to one topic or to several.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hark_client::{
    Client, Payload, PendingReceipt, PendingReceipts, PublishError, Receipt, TopicName,
};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::sync::mpsc;

use super::CliError;
use super::connection::{ConnectionArgs, WaitArgs, connect};
use super::output::{Output, say};
use super::trouble;
use crate::logging;

/// The most bytes of a line; with what a frame has around it the broker takes a little less.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// No broker allows more unconfirmed messages.
const MAX_UNCONFIRMED: usize = 1_000_000;
/// How many failures are told one by one.
const FAILURES_TOLD: u64 = 20;
/// How often the progress line is written.
const PROGRESS: Duration = Duration::from_millis(200);
/// How long an interrupted `hark pub -` waits for what is unanswered.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Publish a message, or each line of standard input as one.
///
/// A message is JSON if it parses as JSON, text if it is UTF-8, and bytes otherwise. What the broker has not confirmed when a connection breaks
/// is sent again, and kept once.
#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    /// Publish to this topic, such as orders.eu; or to several at once: orders.eu,audit.
    #[arg(
        required = true,
        value_name = "TOPIC[,TOPIC…]",
        value_delimiter = ',',
        num_args = 1,
        action = clap::ArgAction::Set
    )]
    topics: Vec<TopicName>,

    /// The message. `-`, or nothing: every line of standard input is a message; empty lines are skipped.
    #[arg(allow_hyphen_values = true)]
    data: Option<String>,

    /// Publish all bytes of this file as one message; `-`: of standard input.
    #[arg(long, value_name = "PATH", conflicts_with = "data")]
    file: Option<PathBuf>,

    /// Publish the bytes as they are, as content of this type, such as image/svg+xml. For one message: DATA or --file.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// Add a name and a value beside the content; may be given up to 32 times.
    #[arg(long = "header", short = 'H', value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,

    /// Leave at most this many messages unconfirmed at a time; by default, as many as the broker allows.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,

    /// Print the receipt, or the summary, as a line of JSON also on a terminal.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    wait: WaitArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a header looks like name=value".to_owned()),
    }
}

pub(super) async fn run(args: PublishArgs) -> Result<(), CliError> {
    let one = args.one_message()?;
    if one.is_none() && args.content_type.is_some() {
        return Err(CliError::usage(
            "--content-type is for one message; give it as DATA or by --file (lines of standard input are JSON or text, each for itself)",
        ));
    }
    let client = connect(&args.connection, &args.wait, |builder| match args.window {
        Some(window) => builder.window(window as usize),
        None => builder,
    })
    .await?;
    match one {
        Some(data) => publish_one(&client, &args, data).await,
        None => publish_lines(&client, &args).await,
    }
}

async fn publish_one(client: &Client, args: &PublishArgs, data: Bytes) -> Result<(), CliError> {
    let failed = |error: PublishError| CliError::failed(why(&error));
    let results = args.send(client, data).await.map_err(failed)?.await;
    let mut output = Output::new(args.json);
    let mut last_error = None;
    let mut failures = 0;
    for (topic, result) in args.topics.iter().zip(results) {
        let receipt = match result {
            Ok(receipt) => receipt,
            Err(error) => {
                failures += 1;
                if args.topics.len() > 1 {
                    say(&format!("{topic}: {}", why(&error)));
                }
                last_error = Some(error);
                continue;
            }
        };
        let line = match output.json {
            true => format!(
                r#"{{"type":"published","topic":"{topic}","cursor":"{}","duplicate":{}}}"#,
                receipt.cursor, receipt.duplicate
            ),
            false => {
                let place = match receipt.cursor.offset {
                    0 => "kept before; where is not known any more".to_owned(),
                    _ => format!("kept at {}", receipt.cursor),
                };
                match args.topics.len() {
                    1 => place,
                    _ => format!("{topic}: {place}"),
                }
            }
        };
        // A reader that has gone does not unpublish it.
        output.line(line.as_bytes())?;
    }
    output.flush()?;
    client.close(CLOSE_PATIENCE).await.ok();
    match (last_error, args.topics.len()) {
        (None, _) => Ok(()),
        (Some(error), 1) => Err(failed(error)),
        (Some(_), topics) => Err(CliError::failed(format!(
            "{failures} of {topics} topics failed"
        ))),
    }
}

/// Why a message was not kept, for people.
fn why(error: &PublishError) -> String {
    match error {
        PublishError::Ended(error) => trouble::of_end(error),
        error => error.to_string(),
    }
}

impl PublishArgs {
    /// The message, if it is one and not the lines of standard input.
    fn one_message(&self) -> Result<Option<Bytes>, CliError> {
        match (&self.file, self.data.as_deref()) {
            (Some(path), _) => read_whole(path).map(Some),
            (None, None | Some("-")) => Ok(None),
            (None, Some(data)) => Ok(Some(Bytes::copy_from_slice(data.as_bytes()))),
        }
    }

    /// Hands a message over to all topics.
    async fn send(&self, client: &Client, data: Bytes) -> Result<Pending, PublishError> {
        let payload = match &self.content_type {
            Some(content_type) => Payload::Bytes {
                data,
                content_type: Some(content_type.as_str().into()),
            },
            None => Payload::undeclared(data),
        };
        let headers = self.headers.iter().cloned();
        if let [topic] = &self.topics[..] {
            let message = client.publish_payload(topic.as_str(), payload);
            let message = headers.fold(message, |message, (name, value)| {
                message.header(name, value)
            });
            return message.send().await.map(Pending::One);
        }
        let topics = self.topics.iter().map(TopicName::as_str);
        let message = client.publish_all_payload(topics, payload);
        let message = headers.fold(message, |message, (name, value)| {
            message.header(name, value)
        });
        message.send().await.map(Pending::All)
    }
}

/// All bytes of a file, or of standard input; never more than a message may have.
fn read_whole(path: &Path) -> Result<Bytes, CliError> {
    let name = match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    let read = |from: &mut dyn Read| {
        let mut data = Vec::new();
        from.take(MAX_LINE_BYTES as u64 + 1)
            .read_to_end(&mut data)?;
        Ok(data)
    };
    let data = match path.as_os_str() == "-" {
        true => read(&mut io::stdin().lock()),
        false => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let data = data.map_err(|error: io::Error| {
        CliError::failed(format!(
            "{name} cannot be read: {error}; name a file that can in --file"
        ))
    })?;
    match data.len() > MAX_LINE_BYTES {
        true => Err(CliError::failed(format!(
            "{name} has more bytes than a message may have ({MAX_LINE_BYTES}); publish it in parts, or publish where it is"
        ))),
        false => Ok(data.into()),
    }
}

/// What is not known yet: the receipt of each topic, in their order.
enum Pending {
    One(PendingReceipt),
    All(PendingReceipts),
}

impl IntoFuture for Pending {
    type Output = Vec<Result<Receipt, PublishError>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        match self {
            Self::One(receipt) => Box::pin(async { vec![receipt.await] }),
            Self::All(receipts) => Box::pin(receipts),
        }
    }
}

/// A line that was handed over, or could not be.
type Handed = (u64, Result<Pending, PublishError>);

async fn publish_lines(client: &Client, args: &PublishArgs) -> Result<(), CliError> {
    // As many receipts as may be awaited, which the client's window bounds; full, the reader waits, as it would for the window.
    let (handed, receipts) = mpsc::channel(args.window.map_or(MAX_UNCONFIRMED, |n| n as usize));
    let reading = async {
        let read = tokio::select! {
            read = read_lines(client, args, &handed) => read,
            interrupted = tokio::signal::ctrl_c() => {
                say("interrupted; waiting for what is unconfirmed");
                client.close(CLOSE_PATIENCE).await.ok(); // those that are not confirmed fail, and are told
                interrupted
            }
        };
        drop(handed); // nothing follows
        read.map_err(|error| {
            CliError::failed(format!(
                "standard input cannot be read: {error}; what came before was published"
            ))
        })
    };
    let (read, tally) = tokio::join!(reading, collect(receipts, &args.topics));
    client.close(CLOSE_PATIENCE).await.ok();
    read?;
    tally.summarize(args.json)?;
    match (tally.ended, tally.failed) {
        (Some(error), _) => Err(CliError::failed(trouble::of_end(&error))),
        (None, 0) => Ok(()),
        (None, failed) => Err(CliError::failed(format!("{failed} messages failed"))),
    }
}

/// Hands over line by line, until the input ends or the client does.
async fn read_lines(
    client: &Client,
    args: &PublishArgs,
    handed: &mpsc::Sender<Handed>,
) -> io::Result<()> {
    let mut input = tokio::io::BufReader::with_capacity(256 * 1024, tokio::io::stdin());
    let mut line = Vec::new();
    for number in 1.. {
        let bytes = match next_line(&mut input, &mut line).await? {
            Line::End => break,
            Line::Whole if line.is_empty() => continue,
            Line::Whole => line.len(),
            Line::TooLong(bytes) => bytes,
        };
        let sent = match bytes > MAX_LINE_BYTES {
            true => Err(PublishError::TooLarge {
                bytes,
                limit: MAX_LINE_BYTES,
            }),
            false => args.send(client, Bytes::copy_from_slice(&line)).await,
        };
        let ended = matches!(sent, Err(PublishError::Ended(_)));
        if handed.send((number, sent)).await.is_err() || ended {
            break;
        }
    }
    Ok(())
}

/// What was found of a line.
enum Line {
    /// All of it, without its line break.
    Whole,
    /// So many bytes, which were passed over.
    TooLong(usize),
    /// The input has ended.
    End,
}

/// Reads a line into `line`, and never more than a line may have.
async fn next_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> io::Result<Line> {
    line.clear();
    let mut bytes = 0;
    let mut ended = false;
    while !ended {
        let available = input.fill_buf().await?;
        if available.is_empty() {
            if bytes == 0 {
                return Ok(Line::End);
            }
            break;
        }
        let (part, used) = match available.iter().position(|&byte| byte == b'\n') {
            Some(at) => (&available[..at], at + 1),
            None => (available, available.len()),
        };
        ended = used > part.len();
        // One more than may be, so that a carriage return at the end is not what makes it too long.
        if line.len() + part.len() <= MAX_LINE_BYTES + 1 {
            line.extend_from_slice(part);
        }
        bytes += part.len();
        input.consume(used);
        // An empty line is not the end.
        bytes = bytes.max(usize::from(ended));
    }
    if bytes > MAX_LINE_BYTES + 1 {
        return Ok(Line::TooLong(bytes));
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Line::Whole)
}

/// What became of the lines.
struct Tally {
    started: Instant,
    kept: u64,
    duplicates: u64,
    failed: u64,
    last: Option<Receipt>,
    /// Why it could not go on.
    ended: Option<hark_client::ClientError>,
    /// A terminal that is not also the input.
    shows_progress: bool,
}

/// Awaits the receipts, in the order of the lines.
async fn collect(mut receipts: mpsc::Receiver<Handed>, topics: &[TopicName]) -> Tally {
    let mut tally = Tally {
        started: Instant::now(),
        kept: 0,
        duplicates: 0,
        failed: 0,
        last: None,
        ended: None,
        shows_progress: logging::is_terminal() && !io::stdin().is_terminal(),
    };
    let mut tick = tokio::time::interval(PROGRESS);
    loop {
        let next = async {
            let (line, sent) = receipts.recv().await?;
            Some((
                line,
                match sent {
                    Ok(pending) => Ok(pending.await),
                    Err(error) => Err(error),
                },
            ))
        };
        let mut next = std::pin::pin!(next);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut next => break done,
                _ = tick.tick(), if tally.shows_progress => tally.show_progress("\r"),
            }
        };
        match done {
            None => break,
            Some((line, Err(error))) => tally.fail(&format!("line {line}"), error),
            Some((line, Ok(results))) => {
                for (topic, result) in topics.iter().zip(results) {
                    match result {
                        Ok(receipt) => tally.count(receipt),
                        Err(error) if topics.len() == 1 => {
                            tally.fail(&format!("line {line}"), error);
                        }
                        Err(error) => tally.fail(&format!("line {line}, {topic}"), error),
                    }
                }
            }
        }
    }
    if tally.shows_progress {
        tally.show_progress("\n");
    }
    tally
}

impl Tally {
    fn count(&mut self, receipt: Receipt) {
        self.kept += 1;
        self.duplicates += u64::from(receipt.duplicate);
        if receipt.cursor.offset > 0 {
            self.last = Some(receipt);
        }
    }

    fn fail(&mut self, line: &str, error: PublishError) {
        self.failed += 1;
        match error {
            PublishError::Ended(error) if self.ended.is_none() => {
                say(&format!(
                    "{line} and those after it: {}",
                    trouble::of_end(&error)
                ));
                self.ended = Some(error);
            }
            PublishError::Ended(_) => {}
            error if self.failed <= FAILURES_TOLD => say(&format!("{line}: {error}")),
            _ if self.failed == FAILURES_TOLD + 1 => say("further failures are only counted"),
            _ => {}
        }
    }

    fn rate(&self) -> f64 {
        self.kept as f64 / self.started.elapsed().as_secs_f64().max(0.001)
    }

    fn show_progress(&self, end: &str) {
        let failed = if self.failed > 0 {
            format!(", {} failed", self.failed)
        } else {
            String::new()
        };
        // Blanks over what a longer line has left.
        let (kept, rate) = (self.kept, self.rate());
        logging::say_now(&format!("{kept} kept{failed}, {rate:.0}/s   {end}"));
    }

    fn summarize(&self, json: bool) -> Result<(), CliError> {
        let mut output = Output::new(json);
        let seconds = self.started.elapsed().as_secs_f64();
        let last = self.last.map(|receipt| receipt.cursor.to_string());
        let Self {
            kept,
            duplicates,
            failed,
            ..
        } = self;
        let line = match output.json {
            true => {
                let last = last.map_or("null".to_owned(), |cursor| format!("\"{cursor}\""));
                format!(
                    r#"{{"type":"summary","kept":{kept},"duplicates":{duplicates},"failed":{failed},"last":{last},"seconds":{seconds:.3}}}"#
                )
            }
            false => {
                let last = last
                    .map(|cursor| format!(", the last at {cursor}"))
                    .unwrap_or_default();
                format!(
                    "{kept} kept, {failed} failed in {seconds:.1} s ({:.0}/s){last}",
                    self.rate()
                )
            }
        };
        output.line(line.as_bytes())?;
        output.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_of_every_kind() {
        let whole = |text: &str| Some(Ok(text.to_owned()));
        let longest = "x".repeat(MAX_LINE_BYTES);
        let too_long = MAX_LINE_BYTES + 2;
        let text = format!("a\n\nb\r\n{longest}\n{longest}\r\n{longest}yy\nc");
        let expected = [
            whole("a"),
            whole(""),
            whole("b"),
            whole(&longest),
            whole(&longest),
            Some(Err(too_long)),
            whole("c"),
            None,
        ];
        for capacity in [1, 7, 64 * 1024] {
            let mut input = tokio::io::BufReader::with_capacity(capacity, text.as_bytes());
            let mut line = Vec::new();
            for expected in &expected {
                let found = match next_line(&mut input, &mut line).await.unwrap() {
                    Line::Whole => Some(Ok(String::from_utf8(line.clone()).unwrap())),
                    Line::TooLong(bytes) => Some(Err(bytes)),
                    Line::End => None,
                };
                assert!(found == *expected, "capacity {capacity}");
            }
        }
    }
}
