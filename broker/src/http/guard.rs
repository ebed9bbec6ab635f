//! Who may come in: the rules on `Host`, `Origin` and `Sec-Fetch-Site` that keep foreign web pages out of every route, and what browsers are told of
//! them (CORS). A browser sends these truthfully, whatever page it shows; other programs may send what they like, and are not what these rules
//! are about.

use actix_cors::{Cors, CorsError};
use actix_http::RequestHead;
use actix_web::HttpRequest;
use actix_web::dev::ServiceResponse;
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Condition;
use hark_protocol::ErrorCode;

use super::ApiError;
use super::origin::{AllowedOrigin, Authority, OF_NULL, Origin, PublicUrl};

/// How long a browser need not ask again what it may send.
const PREFLIGHT_SECONDS: usize = 3600;
/// What a page is to what it asks for, as its browser says (Fetch Metadata Request Headers, section 2.4).
const SEC_FETCH_SITE: &str = "sec-fetch-site";
const SEC_FETCH_MODE: &str = "sec-fetch-mode";
const SEC_FETCH_DEST: &str = "sec-fetch-dest";
/// Asked by whoever watches over Hark, under whatever name or address: they say nothing of what it holds.
const ANSWERED_UNDER_EVERY_NAME: [&str; 2] = ["/healthz", "/readyz"];

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Where clients find Hark. Where it is said, these alone are its own origins, and it answers to no other name, but for loopback names
    /// on its own machine.
    pub public_urls: Vec<PublicUrl>,
    /// Which names it answers to where that is not said.
    pub hosts: Hosts,
    /// Pages of other origins that may.
    pub allowed_origins: Vec<AllowedOrigin>,
}

/// The names that Hark answers to. Under any other, a page whose name was made to point here (DNS rebinding) would count as its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hosts {
    /// Those of this machine: whoever can ask may do everything.
    #[default]
    Loopback,
    /// Those, and addresses, which nobody can make point elsewhere.
    Addresses,
    /// All.
    Any,
}

/// The page that a request comes from, as far as its browser says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// One of Hark's own origin.
    Own,
    /// Another one, which may come in.
    Foreign,
    /// None: somebody has typed the address or followed a link to it, or it is no browser.
    None,
}

impl Admission {
    /// Checks what every request has to pass: the name it was asked under, and the page it comes from. `by_https`: how it was asked, as far as
    /// that is known.
    pub(super) fn check(&self, request: &HttpRequest, by_https: bool) -> Result<(), ApiError> {
        let host = host(request.head())?;
        let is_for_all = ANSWERED_UNDER_EVERY_NAME.contains(&request.path());
        if !is_for_all && !self.answers_to(host.as_ref(), request) {
            return Err(self.refuse_name(host.as_ref(), by_https));
        }
        self.page(request, by_https).map(drop)
    }

    fn answers_to(&self, host: Option<&Authority>, request: &HttpRequest) -> bool {
        let is_loopback = host.is_some_and(Authority::is_loopback);
        if !self.public_urls.is_empty() {
            let is_named = |host| self.public_urls.iter().any(|url| url.has_name(host));
            let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
            return host.is_some_and(is_named)
                || (is_loopback && peer.is_none_or(|peer| peer.is_loopback()));
        }
        match self.hosts {
            Hosts::Loopback => is_loopback,
            Hosts::Addresses => is_loopback || host.is_some_and(|host| host.address().is_some()),
            Hosts::Any => true,
        }
    }

