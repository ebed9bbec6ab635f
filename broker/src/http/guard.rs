//! Who may come in: the rules on `Origin` and `Host` that keep foreign web pages out, and what browsers are told of them (CORS). A browser sends both truthfully, whatever
//! page it shows; other programs may send what they like, and are not what these rules are about.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use actix_cors::{Cors, CorsError};
use actix_http::RequestHead;
use actix_web::HttpRequest;
use actix_web::dev::ServiceResponse;
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Condition;
use hark_protocol::ErrorCode;

use super::ApiError;

/// How long a browser need not ask again what it may send.
const PREFLIGHT_SECONDS: usize = 3600;

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Pages of other origins that may.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Whether only requests to a loopback name are served: without it, a page whose name was made to point here (DNS
    /// rebinding) would count as our own.
    pub loopback_hosts_only: bool,
}

impl Admission {
    /// Checks a plain read without credentials: the name it was asked under.
    pub fn check_host(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let host = host(request.head())?;
        if self.loopback_hosts_only && !host.as_ref().is_some_and(Authority::is_loopback) {
            let host = host.map_or_else(String::new, |host| host.to_string());
            let message = format!(
                "without authentication Hark answers to loopback names only, not to {host:?}; ask for localhost or 127.0.0.1, or start it with --insecure-no-auth if everybody who reaches it may read and publish everything"
            );
            return Err(forbidden(message));
        }
        Ok(())
    }

    /// Whether pages of another origin may use the broker.
    fn allows(&self, origin: &str) -> bool {
        let page = Origin::parse(origin);
        let allows = |allowed: &AllowedOrigin| match allowed {
            AllowedOrigin::Any => true,
            AllowedOrigin::Only(known) => page.as_ref() == Some(known),
        };
        self.allowed_origins.iter().any(allows)
    }

    /// Checks everything else: the name, and the page it comes from (RFC 6454, section 7).
    pub fn check(&self, request: &HttpRequest) -> Result<(), ApiError> {
        self.check_host(request)?;
        let Some(origin) = request.headers().get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        let host = host(request.head())?;
        let own = Origin::parse(origin).zip(host);
        if own.is_some_and(|(origin, host)| origin.is_of(host)) || self.allows(origin) {
            return Ok(());
        }
        Err(refuse_page(origin))
    }
}

/// CORS (Fetch, section 3.3): what pages of the allowed origins may read and send.
pub fn cors(admission: &Admission) -> Condition<Cors> {
    let known = admission.clone();
    let cors = Cors::default()
        .allowed_origin_fn(move |origin, _| {
            origin.to_str().is_ok_and(|origin| known.allows(origin))
        })
        .allowed_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_any_header()
        .expose_headers(["Hark-Cursor", "Retry-After"])
        // The routes themselves say what is wrong.
        .block_on_origin_mismatch(false)
        .max_age(PREFLIGHT_SECONDS);
    Condition::new(!admission.allowed_origins.is_empty(), cors)
}

/// Why a preflight was refused, if `response` refuses one: actix-cors says so in plain text.
pub(super) fn refused_preflight<B>(response: &ServiceResponse<B>) -> Option<ApiError> {
    let error = response.response().error()?.as_error::<CorsError>()?;
    let origin = response.request().headers().get(header::ORIGIN);
    Some(match (error, origin) {
        (CorsError::OriginNotAllowed, Some(origin)) => {
            refuse_page(origin.to_str().unwrap_or_default())
        }
        (error, _) => ApiError::new(ErrorCode::BadFrame, error.to_string()),
    })
}

/// A page that may not. What it advises works: an origin that is not one cannot be allowed.
fn refuse_page(origin: &str) -> ApiError {
    forbidden(match Origin::parse(origin) {
        Some(page) => format!(
            "pages of {origin} may not use this broker; start it with --allowed-origin {page} if they should"
        ),
        None if origin == "null" => format!("this page may not use this broker: {OF_NULL}"),
        None => format!("{origin:?} is not the origin of a page that could be allowed"),
    })
}

