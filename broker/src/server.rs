//! Starting the broker: the listener, the log, the threads, and the one line that says where it is. Owns the order of these;
//! `shutdown` owns the way back.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actix::{Arbiter, ArbiterHandle};
use actix_web::http::header::CACHE_CONTROL;
use actix_web::middleware::{DefaultHeaders, from_fn};
use actix_web::{App, HttpServer, web};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::budget::Budget;
use crate::clock::Clock;
use crate::config::Config;
use crate::connections::{self, Connections};
use crate::http::{self, Admission, Gate};
use crate::message_log::memory::MemoryLog;
use crate::message_log::sled::{SledLog, SledOptions};
use crate::remembered::Remembered;
use crate::session::Sessions;
use crate::settings::{Engines, Faults, RoomSettings, SessionSettings};
use crate::shutdown::{self, Signals};
use crate::topic::Registry;

/// Bytes of newest batches that all rooms hold together.
const TAIL_BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of messages that may be staged in all rooms together.
const STAGED_BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// The kernel's buffer for what a client has not taken yet (the kernel doubles it). With the default it would grow to megabytes
/// for one that does not read.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// How often connections are looked at for being overdue.
const LOOK_FOR_OVERDUE_EVERY: Duration = Duration::from_secs(1);
/// A request's head must be there within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests that are being answered may take at the end.
const ANSWERS_TAKE_SECONDS: u64 = 2;
/// A connection on which nothing moves is asked so often whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How often topics that nobody has open are looked at, and how often those that are: a twentieth of the time that messages are
/// kept, within these bounds.
const ROUNDS_EVERY: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
const TICK: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(5);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

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
    /// The log cannot be opened.
    #[error("{0}")]
    Log(#[from] crate::message_log::sled::OpenError),
    /// The log is damaged, and could not be recovered.
    #[error("{0}")]
    Recover(#[from] crate::message_log::sled::RecoverError),
    /// The system refused something else.
    #[error("hark cannot run: {0}")]
    Io(#[from] io::Error),
}

/// Serves until told to end. `announce` is called once, with the address served, when connections are accepted.
pub async fn serve(config: Config, announce: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let listen_error = |source| ServeError::Listen {
        address: config.listen,
        source,
    };
    let listener = listener(config.listen, config.stall_timeout).map_err(listen_error)?;
    let address = listener.local_addr().map_err(listen_error)?;
    raise_descriptor_limit();

    let gate = web::Data::new(open(&config)?);
    let routed = gate.clone();
    let rooms_on_workers = config.room_threads == 0;
    // Nothing that is in order is idle for longer: between requests there is one timer, for a request's head the other.
    let connections = Connections::new(config.stall_timeout, config.keep_alive + HEAD_TIMEOUT);
    let accepting = connections.clone();
    let server = HttpServer::new(move || {
        if rooms_on_workers {
            routed.registry.add_arbiter(Arbiter::current());
        }
        App::new()
            .app_data(routed.clone())
            .wrap(http::cors(&routed.admission))
            // What is true now may not be so in a moment; the files that the binary holds say otherwise themselves.
            .wrap(DefaultHeaders::new().add((CACHE_CONTROL, "no-store")))
            .wrap(from_fn(connections::watch))
            .configure(http::routes)
    });
    let server = server
        .workers(config.workers.map_or_else(default_workers, usize::from))
        .backlog(BACKLOG as u32)
        .client_request_timeout(HEAD_TIMEOUT)
        .h1_allow_half_closed(false)
        .keep_alive(config.keep_alive)
        .on_connect(move |connection, data| accepting.accept(connection, data))
        .shutdown_timeout(ANSWERS_TAKE_SECONDS)
        .disable_signals()
        .listen(listener)?
        .run();
    actix::spawn(async move {
        let mut looks = tokio::time::interval(LOOK_FOR_OVERDUE_EVERY);
        loop {
            looks.tick().await;
            connections.end_overdue();
        }
    });
    // Before anybody can know that it serves: told to end then, it must not be ended by the system.
    let signals = Signals::listen()?;
    announce(address);
    tracing::info!(%address, data_dir = %config.data_dir.display(), "hark serves");
    shutdown::run_until_told(server, gate, config.drain, signals).await?;
    Ok(())
}

/// Opens the log and makes everything that requests are given.
fn open(config: &Config) -> Result<Gate, ServeError> {
    let clock = Clock::system();
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
        ..SledOptions::new(&config.data_dir)
    };
    let synced = match config.recover {
        true => SledLog::open_or_recover(options)?,
        false => SledLog::open(options)?,
    };
    let remembered = Remembered::new(config.max_producers_bytes, clock.clone());
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
        faults: Faults {
            enabled: std::env::var_os("HARK_FAULTS").is_some_and(|value| value == "1"),
        },
    };
    Ok(Gate {
        registry: Registry::new(room_arbiters(config.room_threads), engines, room_settings),
        sessions: Arc::<Sessions>::default(),
        session_settings: SessionSettings {
            heartbeat: config.heartbeat,
            stall_timeout: config.stall_timeout,
            ..SessionSettings::default()
        },
        admission: Admission {
            allowed_origins: config.allowed_origins.clone(),
            loopback_hosts_only: !config.insecure_no_auth,
        },
        trusted_proxies: config.trusted_proxies.clone(),
        stopping: AtomicBool::new(false),
    })
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

/// A listener whose accepted sockets inherit what keeps a client that does not read from costing more than its share.
fn listener(address: SocketAddr, stall_timeout: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE / 6);
    socket.set_tcp_keepalive(&keepalive)?;
    // A peer that takes nothing for so long is gone. No timer of its session runs while the socket is blocked, so the kernel has to
    // end it.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(stall_timeout))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Each connection is a descriptor, and the usual limit of 1024 is meant for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files could not be raised; there may be few connections");
    }
}