    fn refuse_name(&self, host: Option<&Authority>, by_https: bool) -> ApiError {
        let name = host.map_or_else(String::new, Authority::to_string);
        if self.public_urls.is_empty() && self.hosts == Hosts::Loopback {
            return forbidden(format!(
                "without authentication Hark answers to loopback names only, not to {name:?}; ask for localhost or 127.0.0.1, or start it with --insecure-no-auth if everybody who reaches it may read and publish everything"
            ));
        }
        let scheme = if by_https { "https" } else { "http" };
        let known: Vec<String> = self
            .public_urls
            .iter()
            .map(|url| url.origin().to_string())
            .collect();
        let known = match known.is_empty() {
            true => "to loopback names and to addresses".to_owned(),
            false => format!("as {}", known.join(", ")),
        };
        // What it advises works: a name that no page has cannot be given.
        let advice = match Origin::parse(&format!("{scheme}://{name}")) {
            Some(url) => {
                format!("; if clients are to find it there, start it with --public-url {url}")
            }
            None => String::new(),
        };
        forbidden(format!(
            "Hark answers {known} here, not to {name:?}{advice}"
        ))
    }

    /// The page that a request comes from. One that may not is refused: it can neither read nor change anything here, nor make Hark work for it.
    pub(super) fn page(&self, request: &HttpRequest, by_https: bool) -> Result<Page, ApiError> {
        let headers = request.headers();
        if let Some(origin) = headers.get(header::ORIGIN) {
            return self.page_of(origin.to_str().unwrap_or_default(), request, by_https);
        }
        // Only requests that a page could send without reading the answer have no origin, and the browser is not asked before it sends them.
        let site = headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes());
        match site {
            None | Some(b"none") => Ok(Page::None),
            Some(b"same-origin") => Ok(Page::Own),
            _ if is_followed_link(request.head()) => Ok(Page::None),
            _ if self.allowed_origins.contains(&AllowedOrigin::Any) => Ok(Page::Foreign),
            _ => Err(forbidden(
                "a page of another origin may not use this broker by what names no origin, as an image or a frame; let it ask with `fetch`, \
                 `EventSource` or `WebSocket`, and start Hark with --allowed-origin and its origin"
                    .to_owned(),
            )),
        }
    }

    /// RFC 6454, section 7.
    fn page_of(
        &self,
        origin: &str,
        request: &HttpRequest,
        by_https: bool,
    ) -> Result<Page, ApiError> {
        let host = host(request.head())?;
        if let Some(page) = Origin::parse(origin) {
            let is_here = host.is_some_and(|host| {
                (self.public_urls.is_empty() || host.is_loopback()) && page.is_of(&host)
            });
            let is_public = self.public_urls.iter().any(|url| *url.origin() == page);
            if is_public || (is_here && page.is_https() == by_https) {
                return Ok(Page::Own);
            }
            // As behind a proxy that Hark was not told of: it may come in, and is trusted no more than others. (Not the other way round: a page in
            // plain text can have been written by anybody on its way.)
            if is_here && page.is_https() {
                return Ok(Page::Foreign);
            }
        }
        match self.allows(origin) {
            true => Ok(Page::Foreign),
            false => Err(refuse_page(origin)),
        }
    }

    /// Whether pages of another origin may use the broker.
    fn allows(&self, origin: &str) -> bool {
        let mut allowed = self.allowed_origins.iter();
        allowed.any(|allowed| allowed.allows(origin))
    }
}

/// Somebody follows a link to here, in sight: nothing is changed by it, and no page gets to see the answer.
fn is_followed_link(head: &RequestHead) -> bool {
    let is = |name: &str, value: &[u8]| {
        let said = head.headers().get(name);
        said.is_some_and(|said| said.as_bytes() == value)
    };
    head.method == Method::GET && is(SEC_FETCH_MODE, b"navigate") && is(SEC_FETCH_DEST, b"document")
}

/// CORS (Fetch, section 3.3): what pages of the allowed origins may read and send. Never with credentials that a browser sends by itself.
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

