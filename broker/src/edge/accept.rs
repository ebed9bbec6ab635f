//! The service that puts the guarded stream beneath actix-http. Owns who finds room, and the settings of actix-http that the guard takes over.

use std::fmt::Debug;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Request, Response};
use actix_server::{Server, ServerBuilder};
use actix_service::{
    IntoServiceFactory, ServiceFactory, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::AppConfig;
use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::guarded::{Guarded, Patience, Place};
use super::handshake::{Shaken, shake};
use super::head::Refusal;
use super::wire::{Socket, Wire};
use crate::certificate::Certificate;
use crate::connections::{Connection, Connections, Entrance, Listed};
use crate::limits::{Limits, Network};
use crate::listeners::Listener;
use crate::output::PIECE_BYTES;
use crate::tls::Tls;

/// Connections beyond the most there may be that are still taken, each to be told so.
pub const REFUSED_AT_ONCE: usize = 8;
/// Connections beyond what one address, or all, may have that are still taken at a time, each to be told so. Further ones are closed without a
/// word.
const REFUSED_BY_LIMITS_AT_ONCE: usize = 64;
/// How long a client may take to close when an answer came before its request was read to the end, or a WebSocket's close frame before its
/// own.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Who comes in.
#[derive(Debug, Clone)]
pub struct Door {
    /// Where all are listed.
    pub connections: Arc<Connections>,
    /// The most that there may be.
    pub max_connections: usize,
    /// How many of an address, and how many in a time.
    pub limits: Arc<Limits>,
    /// Proxies that are believed who the client is.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Places to be told in that there are too many.
    pub refusals: Arc<Semaphore>,
    /// How long each waits for what.
    pub patience: Patience,
}

impl Door {
    /// Places for those that are refused for a limit: so few at a time.
    pub fn refusals() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(REFUSED_BY_LIMITS_AT_ONCE))
    }

    /// Whether there is a place for this connection; `None`: not even to be told that there is none. On a listener with TLS that would cost the handshake
    /// which is limited.
    fn place_for(&self, peer: Option<SocketAddr>, speaks_tls: bool) -> Option<Place> {
        if self.connections.count() > self.max_connections {
            return Some(Place::no_room());
        }
        let address = peer.and_then(|peer| Network::of_peer(peer.ip(), &self.trusted_proxies));
        let too_much = match self.limits.accept(address) {
            Ok(held) => return Some(Place::Had(held)),
            Err(too_much) => too_much,
        };
        tracing::debug!(?peer, %too_much, "a connection is refused");
        if speaks_tls {
            return None;
        }
        // Each holds a descriptor until it has read why: those who may are few, or they would take the room of all others.
        let permit = self.refusals.clone().try_acquire_owned().ok()?;
        Some(Place::Refused {
            refusal: Refusal::TOO_MANY,
            retry_after: too_much.retry_after,
            held: None,
            permit: Some(permit),
        })
    }
}

/// Serves `app` on all of the `listeners`, each with its own TLS and routes.
///
/// # Errors
///
/// What the system says where a listener cannot be used.
pub(crate) fn serve<F, I, S, B>(
    builder: ServerBuilder,
    workers: usize,
    listeners: impl IntoIterator<Item = (TcpListener, Listener)>,
    door: Door,
    app: F,
) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    let told_to_end = builder.graceful_shutdown_signal();
    // Each worker takes its share; one that has it is passed over, so all of it can be used.
    let share = (door.max_connections + REFUSED_AT_ONCE).div_ceil(workers);
    let mut builder = builder.workers(workers).max_concurrent_connections(share);
    for (socket, listener) in listeners {
        let address = listener.address;
        let (app, door, told_to_end) = (app.clone(), door.clone(), told_to_end.clone());
        let (tls, entrance) = (listener.tls.clone(), listener.entrance());
        builder = builder.listen("hark", socket, move || {
            let told_to_end = told_to_end.clone();
            let (door, tls, entrance) = (door.clone(), tls.clone(), entrance.clone());
            let ends = told_to_end.clone();
            let app = app()
                .into_factory()
                .map_err(|error| error.into().error_response());
            let h1 = HttpService::build()
                .graceful_shutdown_signal(move || {
                    let told = told_to_end.clone();
                    async move { told.notified().await }
                })
                // The guard has timers of its own, for every head and between requests.
                .client_request_timeout(Duration::ZERO)
                .keep_alive(KeepAlive::Os)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                // The guard holds the end of input back until it may end the connection.
                .h1_allow_half_closed(true)
                // A piece at a time, which is all that actix-http's buffer grows to.
                .h1_write_buffer_size(PIECE_BYTES)
                .local_addr(address)
                .on_connect_ext(|stream: &Guarded<Wire>, data| {
                    data.insert::<Arc<Connection>>(stream.connection().clone());
                })
                .h1(map_config(app, |_| AppConfig::default()));
            fn_service(move |stream: TcpStream| {
                let peer = stream.peer_addr().ok();
                let listed = door.connections.enter(peer);
                let place = door.place_for(peer, tls.is_some()).unwrap_or_else(|| {
                    listed.cut();
                    Place::no_room()
                });
                let begun = begin(
                    stream,
                    listed,
                    tls.clone(),
                    entrance.clone(),
                    door.patience,
                    place,
                );
                let ends = ends.clone();
                async move {
                    let guarded = tokio::select! {
                        biased;
                        begun = begun => begun,
                        // Whoever has not shaken hands has asked for nothing.
                        () = ends.notified() => Err(io::ErrorKind::ConnectionAborted.into()),
                    };
                    Ok((guarded.map_err(DispatchError::Io)?, peer))
                }
            })
            .and_then(h1)
        })?;
    }
    Ok(builder.run())
}

