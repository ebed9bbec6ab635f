//! The broker's HTTP side, for commands that ask and are answered. Owns how it is asked, and looking what is there at all; what an error means
//! to people is `trouble`'s.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hark_client::inner::{Certificates, TlsFiles, draw, retry_after};
use rustls::pki_types::PrivateKeyDer;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::http::{Method, Request, Response, StatusCode, header};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};

use super::CliError;
use super::credentials::Credentials;
use super::output::Reader;
use super::place::Place;
use super::race::Racing;
use super::trouble;

/// How long an answer may take, and how long a broker may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bounds of the wait before a busy broker is asked again.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// No answer of a broker is larger.
const MAX_ANSWER_BYTES: u64 = 64 * 1024 * 1024;
/// Nor is any refusal, or the answer to a look.
const MAX_REFUSAL_BYTES: u64 = 64 * 1024;
/// Entries of a list that are asked for at a time.
const PAGE: &str = "1000";

/// A broker, asked by HTTP. It blocks, so nothing else may have to go on meanwhile.
pub(super) struct Http {
    agent: Agent,
    place: Place,
    credentials: Credentials,
}

/// One answer of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(rename = "topics", alias = "sessions", alias = "revocations")]
    entries: Vec<T>,
    /// What the next page starts behind.
    next: Option<String>,
}

/// What Hark says when it refuses something.
#[derive(Deserialize)]
struct Refusal {
    #[serde(rename = "code")]
    _code: String,
    message: String,
}

impl Http {
    pub(super) fn at(url: &str, credentials: Credentials) -> Result<Self, CliError> {
        let place = Place::parse(url)?.with_files(credentials.tls.clone());
        Ok(Self {
            agent: agent(&place, PATIENCE).map_err(CliError::failed)?,
            place,
            credentials,
        })
    }

    /// Asks, and again while the broker is busy.
    pub(super) fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CliError> {
        let deadline = Instant::now() + PATIENCE;
        let mut failures = 0;
        loop {
            let response = self.ask(Method::GET, path, query, ())?;
            let is_busy = matches!(response.status().as_u16(), 429 | 503);
            let drawn = draw(failures, FIRST_WAIT, LONGEST_WAIT);
            let wait = drawn.max(retry_after(response.headers()).unwrap_or_default());
            // Whoever is asked for more patience than it has says so at once.
            let is_over = wait > deadline.saturating_duration_since(Instant::now());
            if !is_busy || is_over {
                return self.read(response);
            }
            failures += 1;
            thread::park_timeout(wait);
        }
    }

    /// A list that is given page by page. `each` takes the entries of one, and says whether anybody still reads.
    pub(super) fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        mut each: impl FnMut(Vec<T>) -> Result<Reader, CliError>,
    ) -> Result<(), CliError> {
        let mut after: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", PAGE));
            query.extend(after.as_deref().map(|after| ("after", after)));
            let page: Page<T> = self.get(path, &query)?;
            if each(page.entries)? == Reader::Gone {
                return Ok(());
            }
            match page.next {
                // A broker that repeats itself would keep it going for ever.
                next @ Some(_) if next > after => after = next,
                _ => return Ok(()),
            }
        }
    }

    /// Deletes what is there.
    pub(super) fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, CliError> {
        self.read(self.ask(Method::DELETE, path, query, ())?)
    }

    /// Gives something to be taken, as JSON.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        what: &impl Serialize,
    ) -> Result<T, CliError> {
        let body = serde_json::to_vec(what).map_err(|error| CliError::failed(error.to_string()))?;
        self.read(self.ask(Method::POST, path, &[], body)?)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: impl ureq::AsSendBody,
    ) -> Result<Response<ureq::Body>, CliError> {
        // A topic's name needs no escaping in a path (RFC 3986, section 3.3).
        let query = query
            .iter()
            .map(|(name, value)| format!("{name}={}", escaped(value)));
        let query = query.collect::<Vec<_>>().join("&");
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}?{query}", self.place.http()));
        if let Some(token) = self.credentials.token()? {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request
            .body(body)
            .map_err(|error| CliError::usage(format!("this cannot be asked: {error}")))?;
        let answer = self.agent.run(request);
        answer.map_err(|error| trouble::of_http(&self.place, &error))
    }

    fn read<T: DeserializeOwned>(&self, mut response: Response<ureq::Body>) -> Result<T, CliError> {
        let status = response.status();
        let limit = match status.is_success() {
            true => MAX_ANSWER_BYTES,
            false => MAX_REFUSAL_BYTES,
        };
        let seen = Seen::at(&response);
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = match (body, status.is_success()) {
            (Ok(body), _) => body,
            (Err(error), true) => return Err(trouble::of_http(&self.place, &error)),
            // It was no Hark, who says less.
            (Err(_), false) => Vec::new(),
        };
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|_| trouble::not_hark(&self.place, &seen));
        }
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => trouble::refused(status, &refusal.message),
            Err(_) => trouble::not_hark(&self.place, &seen),
        })
    }
}

