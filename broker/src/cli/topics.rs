//! `hark topics`: lists the topics.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::CliError;
use super::connection::ConnectionArgs;
use super::output::{Output, Reader, shown};

/// Topics asked for at a time.
const PAGE: &str = "1000";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// List the topics that hold messages.
#[derive(Debug, clap::Args)]
pub(super) struct TopicsArgs {
    /// Only those whose names start like this.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,

    /// Print JSON lines also on a terminal.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
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
}

#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

pub(super) async fn run(args: TopicsArgs) -> Result<(), CliError> {
    // Nothing else goes on, so it may block.
    let url = http_url(&args.connection.url)?;
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .build();
    let agent = ureq::Agent::from(config);
    let mut output = Output::new(args.json);
    let mut after = None;
    let mut width = 0;
    loop {
        let page = fetch(&agent, &url, &args, after.as_deref())?;
        for topic in &page.topics {
            let line = match output.json {
                true => {
                    serde_json::to_string(topic).map_err(|e| CliError::failed(e.to_string()))?
                }
                false => {
                    width = page
                        .topics
                        .iter()
                        .map(|topic| topic.topic.len())
                        .max()
                        .unwrap_or(0)
                        .max(width);
                    let Topic {
                        topic,
                        epoch,
                        first,
                        head,
                    } = topic;
                    let kept = (head + 1).saturating_sub(*first);
                    format!(
                        "{:width$}  {kept:>12} kept  offsets {first} to {head} of {}",
                        shown(topic),
                        shown(epoch)
                    )
                }
            };
            if output.line(line.as_bytes())? == Reader::Gone {
                return Ok(());
            }
        }
        match page.next {
            // A broker that repeats itself would keep it going for ever.
            next @ Some(_) if next > after => after = next,
            _ => break,
        }
    }
    output.flush()?;
    Ok(())
}

fn fetch(
    agent: &ureq::Agent,
    url: &str,
    args: &TopicsArgs,
    after: Option<&str>,
) -> Result<Page, CliError> {
    let failed =
        |error: ureq::Error| CliError::failed(format!("cannot reach Hark at {url}: {error}"));
    let mut request = agent.get(url).query("limit", PAGE);
    if !args.prefix.is_empty() {
        request = request.query("prefix", &args.prefix);
    }
    if let Some(after) = after {
        request = request.query("after", after);
    }
    if let Some(token) = &args.connection.token {
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
