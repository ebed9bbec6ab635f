//! `hark topics`: lists the topics, describes one, deletes one. Goes by HTTP, as everybody can.

use std::time::Duration;

use clap::Subcommand;
use hark_protocol::TopicName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::CliError;
use super::connection::ConnectionArgs;
use super::output::{Output, Reader, shown};

/// Topics asked for at a time.
const PAGE: &str = "1000";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// List the topics that hold messages; or describe or delete one.
#[derive(Debug, clap::Args)]
pub(super) struct TopicsArgs {
    #[command(subcommand)]
    command: Option<Command>,

    /// Only those whose names start like this.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,

    /// Print JSON lines also on a terminal.
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what one topic holds.
    Describe {
        /// Its name.
        topic: TopicName,
    },
    /// Delete one topic with all its messages, for good. Subscribers are told, and go on with what is published from then on.
    Delete {
        /// Its name, exactly.
        topic: TopicName,
    },
}

/// One answer of `GET /v1/topics`.
#[derive(Debug, Deserialize)]
struct Page {
    topics: Vec<Topic>,
    /// The name after which the next page starts.
    next: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Topic {
    topic: String,
    epoch: String,
    first: u64,
    head: u64,
    bytes: u64,
}

impl Topic {
    /// For people, in columns: the name takes `width`.
    fn line(&self, width: usize) -> String {
        let Self {
            topic,
            epoch,
            first,
            head,
            bytes,
        } = self;
        let kept = (head + 1).saturating_sub(*first);
        format!(
            "{:width$}  {kept:>12} kept  {bytes:>14} bytes  offsets {first} to {head} of {}",
            shown(topic),
            shown(epoch)
        )
    }
}

/// The answer of `DELETE /v1/topics/{topic}`.
#[derive(Debug, Deserialize, Serialize)]
struct Deleted {
    topic: String,
    deleted: bool,
    epoch: String,
}

impl Deleted {
    /// For people.
    fn line(&self) -> String {
        let topic = shown(&self.topic);
        match self.deleted {
            true => format!("{topic} is deleted"),
            false => format!("{topic} held nothing: there was nothing to delete"),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

pub(super) async fn run(args: TopicsArgs) -> Result<(), CliError> {
    // Nothing else goes on, so it may block.
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build();
    let broker = Broker {
        agent: ureq::Agent::from(config),
        url: http_url(&args.connection.url)?,
        token: args.connection.token,
    };
    let mut output = Output::new(args.json);
    match args.command {
        None => list(&broker, &args.prefix, &mut output)?,
        Some(_) if !args.prefix.is_empty() => {
            return Err(CliError::usage(
                "--prefix goes with the list of topics alone".to_owned(),
            ));
        }
        Some(Command::Describe { topic }) => {
            let topic: Topic = broker.ask("GET", &format!("/{topic}"), &[])?;
            say(&mut output, &topic, |topic| topic.line(0))?;
        }
        Some(Command::Delete { topic }) => {
            let deleted: Deleted = broker.ask("DELETE", &format!("/{topic}"), &[])?;
            say(&mut output, &deleted, Deleted::line)?;
        }
    }
    output.flush()?;
    Ok(())
}

fn list(broker: &Broker, prefix: &str, output: &mut Output) -> Result<(), CliError> {
    let mut after: Option<String> = None;
    let mut width = 0;
    loop {
        let mut query = vec![("limit", PAGE), ("prefix", prefix)];
        query.extend(after.as_deref().map(|after| ("after", after)));
        let page: Page = broker.ask("GET", "", &query)?;
        let longest = page.topics.iter().map(|topic| topic.topic.len()).max();
        width = width.max(longest.unwrap_or(0));
        for topic in &page.topics {
            if say(output, topic, |topic| topic.line(width))? == Reader::Gone {
                return Ok(());
            }
        }
        match page.next {
            // A broker that repeats itself would keep it going for ever.
            next @ Some(_) if next > after => after = next,
            _ => return Ok(()),
        }
    }
}

/// Prints an answer: as JSON, or as a line for people.
fn say<T: Serialize>(
    output: &mut Output,
    answer: &T,
    line: impl FnOnce(&T) -> String,
) -> Result<Reader, CliError> {
    let line = match output.json {
        true => serde_json::to_string(answer).map_err(|e| CliError::failed(e.to_string()))?,
        false => line(answer),
    };
    output.line(line.as_bytes())
}

/// The broker's HTTP side.
struct Broker {
    agent: ureq::Agent,
    /// Of the topics.
    url: String,
    token: Option<String>,
}

impl Broker {
    fn ask<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CliError> {
        // A topic's name needs no escaping in a path (RFC 3986, section 3.3).
        let url = format!("{}{path}", self.url);
        let failed =
            |error: ureq::Error| CliError::failed(format!("cannot reach Hark at {url}: {error}"));
        let mut request = match method {
            "DELETE" => self.agent.delete(&url),
            _ => self.agent.get(&url),
        };
        request = request.query_pairs(query.iter().copied());
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut response = request.call().map_err(failed)?;
        if !response.status().is_success() {
            let status = response.status();
            let message = response.body_mut().read_to_string().map_err(failed)?;
            let message =
                serde_json::from_str(&message).map_or(message, |refusal: Refusal| refusal.message);
            return Err(CliError::failed(format!("{url}: {status}: {message}")));
        }
        response.body_mut().read_json().map_err(failed)
    }
}

/// Where the broker's HTTP side is, when its WebSocket is at `ws_url`.
pub(super) fn http_url(ws_url: &str) -> Result<String, CliError> {
    let base = match ws_url.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => {
            return Err(CliError::usage(format!(
                "{ws_url:?} is no Hark URL; it looks like ws://127.0.0.1:4275/ws"
            )));
        }
    };
    let base = base
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .trim_end_matches('/');
    Ok(format!(
        "{}/v1/topics",
        base.strip_suffix("/ws").unwrap_or(base)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_http_side_is_beside_the_websocket() {
        let cases = [
            ("ws://127.0.0.1:4275/ws", "http://127.0.0.1:4275/v1/topics"),
            ("ws://127.0.0.1:4275", "http://127.0.0.1:4275/v1/topics"),
            (
                "wss://example.org/hark/ws?x=1",
                "https://example.org/hark/v1/topics",
            ),
        ];
        for (ws_url, expected) in cases {
            assert_eq!(http_url(ws_url).unwrap(), expected);
        }
        assert!(http_url("127.0.0.1:4275").is_err());
    }
}
