//! Who the client is, behind proxies, and how it has asked. Anybody can write what he likes into `Forwarded` and `X-Forwarded-For`; only what
//! a trusted proxy has added is believed.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::http::header::{FORWARDED, HeaderMap};
use ipnet::IpNet;

use crate::connections::Connection;
use crate::limits::{Network, is_trusted};

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The client's address: that of the connection, or where that is a trusted proxy's, the nearest on the way to it that is not, by
/// `Forwarded` (RFC 7239, section 4) or `X-Forwarded-For`. Where the two do not agree, the client has written one of them itself and the proxy
/// has passed it on: then nothing is known but the proxy.
pub(super) fn client_address(request: &HttpRequest, trusted: &[IpNet]) -> String {
    let Some(peer) = request.peer_addr() else {
        return String::new();
    };
    match is_trusted(peer.ip(), trusted) {
        true => behind_proxy(request, peer.ip(), trusted).to_string(),
        false => peer.to_string(),
    }
}

/// By whom a request is counted, and whether that is somebody behind a trusted proxy. Nobody on this machine is counted by address: it may be a
/// proxy that Hark was not told of.
pub(super) fn counted_by(request: &HttpRequest, trusted: &[IpNet]) -> (Option<Network>, bool) {
    let Some(peer) = request.peer_addr().map(|peer| peer.ip()) else {
        return (None, false);
    };
    match is_trusted(peer, trusted) {
        true => {
            let client = behind_proxy(request, peer, trusted);
            (Some(Network::of(client)), true)
        }
        false => (Network::of_peer(peer, trusted), false),
    }
}

/// A header that only proxies send, if there is one.
pub(super) fn proxys_header(headers: &HeaderMap) -> Option<&'static str> {
    let sent_by_proxies = [X_FORWARDED_FOR, "forwarded", "x-real-ip", "via"];
    sent_by_proxies
        .into_iter()
        .find(|name| headers.contains_key(*name))
}

/// Who is behind the trusted proxy at `peer`.
fn behind_proxy(request: &HttpRequest, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address| is_trusted(address, trusted);
    let nearest = |way: Vec<Option<IpAddr>>| {
        let mut client = peer;
        // The last one was added by the proxy that we see, the one before it by the proxy before.
        for address in way.into_iter().rev() {
            // What cannot be read (`unknown`, a hidden name) hides who is behind it too.
            let Some(address) = address else { break };
            client = address;
            if !is_trusted(address) {
                break;
            }
        }
        client
    };
    let headers = request.headers();
    let by_forwarded = list(headers, FORWARDED.as_str())
        .map(|hops| nearest(hops.iter().map(|hop| read_hop(hop)).collect()));
    let by_for = list(headers, X_FORWARDED_FOR)
        .map(|hops| nearest(hops.iter().map(|hop| read_address(hop)).collect()));
    match (by_forwarded, by_for) {
        (Some(one), Some(other)) if one != other => peer,
        (Some(client), _) | (None, Some(client)) => client,
        (None, None) => peer,
    }
}

/// Whether what the client has sent came in plain text over a network: from another machine, and neither by TLS of Hark's own nor, as a trusted proxy
/// says, by https.
pub(super) fn is_overheard(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    if request.peer_addr().is_none() {
        return false;
    }
    let client = client_address(request, trusted);
    let client = read_address(&client).or_else(|| client.parse().ok());
    let is_on_this_machine = client.is_some_and(|client| client.to_canonical().is_loopback());
    !is_https(request, trusted) && !is_on_this_machine
}

