//! The settings of `hark serve`: every one with its default, unit and meaning, as flags and as `HARK_…` environment variables.
//! Owns what may be set; what a setting does is with the part it is given to.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser as _;
use hark_protocol::TopicPattern;
use ipnet::IpNet;

use crate::http::{AllowedOrigin, Hosts, PublicUrl};
use crate::limits;
use crate::listen::Listen;
use crate::message_log::Retention;
use crate::settings::DEFAULT_MAX_INFLIGHT;

/// The settings of `hark serve`.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Serve on this address and port; may be given several times (in the variable, with `;` between them). A port alone is one of 127.0.0.1;
    /// localhost:PORT is that of 127.0.0.1 and ::1; port 0 takes a free one. Behind it may stand, each with a comma in front:
    /// certificate=FILE and key=FILE (PEM, watched) to serve TLS; client-ca=FILE to take client certificates that it has signed, and
    /// client-certificate=required|optional (by default required); routes=all|clients|operators to serve a part of the routes only.
    #[arg(
        long,
        env = "HARK_LISTEN",
        default_value = "127.0.0.1:4275",
        value_name = "ADDRESS:PORT[,NAME=VALUE]",
        value_delimiter = ';',
        value_parser = listen
    )]
    pub listen: Vec<Listen>,

    /// Keep the log in this folder; make it if it does not exist.
    #[arg(
        long,
        env = "HARK_DATA_DIR",
        default_value = "./hark-data",
        value_name = "DIR"
    )]
    pub data_dir: PathBuf,

    /// If the log is damaged and cannot be opened, set its folder aside and salvage what can be read.
    #[arg(long, env = "HARK_RECOVER", value_parser = clap::builder::BoolishValueParser::new())]
    pub recover: bool,

    /// Keep these topics in memory only, and begin them anew at every start: a name, or a pattern with `*` and a final `>`. What the disk has
    /// under such a name is hidden.
    #[arg(
        long,
        env = "HARK_MEMORY_TOPICS",
        value_name = "PATTERN",
        value_delimiter = ','
    )]
    pub memory_topics: Vec<TopicPattern>,

    /// Delete messages older than this (7d, 12h, 30m).
    #[arg(long, env = "HARK_RETENTION_AGE", default_value = "7d", value_parser = duration, value_name = "TIME")]
    pub retention_age: Duration,

    /// Delete a topic's oldest messages beyond this many bytes, as stored (500MB, 10GiB, or a plain number).
    #[arg(long, env = "HARK_RETENTION_BYTES", default_value = "256MiB", value_parser = some_bytes, value_name = "BYTES")]
    pub retention_bytes: u64,

    /// Delete a topic's oldest messages beyond this many; by default, keep any number.
    #[arg(long, env = "HARK_RETENTION_MESSAGES", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub retention_messages: Option<u64>,

    /// Keep at most this many bytes in all topics together, as stored; beyond it, delete the oldest messages of the largest first.
    #[arg(long, env = "HARK_RETENTION_TOTAL_BYTES", default_value = "10GiB", value_parser = some_bytes, value_name = "BYTES")]
    pub retention_total_bytes: u64,

    /// Keep at most this many bytes in all --memory-topics together; beyond it, delete the oldest messages of the largest first.
    #[arg(long, env = "HARK_MEMORY_TOTAL_BYTES", default_value = "1GiB", value_parser = some_bytes, value_name = "BYTES")]
    pub memory_total_bytes: u64,

    /// Remember producers and message ids, of all topics together, in at most this many bytes of memory; beyond it, forget those silent for the longest, and refuse new ones (`busy`) only while all have published within the last ten minutes.
    #[arg(long, env = "HARK_MAX_PRODUCERS_BYTES", default_value = "256MiB", value_name = "BYTES", value_parser = producers_bytes)]
    pub max_producers_bytes: u64,

    /// Refuse publishes while the disk has less room than this (0: never); by default 256 MiB, or a tenth of a small volume.
    #[arg(long, env = "HARK_MIN_FREE_BYTES", value_parser = bytes, value_name = "BYTES")]
    pub min_free_bytes: Option<u64>,

    /// Allow at most this many topics.
    #[arg(
        long,
        env = "HARK_MAX_TOPICS",
        default_value_t = 1_000_000,
        value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..).map(|count| count as usize)
    )]
    pub max_topics: usize,

    /// Where clients find Hark (`https://hark.example.org`): pages of this origin are its own, and it answers to no other name.
    #[arg(
        long = "public-url",
        env = "HARK_PUBLIC_URLS",
        value_name = "URL",
        value_delimiter = ','
    )]
    pub public_urls: Vec<PublicUrl>,

    /// Allow web pages of this origin to connect and publish, as browsers write it (`https://app.example`); `*` is any, also `null`.
    #[arg(
        long = "allowed-origin",
        env = "HARK_ALLOWED_ORIGINS",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    pub allowed_origins: Vec<AllowedOrigin>,

    /// Believe this proxy who the client is (`X-Forwarded-For`, `Forwarded`): an address, or a network (`10.0.0.0/8`).
    #[arg(
        long = "trusted-proxy",
        env = "HARK_TRUSTED_PROXIES",
        value_name = "NETWORK",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Ask who everybody is: a file of issuers, keys and rules that say who may do what.
    #[arg(long, env = "HARK_AUTH", value_name = "FILE")]
    pub auth: Option<PathBuf>,

    /// Take tokens also over connections that anybody on the way can read.
    #[arg(long, env = "HARK_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,

    /// Allow non-loopback addresses without authentication. Anyone who can connect can read and publish everything.
    #[arg(long, env = "HARK_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// Ping WebSocket clients, and write a comment to event streams, this often; end a WebSocket client that is silent for 2.5 times as long.
    #[arg(long, env = "HARK_HEARTBEAT", default_value = "25s", value_parser = duration, value_name = "TIME")]
    pub heartbeat: Duration,

    /// End a client that takes nothing, or less than a page (64 KiB), of what waits for it in this time; it can resume.
    #[arg(long, env = "HARK_STALL_TIMEOUT", default_value = "60s", value_parser = stall_timeout, value_name = "TIME")]
    pub stall_timeout: Duration,

    /// Stop reading from a WebSocket client beyond this many unanswered publishes. More lets a publisher on a slow line send more in a round trip.
    #[arg(long, env = "HARK_MAX_INFLIGHT", default_value_t = DEFAULT_MAX_INFLIGHT as u32, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_inflight: u32,

    /// Stop reading from a WebSocket client beyond this many bytes of unanswered publishes (but at least one message).
    #[arg(long, env = "HARK_MAX_INFLIGHT_BYTES", default_value = "1MiB", value_name = "BYTES", value_parser = some_bytes)]
    pub max_inflight_bytes: u64,

    /// Hold at most this many bytes of messages that have come in part; beyond it, tell the slowest of the address that holds most to try again later.
    #[arg(long, env = "HARK_RECEIVING_TOTAL_BYTES", default_value = "64MiB", value_name = "BYTES", value_parser = some_bytes)]
    pub receiving_total_bytes: u64,

    /// Keep an idle HTTP connection this long for the next request: longer than a proxy in front keeps its own.
    #[arg(long, env = "HARK_KEEP_ALIVE", default_value = "75s", value_parser = duration, value_name = "TIME")]
    pub keep_alive: Duration,

    /// Let the kernel hold at most this many bytes for all clients until they acknowledge them; beyond it, end those that have owed an acknowledgement for the longest.
    #[arg(long, env = "HARK_MAX_UNSENT_BYTES", default_value = "256MiB", value_name = "BYTES", value_parser = some_bytes)]
    pub max_unsent_bytes: u64,

    /// Allow at most this many connections at a time; tell further ones to try again (503). By default, as many as the limit on open files leaves room for.
    #[arg(long, env = "HARK_MAX_CONNECTIONS", value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,

    /// How much each may.
    #[command(flatten)]
    pub limits: limits::Settings,

    /// Unload a topic from memory after this much idle time.
    #[arg(long, env = "HARK_ROOM_IDLE", default_value = "60s", value_parser = duration, value_name = "TIME")]
    pub room_idle: Duration,

    /// Keep at most this many idle topics in memory; beyond it, unload the longest idle before --room-idle is over.
    #[arg(
        long,
        env = "HARK_MAX_IDLE_ROOMS",
        default_value_t = 5_000,
        value_name = "COUNT"
    )]
    pub max_idle_rooms: usize,

    /// Shutdown grace period. Clients are told to reconnect spread over the same time.
    #[arg(long, env = "HARK_DRAIN", default_value = "5s", value_parser = duration, value_name = "TIME")]
    pub drain: Duration,

    /// Serve connections with this many threads; by default, one for each core.
    #[arg(long, env = "HARK_WORKERS", value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,

    /// Serve topics with this many threads of their own; 0: with those that serve connections.
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
        if self.auth.is_some() && self.insecure_no_auth {
            return Err("--auth asks who everybody is, and --insecure-no-auth lets everybody in; give one of them".to_owned());
        }
        let open = self.listen.iter().find(|listen| !listen.is_loopback());
        if let Some(open) = open
            && self.auth.is_none()
            && !self.insecure_no_auth
        {
            return Err(format!(
                "without authentication Hark serves loopback addresses only, and {open} is none; listen on 127.0.0.1, say with \
                 --auth who may do what, or give --insecure-no-auth if everybody who reaches it may read and publish everything"
            ));
        }
        let mut public_urls = self.public_urls.iter();
        if self.auth.is_none() && !self.insecure_no_auth && !public_urls.all(PublicUrl::is_loopback)
        {
            return Err(
                "without authentication Hark answers to loopback names only, so that --public-url can name no other; say with --auth who may do \
                 what, or give --insecure-no-auth if everybody who reaches it may read and publish everything"
                    .to_owned(),
            );
        }
        if self.auth.is_none()
            && let Some(flag) = self.limits.by_identity()
        {
            return Err(format!(
                "{flag} has a limit by identity, and without --auth nobody has one; limit it by address, or say with --auth who may do what"
            ));
        }
        Ok(())
    }

    /// Which names Hark answers to, unless --public-url says so.
    pub fn hosts(&self) -> Hosts {
        match (&self.auth, self.insecure_no_auth) {
            (_, true) => Hosts::Any,
            (Some(_), false) => Hosts::Addresses,
            (None, false) => Hosts::Loopback,
        }
    }
}

