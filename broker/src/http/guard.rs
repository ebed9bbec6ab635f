//! Who may come in: the rules on `Origin` and `Host` that keep foreign web pages out, and what browsers are told of them (CORS). A browser sends both truthfully, whatever
//! page it shows; other programs may send what they like, and are not what these rules are about.

use actix_cors::Cors;
use actix_web::HttpRequest;
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Condition;
use hark_protocol::ErrorCode;

use super::ApiError;

/// How long a browser need not ask again what it may send.
const PREFLIGHT_SECONDS: usize = 3600;

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Pages of other origins that may, as browsers write them (`https://app.example`); `*` is any.
    pub allowed_origins: Vec<String>,
    /// Whether only requests to a loopback name are served: without it, a page whose name was made to point here (DNS
    /// rebinding) would count as our own.
    pub loopback_hosts_only: bool,
}

impl Admission {
    /// Checks a plain read without credentials: the name it was asked under.
    pub fn check_host(&self, request: &HttpRequest) -> Result<(), ApiError> {
        let host = host(request);
        if self.loopback_hosts_only && !is_loopback(host) {
            let message = format!(
                "without authentication Hark answers to loopback names only, not to {host:?}"
            );
            return Err(forbidden(message));
        }
        Ok(())
    }

    /// Whether pages of another origin may use the broker.
    fn allows(&self, origin: &str) -> bool {
        let allowed = |known: &String| known == "*" || known.eq_ignore_ascii_case(origin);
        self.allowed_origins.iter().any(allowed)
    }

    /// Checks everything else: the name, and the page it comes from (RFC 6454, section 7).
    pub fn check(&self, request: &HttpRequest) -> Result<(), ApiError> {
        self.check_host(request)?;
        let Some(origin) = request.headers().get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin.to_str().unwrap_or_default();
        let host = host(request);
        let own = origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
        if own || self.allows(origin) {
            return Ok(());
        }
        Err(forbidden(format!(
            "pages of {origin} may not use this broker; start it with --allowed-origin {origin} if they should"
        )))
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

/// The name a request was asked under; empty where there is none that can be read.
fn host(request: &HttpRequest) -> &str {
    let host = request.headers().get(header::HOST);
    host.and_then(|host| host.to_str().ok()).unwrap_or_default()
}

fn forbidden(message: String) -> ApiError {
    ApiError::with_status(StatusCode::FORBIDDEN, ErrorCode::Forbidden, message)
}

/// Whether a `Host` names this machine alone.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
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
        let allowed_origins = vec!["https://app.example".to_owned()];
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
        ] {
            assert_eq!(
                admits(&admission, host, origin),
                expected,
                "{host} {origin:?}"
            );
        }
    }
}
