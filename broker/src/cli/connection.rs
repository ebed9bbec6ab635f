//! Where the clients of the command line find the broker, who they are, and how they come to a WebSocket: by trying the addresses that a URL
//! may stand for. What an error means is `trouble`'s.

use std::time::{Duration, Instant};

use hark_client::{Client, ClientBuilder, ClientError, FirstConnection};

use super::CliError;
use super::output::{say, say_once, tell_of_trouble};
use super::place::Place;
use super::trouble;

/// The first wait for a broker that is not there is drawn between zero and this, and each further bound is twice as long, up to the longest
/// (protocol/README.md, "How a client keeps its connection").
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT_IN_THE_FIRST_MINUTE: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

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
    pub(super) url: String,

    /// Say who you are with this token.
    #[arg(long, global = true, env = "HARK_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
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
    let place = Place::parse(&args.url)?;
    let urls = place.websockets();
    let builder = |url: &str| {
        let builder = set_up(Client::builder(url));
        match &args.token {
            Some(token) => builder.token(token),
            None => builder,
        }
    };
    // What is asked for waits for the connection; meanwhile the events say what it waits for.
    let later = |url: &str| builder(url).first_connection(FirstConnection::InBackground);
    let client = match &urls[..] {
        [url] if wait.wait => later(url).connect().await?,
        _ => {
            let mut waiting = Waiting::new();
            loop {
                let (url, error) = match try_each(&urls, &builder).await {
                    Ok(client) => {
                        waiting.over();
                        break client;
                    }
                    Err(failed) => failed,
                };
                // The broker is there, and says when to come back.
                if wait.wait && is_busy(&error) {
                    break later(url).connect().await?;
                }
                if matches!(error, ClientError::BadUrl { .. }) {
                    return Err(error.into());
                }
                let (asked, is_final) = (place.clone(), is_final(&error));
                let why = move || trouble::of_websocket(&asked, &error);
                let why = tokio::task::spawn_blocking(why).await;
                let why = why.unwrap_or_else(|error| error.to_string());
                if !wait.wait || is_final {
                    return Err(CliError::failed(why));
                }
                waiting.wait(why).await;
            }
        }
    };
    tokio::spawn(tell_of_trouble(client.events()));
    Ok(client)
}

/// Tries one address after the other while what answers there is something else than Hark.
async fn try_each<'u>(
    urls: &'u [String],
    builder: &impl Fn(&str) -> ClientBuilder,
) -> Result<Client, (&'u str, ClientError)> {
    let mut first = None;
    for url in urls {
        let required = builder(url).first_connection(FirstConnection::Required);
        let error = match required.connect().await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let is_elsewhere = matches!(error, ClientError::Refused { .. }) && !is_busy(&error);
        if !is_elsewhere {
            return Err((url, error));
        }
        first.get_or_insert((&**url, error));
    }
    Err(first.unwrap_or(("", ClientError::Closed)))
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

    async fn wait(&mut self, why: String) {
        say_once(&mut self.said, format!("{why}; trying again"));
        let longest = match self.since.elapsed() < Duration::from_secs(60) {
            true => LONGEST_WAIT_IN_THE_FIRST_MINUTE,
            false => LONGEST_WAIT,
        };
        let bound = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(self.failures.min(30)));
        self.failures += 1;
        let drawn = bound.min(longest).mul_f64(rand::random::<f64>());
        tokio::time::sleep(drawn).await;
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
