//! Where the clients of the command line find the broker, and who they are.

use hark_client::{Client, ClientBuilder, ClientError, FirstConnection};

use super::CliError;
use super::output::tell_of_trouble;

/// Which broker, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct ConnectionArgs {
    /// The broker's WebSocket.
    #[arg(
        long,
        global = true,
        env = "HARK_URL",
        default_value = "ws://127.0.0.1:4275/ws"
    )]
    pub(super) url: String,

    /// The token that says who you are.
    #[arg(long, global = true, env = "HARK_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
}

/// Whether to wait for a broker that is not there yet.
#[derive(Debug, clap::Args)]
pub(super) struct WaitArgs {
    /// Wait for the broker if it is not there yet. Without it only a connection that was lost is tried again.
    #[arg(long)]
    wait: bool,
}

impl ConnectionArgs {
    pub(super) fn builder(&self) -> ClientBuilder {
        let builder = Client::builder(&self.url);
        match &self.token {
            Some(token) => builder.token(token),
            None => builder,
        }
    }
}

/// Connects, and tells of trouble on standard error from here on.
pub(super) async fn connect(builder: ClientBuilder, wait: &WaitArgs) -> Result<Client, CliError> {
    let first = match wait.wait {
        // What is asked for waits for the connection; meanwhile the events say what it waits for.
        true => FirstConnection::InBackground,
        false => FirstConnection::Required,
    };
    let client = builder.first_connection(first).connect().await?;
    tokio::spawn(tell_of_trouble(client.events()));
    Ok(client)
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::BadUrl { .. } => Self::usage(error.to_string()),
            error => Self::failed(error.to_string()),
        }
    }
}
