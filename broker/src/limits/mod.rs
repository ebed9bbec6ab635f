//! How much each may: by identity, by address, and all together. Owns what is counted, by whom, and what is said to whoever wants more;
//! leaves who somebody is to `identity`, and where he comes from to `http::client_address`.
//!
//! Whatever is not limited costs a branch. What is limited costs a look at one bucket for each scope: no lock, as whoever sends has his
//! accounts in hand (`meter`).

mod accounts;
mod meter;
mod network;
mod rate;
mod setting;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hark_protocol::ErrorCode;

use crate::identity::Who;

pub use meter::{Held, Meter};
pub use network::{Network, is_trusted};
pub use rate::Rate;
pub use setting::{Limit, Scope, Settings};

use accounts::{Account, Table};

/// How long whoever has as many as he may is told to wait: nobody knows when one ends.
const UNTIL_ONE_ENDS: Duration = Duration::from_secs(5);

/// What is counted over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rated {
    /// Frames of a WebSocket, requests, and each message of several.
    Commands,
    /// Of commands, as they came.
    Bytes,
    /// Connections that begin; of those behind a trusted proxy, WebSockets and event streams.
    Handshakes,
    /// Topics that get their first message.
    NewTopics,
    /// Credentials that are no good.
    FailedAuths,
}

impl Rated {
    const COUNT: usize = 5;
}

/// What is counted as long as it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Connections; of one identity and behind a trusted proxy, WebSockets, event streams and long-polls.
    Connections,
    /// Of sessions, and topics of event streams.
    Subscriptions,
}

impl Counted {
    const COUNT: usize = 2;
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// How much in a time.
    Rated(Rated),
    /// How many at a time.
    Counted(Counted),
}

/// How much each may, and what each has had.
#[derive(Debug)]
pub struct Limits {
    settings: Settings,
    began: Instant,
    addresses: Table<Network>,
    identities: Table<Who>,
    all: Arc<Account>,
    /// The part of the tables that is looked through next.
    turn: AtomicUsize,
    told_of_proxy: AtomicBool,
}

/// Somebody wants more than he may have just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMuch {
    what: What,
    whose: Scope,
    /// When it may be there.
    pub retry_after: Duration,
}

impl Settings {
    fn rate(&self, of: Rated) -> &Limit<Rate> {
        match of {
            Rated::Commands => &self.commands,
            Rated::Bytes => &self.bytes,
            Rated::Handshakes => &self.handshakes,
            Rated::NewTopics => &self.new_topics,
            Rated::FailedAuths => &self.failed_auths,
        }
    }

    fn count(&self, of: Counted) -> &Limit<usize> {
        match of {
            Counted::Connections => &self.connections,
            Counted::Subscriptions => &self.subscriptions,
        }
    }

    /// The flag of a limit by identity, if there is one.
    pub(crate) fn by_identity(&self) -> Option<&'static str> {
        let whats = [
            What::Counted(Counted::Connections),
            What::Counted(Counted::Subscriptions),
            What::Rated(Rated::Handshakes),
            What::Rated(Rated::Commands),
            What::Rated(Rated::Bytes),
            What::Rated(Rated::NewTopics),
        ];
        let mut limited = whats.into_iter().filter(|what| match *what {
            What::Rated(of) => self.rate(of).of(Scope::Identity).is_some(),
            What::Counted(of) => self.count(of).of(Scope::Identity).is_some(),
        });
        limited.next().map(What::flag)
    }
}

