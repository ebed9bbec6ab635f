//! Where the clients of the command line find the broker, who they are, and how they come to a WebSocket: by trying the addresses that a URL
//! may stand for. What an error means is `trouble`'s.

use std::time::{Duration, Instant};

use hark_client::inner::{LONGEST_RETRY_AFTER, draw};
use hark_client::{Client, ClientBuilder, ClientError, FirstConnection, Reconnect};

use super::CliError;
use super::credentials::CredentialArgs;
use super::http::Http;
use super::output::{say, say_once, tell_of_trouble};
use super::place::Place;
use super::trouble;

/// Which broker, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// Use the broker at this address: its WebSocket, http://HOST:PORT, https://HOST or HOST:PORT.
    #[arg(
        long,
        global = true,
        env = "HARK_URL",
        default_value = "ws://127.0.0.1:4275/ws"
    )]
    url: String,

    #[command(flatten)]
    credentials: CredentialArgs,
}

impl ConnectionArgs {
    /// The broker's HTTP side.
    pub(super) fn http(&self) -> Result<Http, CliError> {
        Http::at(&self.url, self.credentials.settle()?)
    }
}

/// Whether to wait for a broker that is not there yet.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Wait for the broker if it is not there yet. Without it only a lost connection is tried again.
    #[arg(long)]
    wait: bool,
}

/// Connects, and tells of trouble on standard error from here on.
pub(super) async fn connect(
    args: &ConnectionArgs,
    wait: &WaitArgs,
    set_up: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, CliError> {
    let credentials = args.credentials.settle()?;
    let place = Place::parse(&args.url)?.with_files(credentials.tls.clone());
    let urls = place.websockets();
    let builder = |url: &str| credentials.give(set_up(Client::builder(url)));
    // What is asked for waits for the connection; meanwhile the events say what it waits for.
    let later = |url: &str| builder(url).first_connection(FirstConnection::InBackground);
    let client = match &urls[..] {
        [url] if wait.wait => later(url).connect().await?,
        _ => {
            let mut waiting = Waiting::new();
            loop {
                let error = match try_each(&urls, &builder).await {
                    Ok(client) => {
                        waiting.over();
                        break client;
                    }
                    Err(failed) => failed,
                };
                if matches!(
                    error,
                    ClientError::BadUrl { .. } | ClientError::BadCertificates { .. }
                ) {
                    return Err(error.into());
                }
                let (asked, is_final) = (place.clone(), is_final(&error));
                let retry_after = match &error {
                    ClientError::Refused { retry_after, .. } => *retry_after,
                    _ => None,
                };
                let why = move || trouble::of_websocket(&asked, &error);
                let why = tokio::task::spawn_blocking(why).await;
                let why = why.unwrap_or_else(|error| error.to_string());
                if !wait.wait || is_final {
                    return Err(CliError::failed(why));
                }
                waiting.wait(why, retry_after.unwrap_or_default()).await;
            }
        }
    };
    tokio::spawn(tell_of_trouble(client.events()));
    Ok(client)
}

/// Tries one address after the other while what answers there is something else than Hark.
async fn try_each(
    urls: &[String],
    builder: &impl Fn(&str) -> ClientBuilder,
) -> Result<Client, ClientError> {
    let mut first = None;
    for (at, url) in urls.iter().enumerate() {
        let required = builder(url).first_connection(FirstConnection::Required);
        let error = match required.connect().await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        // Where the first place is busy, Hark may be there. Of the others the first one's answer tells more.
        let is_elsewhere =
            matches!(error, ClientError::Refused { .. }) && (at > 0 || !is_busy(&error));
        if !is_elsewhere {
            return Err(error);
        }
        first.get_or_insert(error);
    }
    Err(first.unwrap_or(ClientError::Closed))
}

/// Whether what answers may do otherwise another time.
fn is_busy(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused { status, .. } if matches!(status, 408 | 429 | 500..))
}

/// Whether it is Hark who has said no.
fn is_final(error: &ClientError) -> bool {
    match error {
        ClientError::ClosedByBroker { .. } | ClientError::TlsNotBuilt { .. } => true,
        ClientError::Refused { status, code, .. } => matches!(status, 401 | 403) && code.is_some(),
        _ => false,
    }
}

/// A broker that is not there yet is waited for.
struct Waiting {
    since: Instant,
    failures: u32,
    said: Option<String>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            failures: 0,
            said: None,
        }
    }

    /// By the rule for clients, and not before what was asked for is over.
    async fn wait(&mut self, why: String, asked: Duration) {
        say_once(&mut self.said, format!("{why}; trying again"));
        let rule = Reconnect::default();
        let longest = match self.since.elapsed() < Duration::from_secs(60) {
            true => rule.longest_wait_in_the_first_minute,
            false => rule.longest_wait,
        };
        let drawn = draw(self.failures, rule.first_wait, longest);
        self.failures += 1;
        tokio::time::sleep(asked.min(LONGEST_RETRY_AFTER) + drawn).await;
    }

    fn over(&self) {
        if self.said.is_some() {
            say("connected");
        }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::BadUrl { .. } => Self::usage(error.to_string()),
            error => Self::failed(trouble::plain(&error.to_string())),
        }
    }
}
