//! The settings of limits: by identity, by address and in all, each with its default, unit and meaning. Owns how they are written and read.

use std::str::FromStr;

use super::rate::Rate;

/// Each limit, as it is set. By default of the type there is none.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Settings {
    /// Allow at most this many connections at a time by identity or by address (`identity=20,address=500`), beside --max-connections; of one
    /// identity its WebSockets, event streams and long-polls count. An IPv6 address is a /64.
    #[arg(long = "limit-connections", env = "HARK_LIMIT_CONNECTIONS", default_value = "none", value_name = "SCOPE=COUNT,…", value_parser = connections)]
    pub connections: Limit<usize>,

    /// Allow at most this many new connections in a time (`address=50/s,all=2000/s`; s, m or h), each with its TLS handshake.
    #[arg(long = "limit-handshakes", env = "HARK_LIMIT_HANDSHAKES", default_value = "none", value_name = "SCOPE=RATE,…", value_parser = rates)]
    pub handshakes: Limit<Rate>,

    /// Allow at most this many commands in a time (`identity=100/s,address=1000/s`): frames, requests, and each message of several.
    #[arg(long = "limit-commands", env = "HARK_LIMIT_COMMANDS", default_value = "none", value_name = "SCOPE=RATE,…", value_parser = rates)]
    pub commands: Limit<Rate>,

    /// Allow at most this many bytes of commands in a time (`identity=1MiB/s,all=100MiB/s`).
    #[arg(long = "limit-bytes", env = "HARK_LIMIT_BYTES", default_value = "none", value_name = "SCOPE=RATE,…", value_parser = byte_rates)]
    pub bytes: Limit<Rate>,

    /// Allow at most this many subscriptions at a time, of all sessions and event streams together (`identity=5000`).
    #[arg(long = "limit-subscriptions", env = "HARK_LIMIT_SUBSCRIPTIONS", default_value = "none", value_name = "SCOPE=COUNT,…", value_parser = counts)]
    pub subscriptions: Limit<usize>,

    /// Allow at most this many topics to get their first message in a time (`identity=10/m,all=100/s`).
    #[arg(long = "limit-new-topics", env = "HARK_LIMIT_NEW_TOPICS", default_value = "none", value_name = "SCOPE=RATE,…", value_parser = rates)]
    pub new_topics: Limit<Rate>,

    /// Tell whoever has shown more bad credentials than this in a time to wait (by `address`, or in `all`). Good ones are taken all the same.
    #[arg(long = "limit-failed-auths", env = "HARK_LIMIT_FAILED_AUTHS", default_value = "address=20/m", value_name = "SCOPE=RATE,…", value_parser = rates_of_strangers)]
    pub failed_auths: Limit<Rate>,
}

/// Whose a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One identity's: what all its connections and requests have together.
    Identity,
    /// One address's.
    Address,
    /// Everybody's together.
    All,
}

impl Scope {
    /// Each, the narrowest first: who is refused for himself takes nothing of what is everybody's.
    pub(super) const EACH: [Self; 3] = [Self::Identity, Self::Address, Self::All];

    /// As it is written in a setting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Address => "address",
            Self::All => "all",
        }
    }
}

/// A limit for some scopes; those that are not named have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit<T> {
    by_scope: [Option<T>; 3],
}

impl<T> Default for Limit<T> {
    fn default() -> Self {
        Self {
            by_scope: [None, None, None],
        }
    }
}

impl<T: Copy> Limit<T> {
    /// One for each address.
    #[cfg(test)]
    pub(crate) fn by_address(limit: T) -> Self {
        Self {
            by_scope: [None, Some(limit), None],
        }
    }

    /// What it is in this scope.
    pub fn of(&self, scope: Scope) -> Option<T> {
        self.by_scope[scope as usize]
    }

    /// Whether there is none at all.
    pub(super) fn is_none(&self) -> bool {
        self.by_scope.iter().all(Option::is_none)
    }

