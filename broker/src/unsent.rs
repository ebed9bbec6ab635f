//! What the kernel holds of each connection that the other side has not acknowledged. Owns asking the kernel (sock_diag, Linux): one question
//! for all connections of a port, which costs no descriptor and no call for each. What follows from the figures is `connections`'.

use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};

/// Bytes of one connection that are not acknowledged, those that are not even sent included (what `SIOCOUTQ` gives).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsent {
    /// The other side.
    pub peer: SocketAddr,
    /// The port on this side: the other may use one of its own for several.
    pub port: u16,
    /// Bytes.
    pub bytes: u32,
}

/// Asks for all connections of the local `ports`.
///
/// # Errors
///
/// What the system says; on other systems than Linux always [`io::ErrorKind::Unsupported`].
#[cfg(target_os = "linux")]
pub fn of_ports(ports: &[u16]) -> io::Result<Vec<Unsent>> {
    let mut found = Vec::new();
    for &port in ports {
        for family in [wire::AF_INET, wire::AF_INET6] {
            ask(family, port, &mut found)?;
        }
    }
    Ok(found)
}

#[cfg(not(target_os = "linux"))]
#[allow(missing_docs)]
pub fn of_ports(_: &[u16]) -> io::Result<Vec<Unsent>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether asking again is of no use: this kernel, or what keeps the process in, does not have it.
pub fn is_for_good(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [
        Errno::PROTONOSUPPORT,
        Errno::AFNOSUPPORT,
        Errno::PERM,
        Errno::ACCESS,
        Errno::NOENT,
        Errno::OPNOTSUPP,
        Errno::INVAL,
    ];
    let told = error.raw_os_error();
    error.kind() == io::ErrorKind::Unsupported
        || known.iter().any(|errno| told == Some(errno.raw_os_error()))
}

/// The layout of the question and its answers (linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h).
mod wire {
    pub(super) const AF_NETLINK: i32 = 16;
    pub(super) const NETLINK_SOCK_DIAG: i32 = 4;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const AF_INET6: u8 = 10;
    pub(super) const IPPROTO_TCP: u8 = 6;
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
    pub(super) const NLMSG_ERROR: u16 = 2;
    pub(super) const NLMSG_DONE: u16 = 3;
    /// `nlmsghdr`.
    pub(super) const HEADER: usize = 16;
    /// `inet_diag_req_v2`.
    pub(super) const QUESTION: usize = 56;
    /// `inet_diag_msg`.
    pub(super) const ANSWER: usize = 72;
    /// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING: those that can owe something.
    pub(super) const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
}

#[cfg(target_os = "linux")]
fn ask(family: u8, port: u16, found: &mut Vec<Unsent>) -> io::Result<()> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::from(wire::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(wire::NETLINK_SOCK_DIAG)),
    )?;
    // The kernel answers while it is read; this is for a kernel that does not.
    socket.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
    socket.send(&question(family, port))?;
    let mut datagram = vec![0; 32 * 1024];
    loop {
        let bytes = (&socket).read(&mut datagram)?;
        if bytes == 0 || read(&datagram[..bytes], port, found)? {
            return Ok(());
        }
    }
}

fn question(family: u8, port: u16) -> Vec<u8> {
    let length = wire::HEADER + wire::QUESTION;
    let mut question = Vec::with_capacity(length);
    question.extend_from_slice(&(length as u32).to_ne_bytes());
    question.extend_from_slice(&wire::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend_from_slice(&wire::NLM_F_REQUEST_DUMP.to_ne_bytes());
    question.extend_from_slice(&[0; 8]);
    question.extend_from_slice(&[family, wire::IPPROTO_TCP, 0, 0]);
    question.extend_from_slice(&wire::STATES.to_ne_bytes());
    question.extend_from_slice(&port.to_be_bytes());
    question.resize(length, 0);
    question
}

/// Reads a datagram of answers; says whether it was the last.
fn read(mut datagram: &[u8], port: u16, found: &mut Vec<Unsent>) -> io::Result<bool> {
    while let Some(length) = u32_at(datagram, 0) {
        let length = (length as usize).min(datagram.len());
        if length < wire::HEADER {
            break;
        }
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        let body = &datagram[wire::HEADER..length];
        match kind {
            wire::NLMSG_DONE => return Ok(true),
            wire::NLMSG_ERROR => {
                let code = u32_at(body, 0).unwrap_or(0).cast_signed();
                return Err(io::Error::from_raw_os_error(-code));
            }
            _ => found.extend(read_answer(body, port)),
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(false)
}

fn read_answer(body: &[u8], port: u16) -> Option<Unsent> {
    if body.len() < wire::ANSWER || body[4..6] != port.to_be_bytes() {
        return None;
    }
    let peer_port = u16::from_be_bytes([body[6], body[7]]);
    let address: IpAddr = match body[0] {
        wire::AF_INET => IpAddr::from(body[24..].first_chunk::<4>().copied()?),
        _ => IpAddr::from(body[24..].first_chunk::<16>().copied()?).to_canonical(),
    };
    Some(Unsent {
        peer: SocketAddr::new(address, peer_port),
        port,
        bytes: u32_at(body, 60)?,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A client that does not read: what is written to it and it has not acknowledged is what the kernel says.
    #[test]
    fn the_kernel_says_what_is_not_acknowledged() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // a machine without IPv6
            };
            let here = listener.local_addr().unwrap();
            let client = TcpStream::connect(here).unwrap();
            let (mut served, peer) = listener.accept().unwrap();
            served.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(bytes) = served.write(&[7; 64 * 1024]) {
                written += bytes;
            }

            let found = of_ports(&[here.port()]).unwrap();

            let of_client = found.iter().find(|one| one.peer == peer).unwrap();
            assert!(of_client.bytes > 0, "{found:?}");
            assert!((of_client.bytes as usize) < written, "{found:?}, {written}");
            drop(client);
        }
    }

    #[test]
    fn what_is_no_answer_is_passed_over() {
        let mut found = Vec::new();
        assert!(!read(&[], 1, &mut found).unwrap());
        assert!(!read(&[1, 2, 3], 1, &mut found).unwrap());
        assert!(!read(&[0; 40], 1, &mut found).unwrap());
        assert!(!read(&[0xff; 40], 1, &mut found).unwrap());
        assert!(found.is_empty());
    }
}