pub(super) fn forbidden(message: String) -> ApiError {
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

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn admits(admission: &Admission, host: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = TestRequest::default()
            .insert_header(("host", host))
            .peer_addr("127.0.0.1:9".parse().unwrap());
        for &header in headers {
            request = request.insert_header(header);
        }
        admission.check(&request.to_http_request(), false).is_ok()
    }

    #[test]
    fn only_own_and_allowed_pages_come_in() {
        let admission = Admission {
            allowed_origins: vec!["https://app.example".parse().unwrap()],
            ..Admission::default()
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
            let headers: Vec<_> = origin
                .map(|origin| ("origin", origin))
                .into_iter()
                .collect();
            let found = admits(&admission, host, &headers);
            assert_eq!(found, expected, "{host} {origin:?}");
        }
    }

    #[test]
    fn the_names_that_are_answered_to_are_those_that_nobody_else_can_have() {
        let public = || vec!["https://hark.example.org:8443".parse().unwrap()];
        let by = |hosts, public_urls| Admission {
            public_urls,
            hosts,
            ..Admission::default()
        };
        for (host, expected) in [
            ("localhost:4275", [true, true, true, true]),
            ("[::1]", [true, true, true, true]),
            ("192.0.2.7:4275", [false, true, true, false]),
            ("[2001:db8::1]", [false, true, true, false]),
            ("hark.example.org", [false, false, true, true]),
            ("evil.example", [false, false, true, false]),
            ("192.0.2.7.evil.example", [false, false, true, false]),
            ("", [false, false, true, false]),
        ] {
            let found = [
                by(Hosts::Loopback, vec![]),
                by(Hosts::Addresses, vec![]),
                by(Hosts::Any, vec![]),
                by(Hosts::Any, public()),
            ];
            let found = found.map(|admission| admits(&admission, host, &[]));
            assert_eq!(found, expected, "{host}");
        }
        let admission = by(Hosts::Addresses, public());
        let from = |peer: &str| {
            let request = TestRequest::default().insert_header(("host", "localhost"));
            let request = request.peer_addr(peer.parse().unwrap()).to_http_request();
            admission.check(&request, false).is_ok()
        };
        assert!(from("[::ffff:127.0.0.1]:9") && !from("192.0.2.7:9"));
    }

    #[test]
    fn what_a_page_sends_without_its_origin_is_known_by_its_site() {
        let admission = Admission::default();
        let link = [
            ("sec-fetch-mode", "navigate"),
            ("sec-fetch-dest", "document"),
        ];
        let frame = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
        let image = [("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")];
        for (site, kind, expected) in [
            ("same-origin", image, true),
            ("none", link, true),
            ("cross-site", link, true),
            ("cross-site", frame, false),
            ("cross-site", image, false),
            ("same-site", image, false),
            ("unheard-of", image, false),
        ] {
            let headers = [&[("sec-fetch-site", site)], &kind[..]].concat();
            let found = admits(&admission, "localhost", &headers);
            assert_eq!(found, expected, "{site} {kind:?}");
        }
    }

    #[test]
    fn the_own_origin_has_a_scheme() {
        let public = || Admission {
            public_urls: vec!["https://hark.example.org".parse().unwrap()],
            ..Admission::default()
        };
        let page = |admission: &Admission, host: &str, origin: &str, by_https| {
            let request = TestRequest::default()
                .insert_header(("host", host))
                .insert_header(("origin", origin))
                .to_http_request();
            admission.page(&request, by_https).ok()
        };
        let name = "hark.example.org";
        // Whatever is known of how it was asked.
        for by_https in [false, true] {
            let own = page(&public(), name, "https://hark.example.org", by_https);
            assert_eq!(own, Some(Page::Own));
            let plain = page(&public(), name, "http://hark.example.org", by_https);
            assert_eq!(plain, None, "anybody on the way can have written that page");
        }
        let elsewhere = page(&public(), "localhost", "http://localhost", false);
        assert_eq!(elsewhere, Some(Page::Own));
        let unnamed = Admission::default();
        for (origin, by_https, expected) in [
            ("https://192.0.2.7", true, Some(Page::Own)),
            ("https://192.0.2.7", false, Some(Page::Foreign)),
            ("http://192.0.2.7", false, Some(Page::Own)),
            ("http://192.0.2.7", true, None),
        ] {
            let found = page(&unnamed, "192.0.2.7", origin, by_https);
            assert_eq!(found, expected, "{origin} {by_https}");
        }
    }
}
