//! What the kernel knows of the client's TCP connection: how much of what was written has not been acknowledged, and whether anything comes from
//! the other side's kernel. Owns asking it (sock_diag, Linux), since what lies in the kernel's queue has not left yet. What follows from it is
//! `liveness`'.

use std::io;
use std::net::SocketAddr;

/// One look at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Bytes that were written and are not acknowledged, those that were not even sent included.
    pub(crate) unacknowledged_bytes: u64,
    /// Segments that came, acknowledgements that carry nothing included. It grows while the line is alive and anything is under way.
    pub(crate) segments_in: u32,
}

/// Looks at the connection from `local` to `peer`.
#[cfg(target_os = "linux")]
pub(crate) fn look(local: SocketAddr, peer: SocketAddr) -> io::Result<Look> {
    use std::io::Read as _;

    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(
        Domain::from(wire::AF_NETLINK),
        Type::DGRAM,
        Some(Protocol::from(wire::NETLINK_SOCK_DIAG)),
    )?;
    // The answer is there when the question has been sent; this is for a kernel that does not answer.
    socket.set_read_timeout(Some(std::time::Duration::from_millis(50)))?;
    socket.send(&wire::question(local, peer))?;
    let mut datagram = [0; 4096];
    let bytes = (&socket).read(&mut datagram)?;
    wire::answer(&datagram[..bytes])
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn look(_: SocketAddr, _: SocketAddr) -> io::Result<Look> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The layout of the question and its answer (linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h).
#[cfg(target_os = "linux")]
mod wire {
    use std::io;
    use std::net::{IpAddr, SocketAddr};

    use super::Look;

    pub(super) const AF_NETLINK: i32 = 16;
    pub(super) const NETLINK_SOCK_DIAG: i32 = 4;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    const IPPROTO_TCP: u8 = 6;
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const NLMSG_ERROR: u16 = 2;
    const INET_DIAG_INFO: u16 = 2;
    /// `nlmsghdr`, `inet_diag_req_v2`, `inet_diag_msg`, `nlattr`.
    const HEADER: usize = 16;
    const QUESTION: usize = 56;
    const ANSWER: usize = 72;
    const ATTRIBUTE: usize = 4;
    /// `idiag_wqueue` in `inet_diag_msg`, `tcpi_segs_in` in `tcp_info`.
    const UNACKNOWLEDGED: usize = 60;
    const SEGMENTS_IN: usize = 140;

    pub(super) fn question(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let mut question = Vec::with_capacity(HEADER + QUESTION);
        question.extend_from_slice(&((HEADER + QUESTION) as u32).to_ne_bytes());
        question.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        question.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        question.extend_from_slice(&[0; 8]);
        let family = if local.is_ipv6() { AF_INET6 } else { AF_INET };
        question.extend_from_slice(&[family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
        question.extend_from_slice(&u32::MAX.to_ne_bytes()); // in whatever state
        question.extend_from_slice(&local.port().to_be_bytes());
        question.extend_from_slice(&peer.port().to_be_bytes());
        for address in [local.ip(), peer.ip()] {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
                IpAddr::V6(address) => bytes = address.octets(),
            }
            question.extend_from_slice(&bytes);
        }
        let interface = match local {
            SocketAddr::V6(local) => local.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        question.extend_from_slice(&interface.to_ne_bytes());
        question.extend_from_slice(&[0xff; 8]); // INET_DIAG_NOCOOKIE
        question
    }

    pub(super) fn answer(datagram: &[u8]) -> io::Result<Look> {
        let short = || io::Error::from(io::ErrorKind::InvalidData);
        let kind = u16_at(datagram, 4).ok_or_else(short)?;
        let body = datagram.get(HEADER..).ok_or_else(short)?;
        if kind == NLMSG_ERROR {
            let code = u32_at(body, 0).ok_or_else(short)?.cast_signed();
            return Err(io::Error::from_raw_os_error(code.saturating_neg()));
        }
        let unacknowledged_bytes = u32_at(body, UNACKNOWLEDGED).ok_or_else(short)?.into();
        let mut attributes = body.get(ANSWER..).ok_or_else(short)?;
        while let (Some(length), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
            let length = usize::from(length).max(ATTRIBUTE);
            let info = attributes.get(ATTRIBUTE..length).ok_or_else(short)?;
            if kind == INET_DIAG_INFO {
                let segments_in = u32_at(info, SEGMENTS_IN).ok_or_else(short)?;
                return Ok(Look {
                    unacknowledged_bytes,
                    segments_in,
                });
            }
            attributes = attributes
                .get(length.next_multiple_of(4)..)
                .unwrap_or_default();
        }
        Err(short())
    }

    fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = bytes.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = bytes.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_no_answer_is_an_error() {
            for length in 0..300 {
                assert!(answer(&vec![0; length]).is_err());
                assert!(answer(&vec![0xff; length]).is_err());
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A peer that does not read: what it has not acknowledged lies in the kernel. When it reads, that moves.
    #[test]
    fn the_kernel_says_what_has_not_left() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue; // a machine without IPv6
            };
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut served, _) = listener.accept().unwrap();
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            assert_eq!(look(local, peer).unwrap().unacknowledged_bytes, 0);
            client.set_nonblocking(true).unwrap();
            let mut written = 0;
            while let Ok(bytes) = client.write(&[7; 64 * 1024]) {
                written += bytes as u64;
            }
            let full = look(local, peer).unwrap();
            assert!(full.unacknowledged_bytes > 0, "{full:?}");
            assert!(full.unacknowledged_bytes < written, "{full:?}, {written}");

            let mut buffer = vec![0; 64 * 1024];
            let mut read = 0;
            while read < written {
                read += served.read(&mut buffer).unwrap() as u64;
            }
            let empty = look(local, peer).unwrap();
            assert!(
                empty.unacknowledged_bytes < full.unacknowledged_bytes,
                "{empty:?}"
            );
            assert!(empty.segments_in > full.segments_in, "{empty:?}");
            drop(client);
            assert!(look(peer, local).is_ok() || look(local, peer).is_err());
        }
    }
}