/// A value of a query (RFC 3986, section 3.4).
fn escaped(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b':' | b'@' | b'$' => escaped.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => escaped.push(char::from(byte)),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// What answered, as far as it says.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: StatusCode,
    pub(super) server: Option<String>,
    pub(super) content_type: Option<String>,
    /// Where it sends whoever asks.
    pub(super) location: Option<String>,
    pub(super) is_hark: bool,
}

impl Seen {
    fn at(response: &Response<ureq::Body>) -> Self {
        let said = |name| {
            let value = response.headers().get(name)?;
            Some(value.to_str().ok()?.chars().take(100).collect())
        };
        Self {
            status: response.status(),
            server: said(header::SERVER),
            content_type: said(header::CONTENT_TYPE),
            location: said(header::LOCATION),
            is_hark: false,
        }
    }
}

/// Looks what is there, without saying who asks.
pub(super) fn look(place: &Place) -> Result<Seen, ureq::Error> {
    /// What Hark answers to `/readyz`.
    #[derive(Deserialize)]
    struct Ready {
        #[serde(rename = "status")]
        _status: String,
    }
    let agent = agent(place, LOOK_PATIENCE)
        .map_err(|reason| ureq::Error::Io(std::io::Error::other(reason)))?;
    let mut response = agent.get(format!("{}/readyz", place.http())).call()?;
    let mut seen = Seen::at(&response);
    let body = response.body_mut().with_config().limit(MAX_REFUSAL_BYTES);
    // A page that is too long, or breaks off, is not Hark's either; and it may refuse a name.
    seen.is_hark = body.read_to_vec().is_ok_and(|body| {
        serde_json::from_slice::<Ready>(&body).is_ok()
            || serde_json::from_slice::<Refusal>(&body).is_ok()
    });
    Ok(seen)
}

fn agent(place: &Place, patience: Duration) -> Result<Agent, String> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        // Where another address is meant, a person should say so: a token goes with it.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(patience));
    let config = match place.is_secure() {
        true => config.tls_config(tls(place.files())?),
        false => config,
    };
    let connector =
        ().chain(ConnectProxyConnector::default())
            .chain(Racing::default())
            .chain(RustlsConnector::default());
    Ok(Agent::with_parts(
        config.build(),
        connector,
        DefaultResolver::default(),
    ))
}

/// The same certificates as for the WebSocket.
fn tls(files: &TlsFiles) -> Result<TlsConfig, String> {
    let Certificates { roots, client, .. } = files.read()?;
    let owned = |der: &[u8]| Certificate::from_der(der).to_owned();
    let roots: Vec<_> = roots.iter().map(|der| owned(der)).collect();
    let client = match client {
        Some((chain, key)) => {
            let chain: Vec<_> = chain.iter().map(|der| owned(der)).collect();
            Some(ClientCert::new_with_certs(&chain, private_key(&key)?))
        }
        None => None,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .unversioned_rustls_crypto_provider(provider)
        .build())
}

/// As ureq takes it, which does not give out its names for what is in DER form: in PEM form.
fn private_key(key: &PrivateKeyDer<'static>) -> Result<PrivateKey<'static>, String> {
    let label = match key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    let der = STANDARD.encode(key.secret_der());
    let pem = format!("-----BEGIN {label}-----\n{der}\n-----END {label}-----\n");
    PrivateKey::from_pem(pem.as_bytes()).map_err(|error| error.to_string())
}