/// Makes a guarded stream of a connection.
async fn begin(
    stream: TcpStream,
    listed: Listed,
    tls: Option<Arc<Tls>>,
    mut entrance: Entrance,
    patience: Patience,
    mut place: Place,
) -> io::Result<Guarded<Wire>> {
    let socket = Socket::new(stream, listed.clone());
    let wire = match tls {
        None => Wire::Plain(socket),
        // In a box: those in plain text need not carry it along.
        Some(tls) => match Box::pin(shake(socket, &tls, patience.head)).await? {
            Shaken::Secured(stream) => {
                let shown = stream.get_ref().1.peer_certificates();
                let leaf = shown.and_then(<[_]>::first);
                let certificate = leaf.map(|leaf| read(leaf, SystemTime::now()));
                entrance.is_encrypted = true;
                entrance.certificate = certificate.transpose()?.map(Arc::new);
                Wire::Secured(stream)
            }
            Shaken::Plain(socket) => {
                place = place.in_plain_text();
                Wire::Plain(socket)
            }
        },
    };
    listed.came_by(entrance);
    Ok(Guarded::new(wire, listed, patience, place))
}

/// Reads a client's certificate, which is signed by whom it has to be. When it runs out is looked at once more: a handshake that takes up an earlier
/// one does not.
fn read(leaf: &[u8], now: SystemTime) -> io::Result<Certificate> {
    let read = Certificate::read(leaf).and_then(|certificate| {
        let is_good = now < certificate.not_after;
        is_good
            .then_some(certificate)
            .ok_or_else(|| "it has run out".to_owned())
    });
    read.map_err(|error| {
        tracing::info!(error, "a client's certificate is not taken");
        io::Error::other(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{Limit, Settings};

    #[test]
    fn of_those_beyond_a_limit_a_few_are_told_so() {
        let limits = Settings {
            connections: Limit::by_address(2),
            ..Settings::default()
        };
        let door = Door {
            connections: Connections::new(Duration::from_secs(60)),
            max_connections: 1000,
            limits: Limits::new(limits),
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()].into(),
            refusals: Door::refusals(),
            patience: Patience {
                head: Duration::from_secs(10),
                keep_alive: Duration::from_secs(75),
            },
        };
        let place = |peer: &str| door.place_for(Some(peer.parse().unwrap()), false);
        let is_had = |place: &Option<Place>| matches!(place, Some(Place::Had(_)));

        let held = [place("192.0.2.1:1"), place("192.0.2.1:2")];
        assert!(held.iter().all(is_had));
        let told: Vec<_> = (0..REFUSED_BY_LIMITS_AT_ONCE)
            .map(|_| place("192.0.2.1:3"))
            .collect();
        let is_told = |place: &Option<Place>| match place {
            Some(Place::Refused { refusal, .. }) => *refusal == Refusal::TOO_MANY,
            _ => false,
        };
        assert!(told.iter().all(is_told));
        assert!(place("192.0.2.1:4").is_none());
        assert!(is_had(&place("192.0.2.2:1")));
        drop(told);
        assert!(is_told(&place("192.0.2.1:5")));
        let by_tls = |peer: &str| door.place_for(Some(peer.parse().unwrap()), true);
        assert!(by_tls("192.0.2.1:5").is_none());
        assert!(is_had(&by_tls("192.0.2.2:2")));
        drop(held);
        assert!(is_had(&place("192.0.2.1:6")));
        // The clients of a proxy are counted by its requests, and this machine may be one.
        let others = ["10.0.0.1:1", "127.0.0.1:1", "[::1]:1"].repeat(5);
        let others: Vec<_> = others.into_iter().map(place).collect();
        assert!(others.iter().all(is_had));
    }

    #[test]
    fn who_comes_in_plain_text_where_tls_is_spoken_is_counted_all_the_same() {
        let limits = Settings {
            connections: Limit::by_address(1),
            ..Settings::default()
        };
        let limits = Limits::new(limits);
        let address = Network::of_peer("192.0.2.1".parse().unwrap(), &[]);
        let place = Place::Had(limits.accept(address).unwrap()).in_plain_text();
        assert!(limits.accept(address).is_err());
        drop(place);
        assert!(limits.accept(address).is_ok());

        let permits = Door::refusals();
        let refused = Place::Refused {
            refusal: Refusal::TOO_MANY,
            retry_after: Duration::ZERO,
            held: None,
            permit: permits.clone().try_acquire_owned().ok(),
        };
        let refused = refused.in_plain_text();
        assert_eq!(permits.available_permits(), REFUSED_BY_LIMITS_AT_ONCE - 1);
        drop(refused);
        assert_eq!(permits.available_permits(), REFUSED_BY_LIMITS_AT_ONCE);
    }

    #[test]
    fn a_certificate_that_has_run_out_is_not_taken() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        let leaf = params.self_signed(&key).unwrap();
        let end = Certificate::read(leaf.der()).unwrap().not_after;
        let last = end - Duration::from_secs(1);
        assert!(read(leaf.der(), last).is_ok());
        let refused = read(leaf.der(), end).unwrap_err();
        assert!(refused.to_string().contains("run out"), "{refused}");
    }
}