    /// Reads `address=20/m,all=1000/s`, or `none`.
    fn parse(
        text: &str,
        scopes: &[Scope],
        value: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Self, String> {
        let mut limit = Self::default();
        if text.trim() == "none" {
            return Ok(limit);
        }
        for part in text.split(',') {
            let known = || scopes.iter().map(|scope| scope.name()).collect::<Vec<_>>();
            let wrong = || {
                format!(
                    "{part:?} does not say whose the limit is; write `none`, or one or several of {} with `=` and the limit, with commas \
                     between them",
                    known().join(", ")
                )
            };
            let (name, limit_of_it) = part.split_once('=').ok_or_else(wrong)?;
            let mut named = scopes.iter().filter(|scope| scope.name() == name.trim());
            let scope = *named.next().ok_or_else(wrong)?;
            let place = &mut limit.by_scope[scope as usize];
            if place.replace(value(limit_of_it.trim())?).is_some() {
                return Err(format!("`{}` is there twice", scope.name()));
            }
        }
        Ok(limit)
    }
}

/// Reads rates of what is counted one by one.
pub(super) fn rates(text: &str) -> Result<Limit<Rate>, String> {
    Limit::parse(text, &Scope::EACH, Rate::from_str)
}

/// Reads rates of bytes: `1MiB/s`.
pub(super) fn byte_rates(text: &str) -> Result<Limit<Rate>, String> {
    let bytes = |text: &str| Rate::parse(text, |bytes| parse_size::parse_size(bytes).ok());
    Limit::parse(text, &Scope::EACH, bytes)
}

/// Reads rates of what nobody known does.
fn rates_of_strangers(text: &str) -> Result<Limit<Rate>, String> {
    Limit::parse(text, &[Scope::Address, Scope::All], Rate::from_str)
}

/// Reads how many there may be at a time.
fn counts(text: &str) -> Result<Limit<usize>, String> {
    Limit::parse(text, &Scope::EACH, count)
}

/// Reads how many connections there may be at a time; in all, that is another setting.
pub(super) fn connections(text: &str) -> Result<Limit<usize>, String> {
    if text
        .split(',')
        .any(|part| part.trim_start().starts_with("all="))
    {
        return Err("how many connections there may be in all --max-connections says".to_owned());
    }
    Limit::parse(text, &[Scope::Identity, Scope::Address], count)
}

fn count(text: &str) -> Result<usize, String> {
    let count: Option<u32> = text.parse().ok().filter(|&count| count > 0);
    let count = count.ok_or_else(|| format!("{text:?} is no number of at least 1"))?;
    Ok(count as usize)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn limits_are_read_by_scope() {
        let limit = rates("identity=100/s, all=5/m").unwrap();
        assert_eq!(limit.of(Scope::Identity), Some("100/s".parse().unwrap()));
        assert_eq!(limit.of(Scope::Address), None);
        assert_eq!(limit.of(Scope::All), Some("5/m".parse().unwrap()));
        assert!(rates("none").unwrap().is_none());
        let bytes = byte_rates("address=1MiB/s").unwrap();
        let mebibyte = Rate::new(1024 * 1024, Duration::from_secs(1));
        assert_eq!(bytes.of(Scope::Address), Some(mebibyte));
        assert_eq!(counts("identity=10").unwrap().of(Scope::Identity), Some(10));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (read, expected) in [
            (rates("100/s").map(drop), "identity, address, all"),
            (rates("").map(drop), "identity, address, all"),
            (rates("client=1/s").map(drop), "identity, address, all"),
            (rates("all=1/s,all=2/s").map(drop), "twice"),
            (rates("all=0/s").map(drop), "100/s"),
            (rates_of_strangers("identity=1/s").map(drop), "address, all"),
            (counts("all=0").map(drop), "at least 1"),
            (connections("all=10").map(drop), "--max-connections"),
            (byte_rates("all=10X/s").map(drop), "100/s"),
        ] {
            let error = read.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
