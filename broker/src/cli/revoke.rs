//! `hark revoke …`: takes tokens, keys and certificates back before their time, lists what is revoked, and lifts it. Goes by HTTP, as everybody
//! can who has the right.

use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::CliError;
use super::connection::ConnectionArgs;
use super::output::{Output, Reader, shown};
use crate::identity::{RevocationForm, Time};

/// Take a token, a key or a certificate back before its time; whoever is connected by it is ended. It is kept across restarts.
#[derive(Debug, clap::Args)]
pub(super) struct RevokeArgs {
    #[command(subcommand)]
    command: Command,

    /// Forget it after this, when nothing that it covers can be valid any more: 2026-01-31T12:00:00Z, or seconds since 1970.
    #[arg(long, global = true, value_name = "TIME")]
    until: Option<Time>,

    /// Print JSON lines also on a terminal.
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Revoke one token.
    Token {
        /// Its `jti`.
        id: String,
        /// Only if it is of this issuer.
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
    },
    /// Revoke all that was issued to a subject so far.
    Subject {
        /// The subject (`sub`).
        subject: String,
        /// Whose subject it is: the name of an [[issuer]], or api_keys.
        #[arg(long, value_name = "NAME")]
        issuer: String,
        /// Only what was issued before this; by default, before now.
        #[arg(long, value_name = "TIME")]
        issued_before: Option<Time>,
    },
    /// Revoke an API key; or with --issuer, all that a signing key has signed.
    Key {
        /// The API key's id: the 8 characters after hark_; or the signing key's `kid`.
        id: String,
        /// Whose signing key it is.
        #[arg(long, value_name = "NAME")]
        issuer: Option<String>,
    },
    /// Revoke a client certificate.
    Certificate {
        /// Its SHA-256, in hexadecimal: openssl x509 -in FILE -noout -fingerprint -sha256
        fingerprint: String,
    },
    /// List what is revoked (but for what a file of the configuration revokes).
    List,
    /// Lift a revocation: what it covers is good again, if it has not run out.
    Lift {
        /// The revocation's id.
        id: String,
    },
}

/// The answer of `POST /v1/revocations`.
#[derive(Debug, Deserialize, Serialize)]
struct Revoked {
    id: String,
    /// How many that were connected were ended.
    ended: u64,
}

/// The answer of `DELETE /v1/revocations/{id}`.
#[derive(Debug, Deserialize, Serialize)]
struct Lifted {
    id: String,
    lifted: bool,
}

pub(super) async fn run(args: RevokeArgs) -> Result<(), CliError> {
    // Nothing else goes on, so it may block.
    let broker = args.connection.http()?;
    let mut output = Output::new(args.json);
    match line(args.command, args.until) {
        Asked::Revoke(line) => {
            let revoked: Revoked = broker.post("/v1/revocations", &line)?;
            let what = line.in_words();
            output.answer(&revoked, |revoked| {
                format!(
                    "{} is revoked ({}), and {} that were connected are ended",
                    shown(&what),
                    shown(&revoked.id),
                    revoked.ended
                )
            })?;
        }
        Asked::List => broker.list("/v1/revocations", &[], |lines: Vec<RevocationForm>| {
            for line in &lines {
                if output.answer(line, in_words)? == Reader::Gone {
                    return Ok(Reader::Gone);
                }
            }
            Ok(Reader::Listening)
        })?,
        Asked::Lift(id) => {
            let lifted: Lifted = broker.delete(&format!("/v1/revocations/{id}"), &[])?;
            output.answer(&lifted, |lifted| match lifted.lifted {
                true => format!("{} is lifted", shown(&lifted.id)),
                false => format!("there is no revocation {}", shown(&lifted.id)),
            })?;
        }
    }
    output.flush()?;
    Ok(())
}

/// What is to be done.
enum Asked {
    Revoke(RevocationForm),
    List,
    Lift(String),
}

fn line(command: Command, until: Option<Time>) -> Asked {
    let line = RevocationForm {
        until,
        ..RevocationForm::default()
    };
    Asked::Revoke(match command {
        Command::Token { id, issuer } => RevocationForm {
            jti: Some(id),
            issuer,
            ..line
        },
        Command::Subject {
            subject,
            issuer,
            issued_before,
        } => RevocationForm {
            subject: Some(subject),
            issuer: Some(issuer),
            issued_before,
            ..line
        },
        Command::Key { id, issuer } => RevocationForm {
            key: Some(id),
            issuer,
            ..line
        },
        Command::Certificate { fingerprint } => RevocationForm {
            certificate: Some(fingerprint),
            ..line
        },
        Command::List => return Asked::List,
        Command::Lift { id } => return Asked::Lift(id),
    })
}

/// For people.
fn in_words(line: &RevocationForm) -> String {
    let id = line.id.as_deref().unwrap_or_default();
    let until = line.until.map(|until| format!("  until {until}"));
    format!(
        "{}  {}{}",
        shown(id),
        shown(&line.in_words()),
        until.unwrap_or_default()
    )
}