impl Limits {
    /// Nobody has had anything yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            began: Instant::now(),
            addresses: Table::new("addresses"),
            identities: Table::new("identities"),
            all: Arc::default(),
            turn: AtomicUsize::new(0),
            told_of_proxy: AtomicBool::new(false),
        })
    }

    /// What a client may that comes from `address`, as long as nobody knows who it is; `None`: that is not counted by address.
    pub fn of_client(self: &Arc<Self>, address: Option<Network>, is_behind_proxy: bool) -> Meter {
        Meter::new(self.clone(), address, is_behind_proxy)
    }

    /// A connection is accepted from a client at `address`. It is counted as long as what is given is held.
    pub fn accept(self: &Arc<Self>, address: Option<Network>) -> Result<Held, TooMuch> {
        self.of_client(address, false).accept()
    }

    /// Requests come by a proxy that Hark was not told of, from `peer`; said once.
    pub fn tell_of_proxy(&self, peer: IpAddr, header: &str) {
        if self.told_of_proxy.swap(true, Ordering::Relaxed) {
            return;
        }
        let counted = match peer.to_canonical().is_loopback() {
            true => "have no limit by address",
            false => "share one address, and its limits",
        };
        tracing::warn!(
            %peer,
            header,
            "requests have come by a proxy that is not named with --trusted-proxy: all clients behind it {counted}; name it, if it is yours"
        );
    }

    /// Forgets who is as good as new. To be called every second or so.
    pub fn look_through(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let now = self.now();
        self.addresses.look_through(turn, now);
        self.identities.look_through(turn, now);
    }

    /// Nanoseconds since the beginning, as buckets count them.
    fn now(&self) -> u64 {
        rate::nanos(self.began.elapsed())
    }
}

impl What {
    fn flag(self) -> &'static str {
        match self {
            Self::Rated(Rated::Commands) => "--limit-commands",
            Self::Rated(Rated::Bytes) => "--limit-bytes",
            Self::Rated(Rated::Handshakes) => "--limit-handshakes",
            Self::Rated(Rated::NewTopics) => "--limit-new-topics",
            Self::Rated(Rated::FailedAuths) => "--limit-failed-auths",
            Self::Counted(Counted::Connections) => "--limit-connections",
            Self::Counted(Counted::Subscriptions) => "--limit-subscriptions",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rated(Rated::Commands) => "commands",
            Self::Rated(Rated::Bytes) => "bytes",
            Self::Rated(Rated::Handshakes) => "new connections",
            Self::Rated(Rated::NewTopics) => "new topics",
            Self::Rated(Rated::FailedAuths) => "credentials that are no good",
            Self::Counted(Counted::Connections) => "connections",
            Self::Counted(Counted::Subscriptions) => "subscriptions",
        }
    }
}

impl TooMuch {
    /// What is limited.
    pub fn what(self) -> What {
        self.what
    }

