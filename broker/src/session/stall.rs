//! Ending clients that take next to nothing. Owns the deadline of what a socket was given; while it is blocked its session stands
//! still and cannot end itself, so this works from outside, on a second handle of the socket.
//!
//! The kernel ends a peer that takes nothing at all (`TCP_USER_TIMEOUT`, set on the listener), but one that takes a byte now and
//! then starts that clock anew each time.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::dev::Extensions;
use actix_web::rt::net::TcpStream;
use socket2::{SockRef, Socket};

/// What must move within the stall timeout.
const PAGE_BYTES: usize = 64 * 1024;

/// How many whole pages so many bytes are.
pub(super) fn pages(bytes: usize) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

/// The second handle of a connection's socket, kept in the connection's data.
#[derive(Debug, Clone)]
pub(super) struct Line(Option<Arc<Socket>>);

/// To be called when a connection is accepted: keeps a second handle of its socket.
pub fn keep_line(connection: &dyn Any, data: &mut Extensions) {
    let socket = connection
        .downcast_ref::<TcpStream>()
        .map(|stream| SockRef::from(stream).try_clone());
    let line = match socket {
        Some(Ok(socket)) => Some(Arc::new(socket)),
        Some(Err(error)) => {
            tracing::warn!(%error, "a connection is not watched for stalling: no second handle");
            None
        }
        None => None,
    };
    data.insert(Line(line));
}

/// Watches whether the socket takes what it was given.
#[derive(Debug)]
pub(super) struct Watch {
    began: Instant,
    timeout: Duration,
    /// Milliseconds after `began` by which the socket must have asked for more; 0: it has nothing to take.
    deadline_ms: AtomicU64,
    line: Line,
}

impl Watch {
    pub(super) fn new(timeout: Duration, line: Option<&Line>) -> Self {
        let line = line.cloned().unwrap_or(Line(None));
        Self {
            began: Instant::now(),
            timeout,
            deadline_ms: AtomicU64::new(0),
            line,
        }
    }

    /// The socket asks for more.
    pub(super) fn asked(&self) {
        if self.deadline_ms.load(Ordering::Relaxed) != 0 {
            self.deadline_ms.store(0, Ordering::Relaxed);
        }
    }

    /// The socket was given something: a page of it must move within each timeout.
    pub(super) fn gave(&self, bytes: usize) {
        let pages = pages(bytes).saturating_add(1);
        let deadline = self
            .began
            .elapsed()
            .saturating_add(self.timeout.saturating_mul(pages));
        self.deadline_ms
            .store(deadline.as_millis() as u64, Ordering::Relaxed);
    }

    /// Cuts the connection if the deadline has passed, and says whether it did.
    pub(super) fn end_if_overdue(&self) -> bool {
        let deadline_ms = self.deadline_ms.load(Ordering::Relaxed);
        let overdue = deadline_ms != 0 && self.began.elapsed().as_millis() as u64 > deadline_ms;
        let Some(socket) = self.line.0.as_ref().filter(|_| overdue) else {
            return false;
        };
        // What is still in the kernel's buffer is thrown away, or the connection would live on until it is taken.
        let cut = socket
            .set_linger(Some(Duration::ZERO))
            .and_then(|()| socket.shutdown(std::net::Shutdown::Both));
        if let Err(error) = &cut {
            tracing::debug!(%error, "a stalled connection was gone already");
        }
        cut.is_ok()
    }
}
