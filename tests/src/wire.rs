//! A connection that a test writes to byte by byte, in plain text or over TLS. Owns that one thread may read while another writes, as on a
//! socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::Deref;
use std::sync::{Arc, Mutex};

use rustls::{ClientConfig, ClientConnection};

use crate::tls::server_name;

/// So much is taken from the socket at once, and so much given to TLS.
const PIECE_BYTES: usize = 16 * 1024;

/// The connection. What sockets are told (timeouts, …) the one beneath is.
#[derive(Debug)]
pub struct Wire {
    tcp: TcpStream,
    tls: Option<Arc<Tls>>,
}

#[derive(Debug)]
struct Tls {
    inbound: Mutex<Inbound>,
    /// What TLS has made of what was written, and the socket has not taken.
    outbound: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Inbound {
    connection: ClientConnection,
    /// What has come and TLS has not taken.
    bytes: Vec<u8>,
    ended: bool,
}

impl Wire {
    /// In plain text, or with the handshake done.
    pub fn new(mut tcp: TcpStream, tls: Option<ClientConfig>) -> io::Result<Self> {
        let Some(config) = tls else {
            return Ok(Self { tcp, tls: None });
        };
        let connection = ClientConnection::new(Arc::new(config), server_name());
        let mut connection = connection.map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut tcp)?;
        }
        let tls = Tls {
            inbound: Mutex::new(Inbound {
                connection,
                bytes: Vec::new(),
                ended: false,
            }),
            outbound: Mutex::default(),
        };
        Ok(Self {
            tcp,
            tls: Some(Arc::new(tls)),
        })
    }

    /// The same connection, for another thread.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            tcp: self.tcp.try_clone()?,
            tls: self.tls.clone(),
        })
    }

    /// Shuts a side; over TLS with a word.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if let Some(tls) = &self.tls
            && how != Shutdown::Read
        {
            tls.write(&self.tcp, |connection| {
                connection.send_close_notify();
                Ok(0)
            })?;
            // The broker may have closed by then: it has been told.
            return match self.tcp.shutdown(how) {
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
                shut => shut,
            };
        }
        self.tcp.shutdown(how)
    }

    /// The certificate that the broker has shown, in DER.
    pub fn server_certificate(&self) -> Vec<u8> {
        let tls = self.tls.as_ref().expect("it is over TLS");
        let inbound = tls.inbound.lock().unwrap();
        inbound.connection.peer_certificates().unwrap()[0].to_vec()
    }
}

impl Deref for Wire {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.tcp
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.tcp.read(buf);
        };
        loop {
            let mut inbound = tls.inbound.lock().unwrap();
            match inbound.connection.reader().read(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && !inbound.ended => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                // The broker says when it has said all; who is cut off hears nothing.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    return Err(ErrorKind::ConnectionReset.into());
                }
                read => return read,
            }
            if !inbound.bytes.is_empty() || inbound.ended {
                inbound.take()?;
                continue;
            }
            drop(inbound);
            let mut piece = [0; PIECE_BYTES];
            let n = self.tcp.read(&mut piece)?;
            let mut inbound = tls.inbound.lock().unwrap();
            inbound.bytes.extend_from_slice(&piece[..n]);
            inbound.ended = n == 0;
            inbound.take()?;
        }
    }
}

impl Inbound {
    /// Gives TLS some of what has come.
    fn take(&mut self) -> io::Result<()> {
        let mut rest = &self.bytes[..];
        self.connection.read_tls(&mut rest)?;
        let left = rest.len();
        self.bytes.drain(..self.bytes.len() - left);
        let state = self.connection.process_new_packets();
        state.map(drop).map_err(io::Error::other)
    }
}

impl Tls {
    /// Writes what `write` makes TLS say; gives what it gives.
    fn write(
        &self,
        mut tcp: &TcpStream,
        write: impl FnOnce(&mut ClientConnection) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut outbound = self.outbound.lock().unwrap();
        flush(&mut outbound, &mut tcp)?;
        let taken = {
            let mut inbound = self.inbound.lock().unwrap();
            let taken = write(&mut inbound.connection)?;
            while inbound.connection.wants_write() {
                inbound.connection.write_tls(&mut *outbound)?;
            }
            taken
        };
        match flush(&mut outbound, &mut tcp) {
            // It goes before what is written next.
            Err(error) if error.kind() == ErrorKind::WouldBlock && taken > 0 => Ok(taken),
            flushed => flushed.map(|()| taken),
        }
    }
}

fn flush(outbound: &mut Vec<u8>, tcp: &mut &TcpStream) -> io::Result<()> {
    while !outbound.is_empty() {
        let n = tcp.write(outbound)?;
        outbound.drain(..n);
    }
    Ok(())
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.write(bytes),
            Some(tls) => {
                let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
                tls.write(&self.tcp, |connection| connection.writer().write(piece))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