/// The least that is of use: some thousands of producers.
const MIN_PRODUCERS_BYTES: u64 = 1024 * 1024;

fn producers_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        few if few < MIN_PRODUCERS_BYTES => Err("give at least 1MiB".to_owned()),
        bytes => Ok(bytes),
    }
}

/// What stands around a `;` may be a line's end.
fn listen(text: &str) -> Result<Listen, String> {
    text.trim().parse()
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

/// Reads `7d`, `1h 30m`, `250ms`. Days have 24 hours. What is counted in milliseconds would be nothing below one.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time such as 30s, 5m, 12h or 7d, of at least 1ms");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let duration = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| wrong())?;
    Duration::try_from(duration)
        .ok()
        .filter(|duration| *duration >= Duration::from_millis(1))
        .ok_or_else(wrong)
}

/// The kernel is given it too (`TCP_USER_TIMEOUT`), which counts milliseconds in 31 bits.
fn stall_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    match i32::try_from(timeout.as_millis()) {
        Ok(_) => Ok(timeout),
        Err(_) => Err(format!(
            "{text:?} is longer than the system can wait; give at most 24d"
        )),
    }
}

/// Reads `256MiB`, `10G`, `1.5GB` or a plain number: K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.
fn bytes(text: &str) -> Result<u64, String> {
    parse_size::parse_size(text).map_err(|error| match error {
        parse_size::Error::PosOverflow => format!("{text:?} is more than can be counted"),
        _ => format!("{text:?} is not a number of bytes such as 1048576, 256MiB or 10GB"),
    })
}