    /// What programs are told. Another subscription can be had only when one is ended, which is the application's to do.
    pub fn code(self) -> ErrorCode {
        match self.what {
            What::Counted(Counted::Subscriptions) => ErrorCode::TooManySubscriptions,
            What::Rated(_) | What::Counted(Counted::Connections) => ErrorCode::RateLimited,
        }
    }
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, flag) = (self.what.name(), self.what.flag());
        let whose = match self.whose {
            Scope::Identity => "of this identity",
            Scope::Address => "from this address",
            Scope::All => "in all",
        };
        match self.what {
            What::Rated(_) => write!(
                f,
                "too many {name} {whose} ({flag}); try again in {} ms",
                self.retry_after.as_millis().max(1)
            ),
            What::Counted(_) => write!(
                f,
                "there are as many {name} {whose} as there may be ({flag}); end one, or try again later"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::setting::{byte_rates, connections, rates};
    use super::*;

    fn address(last: u8) -> Option<Network> {
        Some(Network::V4([192, 0, 2, last].into()))
    }

    fn who(subject: &str) -> Who {
        Who::new("https://issuer.example", subject)
    }

    #[test]
    fn what_is_not_limited_is_never_refused_and_leaves_no_account() {
        let limits = Limits::new(Settings::default());
        let meter = limits.of_client(address(1), false).of(&who("a"));
        for _ in 0..10_000 {
            meter
                .take(&[(Rated::Commands, 1), (Rated::Bytes, 1 << 20)])
                .unwrap();
            drop(meter.hold(Counted::Subscriptions, 1).unwrap());
            drop(limits.accept(address(1)).unwrap());
        }
        assert_eq!(limits.addresses.len() + limits.identities.len(), 0);
    }

    #[test]
    fn each_scope_has_its_own_and_all_share_one() {
        let limits = Limits::new(Settings {
            commands: rates("identity=2/h,address=4/h,all=7/h").unwrap(),
            ..Settings::default()
        });
        let client =
            |last: u8, subject: &str| limits.of_client(address(last), false).of(&who(subject));
        let had = |meter: &Meter| {
            let took = |_: &u32| meter.take(&[(Rated::Commands, 1)]).is_ok();
            (0..10).filter(took).count()
        };
        assert_eq!(had(&client(1, "a")), 2);
        assert_eq!(
            had(&client(1, "a")),
            0,
            "another connection is the same identity"
        );
        assert_eq!(had(&client(2, "a")), 0, "at another address it is, too");
        assert_eq!(had(&client(1, "b")), 2);
        assert_eq!(had(&client(1, "c")), 0, "the address has had its four");
        let refused = client(1, "c").take(&[(Rated::Commands, 1)]).unwrap_err();
        assert_eq!(
            (refused.whose, refused.code()),
            (Scope::Address, ErrorCode::RateLimited)
        );
        // What was refused by one scope was taken from none.
        assert_eq!(had(&client(3, "c")), 2);
        assert_eq!(had(&client(4, "d")), 1, "in all there are seven");
        let refused = client(5, "e").take(&[(Rated::Commands, 1)]).unwrap_err();
        assert!(
            refused.to_string().contains("--limit-commands"),
            "{refused}"
        );
    }

    #[test]
    fn of_commands_and_bytes_both_are_had_or_neither() {
        let limits = Limits::new(Settings {
            commands: rates("address=2/h").unwrap(),
            bytes: byte_rates("address=100/h").unwrap(),
            ..Settings::default()
        });
        let meter = limits.of_client(address(1), false);
        let take = |bytes| meter.take(&[(Rated::Commands, 1), (Rated::Bytes, bytes)]);
        take(60).unwrap();
        let refused = take(60).unwrap_err();
        assert_eq!(refused.what(), What::Rated(Rated::Bytes));
        take(40).unwrap();
        let refused = take(0).unwrap_err();
        assert_eq!(refused.what(), What::Rated(Rated::Commands));
    }

    #[test]
    fn connections_are_counted_where_the_client_is_known() {
        let limits = Limits::new(Settings {
            connections: connections("identity=1,address=2").unwrap(),
            handshakes: rates("address=3/h").unwrap(),
            ..Settings::default()
        });
        let held: Vec<Held> = (0..2).map(|_| limits.accept(address(1)).unwrap()).collect();
        let refused = limits.accept(address(1)).unwrap_err();
        assert_eq!(refused.what(), What::Counted(Counted::Connections));
        drop(held);
        drop(limits.accept(address(1)).unwrap());
        let refused = limits.accept(address(1)).unwrap_err();
        assert_eq!(refused.what(), What::Rated(Rated::Handshakes));
        // A proxy's connections are its own business.
        for _ in 0..10 {
            drop(limits.accept(None).unwrap());
        }
        // What stays there counts by identity; by address only what was not counted when it was accepted.
        let direct = limits.of_client(address(1), false).of(&who("a"));
        let stays = direct.stay().unwrap();
        let refused = direct.connect().unwrap_err();
        assert_eq!(refused.whose, Scope::Identity);
        drop(stays);
        drop(direct.connect().unwrap());
        let proxied = limits.of_client(address(2), true);
        let held: Vec<Held> = (0..2).map(|_| proxied.connect().unwrap()).collect();
        assert_eq!(proxied.stay().unwrap_err().whose, Scope::Address);
        drop(held);
    }

    /// A look costs tens of nanoseconds.
    #[test]
    fn a_look_is_cheap() {
        let limits = Limits::new(Settings {
            commands: rates("identity=1000000000/s,address=1000000000/s,all=1000000000/s").unwrap(),
            ..Settings::default()
        });
        let unlimited = Limits::new(Settings::default());
        for (name, limits) in [("three scopes", limits), ("no limit", unlimited)] {
            let meter = limits.of_client(address(1), false).of(&who("a"));
            let began = Instant::now();
            for _ in 0..100_000 {
                meter
                    .take(&[(Rated::Commands, 1), (Rated::Bytes, 100)])
                    .unwrap();
            }
            println!("{name}: {:?} a command", began.elapsed() / 100_000);
        }
    }
}
