//! `hark sessions` and `hark kick`: who is connected to a broker, and ending them. Goes by HTTP, as everybody can who has the right.

use serde::{Deserialize, Serialize};

use super::CliError;
use super::connection::ConnectionArgs;
use super::output::{Output, Reader, shown};

/// List who is connected: sessions, event streams and long-polls.
#[derive(Debug, clap::Args)]
pub(super) struct SessionsArgs {
    #[command(flatten)]
    whose: WhoseArgs,

    /// Print JSON lines also on a terminal.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// End a session, or all of somebody. It may come back, unless --final is given; its credential stays good: see hark revoke.
#[derive(Debug, clap::Args)]
pub(super) struct KickArgs {
    /// The session's id.
    #[arg(conflicts_with_all = ["identity", "issuer"], required_unless_present = "identity")]
    id: Option<String>,

    #[command(flatten)]
    whose: WhoseArgs,

    /// Tell the client not to come back.
    #[arg(long)]
    r#final: bool,

    /// Print JSON lines also on a terminal.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, clap::Args)]
struct WhoseArgs {
    /// Only those of this subject.
    #[arg(long, value_name = "SUBJECT")]
    identity: Option<String>,

    /// Only those whose token is of this issuer.
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
}

impl WhoseArgs {
    fn query(&self) -> Vec<(&'static str, &str)> {
        let identity = self.identity.as_deref().map(|name| ("identity", name));
        let issuer = self.issuer.as_deref().map(|name| ("issuer", name));
        identity.into_iter().chain(issuer).collect()
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Session {
    id: String,
    transport: String,
    identity: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    address: String,
    since: String,
    subscriptions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
}

impl Session {
    /// For people.
    fn line(&self) -> String {
        let issuer = self.issuer.as_ref();
        format!(
            "{}  {:12}  since {}  {:>5} subscriptions  {}  {}{}  {}",
            shown(&self.id),
            shown(&self.transport),
            shown(&self.since),
            self.subscriptions,
            shown(&self.address),
            shown(&self.identity),
            issuer
                .map(|issuer| format!(" of {}", shown(issuer)))
                .unwrap_or_default(),
            shown(self.user_agent.as_deref().unwrap_or_default()),
        )
    }
}

/// The answer of `DELETE /v1/sessions/{id}`.
#[derive(Debug, Deserialize, Serialize)]
struct Ended {
    id: String,
    ended: bool,
}

/// The answer of `DELETE /v1/sessions`.
#[derive(Debug, Deserialize, Serialize)]
struct AllEnded {
    ended: u64,
}

pub(super) async fn list(args: SessionsArgs) -> Result<(), CliError> {
    // Nothing else goes on, so it may block.
    let broker = args.connection.http()?;
    let mut output = Output::new(args.json);
    broker.list(
        "/v1/sessions",
        &args.whose.query(),
        |sessions: Vec<Session>| {
            for session in &sessions {
                if output.answer(session, Session::line)? == Reader::Gone {
                    return Ok(Reader::Gone);
                }
            }
            Ok(Reader::Listening)
        },
    )?;
    output.flush()?;
    Ok(())
}

pub(super) async fn kick(args: KickArgs) -> Result<(), CliError> {
    let broker = args.connection.http()?;
    let mut output = Output::new(args.json);
    let mut query = args.whose.query();
    if args.r#final {
        query.push(("final", "true"));
    }
    match &args.id {
        Some(id) => {
            let ended: Ended = broker.delete(&format!("/v1/sessions/{id}"), &query)?;
            output.answer(&ended, |ended| match ended.ended {
                true => format!("{} is ended", shown(&ended.id)),
                false => format!("there is no session {}", shown(&ended.id)),
            })?;
        }
        None => {
            let ended: AllEnded = broker.delete("/v1/sessions", &query)?;
            output.answer(&ended, |ended| format!("{} are ended", ended.ended))?;
        }
    }
    output.flush()?;
    Ok(())
}
