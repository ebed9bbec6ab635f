//! Starting the broker: the listeners, the log, the threads, and the one line that says where it is. Owns the order of these;
//! `shutdown` owns the way back.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use actix::{Arbiter, ArbiterHandle};
use actix_server::Server;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{App, web};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::connections::Connections;
use crate::edge::{self, Door, Patience, REFUSED_AT_ONCE};
use crate::http::{self, Admission, Answers, Gate};
use crate::identity::{Authority, Kept};
use crate::limits::Limits;
use crate::listeners::{BACKLOG, Listeners};
use crate::logging;
use crate::message_log::sled::{SledLog, SledOptions};
use crate::message_log::{self, memory::MemoryLog};
use crate::output;
use crate::patience::Judge;
use crate::receiving::Receivings;
use crate::reload::Reload;
use crate::remembered::Remembered;
use crate::session::Sessions;
use crate::settings::{Engines, Faults, RoomSettings, SessionSettings};
use crate::shutdown::{self, HangUps, Signals};
use crate::topic::{self, Registry};
use crate::unsent;

/// Bytes of newest batches that all rooms hold together.
const TAIL_BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of messages that may be staged in all rooms together.
const STAGED_BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// Descriptors that are not connections: the log, the listener, the threads' own, and what a backup or a look into the directory may open.
const OTHER_DESCRIPTORS: u64 = 96;
/// How often connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer may lie unread while others wait for its room.
const UNREAD_PATIENCE: Duration = Duration::from_secs(5);
/// A request's head must be there within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests that are being answered may take at the end.
const ANSWERS_TAKE_SECONDS: u64 = 2;
/// How often topics that nobody has open are looked at, and how often those that are: a twentieth of the time that messages are
/// kept, within these bounds.
const ROUNDS_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
const TICK: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);
/// How long a broker that has the data directory may take to end.
const OWNER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const OWNER_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why the broker did not start, or ended with an error: one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be served.
    #[error(
        "cannot listen on {address}: {source}; stop what is using it or choose another with --listen"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A listener's certificate, key or CA cannot be served.
    #[error("{0}")]
    Tls(String),
    /// There may not be so many open files.
    #[error(
        "{asked} connections need {needed} open files, and the system allows {descriptors}; raise the limit \
         (`ulimit -n`, or LimitNOFILE= of systemd), or give a smaller --max-connections"
    )]
    Descriptors {
        /// Connections.
        asked: u32,
        /// The limit.
        descriptors: u64,
        /// What the limit would have to be.
        needed: u64,
    },
    /// The log cannot be opened.
    #[error("{0}")]
    Log(#[from] crate::message_log::sled::OpenError),
    /// The log is damaged, and could not be recovered.
    #[error("{0}")]
    Recover(#[from] crate::message_log::sled::RecoverError),
    /// Who may what cannot be read, or makes no sense.
    #[error("{0}")]
    Auth(String),
    /// The system refused something else.
    #[error("hark cannot run: {0}")]
    Io(#[from] io::Error),
}

/// Serves until told to end. `announce` is called once, with the URLs served, when connections are accepted.
pub async fn serve(config: Config, announce: impl FnOnce(&str)) -> Result<(), ServeError> {
    let hang_ups = HangUps::survive()?;
    // Before the address, which that broker may have too.
    wait_for_owner(&config.data_dir).await;
    let (listeners, sockets) = Listeners::open(&config.listen, config.stall_timeout)?;
    let listeners = Arc::new(listeners);
    let max_connections = max_connections(config.max_connections, raise_descriptor_limit())?;

    let gate = web::Data::new(open(&config, listeners.clone())?);
    let routed = gate.clone();
    let rooms_on_workers = config.room_threads == 0;
    let connections = Connections::new(config.stall_timeout);
    let door = Door {
        connections: connections.clone(),
        max_connections,
        limits: gate.limits.clone(),
        trusted_proxies: gate.trusted_proxies.clone(),
        refusals: Door::refusals(),
        patience: Patience {
            head: HEAD_TIMEOUT,
            keep_alive: config.keep_alive,
        },
    };
    let app = move || {
        if rooms_on_workers {
            routed.registry.add_arbiter(Arbiter::current());
        }
        App::new()
            .app_data(routed.clone())
            .wrap(http::cors(&routed.admission))
            .wrap(from_fn(http::keep_rules))
            // What is true now may not be so in a moment; the files that the binary holds say otherwise themselves.
            .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
            .wrap(from_fn(http::close_at_the_end))
            .wrap(from_fn(output::give))
            .configure(http::routes)
    };
    let builder = Server::build()
        .backlog(BACKLOG as u32)
        .shutdown_timeout(ANSWERS_TAKE_SECONDS)
        .disable_signals();
    let workers = config.workers.map_or_else(default_workers, usize::from);
    let accepting = sockets.into_iter().zip(listeners.all().iter().cloned());
    let server = edge::serve(builder, workers, accepting, door, app)?;
    let mut looks = Looks {
        connections,
        gate: gate.clone(),
        ports: listeners.ports(),
        max_unsent_bytes: config.max_unsent_bytes,
        kernel_answers: true,
        judge: Judge::new(LOOK_EVERY, Instant::now()),
    };
    actix::spawn(async move {
        let mut every = tokio::time::interval(LOOK_EVERY);
        loop {
            every.tick().await;
            // A task that panics is gone without a word. A look that does has been told of, and the next one is another.
            drop(catch_unwind(AssertUnwindSafe(|| looks.look())));
            logging::tell_left_out();
        }
    });
    logging::end_with_threads_of_others();
    let registry = gate.registry.clone();
    actix::spawn(async move { topic::names::warn_of_hidden(&registry).await });
    // Before anybody can know that it serves: told to end then, it must not be ended by the system.
    let signals = Signals::listen(hang_ups, gate.reloads.clone())?;
    let parts: Vec<Arc<dyn Reload>> = vec![gate.authority.clone(), listeners.clone()];
    gate.reloads
        .watch(parts, gate.authority.clone(), gate.sessions.clone())?;
    let urls = listeners.urls();
    announce(&urls);
    if config.insecure_no_auth {
        tracing::warn!(
            %urls,
            "--insecure-no-auth: anyone who can connect can read and publish everything"
        );
    }
    tracing::info!(%urls, data_dir = %config.data_dir.display(), "hark serves");
    shutdown::run_until_told(server, gate, config.drain, signals).await?;
    Ok(())
}

/// What is looked at every second: who is overdue, and what is held for those who do not read.
struct Looks {
    connections: Arc<Connections>,
    gate: web::Data<Gate>,
    ports: Vec<u16>,
    max_unsent_bytes: u64,
    /// Whether the kernel says what it holds.
    kernel_answers: bool,
    judge: Judge,
}

impl Looks {
    fn look(&mut self) {
        let now = Instant::now();
        let slept = self.judge.has_slept(now);
        self.judge.look_at(now + LOOK_EVERY);
        self.connections.end_overdue(slept);
        self.connections.end_expired(SystemTime::now());
        self.gate.limits.look_through();
        self.gate.listeners.tell_ages(SystemTime::now());
        let waiting = self.gate.answers.waiting();
        if waiting > 0 {
            self.connections
                .end_unread_answers(waiting, UNREAD_PATIENCE);
        }
        if !self.kernel_answers || self.connections.count() == 0 {
            return;
        }
        match unsent::of_ports(&self.ports) {
            Ok(unsent) => self
                .connections
                .count_unsent(&unsent, self.max_unsent_bytes),
            Err(error) if !unsent::is_for_good(&error) => {
                tracing::warn!(%error, "the kernel did not say what it holds for clients; it is asked again");
            }
            Err(error) => {
                self.kernel_answers = false;
                tracing::warn!(
                    %error,
                    "the kernel does not say what it holds for clients: --max-unsent-bytes is not kept"
                );
            }
        }
    }
}

/// Opens the log and makes everything that requests are given.
fn open(config: &Config, listeners: Arc<Listeners>) -> Result<Gate, ServeError> {
    // First: it is soon said what is wrong with it.
    let authority = Arc::new(match &config.auth {
        Some(file) => {
            let authority = authority(file, config);
            let kept = Kept::read(&config.data_dir);
            let keeping =
                authority.and_then(|authority| authority.keeps(kept?).map(|()| authority));
            keeping.map_err(ServeError::Auth)?
        }
        None => Authority::open(),
    });
    let is_new = !message_log::sled::is_there(&config.data_dir);
    if listeners.take_client_certificates() && !authority.takes_certificates() {
        tracing::warn!(
            "client certificates let their clients in and give them no identity: to grant them something, add [client_certificates] to the file \
             of --auth"
        );
    }
    let clock = Clock::system();
    let faults = Faults {
        enabled: std::env::var_os("HARK_FAULTS").is_some_and(|value| value == "1"),
    };
    let retention = config.retention();
    let retention_for = Arc::new(move |_: &hark_protocol::TopicName| retention);
    let options = SledOptions {
        clock: clock.clone(),
        retention: retention_for.clone(),
        max_topics: config.max_topics as u64,
        max_total_bytes: config.retention_total_bytes,
        min_free_bytes: config.min_free_bytes,
        rounds_every: within(config.retention_age / 20, &ROUNDS_EVERY),
        tick: within(config.retention_age / 20, &TICK),
        faults: message_log::sled::Faults::heard(faults.enabled),
        ..SledOptions::new(&config.data_dir)
    };
    let synced = match config.recover {
        true => SledLog::open_or_recover(options)?,
        false => SledLog::open(options)?,
    };
    authority.begin_to_keep(is_new).map_err(ServeError::Auth)?;
    let remembered = Remembered::new(
        usize::try_from(config.max_producers_bytes).unwrap_or(usize::MAX),
        clock.clone(),
    );
    let memory = MemoryLog::new(
        clock.clone(),
        retention_for,
        config.max_topics,
        config.memory_total_bytes,
    )
    .counting_with(remembered.clone());
    let engines = Engines {
        synced: Arc::new(synced),
        memory: Arc::new(memory),
        memory_topics: config.memory_topics.clone().into(),
    };
    let room_settings = RoomSettings {
        clock,
        idle: config.room_idle,
        max_idle_rooms: config.max_idle_rooms,
        tail_budget: Budget::new("tail", TAIL_BUDGET_BYTES),
        staged_budget: Budget::new("staged", STAGED_BUDGET_BYTES),
        remembered,
        authority: Arc::clone(&authority),
        faults,
    };
    Ok(Gate {
        registry: Registry::new(room_arbiters(config.room_threads), engines, room_settings),
        authority,
        reloads: Arc::default(),
        listeners,
        takes_plaintext: config.auth.is_none() || config.insecure_plaintext,
        sessions: Arc::<Sessions>::default(),
        session_settings: SessionSettings {
            heartbeat: config.heartbeat,
            stall_timeout: config.stall_timeout,
            max_inflight: config.max_inflight as usize,
            max_inflight_bytes: in_memory(config.max_inflight_bytes),
            receivings: Receivings::new(in_memory(config.receiving_total_bytes)),
            ..SessionSettings::default()
        },
        admission: Admission {
            allowed_origins: config.allowed_origins.clone(),
            hosts: config.hosts(),
            public_urls: config.public_urls.clone(),
        },
        trusted_proxies: config.trusted_proxies.clone().into(),
        limits: Limits::new(config.limits),
        answers: Answers::default(),
        stopping: AtomicBool::new(false),
    })
}

/// Reads who may what. A proxy's word is believed of declared proxies alone.
fn authority(file: &Path, config: &Config) -> Result<Authority, String> {
    let authority = Authority::load(file)?;
    match authority.proxy_header() {
        Some(_) if config.trusted_proxies.is_empty() => Err(format!(
            "{}: [proxy_identity]: can never match: it is believed of declared proxies alone; name them with --trusted-proxy",
            file.display()
        )),
        _ => Ok(authority),
    }
}

/// Bytes that are held in memory: more than can be is as many as can be.
fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn within(time: Duration, bounds: &RangeInclusive<Duration>) -> Duration {
    time.clamp(*bounds.start(), *bounds.end())
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn room_arbiters(threads: u16) -> Vec<ArbiterHandle> {
    (0..threads).map(|_| Arbiter::new().handle()).collect()
}

/// Waits for a broker that holds the data directory and is about to end, as at a restart. One that does not end is told of when the log is
/// opened.
async fn wait_for_owner(data_dir: &Path) {
    let until = Instant::now() + OWNER_PATIENCE;
    let mut said = false;
    while Instant::now() < until && message_log::sled::is_in_use(data_dir) {
        if !said {
            tracing::info!(
                data_dir = %data_dir.display(),
                "another broker has the data directory; waiting up to {OWNER_PATIENCE:?} for it to end"
            );
            said = true;
        }
        tokio::time::sleep(OWNER_LOOK_EVERY).await;
    }
}

/// Each connection is a descriptor, and the usual limit of 1024 is meant for programs that use `select`. Gives how many there may be.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files could not be raised; there may be few connections");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The most connections: as many as were asked for, or as the limit on open files leaves room for.
fn max_connections(asked: Option<u32>, descriptors: u64) -> Result<usize, ServeError> {
    let others = OTHER_DESCRIPTORS + REFUSED_AT_ONCE as u64;
    let room = descriptors.saturating_sub(others);
    let room = u32::try_from(room).unwrap_or(u32::MAX);
    match asked {
        Some(asked) if asked > room => Err(ServeError::Descriptors {
            asked,
            descriptors,
            needed: u64::from(asked) + others,
        }),
        _ if room == 0 => Err(ServeError::Descriptors {
            asked: asked.unwrap_or(1),
            descriptors,
            needed: u64::from(asked.unwrap_or(1)) + others,
        }),
        asked => Ok(asked.unwrap_or(room) as usize),
    }
}