/// What is to be done about pages without an origin (HTML, section 7.1.1).
const OF_NULL: &str = "its origin is `null`, which local files have and sandboxed frames of any website alike; \
    serve the page over HTTP, so that it has an origin of its own such as https://app.example, and allow that";

fn forbidden(message: String) -> ApiError {
    ApiError::with_status(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
}

/// The name a request was asked under; `None` where there is none (HTTP/1.0). One that is malformed is refused (RFC 9112, section 3.2).
pub(super) fn host(head: &RequestHead) -> Result<Option<Authority>, ApiError> {
    // A name in the request's first line counts more (RFC 9112, section 3.2.2).
    let host = match (head.uri.authority(), head.headers().get(header::HOST)) {
        (Some(authority), _) => authority.as_str().as_bytes(),
        (None, Some(host)) => host.as_bytes(),
        (None, None) => b"",
    };
    if host.is_empty() {
        return Ok(None);
    }
    let authority = std::str::from_utf8(host).ok().and_then(Authority::parse);
    authority.map(Some).ok_or_else(|| {
        let message = format!(
            "the host {:?} is not a name or address with a port of 1 to 65535 behind it, such as localhost:4275",
            String::from_utf8_lossy(host)
        );
        ApiError::new(ErrorCode::BadFrame, message)
    })
}

/// A host and its port, if it names one (RFC 3986, section 3.2, without user information; RFC 9110, section 7.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    /// In lower case; an IPv6 address in brackets and in its shortest form.
    host: String,
    port: Option<u16>,
}

impl Authority {
    /// Reads all of `text`.
    fn parse(text: &str) -> Option<Self> {
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
    fn is_loopback(&self) -> bool {
        let name = self.host.strip_suffix('.').unwrap_or(&self.host);
        let address = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        name == "localhost"
            || (address.unwrap_or(name).parse()).is_ok_and(|address: IpAddr| address.is_loopback())
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
    fn parse(text: &str) -> Option<Self> {
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

    /// Whether a page that was asked for under this name has this origin.
    fn is_of(&self, asked: Authority) -> bool {
        let default = default_port(&self.scheme);
        self.authority.host == asked.host
            && self.authority.port.or(default) == asked.port.or(default)
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

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn admits(admission: &Admission, host: &str, origin: Option<&str>) -> bool {
        let mut request = TestRequest::default().insert_header(("host", host));
        if let Some(origin) = origin {
            request = request.insert_header(("origin", origin));
        }
        admission.check(&request.to_http_request()).is_ok()
    }

    #[test]
    fn only_own_and_allowed_pages_come_in() {
        let allowed_origins = vec!["https://app.example".parse().unwrap()];
        let admission = Admission {
            allowed_origins,
            loopback_hosts_only: true,
        };
        let here = "127.0.0.1:4275";
        for (host, origin, expected) in [
            (here, None, true),
            (here, Some("http://127.0.0.1:4275"), true),
            (here, Some("https://app.example"), true),
            (here, Some("https://evil.example"), false),
            (here, Some("http://127.0.0.1:3000"), false),
            (here, Some("null"), false),
            (here, Some(""), false),
            ("localhost:4275", Some("http://localhost:4275"), true),
            ("[::1]:4275", None, true),
            ("evil.example:4275", Some("http://evil.example:4275"), false),
            ("evil.example", None, false),
            ("localhost.evil.example", None, false),
            ("", None, false),
            ("LocalHost.:4275", Some("http://localhost.:4275"), true),
            ("localhost", Some("http://localhost:80"), true),
            ("localhost:443", Some("https://localhost"), true),
            ("localhost:443", Some("http://localhost"), false),
            (here, Some("HTTPS://App.Example:443"), true),
            (here, Some("https://app.example:444"), false),
            (here, Some("https://user@app.example"), false),
        ] {
            assert_eq!(
                admits(&admission, host, origin),
                expected,
                "{host} {origin:?}"
            );
        }
    }

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
            let admission = Admission {
                allowed_origins: vec![text.parse().unwrap()],
                loopback_hosts_only: true,
            };
            assert!(admission.allows(same), "{text}");
            assert!(!admission.allows("null"), "{text}");
            assert!(!admission.allows("https://evil.example"), "{text}");
        }
    }
}