/// Reads bytes of which nothing could be kept if there were none.
fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err(
            "nothing could be kept with 0; give the most bytes there may be, such as 10GiB"
                .to_owned(),
        ),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "7", "-5s", "0s", "500us", "soon", "1 month"] {
            assert!(duration(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_stall_is_no_longer_than_the_system_can_wait() {
        assert_eq!(
            stall_timeout("24d"),
            Ok(Duration::from_secs(24 * 24 * 3600))
        );
        assert!(stall_timeout("25d").unwrap_err().contains("24d"));
        assert!(stall_timeout("0s").is_err());
    }

    #[test]
    fn bytes_may_have_units() {
        for (text, expected) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("10G", 10_000_000_000),
            ("1GB", 1_000_000_000),
            ("10gib", 10 << 30),
            ("10Gi", 10 << 30),
            ("256MiB", 256 << 20),
            ("256 MiB", 256 << 20),
            ("1.5KiB", 1536),
            ("16777215.9999TiB", 18_446_744_073_599_600_453),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in [
            "", "-1", "-1GiB", "GiB", "ten", "10X", "1,5G", "0x10", "1/2",
        ] {
            let refused = bytes(bad).expect_err(bad);
            assert!(refused.contains("256MiB"), "{bad}: {refused}");
        }
        for vast in ["18446744073709551616", "16777216TiB", "99999999999E"] {
            let refused = bytes(vast).expect_err(vast);
            assert!(refused.contains("more than"), "{vast}: {refused}");
        }
        for none in ["0", "0GiB", "0.0001KB"] {
            assert!(some_bytes(none).is_err(), "{none}");
        }
    }

    #[test]
    fn several_listeners_stand_in_one_variable() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            config: Config,
        }
        let listen = "0.0.0.0:443,certificate=a.pem,key=a.key;\n 127.0.0.1:4275";
        let args = ["hark", "--listen", listen, "--listen", "4276"];
        let config = <Alone as clap::Parser>::parse_from(args).config;
        let all: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["0.0.0.0:443", "127.0.0.1:4275", "127.0.0.1:4276"]);
        assert!(config.check().unwrap_err().contains("0.0.0.0:443"));
    }

    /// What help shows is what the parts of the broker have by themselves.
    #[test]
    fn defaults_are_those_of_the_parts() {
        #[derive(clap::Parser)]
        struct Alone {
            #[command(flatten)]
            config: Config,
        }
        let config = <Alone as clap::Parser>::parse_from(["hark"]).config;
        assert_eq!(config.retention(), Retention::default());
        assert_eq!(config.retention_total_bytes, 10 << 30);
        assert_eq!(config.memory_total_bytes, 1 << 30);
    }
}
