//! The list of connections, and ending those that hold their place and do nothing with it. Owns a second handle of every connection's
//! socket: while a socket is blocked, or waits for the rest of a request's head, nothing that serves it runs, so both are ended from
//! outside.
//!
//! - A client that takes next to nothing of what it was given. The kernel ends a peer that takes nothing at all (`TCP_USER_TIMEOUT`, set on
//!   the listener), but one that takes a byte now and then starts that clock anew each time.
//! - A client that begins a request on a connection kept alive and does not finish its head: actix-http has a timer for the first
//!   head of a connection, and one for the time between requests, which it stops at the first byte.
//! - A client that sends more requests behind one that is not answered yet than actix-http holds: it would ask for the answer without end,
//!   as fast as the processor can.

use std::any::Any;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{Extensions, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use bytes::Bytes;
use slab::Slab;
use socket2::{SockRef, Socket};

/// What must move within the stall timeout.
const PAGE_BYTES: usize = 64 * 1024;

/// How many whole pages so many bytes are.
pub fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

/// An answer that has nothing to give is not asked for so often within [`SPIN_TIME`], but in a circle.
const MAX_VAIN_POLLS: u32 = 20_000;
const SPIN_TIME: Duration = Duration::from_secs(1);

/// Who is connected, however.
#[derive(Debug)]
pub struct Connections {
    list: Mutex<Slab<Arc<Connection>>>,
    stall_timeout: Duration,
    idle_timeout: Duration,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    began: Instant,
    stall_timeout: Duration,
    /// Milliseconds after `began` by which the socket must have asked for more; 0: it has nothing to take.
    deadline_ms: AtomicU64,
    /// Requests that are being answered.
    requests: AtomicU32,
    /// Milliseconds after `began` when there were none any more.
    idle_since_ms: AtomicU64,
    socket: Socket,
}

/// A connection's place in the list, kept in the connection's data.
struct Listed {
    connections: Arc<Connections>,
    at: usize,
    connection: Arc<Connection>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connections.lock().try_remove(self.at);
    }
}

