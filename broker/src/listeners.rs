//! The sockets that Hark listens on, each with its TLS and its routes. Owns opening them, and which files they are to be read again from (`reload`); how a
//! listener is written is `listen`'s, and who comes in `edge`'s.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use crate::connections::Entrance;
use crate::listen::{Listen, Place, Routes};
use crate::reload::{Force, Reload};
use crate::server::ServeError;
use crate::tls::Tls;

/// What the kernel takes of a connection before it is sent. It bounds what one that does not read costs, and leaves alone what is on its
/// way: a bound on the whole buffer would bound the window too, and with it the speed of a long line.
const NOT_SENT_BYTES: u32 = 128 * 1024;
/// A connection on which nothing moves is asked so often whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How many free ports are tried until one is free on both loopback addresses.
const PORTS_TRIED: u32 = 20;
/// Connections that may wait to be accepted.
pub(crate) const BACKLOG: i32 = 1024;

/// One of them, without its socket: that is whose who accepts, and closed with him.
#[derive(Debug, Clone)]
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) routes: Routes,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Vec<Listener>);

impl Listener {
    /// What is known of every connection that comes in here.
    pub(crate) fn entrance(&self) -> Entrance {
        Entrance {
            port: self.address.port(),
            routes: self.routes,
            ..Entrance::default()
        }
    }

    /// The URLs that clients use, for people.
    fn urls(&self) -> String {
        let address = self.address;
        let (http, ws) = match self.tls {
            Some(_) => ("https", "wss"),
            None => ("http", "ws"),
        };
        match self.routes {
            Routes::Operators => format!("{http}://{address} (for operators)"),
            Routes::All | Routes::Clients => {
                format!("{http}://{address} and {ws}://{address}/ws")
            }
        }
    }
}

impl Listeners {
    /// Opens all; gives their sockets in the same order.
    pub(crate) fn open(
        all: &[Listen],
        stall_timeout: Duration,
    ) -> Result<(Self, Vec<TcpListener>), ServeError> {
        let (mut listeners, mut opened) = (Vec::new(), Vec::new());
        for listen in all {
            let tls = match &listen.tls {
                Some(files) => {
                    let tls = Tls::load(listen.to_string(), files).map_err(ServeError::Tls)?;
                    tls.tell_age(SystemTime::now());
                    Some(Arc::new(tls))
                }
                None => None,
            };
            for socket in sockets(listen.place, stall_timeout)? {
                listeners.push(Listener {
                    address: socket.local_addr()?,
                    tls: tls.clone(),
                    routes: listen.routes,
                });
                opened.push(socket);
            }
        }
        Ok((Self(listeners), opened))
    }

    pub(crate) fn all(&self) -> &[Listener] {
        &self.0
    }

    /// Where they are, for people.
    pub(crate) fn urls(&self) -> String {
        let urls: Vec<String> = self.0.iter().map(Listener::urls).collect();
        urls.join(", ")
    }

    /// Each port once.
    pub(crate) fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.0.iter().map(|one| one.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// What is wrong with what they serve, in sentences for people.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let now = SystemTime::now();
        self.tls().filter_map(|tls| tls.age(now)).collect()
    }

    /// Whether a client may show a certificate anywhere.
    pub(crate) fn take_client_certificates(&self) -> bool {
        self.tls().any(|tls| tls.takes_client_certificates())
    }

    /// Says of each certificate once that it has run out.
    pub(crate) fn tell_ages(&self, now: SystemTime) {
        self.tls().for_each(|tls| tls.tell_age(now));
    }

    /// The TLS of each listener, once: localhost is two sockets with one.
    fn tls(&self) -> impl Iterator<Item = &Arc<Tls>> {
        let all = self.0.iter().filter_map(|listener| listener.tls.as_ref());
        let mut last: Option<&Arc<Tls>> = None;
        all.filter(move |tls| {
            let is_new = !last.is_some_and(|last| Arc::ptr_eq(last, tls));
            last = Some(tls);
            is_new
        })
    }
}

impl Reload for Listeners {
    fn files(&self) -> Vec<PathBuf> {
        self.tls().flat_map(|tls| tls.files()).collect()
    }

    fn read(&self) -> Result<Force, String> {
        let mut reread = Vec::new();
        for tls in self.tls() {
            if let Some(served) = tls.read_again()? {
                reread.push((tls.clone(), served));
            }
        }
        Ok(Box::new(move || {
            for (tls, served) in reread {
                tls.serve(served);
            }
        }))
    }
}

/// A socket for each address, all with the same port.
fn sockets(place: Place, stall_timeout: Duration) -> Result<Vec<TcpListener>, ServeError> {
    let mut left = PORTS_TRIED;
    loop {
        left -= 1;
        match sockets_at(&place.addresses(), stall_timeout) {
            // The free port of one address is taken on the other.
            Err(ServeError::Listen { source, .. })
                if place == Place::Localhost(0)
                    && source.kind() == io::ErrorKind::AddrInUse
                    && left > 0 => {}
            sockets => return sockets,
        }
    }
}

fn sockets_at(
    addresses: &[SocketAddr],
    stall_timeout: Duration,
) -> Result<Vec<TcpListener>, ServeError> {
    let mut sockets: Vec<TcpListener> = Vec::new();
    for &address in addresses {
        let mut address = address;
        if let Some(first) = sockets.first() {
            address.set_port(first.local_addr()?.port());
        }
        match socket(address, stall_timeout) {
            Ok(socket) => sockets.push(socket),
            Err(error) if !sockets.is_empty() && is_without_family(&error) => {
                tracing::warn!(%address, %error, "this system has no such address: it is not served");
            }
            Err(source) => return Err(ServeError::Listen { address, source }),
        }
    }
    Ok(sockets)
}

/// Whether the system has none of this family's addresses.
fn is_without_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    known
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// A socket whose accepted ones inherit what keeps a client that does not read from costing more than its share.
fn socket(address: SocketAddr, stall_timeout: Duration) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(NOT_SENT_BYTES)?;
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
