//! What went wrong between the command line and a broker, for people: what was found at the address, and what to do next. A page of HTML is
//! never shown.

use std::io;

use hark_client::{ClientError, ErrorCode};
use rustls::AlertDescription;
use ureq::http::StatusCode;

use super::CliError;
use super::http::{Seen, look};
use super::place::Place;

/// What is wrong with the way there.
#[derive(Debug)]
enum Way {
    NoSuchHost,
    NothingListens,
    Silent,
    Unreachable(String),
    NoTls,
    /// TLS is spoken, and its certificate is not to be trusted.
    BadCertificate(String),
    /// A certificate of the client is asked for.
    WantsCertificate,
    /// The client's certificate is not taken.
    CertificateRefused(String),
    BadTls(String),
    /// What came, or did not, is no HTTP.
    NoHttp,
    Other(String),
}

impl Way {
    fn of(error: &ureq::Error) -> Self {
        match error {
            ureq::Error::HostNotFound => Self::NoSuchHost,
            ureq::Error::Timeout(_) => Self::Silent,
            ureq::Error::Protocol(_) => Self::NoHttp,
            ureq::Error::Rustls(error) => Self::of_tls(error),
            ureq::Error::Tls(what) => Self::BadTls((*what).to_owned()),
            ureq::Error::Io(error) => Self::of_io(error),
            error => Self::Other(error.to_string()),
        }
    }

    fn of_io(error: &io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(tls), _) => Self::of_tls(tls),
            (None, io::ErrorKind::ConnectionRefused) => Self::NothingListens,
            (None, io::ErrorKind::TimedOut) => Self::Silent,
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::InvalidData,
            ) => Self::NoHttp,
            (
                None,
                io::ErrorKind::HostUnreachable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::AddrNotAvailable,
            ) => Self::Unreachable(error.to_string()),
            // std has no kind for it.
            (None, _) if error.to_string().contains("lookup") => Self::NoSuchHost,
            (None, _) => Self::Other(error.to_string()),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            rustls::Error::InvalidCertificate(_) => Self::BadCertificate(error.to_string()),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
                Self::WantsCertificate
            }
            rustls::Error::AlertReceived(
                alert @ (AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::AccessDenied),
            ) => Self::CertificateRefused(format!("{alert:?}")),
            error => Self::BadTls(error.to_string()),
        }
    }

    fn sentence(&self, place: &Place) -> String {
        let there = place.authority();
        match self {
            Self::NoSuchHost => {
                format!("there is no host of the name in {there}; check --url (or HARK_URL)")
            }
            Self::NothingListens => format!(
                "nothing listens at {there} (connection refused); start the broker there, or check --url (or HARK_URL)"
            ),
            Self::Silent => format!(
                "{there} did not answer in time; check --url (or HARK_URL), and whether a firewall is between"
            ),
            Self::Unreachable(why) => format!(
                "{there} cannot be reached ({why}); check the network, and --url (or HARK_URL)"
            ),
            Self::NoTls => format!(
                "what listens at {there} does not speak TLS; write http://{there} or ws://{there}/ws"
            ),
            Self::BadCertificate(why) => format!(
                "the certificate of {there} is not to be trusted ({why}); ask for the name it is made out to, or name a file with its issuer's certificate in --ca (or HARK_CA_FILE, or SSL_CERT_FILE in place of the system's)"
            ),
            Self::WantsCertificate => format!(
                "{there} asks for a client's certificate; give --client-certificate and --client-key (or HARK_CLIENT_CERTIFICATE_FILE and HARK_CLIENT_KEY_FILE)"
            ),
            Self::CertificateRefused(why) => format!(
                "{there} does not take the certificate of --client-certificate ({why}); give one of an issuer that it trusts"
            ),
            Self::BadTls(why) => {
                format!(
                    "TLS with {there} failed ({why}); check --url (or HARK_URL), and that this system has root certificates (ca-certificates, or a file that SSL_CERT_FILE names)"
                )
            }
            Self::NoHttp => format!(
                "what listens at {there} does not speak HTTP{}, so it is no Hark broker; check --url (or HARK_URL)",
                if place.is_secure() { " over TLS" } else { "" }
            ),
            Self::Other(why) => {
                format!("cannot reach Hark at {there}: {why}; check --url (or HARK_URL)")
            }
        }
    }
}

