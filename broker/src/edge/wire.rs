//! What lies beneath the guarded stream: the socket, or TLS over it. Owns that what the kernel takes is counted at the socket, whatever is written
//! above: what TLS has taken and the socket has not is not sent; and that who sends records with nothing in them has turns like everybody else.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::guarded::Transport;
use crate::connections::Connection;
use crate::turns::Turn;

/// A socket that tells its connection what the kernel takes.
#[derive(Debug)]
pub(super) struct Socket {
    tcp: TcpStream,
    connection: Arc<Connection>,
    /// Of what TLS has read since it last had something to hand on, which the guard counts.
    turn: Turn,
}

/// A connection, as it is spoken over.
#[derive(Debug)]
pub(super) enum Wire {
    /// In plain text.
    Plain(Socket),
    /// By TLS.
    Secured(Box<TlsStream<Socket>>),
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            tcp,
            connection,
            turn: Turn::default(),
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The first byte that comes, which is still there to be read.
    pub(super) async fn first_byte(&self) -> io::Result<u8> {
        let mut byte = [0];
        match self.tcp.peek(&mut byte).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(byte[0]),
        }
    }

    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &polled {
            Poll::Pending => self.connection.wrote(None),
            Poll::Ready(Ok(bytes)) => self.connection.wrote(Some(*bytes)),
            Poll::Ready(Err(_)) => {}
        }
        polled
    }

    fn discard_on_close(&self) {
        if let Err(error) = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection that is cut was gone already");
        }
    }
}

/// Reads for TLS.
impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.turn.poll_ready(cx));
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.tcp).poll_read(cx, buf);
        match polled {
            Poll::Pending => this.turn.waits_for_the_socket(),
            Poll::Ready(_) => this.turn.did(0, buf.filled().len() - before),
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.tcp).poll_write(cx, bytes);
        this.wrote(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.tcp).poll_write_vectored(cx, slices);
        this.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(&mut socket.tcp).poll_read(cx, buf),
            Self::Secured(tls) => match Pin::new(&mut *tls).poll_read(cx, buf) {
                // Many close without a word. It is the end of input all the same: where a request ends its own length says, so that nothing
                // is taken for whole that somebody on the way has cut off.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Ok(())) => {
                    tls.get_mut().0.turn.begin_anew();
                    Poll::Ready(Ok(()))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Secured(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Secured(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Secured(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    /// TLS says that nothing more comes before the socket does (`close_notify`; RFC 8446, section 6.1).
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Secured(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

impl Transport for Wire {
    fn discard_on_close(&self) {
        match self {
            Self::Plain(socket) => socket.discard_on_close(),
            Self::Secured(tls) => tls.get_ref().0.discard_on_close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::connections::Connections;
    use crate::turns::MAX_BYTES_A_TURN;

    #[actix_web::test]
    async fn who_sends_what_tls_makes_nothing_of_has_a_turn_of_so_many_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (tcp, _) = listener.accept().await.unwrap();
        let listed = Connections::new(Duration::from_secs(60)).enter(None);
        let mut socket = Socket::new(tcp, listed.clone());
        client.write_all(&[0; 2 * MAX_BYTES_A_TURN]).await.unwrap();
        let mut all = 0;
        while all < 2 * MAX_BYTES_A_TURN {
            all += poll_fn(|cx| {
                let mut at_once = 0;
                loop {
                    let mut bytes = [0; 4096];
                    let mut buf = ReadBuf::new(&mut bytes);
                    match Pin::new(&mut socket).poll_read(cx, &mut buf) {
                        Poll::Ready(read) => read.unwrap(),
                        Poll::Pending if at_once == 0 => return Poll::Pending,
                        Poll::Pending => return Poll::Ready(at_once),
                    }
                    at_once += buf.filled().len();
                    assert!(at_once <= MAX_BYTES_A_TURN, "{at_once}");
                }
            })
            .await;
        }
    }
}
