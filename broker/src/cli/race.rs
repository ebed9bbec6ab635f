//! How ureq connects: to a name that has several addresses as the client library does, which races them (RFC 8305). Owns the connection as ureq reads
//! and writes it; the race is the library's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use hark_client::inner::{Doubts, first};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// How long all addresses together have.
const PATIENCE: Duration = Duration::from_secs(10);

/// Races the addresses that ureq has found. Those that failed are the last the next time.
#[derive(Debug, Default)]
pub(super) struct Racing {
    doubts: Doubts,
}

impl<In: Transport> Connector<In> for Racing {
    type Out = Either<In, Winner>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(through_a_proxy) = chained {
            return Ok(Some(Either::A(through_a_proxy)));
        }
        let patience = match details.timeout.not_zero() {
            Some(left) => PATIENCE.min(*left),
            None => PATIENCE,
        };
        let stream = self.race(details.addrs.iter().copied().collect(), patience)?;
        if details.config.no_delay() {
            stream.set_nodelay(true)?;
        }
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        Ok(Some(Either::B(Winner { stream, buffers })))
    }
}

impl Racing {
    /// On a thread and a runtime of its own: whoever waits for it may be on a runtime's thread, which must not enter another.
    fn race(&self, addresses: Vec<SocketAddr>, patience: Duration) -> io::Result<TcpStream> {
        let doubts = self.doubts.clone();
        let race = move || -> io::Result<TcpStream> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let first = async { tokio::time::timeout(patience, first(addresses, &doubts)).await };
            let (_, stream) = runtime.block_on(first)??;
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            Ok(stream)
        };
        let racing = thread::Builder::new()
            .name("connect".to_owned())
            .spawn(race)?;
        let panicked = |_| Err(io::Error::other("the race of addresses panicked"));
        racing.join().unwrap_or_else(panicked)
    }
}

/// The connection that won, as ureq reads and writes it.
#[derive(Debug)]
pub(super) struct Winner {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Winner {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let left = timeout.not_zero().map(|left| *left);
        self.stream.set_write_timeout(left)?;
        let output = &self.buffers.output()[..amount];
        self.stream
            .write_all(output)
            .map_err(|error| late(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let left = timeout.not_zero().map(|left| *left);
        self.stream.set_read_timeout(left)?;
        let input = self.buffers.input_append_buf();
        let read = loop {
            match self.stream.read(input) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|error| late(error, timeout))?,
            }
        };
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// Whether it is good for another request: nothing has come that nobody asked for, nor the end.
    fn is_open(&mut self) -> bool {
        let mut byte = [0];
        self.stream.set_nonblocking(true).is_ok()
            && matches!(self.stream.peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            && self.stream.set_nonblocking(false).is_ok()
    }
}

/// What a socket says when its time is over.
fn late(error: io::Error, timeout: NextTimeout) -> ureq::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => ureq::Error::Io(error),
    }
}