/// A request by HTTP that had no answer.
pub(super) fn of_http(place: &Place, error: &ureq::Error) -> CliError {
    let way = Way::of(error);
    CliError::failed(match way {
        Way::NoHttp if speaks_tls(place) => tls_is_spoken(place),
        way => way.sentence(place),
    })
}

/// An answer that is none of Hark's.
pub(super) fn not_hark(place: &Place, seen: &Seen) -> CliError {
    CliError::failed(match seen.status {
        // What is said to plain requests at a port of TLS.
        StatusCode::BAD_REQUEST if speaks_tls(place) => tls_is_spoken(place),
        _ => name(place, seen),
    })
}

/// Hark has refused what was asked.
pub(super) fn refused(status: StatusCode, message: &str) -> CliError {
    CliError::failed(format!(
        "Hark refused: {}{}",
        plain(message),
        advice(status)
    ))
}

/// A WebSocket that could not be had. It looks what is there, which may take some seconds.
pub(super) fn of_websocket(place: &Place, error: &ClientError) -> String {
    match error {
        ClientError::Refused {
            status,
            code,
            message,
            ..
        } => match look(place) {
            Ok(seen) if seen.is_hark => refused_upgrade(*status, *code, message),
            looked => sentence(place, looked),
        },
        ClientError::Unreachable { reason, .. } => match look(place) {
            Ok(seen) if seen.is_hark => format!(
                "Hark answers at {}, and the WebSocket cannot be had: {}; if a proxy is between, let it pass WebSockets on",
                place.http(),
                plain(reason)
            ),
            looked => sentence(place, looked),
        },
        error => of_end(error),
    }
}

/// A client that has ended.
pub(super) fn of_end(error: &ClientError) -> String {
    match error {
        ClientError::ClosedByBroker { code, reason } => {
            let advice = match code.0 {
                4401 => "; give a token that is good with --token-file (or HARK_TOKEN)",
                _ => "",
            };
            let (code, reason) = (code.0, plain(reason));
            format!("Hark ended the connection for good with code {code}: {reason}{advice}")
        }
        error => plain(&error.to_string()),
    }
}

/// Hark is there, and a WebSocket was refused, by it or by something between.
fn refused_upgrade(status: u16, code: Option<ErrorCode>, message: &str) -> String {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    match code {
        None => format!(
            "Hark is there, but something between answers the WebSocket's upgrade with {status}; let the proxy pass it on (README, Behind a proxy)"
        ),
        Some(_) => format!(
            "Hark refused ({status}): {}{}",
            plain(message),
            advice(status)
        ),
    }
}

fn sentence(place: &Place, looked: Result<Seen, ureq::Error>) -> String {
    match looked {
        Ok(seen) => not_hark(place, &seen).to_string(),
        Err(error) => of_http(place, &error).to_string(),
    }
}

fn advice(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "; give a token that is good with --token-file (or HARK_TOKEN)",
        429 | 503 => "; try again later",
        _ => "",
    }
}

/// Names what answers in the place of Hark.
fn name(place: &Place, seen: &Seen) -> String {
    if let Some(location) = &seen.location {
        return format!(
            "{} sends on to {location}; give that as --url (or HARK_URL)",
            place.http()
        );
    }
    let server = seen
        .server
        .as_deref()
        .unwrap_or("a server that does not say its name");
    let what = seen.content_type.as_deref().unwrap_or("no content");
    format!(
        "what answers at {} is no Hark broker: {server}, {}, {what}; check host, port and path of --url (or HARK_URL)",
        place.http(),
        seen.status
    )
}

fn tls_is_spoken(place: &Place) -> String {
    let there = place.authority();
    format!("what listens at {there} speaks TLS; write https://{there} or wss://{there}/ws")
}

/// Whether TLS is what is to be spoken at a place that was asked without.
fn speaks_tls(place: &Place) -> bool {
    if place.is_secure() {
        return false;
    }
    match look(&place.with_tls(true)) {
        Ok(_) => true,
        Err(error) => matches!(
            Way::of(&error),
            Way::BadCertificate(_) | Way::WantsCertificate | Way::CertificateRefused(_)
        ),
    }
}

/// A text from the other side that may be a page.
pub(super) fn plain(text: &str) -> String {
    match text.find('<') {
        Some(at) => format!("{}(a page)", &text[..at]),
        None => text.trim().to_owned(),
    }
}
