//! The bytes beneath TLS and WebSocket. Owns counting them as they move: a message that is under way is not seen above, and silence is what
//! does not move here.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::kernel;

/// What has moved since the connection was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Traffic {
    pub(crate) read_bytes: u64,
    /// What the kernel took; it may lie there still.
    pub(crate) written_bytes: u64,
    /// Of these, what it took after it had been full: then as much had left.
    pub(crate) drained_bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Stream {
    transport: Transport,
    traffic: Traffic,
    was_full: bool,
}

#[derive(Debug)]
enum Transport {
    Tcp {
        stream: TcpStream,
        /// For the kernel to know it by.
        ends: Option<(SocketAddr, SocketAddr)>,
    },
    /// In tests whose clock is moved: no kernel, in which bytes would be on their way while the clock moves.
    #[cfg(test)]
    Memory(tokio::io::DuplexStream),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
        Self::new(Transport::Tcp { stream, ends })
    }
}

#[cfg(test)]
impl From<tokio::io::DuplexStream> for Stream {
    fn from(stream: tokio::io::DuplexStream) -> Self {
        Self::new(Transport::Memory(stream))
    }
}

impl Stream {
    fn new(transport: Transport) -> Self {
        Self {
            transport,
            traffic: Traffic::default(),
            was_full: false,
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What the kernel knows, if it says so.
    pub(crate) fn look(&self) -> Option<kernel::Look> {
        match &self.transport {
            Transport::Tcp {
                ends: Some((local, peer)),
                ..
            } => match kernel::look(*local, *peer) {
                Ok(look) => Some(look),
                Err(error) => {
                    tracing::trace!(%error, "the kernel does not say what has left");
                    None
                }
            },
            Transport::Tcp { ends: None, .. } => None,
            #[cfg(test)]
            Transport::Memory(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Tcp { stream, .. } => Pin::new(stream).poll_read(cx, buffer),
            #[cfg(test)]
            Transport::Memory(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        self.traffic.read_bytes += (buffer.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.transport {
            Transport::Tcp { stream, .. } => Pin::new(stream).poll_write(cx, bytes),
            #[cfg(test)]
            Transport::Memory(stream) => Pin::new(stream).poll_write(cx, bytes),
        };
        if written.is_pending() {
            self.was_full = true;
        }
        let written = ready!(written)?;
        self.traffic.written_bytes += written as u64;
        if std::mem::take(&mut self.was_full) {
            self.traffic.drained_bytes = self.traffic.written_bytes;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp { stream, .. } => Pin::new(stream).poll_flush(cx),
            #[cfg(test)]
            Transport::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp { stream, .. } => Pin::new(stream).poll_shutdown(cx),
            #[cfg(test)]
            Transport::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
