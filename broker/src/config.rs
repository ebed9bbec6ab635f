//! The settings of `hark serve`: every one with its default, unit and meaning, as flags and as `HARK_…` environment variables.
//! Owns what may be set; what a setting does is with the part it is given to.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use hark_protocol::TopicPattern;
use ipnet::IpNet;

use crate::message_log::Retention;

/// The settings of `hark serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Address and port to serve on; port 0 takes a free one.
    #[arg(
        long,
        env = "HARK_LISTEN",
        default_value = "127.0.0.1:4275",
        value_name = "ADDRESS:PORT"
    )]
    pub listen: SocketAddr,

    /// Folder that holds the log; made if it does not exist.
    #[arg(
        long,
        env = "HARK_DATA_DIR",
        default_value = "./hark-data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,

    /// If the log is damaged so that it cannot be opened: set its folder aside and salvage what can be read.
    #[arg(long, env = "HARK_RECOVER", value_parser = clap::builder::BoolishValueParser::new())]
    pub recover: bool,

    /// Topics that are kept in memory only, and begin anew at every start: a name, or a pattern with `*` and a final `>`.
    #[arg(
        long,
        env = "HARK_MEMORY_TOPICS",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub memory_topics: Vec<TopicPattern>,

    /// Messages older than this are taken out (7d, 12h, 30m).
    #[arg(long, env = "HARK_RETENTION_AGE", default_value = "7d", value_parser = duration, value_name = "TIME")]
    pub retention_age: Duration,

    /// A topic's oldest messages are taken out beyond so many bytes, as stored.
    #[arg(long, env = "HARK_RETENTION_BYTES", default_value_t = Retention::default().max_bytes, value_name = "BYTES")]
    pub retention_bytes: u64,

    /// A topic's oldest messages are taken out beyond so many; by default, any number is kept.
    #[arg(long, env = "HARK_RETENTION_MESSAGES", value_name = "COUNT")]
    pub retention_messages: Option<u64>,

    /// All topics together keep at most so many bytes, as stored; beyond it the largest give their oldest messages first.
    #[arg(long, env = "HARK_RETENTION_TOTAL_BYTES", default_value_t = 10 * 1024 * 1024 * 1024, value_name = "BYTES")]
    pub retention_total_bytes: u64,

    /// All --memory-topics together keep at most so many bytes of memory; beyond it the largest give their oldest messages first.
    #[arg(long, env = "HARK_MEMORY_TOTAL_BYTES", default_value_t = 1024 * 1024 * 1024, value_name = "BYTES")]
    pub memory_total_bytes: u64,

    /// What Hark remembers of producers and message ids, in all topics together, has at most so many bytes of memory; beyond it those silent for the longest are forgotten, and new ones are refused (`busy`) only while all have published within the last ten minutes.
    #[arg(long, env = "HARK_MAX_PRODUCERS_BYTES", default_value_t = 256 * 1024 * 1024, value_name = "BYTES", value_parser = producers_bytes)]
    pub max_producers_bytes: usize,

    /// Publishes are refused while the disk has less room than this; by default 256 MiB, or a tenth of a small volume.
    #[arg(long, env = "HARK_MIN_FREE_BYTES", value_name = "BYTES")]
    pub min_free_bytes: Option<u64>,

    /// The most topics there may be.
    #[arg(
        long,
        env = "HARK_MAX_TOPICS",
        default_value_t = 1_000_000,
        value_name = "COUNT"
    )]
    pub max_topics: usize,

    /// Web pages of other origins that may connect and publish, as browsers write them (`https://app.example`); `*` is any.
    #[arg(
        long = "allowed-origin",
        env = "HARK_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ',',
        value_parser = origin
    )]
    pub allowed_origins: Vec<String>,

    /// Proxies that are believed who the client is (`X-Forwarded-For`, `Forwarded`): addresses or networks (`10.0.0.0/8`).
    #[arg(
        long = "trusted-proxy",
        env = "HARK_TRUSTED_PROXIES",
        value_name = "NETWORK",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Serve another address than loopback although anybody who reaches it may read and publish everything.
    #[arg(long, env = "HARK_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// How often WebSocket clients are pinged, and event streams get a comment; a WebSocket client that is silent for 2.5 times as long is ended.
    #[arg(long, env = "HARK_HEARTBEAT", default_value = "25s", value_parser = duration, value_name = "TIME")]
    pub heartbeat: Duration,

    /// A client that takes nothing, or less than a page (64 KiB), of what waits for it in this time is ended; it can resume.
    #[arg(long, env = "HARK_STALL_TIMEOUT", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub stall_timeout: Duration,

    /// An HTTP connection is kept so long for the next request; more than what a proxy in front keeps its own for.
    #[arg(long, env = "HARK_KEEP_ALIVE", default_value = "75s", value_parser = duration, value_name = "TIME")]
    pub keep_alive: Duration,

    /// A topic's room that nobody has needed for so long leaves memory.
    #[arg(long, env = "HARK_ROOM_IDLE", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub room_idle: Duration,

    /// The most rooms that stay in memory though nobody needs them; beyond it the longest idle leave before --room-idle is over.
    #[arg(
        long,
        env = "HARK_MAX_IDLE_ROOMS",
        default_value_t = 5_000,
        value_name = "COUNT"
    )]
    pub max_idle_rooms: usize,

    /// When told to end: how long clients may take to hear it and come back spread over.
    #[arg(long, env = "HARK_DRAIN", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub drain: Duration,

    /// Threads that serve connections; by default, one for each core.
    #[arg(long, env = "HARK_WORKERS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Threads that serve topics alone; 0: those that serve connections do it too.
    #[arg(long, env = "HARK_ROOM_THREADS", default_value_t = 0, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub room_threads: u16,
}

