//! Names and origins as requests and settings write them. Owns how they are read and when two are the same; which of them may come in is
//! `guard`'s.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// What is to be done about pages without an origin (HTML, section 7.1.1).
pub(super) const OF_NULL: &str = "its origin is `null`, which local files have and sandboxed frames of any website alike; \
    serve the page over HTTP, so that it has an origin of its own such as https://app.example, and allow that";

/// A host and its port, if it names one (RFC 3986, section 3.2, without user information; RFC 9110, section 7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// In lower case; an IPv6 address in brackets and in its shortest form.
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Reads all of `text`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                (format!("[{}]", address.parse::<Ipv6Addr>().ok()?), rest)
            }
            None => {
                let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                is_name(name).then(|| (name.to_ascii_lowercase(), rest))?
            }
        };
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().ok().filter(|&port| port > 0)?)
            }
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Whether it names this machine alone.
    pub(super) fn is_loopback(&self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        name == "localhost" || self.address().is_some_and(|address| address.is_loopback())
    }

    /// The address that it is, if it is no name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        let in_brackets = name.strip_prefix('[');
        let in_brackets = in_brackets.and_then(|name| name.strip_suffix(']'));
        in_brackets.unwrap_or(name).parse().ok()
    }
}

/// Whether it is a name of at least one character, each allowed or escaped (RFC 3986, section 3.2.2, `reg-name`).
fn is_name(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = match (first, more) {
            (b'%', [one, two, more @ ..]) if one.is_ascii_hexdigit() && two.is_ascii_hexdigit() => {
                more
            }
            (byte, more) if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => {
                more
            }
            _ => return false,
        };
    }
    !text.is_empty()
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// A page's origin, as browsers write it (RFC 6454, section 6.2): in lower case, without a port that goes without saying.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    authority: Authority,
}

impl Origin {
    /// Reads an origin with a host.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && (scheme.bytes()).all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let authority = Authority::parse(authority)?;
        // No page has a host with another character, and `*` would look as if it meant something.
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        if !is_scheme || !authority.host.bytes().all(is_host) {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let port = authority
            .port
            .filter(|&port| Some(port) != default_port(&scheme));
        Some(Self {
            authority: Authority { port, ..authority },
            scheme,
        })
    }

    /// Whether a page that was asked for under this name may have this origin.
    pub(super) fn is_of(&self, asked: &Authority) -> bool {
        let default = default_port(&self.scheme);
        self.authority.host == asked.host
            && self.authority.port.or(default) == asked.port.or(default)
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == "https"
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// What `--allowed-origin` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// `*`: every page, also one without an origin.
    Any,
    /// Pages of this one.
    Only(Origin),
}

impl FromStr for AllowedOrigin {
    type Err = String;

    /// What would never be met is refused, with what to give in its place.
    fn from_str(text: &str) -> Result<Self, String> {
        match (text, Origin::parse(text)) {
            ("*", _) => Ok(Self::Any),
            (_, Some(origin)) => Ok(Self::Only(origin)),
            ("null", None) => Err(format!("a page cannot be allowed by this: {OF_NULL}")),
            (_, None) => Err(format!(
                "{text:?} is no origin such as https://app.example or http://localhost:3000, with nothing behind it"
            )),
        }
    }
}

impl AllowedOrigin {
    /// Whether it allows pages of this origin, as a browser writes it.
    pub(super) fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(known) => Origin::parse(origin).as_ref() == Some(known),
        }
    }
}

/// What `--public-url` takes: where clients find Hark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(Origin);

impl PublicUrl {
    /// The origin of Hark's own pages there.
    pub(super) fn origin(&self) -> &Origin {
        &self.0
    }

    /// Whether it has this name. The port is not looked at: a proxy may pass on another, or none, and it says nothing of who asks.
    pub(super) fn has_name(&self, asked: &Authority) -> bool {
        self.0.authority.host == asked.host
    }

    /// Whether it is on this machine alone.
    pub(crate) fn is_loopback(&self) -> bool {
        self.0.authority.is_loopback()
    }
}

impl FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let origin = Origin::parse(text.strip_suffix('/').unwrap_or(text));
        let is_web = |origin: &Origin| matches!(&*origin.scheme, "http" | "https");
        origin.filter(is_web).map(Self).ok_or_else(|| {
            format!(
                "{text:?} is no URL such as https://hark.example.org or http://192.0.2.7:4275, with nothing behind the name and port"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        let read = |text: &str| Authority::parse(text).map(|read| read.to_string());
        for (text, expected) in [
            ("localhost", "localhost"),
            ("LOCALHOST:80", "localhost:80"),
            ("my_host.example.:65535", "my_host.example.:65535"),
            ("a%20b", "a%20b"),
            ("[0:0::1]:4275", "[::1]:4275"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            ":80",
            "localhost:",
            "localhost:evil",
            "localhost:99999",
            "localhost:65536",
            "localhost:0",
            "localhost:+80",
            "localhost:80:80",
            "127.0.0.1:1@evil",
            "user@localhost",
            "localhost/",
            "local host",
            "a%2",
            "a%zz",
            "\u{fc}.example",
            "[localhost]",
            "[127.0.0.1]",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[::1%25eth0]",
            "::1",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_no_page_has_cannot_be_allowed() {
        for bad in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/path",
            "https://*.example",
            "https://app.example:",
            "1http://app.example",
            "https://user@app.example",
        ] {
            let refused = AllowedOrigin::from_str(bad).expect_err(bad);
            assert!(refused.contains("https://app.example"), "{bad}: {refused}");
        }
        for (text, same) in [
            ("https://app.example:443", "https://app.example"),
            ("HTTP://LocalHost:80", "http://localhost"),
            ("http://localhost:3000", "HTTP://localhost:3000"),
            ("http://[0::1]:3000", "http://[::1]:3000"),
            ("chrome-extension://abcd", "chrome-extension://abcd"),
        ] {
            let allowed: AllowedOrigin = text.parse().unwrap();
            assert!(allowed.allows(same), "{text}");
            assert!(!allowed.allows("null"), "{text}");
            assert!(!allowed.allows("https://evil.example"), "{text}");
        }
    }

    #[test]
    fn a_public_url_is_an_origin_of_the_web() {
        for bad in [
            "",
            "hark.example.org",
            "wss://hark.example.org",
            "https://hark.example.org/path",
            "https://hark.example.org//",
            "https://*.example.org",
            "https://user@hark.example.org",
        ] {
            let refused = PublicUrl::from_str(bad).expect_err(bad);
            assert!(refused.contains("https://hark.example.org"), "{refused}");
        }
        let url: PublicUrl = "HTTPS://Hark.example.org:443/".parse().unwrap();
        assert_eq!(url.origin().to_string(), "https://hark.example.org");
        for (host, expected) in [
            ("hark.example.org", true),
            ("HARK.example.org:4275", true),
            ("example.org", false),
            ("evil.example", false),
        ] {
            let host = Authority::parse(host).unwrap();
            assert_eq!(url.has_name(&host), expected, "{host}");
        }
    }
}
