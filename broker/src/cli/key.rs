//! `hark key …`: makes, lists and revokes API keys in the broker's file of them. Works on the file alone; no broker is asked.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;
use jiff::Timestamp;
use serde::Serialize;

use super::CliError;
use super::output::{Output, Reader, say, shown};
use super::token::GrantArgs;
use crate::config;
use crate::identity::{KeyFile, KeyForm, NewKey};

/// Make, list or revoke API keys.
#[derive(Debug, clap::Args)]
pub(super) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,

    /// The file of API keys: hashes alone, which nobody else may read.
    #[arg(
        long,
        global = true,
        env = "HARK_KEYS",
        default_value = "keys.toml",
        value_name = "FILE"
    )]
    keys: PathBuf,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make an API key and print it. This is the only time it is shown.
    Make(MakeArgs),
    /// List the keys: whose they are and whether they are good.
    List {
        /// Print JSON lines also on a terminal.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key, for good.
    Revoke {
        /// Its id: the 8 characters after hark_.
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct MakeArgs {
    /// Whom the key is for: the subject of its identity.
    #[arg(long)]
    subject: String,

    /// The name of a [[rule]] that counts for it. Repeatable.
    #[arg(long, value_name = "NAME")]
    rule: Vec<String>,

    /// How long it is valid; for ever by default.
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    expires_in: Option<Duration>,

    #[command(flatten)]
    grants: GrantArgs,
}

pub(super) fn run(args: KeyArgs) -> Result<(), CliError> {
    let now = Timestamp::now();
    match args.command {
        KeyCommand::Make(make) => {
            let key =
                KeyFile::make(&args.keys, make.new_key(now), now).map_err(CliError::failed)?;
            // As it is, also into a pipe: it is given to other programs.
            let mut output = Output::new(false);
            output.line(key.as_bytes())?;
            output.flush()?;
            say("keep the key now: nobody can read it again");
        }
        KeyCommand::List { json } => {
            let keys = KeyFile::read(&args.keys).map_err(CliError::failed)?.key;
            list(&keys, &mut Output::new(json), now)?;
        }
        KeyCommand::Revoke { id } => {
            let was_good = KeyFile::revoke(&args.keys, &id, now).map_err(CliError::failed)?;
            say(match was_good {
                true => "the key is revoked",
                false => "the key was revoked already",
            });
        }
    }
    Ok(())
}

impl MakeArgs {
    fn new_key(self, now: Timestamp) -> NewKey {
        NewKey {
            subject: self.subject,
            rules: self.rule,
            publish: self.grants.publish,
            subscribe: self.grants.subscribe,
            manage: self.grants.manage,
            monitor: self.grants.monitor,
            admin: self.grants.admin,
            // A time that cannot be counted is as good as for ever.
            expires: self.expires_in.and_then(|time| now.checked_add(time).ok()),
        }
    }
}

/// One key, without its hash.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    id: &'a str,
    subject: &'a str,
    state: &'static str,
    made: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<&'a str>,
    rules: &'a [String],
    publish: &'a [String],
    subscribe: &'a [String],
    manage: &'a [String],
    monitor: bool,
    admin: bool,
}

impl<'a> Listed<'a> {
    fn new(key: &'a KeyForm, now: Timestamp) -> Self {
        let expires: Option<Timestamp> = key.expires.as_ref().and_then(|text| text.parse().ok());
        Self {
            id: &key.id,
            subject: &key.subject,
            state: match (&key.revoked, expires) {
                (Some(_), _) => "revoked",
                (None, Some(expires)) if expires <= now => "expired",
                _ => "good",
            },
            made: &key.made,
            expires: key.expires.as_deref(),
            revoked: key.revoked.as_deref(),
            rules: &key.rules,
            publish: &key.publish,
            subscribe: &key.subscribe,
            manage: &key.manage,
            monitor: key.monitor,
            admin: key.admin,
        }
    }

    /// For people.
    fn line(&self) -> String {
        let mut line = format!(
            "{}  {:8} made {}  {}",
            shown(self.id),
            self.state,
            shown(self.made),
            shown(self.subject)
        );
        for (name, values) in [
            ("rules", self.rules),
            ("publish", self.publish),
            ("subscribe", self.subscribe),
            ("manage", self.manage),
        ] {
            if !values.is_empty() {
                line.push_str(&format!("  {name} {}", shown(&values.join(" "))));
            }
        }
        for (is_given, name) in [(self.monitor, "monitor"), (self.admin, "admin")] {
            if is_given {
                line.push_str(&format!("  {name}"));
            }
        }
        line
    }
}

fn list(keys: &[KeyForm], output: &mut Output, now: Timestamp) -> Result<(), CliError> {
    for key in keys {
        let listed = Listed::new(key, now);
        let line = match output.json {
            true => serde_json::to_string(&listed).map_err(|e| CliError::failed(e.to_string()))?,
            false => listed.line(),
        };
        if output.line(line.as_bytes())? == Reader::Gone {
            return Ok(());
        }
    }
    output.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_good_keys_from_others_and_shows_no_hash() {
        let now: Timestamp = "2026-12-01T12:00:00Z".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        let hour = Duration::from_secs(3600);
        for (subject, expires_in) in [("good", None), ("short", Some(hour)), ("gone", None)] {
            let args = MakeArgs {
                subject: subject.to_owned(),
                rule: vec!["backend".to_owned()],
                expires_in,
                grants: GrantArgs {
                    publish: vec!["in.>".to_owned()],
                    admin: true,
                    ..GrantArgs::default()
                },
            };
            KeyFile::make(&path, args.new_key(now), now).unwrap();
        }
        let keys = KeyFile::read(&path).unwrap().key;
        KeyFile::revoke(&path, &keys[2].id, now).unwrap();
        let keys = KeyFile::read(&path).unwrap().key;
        let text = std::fs::read_to_string(&path).unwrap();
        for (key, state) in keys.iter().zip(["good", "expired", "revoked"]) {
            let listed = Listed::new(key, now + hour);
            assert_eq!(listed.state, state);
            let line = listed.line();
            for part in [&*key.id, state, "rules backend", "publish in.>", "admin"] {
                assert!(line.contains(part), "{part} is missing: {line}");
            }
            let json = serde_json::to_string(&listed).unwrap();
            for hash in text
                .split("hash = \"")
                .skip(1)
                .filter_map(|rest| rest.get(..64))
            {
                assert!(!line.contains(hash) && !json.contains(hash));
            }
        }
    }
}