impl Config {
    /// The default retention of a topic.
    pub fn retention(&self) -> Retention {
        Retention {
            max_age_ms: u64::try_from(self.retention_age.as_millis()).unwrap_or(u64::MAX),
            max_bytes: self.retention_bytes,
            max_messages: self.retention_messages.unwrap_or(u64::MAX),
        }
    }

    /// What is wrong with settings that are each right by themselves.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && !self.insecure_no_auth {
            return Err(format!(
                "without authentication Hark serves loopback addresses only, and {} is none; listen on 127.0.0.1, or give \
                 --insecure-no-auth if everybody who reaches it may read and publish everything",
                self.listen
            ));
        }
        Ok(())
    }
}

/// An origin as browsers write it (RFC 6454, section 6.2): anything else would never be met.
fn origin(text: &str) -> Result<String, String> {
    let is_name = |part: &str, more: &[char]| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(&c);
        !part.is_empty() && part.chars().all(known)
    };
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        is_name(scheme, &['+', '-', '.']) && is_name(host, &['-', '.', '_', ':', '[', ']'])
    });
    match is_origin || text == "*" {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "{text:?} is no origin such as https://app.example or http://localhost:3000, with nothing behind it"
        )),
    }
}

/// The least that is of use: some thousands of producers.
const MIN_PRODUCERS_BYTES: usize = 1024 * 1024;

fn producers_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok();
    bytes
        .filter(|bytes| *bytes >= MIN_PRODUCERS_BYTES)
        .ok_or_else(|| format!("{text:?} is no number of bytes from {MIN_PRODUCERS_BYTES} on"))
}

/// Reads `10.0.0.0/8`, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse().or_else(|_| {
        let address: IpAddr = text.parse().map_err(|_| {
            format!("{text:?} is no address and no network such as 10.0.0.0/8 or fd00::/8")
        })?;
        Ok(address.into())
    })
}

/// Reads `7d`, `1h 30m`, `250ms`. Days have 24 hours.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 30s, 5m, 12h or 7d");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    Duration::try_from(duration)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "7", "-5s", "0s", "soon", "1 month"] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }
}