/// Whether the client asked by https: of Hark's own, or as a trusted proxy says (`X-Forwarded-Proto`, or `proto` of `Forwarded`).
pub(super) fn is_https(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    let connection = Connection::of(request);
    let is_encrypted = connection.is_some_and(|connection| connection.is_encrypted());
    if !is_from_trusted(request, trusted) {
        return is_encrypted;
    }
    let headers = request.headers();
    // What the proxy that we see has added stands last.
    let last = |name: &str| list(headers, name).and_then(|mut list| list.pop());
    let by_forwarded = last(FORWARDED.as_str()).and_then(|hop| {
        let mut pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
        let (_, proto) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("proto"))?;
        Some(proto.to_owned())
    });
    let said: Vec<String> = [by_forwarded, last(X_FORWARDED_PROTO)]
        .into_iter()
        .flatten()
        .map(|proto| proto.trim().trim_matches('"').to_ascii_lowercase())
        .collect();
    match said.is_empty() {
        true => is_encrypted,
        false => said.iter().all(|proto| proto == "https" || proto == "wss"),
    }
}

/// Whether a trusted proxy has passed the request on.
pub(super) fn is_from_trusted(request: &HttpRequest, trusted: &[IpNet]) -> bool {
    let peer = request.peer_addr();
    peer.is_some_and(|peer| is_trusted(peer.ip(), trusted))
}

/// A header's list over all its lines (RFC 9110, section 5.3); `None` if it is not there.
fn list(headers: &HeaderMap, name: &str) -> Option<Vec<String>> {
    let lines = headers.get_all(name);
    let list: Vec<String> = lines
        .flat_map(|line| line.to_str().unwrap_or_default().split(','))
        .map(str::to_owned)
        .collect();
    (!list.is_empty()).then_some(list)
}

/// Reads an element of `Forwarded`.
fn read_hop(element: &str) -> Option<IpAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    read_address(node)
}