impl Connections {
    /// An empty list. A page must move within `stall_timeout`; `idle_timeout` is the longest a connection may be without a request that
    /// is being answered.
    pub fn new(stall_timeout: Duration, idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            list: Mutex::default(),
            stall_timeout,
            idle_timeout,
        })
    }

    /// To be called when a connection is accepted.
    pub fn accept(self: &Arc<Self>, connection: &dyn Any, data: &mut Extensions) {
        let Some(stream) = connection.downcast_ref::<TcpStream>() else {
            return;
        };
        let socket = match SockRef::from(stream).try_clone() {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "a connection is not watched for stalling: no second handle");
                return;
            }
        };
        let connection = Arc::new(Connection {
            began: Instant::now(),
            stall_timeout: self.stall_timeout,
            deadline_ms: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            socket,
        });
        let at = self.lock().insert(connection.clone());
        data.insert(Listed {
            connections: self.clone(),
            at,
            connection,
        });
    }

    /// Cuts the connections that have done next to nothing for too long. To be called every few seconds.
    pub fn end_overdue(&self) {
        let mut stalled = 0;
        let mut idle = 0;
        for (_, connection) in self.lock().iter() {
            if connection.is_stalled() {
                stalled += u32::from(connection.cut());
            } else if connection.is_idle_for(self.idle_timeout) {
                idle += u32::from(connection.cut());
            }
        }
        if stalled > 0 {
            tracing::info!(
                connections = stalled,
                "ended: they took less than a page within the stall timeout"
            );
        }
        if idle > 0 {
            tracing::info!(
                connections = idle,
                "ended: the next request did not come, or not all of its head"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Connection>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The socket asks for more, or there is no more.
    fn asked(&self) {
        if self.deadline_ms.load(Ordering::Relaxed) != 0 {
            self.deadline_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The socket was given something: a page of it must move within each timeout.
    fn gave(&self, bytes: usize) {
        let pages = pages(bytes).saturating_add(1);
        let deadline = self
            .began
            .elapsed()
            .saturating_add(self.stall_timeout.saturating_mul(pages));
        self.deadline_ms
            .store(deadline.as_millis() as u64, Ordering::Relaxed);
    }

    fn is_stalled(&self) -> bool {
        let deadline_ms = self.deadline_ms.load(Ordering::Relaxed);
        deadline_ms != 0 && self.now_ms() > deadline_ms
    }

    fn is_idle_for(&self, timeout: Duration) -> bool {
        let idle_ms = self
            .now_ms()
            .saturating_sub(self.idle_since_ms.load(Ordering::Acquire));
        self.requests.load(Ordering::Acquire) == 0 && u128::from(idle_ms) > timeout.as_millis()
    }

    /// Says whether it was still there.
    fn cut(&self) -> bool {
        // What is still in the kernel's buffer is thrown away, or the connection would live on until it is taken.
        let cut = self
            .socket
            .set_linger(Some(Duration::ZERO))
            .and_then(|()| self.socket.shutdown(std::net::Shutdown::Both));
        if let Err(error) = &cut {
            tracing::debug!(%error, "an overdue connection was gone already");
        }
        cut.is_ok()
    }
}

/// A request that is being answered: from its head to the end of the answer's body.
struct Answering {
    connection: Option<Arc<Connection>>,
    /// How often it was asked in vain, and since when.
    vain_polls: u32,
    since: Instant,
}

impl Answering {
    fn begin(request: &ServiceRequest) -> Self {
        let listed = request.conn_data::<Listed>();
        let connection = listed.map(|listed| listed.connection.clone());
        if let Some(connection) = &connection {
            connection.requests.fetch_add(1, Ordering::AcqRel);
        }
        Self {
            connection,
            vain_polls: 0,
            since: Instant::now(),
        }
    }

    /// Asked in vain. Says whether it is asked in a circle; then the connection is cut.
    fn spins(&mut self) -> bool {
        self.vain_polls += 1;
        if self.vain_polls < MAX_VAIN_POLLS {
            return false;
        }
        let spins = self.since.elapsed() < SPIN_TIME;
        (self.vain_polls, self.since) = (0, Instant::now());
        if let Some(connection) = self.connection.as_ref().filter(|_| spins) {
            tracing::info!("ended: it sent more requests than can wait behind one");
            connection.cut();
        }
        spins
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(connection) = &self.connection {
            connection.asked();
            // In this order, or it could be taken for idle since its first request.
            connection
                .idle_since_ms
                .store(connection.now_ms(), Ordering::Release);
            connection.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The middleware around every request: while it is answered its connection is not idle, and what it is given must move.
pub async fn watch(
    request: ServiceRequest,
    next: Next<impl MessageBody + Unpin + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, actix_web::Error> {
    let mut answering = Answering::begin(&request);
    let mut call = std::pin::pin!(next.call(request));
    let response = std::future::poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Pending if answering.spins() => Poll::Ready(Err(gone())),
        polled => polled,
    })
    .await?;
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    Ok(response.map_body(|_, body| Watched {
        body,
        answering,
        is_upgrade,
    }))
}

/// An answer's body, which says each time the socket asks for more: then what was given before is taken. While the socket is blocked it
/// does not ask.
struct Watched<B> {
    body: B,
    answering: Answering,
    /// Nothing waits behind it, and it is asked whenever something comes.
    is_upgrade: bool,
}

impl<B: MessageBody + Unpin> MessageBody for Watched<B> {
    type Error = actix_web::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        if let Some(connection) = &self.answering.connection {
            connection.asked();
        }
        let given = Pin::new(&mut self.body).poll_next(cx);
        match &given {
            Poll::Ready(Some(Ok(bytes))) => {
                self.answering.vain_polls = 0;
                if let Some(connection) = &self.answering.connection {
                    connection.gave(bytes.len());
                }
            }
            // The end of it: the answer stays half, and the connection is gone.
            Poll::Pending if !self.is_upgrade && self.answering.spins() => {
                return Poll::Ready(Some(Err(gone())));
            }
            _ => {}
        }
        given.map_err(|error| actix_web::Error::from(error.into()))
    }
}

/// What the server is told of a connection that was cut; nobody reads it.
fn gone() -> actix_web::Error {
    actix_web::error::ErrorBadRequest("the connection was ended")
}
