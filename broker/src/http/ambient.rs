//! What comes along with a request without its client having shown it: a browser's cookie, the header by which a proxy says whom it has let in, and
//! the certificate of the connection. Owns when each counts, so that no page can use what its visitor has elsewhere; whether it is good the
//! checkpoint says.
//!
//! | | own page | foreign page that may come in | none |
//! |---|---|---|---|
//! | cookie | counts | is not looked at | is refused |
//! | a proxy's header | counts | is not looked at | counts |
//! | a client certificate | counts | is not looked at | counts |
//!
//! The first that is there counts. The certificate of a proxy that says whom it has let in is never its clients'.

use actix_web::HttpRequest;
use actix_web::http::header;
use hark_protocol::ErrorCode;

use super::admitted::Shown;
use super::guard::{Page, forbidden};
use super::{ApiError, Gate, client_address};
use crate::connections::Connection;

/// What comes along with a request and counts.
pub(super) fn shown(request: &HttpRequest, gate: &Gate) -> Result<Shown, ApiError> {
    let page = || gate.admission.page(request, gate.is_by_https(request));
    if let Some(name) = gate.authority.cookie()
        && let Some(token) = cookie(request, &name)?
    {
        return match page()? {
            Page::Own => Ok(Shown::InCookie(token)),
            // It cannot help sending it.
            Page::Foreign => Ok(Shown::Nothing),
            Page::None => Err(forbidden(format!(
                "the cookie {name} counts in requests of Hark's own pages alone, which browsers mark by Origin or Sec-Fetch-Site; from \
                 elsewhere send its token as `Authorization: Bearer`, or leave it out"
            ))),
        };
    }
    let shown = by_proxy_or_certificate(request, gate)?;
    Ok(match shown {
        Shown::Nothing => Shown::Nothing,
        _ if page()? == Page::Foreign => Shown::Nothing,
        shown => shown,
    })
}

fn by_proxy_or_certificate(request: &HttpRequest, gate: &Gate) -> Result<Shown, ApiError> {
    if let Some(name) = gate.authority.proxy_header() {
        if let Some(subject) = vouched_for(request, gate, &name)? {
            return Ok(Shown::ByProxy(subject));
        }
        // It has let in somebody without a name, who must not be taken for the proxy itself.
        if client_address::is_from_trusted(request, &gate.trusted_proxies) {
            return Ok(Shown::Nothing);
        }
    }
    let certificate =
        Connection::of(request).and_then(|connection| connection.client_certificate());
    Ok(certificate.map_or(Shown::Nothing, Shown::InHandshake))
}

/// The value of a cookie (RFC 6265, section 4.2.1). Of two, nobody knows which one is the broker's: another host of the domain can have set one.
fn cookie(request: &HttpRequest, name: &str) -> Result<Option<String>, ApiError> {
    let lines = request.headers().get_all(header::COOKIE);
    let pairs = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    let mut values = pairs.filter_map(|pair| {
        let (found, value) = pair.split_at(pair.iter().position(|&byte| byte == b'=')?);
        (found.trim_ascii() == name.as_bytes()).then(|| value[1..].trim_ascii())
    });
    let (value, more) = (values.next(), values.next());
    if more.is_some() {
        let message = format!("the cookie {name} is there twice; which one counts is not known");
        return Err(ApiError::new(ErrorCode::BadFrame, message));
    }
    // What is no text is no token that is known, and refused as such.
    Ok(value.map(|value| String::from_utf8_lossy(unquoted(value)).into_owned()))
}

fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"");
    let inner = inner.and_then(|inner| inner.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

/// Whom the proxy has let in; `None` if it names nobody. From anybody else it is refused: whoever sends it takes it to count.
fn vouched_for(request: &HttpRequest, gate: &Gate, name: &str) -> Result<Option<String>, ApiError> {
    let mut lines = request.headers().get_all(name);
    let (line, more) = (lines.next(), lines.next());
    let Some(line) = line else { return Ok(None) };
    if !client_address::is_from_trusted(request, &gate.trusted_proxies) {
        let peer = request.peer_addr();
        let peer = peer.map_or_else(String::new, |peer| peer.ip().to_canonical().to_string());
        return Err(forbidden(format!(
            "{name} is believed of declared proxies alone, and {peer} is none; if it is one that sets this header itself, start Hark with \
             --trusted-proxy {peer}, and otherwise leave the header out"
        )));
    }
    let bad = |message: String| Err(ApiError::new(ErrorCode::BadFrame, message));
    if more.is_some() {
        return bad(format!(
            "{name} is there twice; have the proxy set it in the place of the client's own"
        ));
    }
    match std::str::from_utf8(line.as_bytes().trim_ascii()) {
        Ok(subject) => Ok((!subject.is_empty()).then(|| subject.to_owned())),
        Err(_) => bad(format!("{name} is not text in UTF-8")),
    }
}