/// Reads an address, with or without a port, quotes and brackets (RFC 7239, section 6).
fn read_address(node: &str) -> Option<IpAddr> {
    let node = node.trim().trim_matches('"');
    let address = match node.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // One colon is in front of a port; more are an IPv6 address without brackets.
        None => match node.split_once(':') {
            Some((address, port)) if !port.contains(':') => address,
            _ => node,
        },
    };
    let address: IpAddr = address.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn address(peer: &str, headers: &[(&str, &str)]) -> String {
        let trusted: Vec<IpNet> = ["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"]
            .iter()
            .map(|network| network.parse().unwrap())
            .collect();
        let mut request = TestRequest::default().peer_addr(peer.parse().unwrap());
        for &(name, value) in headers {
            request = request.append_header((name, value));
        }
        client_address(&request.to_http_request(), &trusted)
    }

    #[test]
    fn what_comes_in_plain_text_from_another_machine_is_overheard() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let heard = |peer: &str, headers: &[(&str, &str)]| {
            let mut request = TestRequest::default().peer_addr(peer.parse().unwrap());
            for &(name, value) in headers {
                request = request.append_header((name, value));
            }
            is_overheard(&request.to_http_request(), &trusted)
        };
        let (away, here, proxy) = ("192.0.2.7:9", "127.0.0.1:9", "10.0.0.1:9");
        let client = ("x-forwarded-for", "192.0.2.7");
        let https = ("x-forwarded-proto", "https");
        for (peer, headers, expected) in [
            (here, vec![], false),
            ("[::1]:9", vec![], false),
            ("[::ffff:127.0.0.1]:9", vec![], false),
            (away, vec![], true),
            // Anybody can say so.
            (away, vec![https], true),
            (proxy, vec![client], true),
            (proxy, vec![client, https], false),
            (proxy, vec![client, ("x-forwarded-proto", "wss")], false),
            (proxy, vec![client, ("x-forwarded-proto", "http")], true),
            // The client wrote the first, the proxy the second.
            (
                proxy,
                vec![client, ("x-forwarded-proto", "https, http")],
                true,
            ),
            (
                proxy,
                vec![("forwarded", "for=192.0.2.7;proto=https")],
                false,
            ),
            (
                proxy,
                vec![("forwarded", "for=192.0.2.7;proto=http"), https],
                true,
            ),
            // The proxy itself, and whoever sits on its machine.
            (proxy, vec![], true),
            (proxy, vec![("x-forwarded-for", "127.0.0.1")], false),
        ] {
            assert_eq!(heard(peer, &headers), expected, "{peer} {headers:?}");
        }
    }

    /// Who makes the proxy's word doubtful is counted by the proxy's address, with all who do: that lets nobody out.
    #[test]
    fn a_request_is_counted_by_its_client() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let counted = |peer: &str, headers: &[(&str, &str)]| {
            let mut request = TestRequest::default().peer_addr(peer.parse().unwrap());
            for &(name, value) in headers {
                request = request.append_header((name, value));
            }
            counted_by(&request.to_http_request(), &trusted)
        };
        let network = |address: &str| Some(Network::of(address.parse().unwrap()));
        let client = ("x-forwarded-for", "192.0.2.7");
        for (peer, headers, expected) in [
            (
                "198.51.100.1:9",
                vec![client],
                (network("198.51.100.1"), false),
            ),
            ("127.0.0.1:9", vec![client], (None, false)),
            ("[::1]:9", vec![], (None, false)),
            ("10.0.0.1:9", vec![client], (network("192.0.2.7"), true)),
            ("10.0.0.1:9", vec![], (network("10.0.0.1"), true)),
            (
                "10.0.0.1:9",
                vec![client, ("forwarded", "for=192.0.2.8")],
                (network("10.0.0.1"), true),
            ),
        ] {
            assert_eq!(counted(peer, &headers), expected, "{peer} {headers:?}");
        }
    }

    #[test]
    fn only_what_trusted_proxies_added_is_believed() {
        let proxy = "127.0.0.1:9";
        let forwarded_for = |value| address(proxy, &[("x-forwarded-for", value)]);
        let forwarded = |value| address(proxy, &[("forwarded", value)]);
        for (found, expected) in [
            (address("192.0.2.7:9", &[]), "192.0.2.7:9"),
            (
                address("192.0.2.7:9", &[("x-forwarded-for", "198.51.100.1")]),
                "192.0.2.7:9",
            ),
            (
                address("192.0.2.7:9", &[("forwarded", "for=198.51.100.1")]),
                "192.0.2.7:9",
            ),
            (address(proxy, &[]), "127.0.0.1"),
            (forwarded_for("192.0.2.7"), "192.0.2.7"),
            (forwarded_for("203.0.113.9, 192.0.2.7"), "192.0.2.7"),
            (
                forwarded_for("203.0.113.9, 192.0.2.7, 10.1.2.3"),
                "192.0.2.7",
            ),
            (forwarded_for("10.9.9.9, 10.1.2.3"), "10.9.9.9"),
            (forwarded_for("192.0.2.7:5123"), "192.0.2.7"),
            (forwarded_for("2001:db8::1"), "2001:db8::1"),
            (forwarded_for("::ffff:192.0.2.7"), "192.0.2.7"),
            (forwarded_for("203.0.113.9, rubbish, 10.1.2.3"), "10.1.2.3"),
            (forwarded_for(""), "127.0.0.1"),
            (forwarded("for=192.0.2.7;proto=https"), "192.0.2.7"),
            (
                forwarded("proto=https; For=\"[2001:db8::1]:4711\""),
                "2001:db8::1",
            ),
            (forwarded("for=203.0.113.9, for=192.0.2.7"), "192.0.2.7"),
            (forwarded("for=unknown"), "127.0.0.1"),
            (forwarded("for=_hidden, for=10.1.2.3"), "10.1.2.3"),
            (
                address(
                    proxy,
                    &[
                        ("x-forwarded-for", "203.0.113.9"),
                        ("forwarded", "for=192.0.2.7"),
                    ],
                ),
                "127.0.0.1",
            ),
            (
                address(
                    proxy,
                    &[
                        ("x-forwarded-for", "192.0.2.7"),
                        ("forwarded", "for=192.0.2.7"),
                    ],
                ),
                "192.0.2.7",
            ),
            (
                address(
                    proxy,
                    &[
                        ("x-forwarded-for", "203.0.113.9"),
                        ("x-forwarded-for", "192.0.2.7"),
                    ],
                ),
                "192.0.2.7",
            ),
            (
                address("[fd00::1]:9", &[("x-forwarded-for", "192.0.2.7")]),
                "192.0.2.7",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }
}
