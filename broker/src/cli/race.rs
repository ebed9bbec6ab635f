//! One TCP connection to a name that has several addresses: they are raced, as RFC 8305 (Happy Eyeballs) says, so that one that is dead costs a
//! head start and not a deadline. Owns the race and the connector that ureq uses it by; the WebSocket's is the client library's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// How long an address has before the next is tried beside it (`address_head_start` in protocol/README.md).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long all of them together have.
const PATIENCE: Duration = Duration::from_secs(10);

/// Races the addresses that ureq has found. The one that won is the first the next time.
#[derive(Debug, Default)]
pub(super) struct Racing {
    won: Mutex<Option<SocketAddr>>,
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
        let won = || self.won.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = in_turn(details.addrs.iter().copied(), *won());
        let patience = match details.timeout.not_zero() {
            Some(left) => PATIENCE.min(*left),
            None => PATIENCE,
        };
        let stream = race(&addresses, patience)?;
        *won() = stream.peer_addr().ok();
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

/// The order of the race: who won the last one first, then the two families by turns (RFC 8305, section 4).
fn in_turn(
    addresses: impl Iterator<Item = SocketAddr>,
    won: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    let (first, rest): (Vec<_>, Vec<_>) = addresses.partition(|&address| Some(address) == won);
    let begins_with_ipv6 = rest.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<_>, Vec<_>) = rest
        .into_iter()
        .partition(|address| address.is_ipv6() == begins_with_ipv6);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut order = first;
    loop {
        let turn = [one.next(), other.next()];
        if turn == [None, None] {
            return order;
        }
        order.extend(turn.into_iter().flatten());
    }
}

/// The first connection that stands; each address is tried when the one before has failed, or has had its head start.
fn race(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + patience;
    let (say, hear) = channel();
    let mut waiting = addresses.iter();
    let mut running = 0_usize;
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if let Some(&address) = waiting.next() {
            running += 1;
            let say = say.clone();
            // A connection attempt cannot be called off; it ends by itself, and nobody hears it.
            thread::Builder::new()
                .name("connect".to_owned())
                .spawn(move || say.send(TcpStream::connect_timeout(&address, left)).ok())?;
        } else if running == 0 {
            return Err(failed);
        }
        let pause = match waiting.len() {
            0 => left,
            _ => HEAD_START.min(left),
        };
        match hear.recv_timeout(pause) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => {
                running -= 1;
                failed = error;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn families_take_turns_and_who_won_is_first() {
        let all = ["[::1]:1", "[::2]:1", "1.1.1.1:1", "2.2.2.2:1", "3.3.3.3:1"].map(at);
        let order = |won| in_turn(all.into_iter(), won);
        assert_eq!(order(None), [0, 2, 1, 3, 4].map(|n: usize| all[n]));
        assert_eq!(order(Some(all[3])), [3, 0, 2, 1, 4].map(|n: usize| all[n]));
        assert_eq!(order(Some(at("9.9.9.9:1"))), order(None));
        assert_eq!(in_turn([].into_iter(), None), []);
    }

    /// An address that takes no connection and refuses none: its queue is full.
    fn black_hole() -> (Socket, Vec<TcpStream>) {
        let hole = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        hole.bind(&SockAddr::from(at("127.0.0.9:0"))).unwrap();
        hole.listen(0).unwrap();
        let address = hole.local_addr().unwrap().as_socket().unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            held.push(stream);
            assert!(held.len() < 100, "the queue does not fill");
        }
        (hole, held)
    }

    #[test]
    fn a_dead_address_costs_a_head_start() {
        let (hole, _held) = black_hole();
        let dead = hole.local_addr().unwrap().as_socket().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = alive.local_addr().unwrap();
        // Two dead ones of the same family; the deadline is far away.
        let stream = race(&[dead, dead, alive], Duration::from_secs(60)).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
    }

    #[test]
    fn one_that_refuses_costs_nothing_and_none_is_an_error() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let alive = alive.local_addr().unwrap();
        assert!(race(&[closed, alive], Duration::from_secs(60)).is_ok());
        let refused = race(&[closed, closed], Duration::from_secs(60)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(race(&[], Duration::from_secs(60)).is_err());
        let (hole, _held) = black_hole();
        let dead = hole.local_addr().unwrap().as_socket().unwrap();
        let late = race(&[dead], Duration::from_millis(300)).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
