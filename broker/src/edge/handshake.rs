//! How TLS begins. Owns that a handshake has its time and its turn: who never says anything holds a socket and a timer, and a crowd that shakes hands
//! at once leaves the others on the worker theirs.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConnection;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::guarded::{LINGER, MAX_DRAINED_BYTES, TLS_HANDSHAKE};
use super::timer::Timer;
use super::wire::Socket;
use crate::connections::Connection;
use crate::tls::Tls;

/// What TLS may hold of a connection that the socket has not taken.
const MAX_UNSENT_BYTES: usize = 32 * 1024;

thread_local! {
    /// Whose signature is made on this worker: one's at a time. Those who wait are connections, and bounded as such.
    static TURN: Rc<Semaphore> = Rc::new(Semaphore::new(1));
}

/// What a connection on a listener with TLS turns out to be.
pub(super) enum Shaken {
    /// By TLS.
    Secured(Box<TlsStream<Socket>>),
    /// In plain text: nothing of it has been read.
    Plain(Socket),
}

/// Shakes hands within `patience`, as long as the connection is not cut.
pub(super) async fn shake(socket: Socket, tls: &Tls, patience: Duration) -> io::Result<Shaken> {
    let connection = socket.connection().clone();
    let mut timer = Timer::default();
    timer.arm(patience);
    let mut shaking = Box::pin(shake_hands(socket, tls));
    let shaken = poll_fn(|cx| {
        connection.is_served_by(cx.waker());
        if connection.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match shaking.as_mut().poll(cx) {
            Poll::Pending if timer.is_over(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            polled => polled,
        }
    })
    .await;
    if let Err(error) = &shaken {
        tell(&connection, error);
    }
    shaken
}

async fn shake_hands(socket: Socket, tls: &Tls) -> io::Result<Shaken> {
    if socket.first_byte().await? != TLS_HANDSHAKE {
        return Ok(Shaken::Plain(socket));
    }
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    // All is there that the costly part needs.
    let bound = |tls: &mut ServerConnection| tls.set_buffer_limit(Some(MAX_UNSENT_BYTES));
    let (accepting, first) = in_turn(async {
        let accepting = hello.into_stream_with(tls.config(), bound);
        let mut accepting = Box::pin(accepting.into_fallible());
        let first = poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx))).await;
        (accepting, first)
    })
    .await;
    let accepted = match first {
        Poll::Ready(accepted) => accepted,
        Poll::Pending => accepting.await,
    };
    match accepted {
        Ok(stream) => Ok(Shaken::Secured(Box::new(stream))),
        Err((error, socket)) => {
            linger(socket).await;
            Err(error)
        }
    }
}

/// Does costly work, which waits for nothing. The next one's comes when everybody else on the worker has had a turn.
async fn in_turn<T>(work: impl Future<Output = T>) -> T {
    let turn = TURN.with(Rc::clone);
    // It is never closed.
    let permit = turn.acquire().await.ok();
    let done = work.await;
    yield_now().await;
    drop(permit);
    done
}

/// Leaves a client the time to read why: it may have sent more already, and to close at once would be a reset.
async fn linger(mut socket: Socket) {
    let reading = async {
        socket.shutdown().await?;
        tokio::io::copy(
            &mut (&mut socket).take(MAX_DRAINED_BYTES),
            &mut tokio::io::sink(),
        )
        .await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, reading).await {
        tracing::debug!(%error, "a client whose handshake failed was gone already");
    }
}

/// Who comes without a certificate that is taken is to be seen by whoever runs the broker; what else fails, scanners do all day.
fn tell(connection: &Connection, error: &io::Error) {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let peer = connection.peer();
    match inner {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            tracing::info!(?peer, %error, "a client's certificate was not taken");
        }
        _ => tracing::debug!(?peer, %error, "a TLS handshake failed"),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[actix_web::test]
    async fn a_crowd_of_handshakes_leaves_everybody_else_a_turn_after_each() {
        const CROWD: usize = 50;
        let done = Rc::new(Cell::new(0));
        for _ in 0..CROWD {
            let done = done.clone();
            actix::spawn(in_turn(async move { done.set(done.get() + 1) }));
        }
        let mut before = 0;
        while done.get() < CROWD {
            yield_now().await;
            assert!(done.get() <= before + 1, "{} after {before}", done.get());
            before = done.get();
        }
    }
}
