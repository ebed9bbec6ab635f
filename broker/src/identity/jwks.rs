//! Sets of keys (JWKS, RFC 7517) from a file or a URL: which key a `kid` names, and how the set is kept fresh. Owns the thread that
//! reads it again, the pace of that, and what is remembered of a `kid` that was not found; leaves tokens to `jwt`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use super::file;
use super::jwt::{Expected, Fingerprint, Key};

/// The most bytes of a set.
const MAX_SET_BYTES: u64 = 256 * 1024;
/// How long a URL has for its whole answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many `kid`s that were not found are remembered.
const MAX_ASKED: usize = 1000;

/// How often a set is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Without being asked.
    pub(super) every: Duration,
    /// For an unknown `kid`, or after a failure, at most so often.
    pub(super) at_most_every: Duration,
}

const PACE_OF_FILES: Pace = Pace {
    every: Duration::from_secs(60),
    at_most_every: Duration::from_secs(1),
};
const PACE_OF_URLS: Pace = Pace {
    every: Duration::from_secs(5 * 60),
    at_most_every: Duration::from_secs(60),
};
/// While there are no keys at all, the second attempt comes after this, and each further one after twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A set of keys that is kept fresh by a thread of its own, until it is dropped.
#[derive(Debug)]
pub(super) struct Jwks {
    shared: Arc<Shared>,
    /// Asks the thread to read again. One question that waits is enough: a full channel is no loss.
    ask: SyncSender<()>,
}

/// What came of reading a set.
struct Reading {
    result: Result<(), String>,
    /// Whether the one before had failed.
    was_failing: bool,
    /// Whether there was a set already.
    has_set: bool,
}

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// It may be there: the set has not been read, or not since this `kid` was first seen.
    NotNow,
    /// The set was read since this `kid` was first seen, and does not have it.
    Unknown,
    /// The token has no `kid`, and there is more than one key.
    Unnamed,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    expected: Expected,
    /// Keys for other algorithms are left out.
    only: Option<Algorithm>,
    pace: Pace,
    state: Mutex<State>,
    /// Told when a reading has ended.
    read: Condvar,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(Uri),
}

#[derive(Debug, Default)]
struct State {
    set: Option<Set>,
    /// What it was made of: the same text is not read twice.
    text: Vec<u8>,
    /// Readings are counted as they begin.
    begun: u64,
    ended: u64,
    /// The latest that brought a set.
    good: u64,
    /// How many sets were taken, each another than the one before.
    taken: u64,
    /// How many readings had begun when a `kid` that is not in the set was first seen.
    asked: HashMap<Box<str>, u64>,
    /// Why the latest reading failed.
    failure: Option<String>,
}

impl Jwks {
    /// The file must be there, and good.
    pub(super) fn from_file(
        path: &Path,
        expected: Expected,
        only: Option<Algorithm>,
    ) -> Result<Self, String> {
        let source = Source::File(path.to_owned());
        let shared = Shared::new(source, expected, only, PACE_OF_FILES);
        shared.read_once().result?;
        Self::begin(shared)
    }

    /// The URL may be down: until it has answered no token of its issuer can be judged.
    pub(super) fn from_url(
        url: &str,
        expected: Expected,
        only: Option<Algorithm>,
    ) -> Result<Self, String> {
        let source = Source::Url(checked(url)?);
        Self::begin(Shared::new(source, expected, only, PACE_OF_URLS))
    }

    fn begin(shared: Shared) -> Result<Self, String> {
        let shared = Arc::new(shared);
        let (ask, asked) = sync_channel(1);
        let kept_fresh = shared.clone();
        std::thread::Builder::new()
            .name("hark-jwks".to_owned())
            .spawn(move || kept_fresh.keep_fresh(&asked))
            .map_err(|error| format!("cannot start a thread to read keys: {error}"))?;
        Ok(Self { shared, ask })
    }

    /// The key of that `kid`.
    pub(super) fn find(&self, kid: Option<&str>) -> Result<Arc<Key>, NoKey> {
        let mut state = self.shared.lock();
        let Some(set) = &state.set else {
            return Err(NoKey::NotNow);
        };
        let Some(kid) = kid else {
            return set.only.clone().ok_or(NoKey::Unnamed);
        };
        if let Some(key) = set.by_kid.get(kid) {
            return Ok(key.clone());
        }
        let known = state.first_asked(kid);
        let no_key = match known {
            Some(begun) if state.good > begun => NoKey::Unknown,
            _ => NoKey::NotNow,
        };
        drop(state);
        if no_key == NoKey::NotNow {
            match self.ask.try_send(()) {
                Ok(()) => {}
                // One that waits is enough.
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Disconnected(())) => {
                    tracing::error!("nothing reads the keys of an issuer any more");
                }
            }
        }
        Err(no_key)
    }

    /// The key that this is, if the set still has it.
    pub(super) fn of(&self, fingerprint: &Fingerprint) -> Result<Option<Arc<Key>>, NoKey> {
        let state = self.shared.lock();
        let set = state.set.as_ref().ok_or(NoKey::NotNow)?;
        let mut keys = set.by_kid.values().chain(&set.only);
        Ok(keys.find(|key| key.fingerprint == *fingerprint).cloned())
    }

    /// How many sets were taken so far, each another than the one before.
    pub(super) fn taken(&self) -> u64 {
        self.shared.lock().taken
    }

    /// Whether it would be the same again.
    pub(super) fn is_of_url(
        &self,
        url: &str,
        expected: &Expected,
        only: Option<Algorithm>,
    ) -> bool {
        let Source::Url(own) = &self.shared.source else {
            return false;
        };
        let is_same_url = url.parse::<Uri>().is_ok_and(|url| url == *own);
        is_same_url && self.shared.expected == *expected && self.shared.only == only
    }

    /// Why the set could not be read, if the latest attempt failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }

    /// Waits until the set has been read, or could not be, for at least once.
    pub(super) fn wait_for_first_reading(&self, patience: Duration) {
        let state = self.shared.lock();
        let waited = self
            .shared
            .read
            .wait_timeout_while(state, patience, |state| state.ended == 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl State {
    /// How many readings had begun when this `kid` was first seen. None: there is no room to remember it.
    fn first_asked(&mut self, kid: &str) -> Option<u64> {
        if let Some(begun) = self.asked.get(kid) {
            return Some(*begun);
        }
        if self.asked.len() >= MAX_ASKED {
            let good = self.good;
            // Those that have had their answer may ask again.
            self.asked.retain(|_, begun| *begun >= good);
        }
        let has_room = self.asked.len() < MAX_ASKED;
        has_room.then(|| {
            self.asked.insert(kid.into(), self.begun);
            self.begun
        })
    }
}

impl Shared {
    fn new(source: Source, expected: Expected, only: Option<Algorithm>, pace: Pace) -> Self {
        Self {
            source,
            expected,
            only,
            pace,
            state: Mutex::default(),
            read: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: reads on a timer and when it is asked, until nobody holds the set any more.
    fn keep_fresh(&self, asked: &Receiver<()>) {
        let mut retry = FIRST_RETRY;
        loop {
            let (has_set, is_first) = {
                let state = self.lock();
                (state.set.is_some(), state.begun == 0)
            };
            // Not sooner than the one, not later than the other.
            let (soonest, latest) = match (has_set, is_first) {
                (true, _) => (self.pace.at_most_every, self.pace.every),
                (false, true) => (Duration::ZERO, Duration::ZERO),
                (false, false) => {
                    let pause = retry.min(self.pace.at_most_every);
                    retry = retry.saturating_mul(2);
                    (pause, pause)
                }
            };
            let begun = Instant::now();
            let mut pause = latest;
            loop {
                match asked.recv_timeout((begun + pause).saturating_duration_since(Instant::now()))
                {
                    Ok(()) => pause = soonest,
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
            // What went wrong was told by the reading itself.
            drop(self.read_again());
        }
    }

    /// Reads the set once. Where that fails the old one stays.
    fn read_once(&self) -> Reading {
        let number = {
            let mut state = self.lock();
            state.begun += 1;
            state.begun
        };
        let text = self.source.read();
        let result = text.and_then(|text| {
            let is_new = {
                let state = self.lock();
                state.set.is_none() || state.text != text
            };
            match is_new {
                true => parse(&text, &self.expected, self.only)
                    .map(|set| Some((set, text)))
                    .map_err(|error| format!("{}: {error}", self.source)),
                false => Ok(None),
            }
        });
        let mut state = self.lock();
        state.ended = number;
        let failure = result.as_ref().err().cloned();
        let was_failing = std::mem::replace(&mut state.failure, failure).is_some();
        let has_set = state.set.is_some();
        let result = result.map(|new| {
            state.good = number;
            if let Some((set, text)) = new {
                state.set = Some(set);
                state.text = text;
                state.taken += 1;
            }
        });
        drop(state);
        self.read.notify_all();
        Reading {
            result,
            was_failing,
            has_set,
        }
    }

    /// The same, and says where it begins and ends to fail.
    fn read_again(&self) -> Result<(), String> {
        let Reading {
            result,
            was_failing,
            has_set,
        } = self.read_once();
        let issuer = &self.expected.issuer;
        match &result {
            Ok(()) if was_failing => {
                tracing::info!(%issuer, "the keys of an issuer can be read again")
            }
            Err(error) if !was_failing && has_set => {
                tracing::warn!(%issuer, error, "cannot read the keys of an issuer again; those read before stay");
            }
            Err(error) if !was_failing => {
                tracing::warn!(%issuer, error, "cannot read the keys of an issuer; its tokens cannot be judged until then");
            }
            _ => {}
        }
        result
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl Source {
    fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => file::read_bytes(path),
            Self::Url(url) => fetch(url, PATIENCE, system_roots)
                .map_err(|error| format!("cannot fetch {url}: {error}")),
        }
    }
}

/// A URL that keys may be fetched from: by TLS, but for the own machine.
fn checked(url: &str) -> Result<Uri, String> {
    // Not shown: a password might be in it.
    let uri: Uri = url.parse().map_err(|error| format!("is no URL: {error}"))?;
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err("a URL may not hold a password; keys are public".to_owned());
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(uri),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(uri),
        (Some("http"), Some(_)) => Err(format!(
            "{url:?} is not protected: whoever is in between could give keys of his own; use https"
        )),
        _ => Err(format!(
            "{url:?} is no URL of keys; expected https://HOST/PATH"
        )),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Those that the system trusts. Read each time: seldom, and new ones count at once.
fn system_roots() -> RootCerts {
    let roots = rustls_native_certs::load_native_certs().certs;
    let roots = roots
        .iter()
        .map(|der| Certificate::from_der(der).to_owned());
    RootCerts::Specific(Arc::new(roots.collect()))
}

fn fetch(url: &Uri, patience: Duration, roots: fn() -> RootCerts) -> Result<Vec<u8>, String> {
    let mut config = ureq::Agent::config_builder()
        .timeout_global(Some(patience))
        // Another place than the one that was configured is not to be believed.
        .max_redirects(0)
        .max_redirects_will_error(true)
        .user_agent(concat!("hark/", env!("CARGO_PKG_VERSION")));
    match url.scheme_str() {
        Some("https") => {
            let ring = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .provider(TlsProvider::Rustls)
                .root_certs(roots())
                .unversioned_rustls_crypto_provider(ring);
            config = config.https_only(true).tls_config(tls.build());
        }
        // The own machine is asked directly.
        _ => config = config.proxy(None),
    }
    let agent = ureq::Agent::from(config.build());
    let failed = |error: ureq::Error| error.to_string();
    let mut response = agent.get(url).call().map_err(failed)?;
    if !response.status().is_success() {
        return Err(format!("the answer is {}", response.status()));
    }
    // A body that just fits the limit would be refused too.
    let body = response.body_mut().with_config().limit(MAX_SET_BYTES + 1);
    body.read_to_vec().map_err(failed)
}

#[derive(Debug, Default)]
struct Set {
    by_kid: HashMap<Box<str>, Arc<Key>>,
    /// Where there is exactly one: it needs no `kid`.
    only: Option<Arc<Key>>,
}

fn parse(text: &[u8], expected: &Expected, only: Option<Algorithm>) -> Result<Set, String> {
    if text.len() as u64 > MAX_SET_BYTES {
        return Err(format!("more than {MAX_SET_BYTES} bytes"));
    }
    // As any JSON, whose errors never repeat what is there: where the wrong file is named it may be a secret.
    let mut json: Value =
        serde_json::from_slice(text).map_err(|error| format!("no set of keys (JWKS): {error}"))?;
    let Some(Value::Array(values)) = json.get_mut("keys").map(Value::take) else {
        return Err("no set of keys (JWKS): it has no list with the name keys".to_owned());
    };
    let mut keys: Vec<(Option<Box<str>>, Arc<Key>)> = Vec::new();
    let mut left_out = Vec::new();
    for value in values {
        let name = match value.get("kid").and_then(Value::as_str) {
            Some(kid) => format!("the key {kid:?}"),
            None => "a key without kid".to_owned(),
        };
        if value.get("d").is_some() {
            return Err(format!(
                "{name} is a private key; give the public ones alone"
            ));
        }
        // Each by itself: one that is not understood does not spoil the others.
        let key = serde_json::from_value::<Jwk>(value)
            .map_err(|error| error.to_string())
            .and_then(|jwk| usable(&jwk, expected, only));
        match key {
            Ok((kid, key)) => keys.push((kid, Arc::new(key))),
            Err(reason) => left_out.push(format!("{name} {reason}")),
        }
    }
    let mut set = Set::default();
    match &*keys {
        [] => {
            let reasons = match left_out.is_empty() {
                true => "it is empty".to_owned(),
                false => left_out.join("; "),
            };
            return Err(format!("no key that can be used: {reasons}"));
        }
        [(_, key)] => set.only = Some(key.clone()),
        _ => {}
    }
    for (kid, key) in keys {
        let Some(kid) = kid else { continue };
        if set.by_kid.contains_key(&kid) {
            return Err(format!("two keys have the kid {kid:?}"));
        }
        set.by_kid.insert(kid, key);
    }
    if !left_out.is_empty() {
        let issuer = &expected.issuer;
        tracing::info!(%issuer, left_out = left_out.join("; "), "keys of an issuer that are not used");
    }
    Ok(set)
}

/// The key, if it is one that signs tokens. The error is the end of a sentence about it.
fn usable(
    jwk: &Jwk,
    expected: &Expected,
    only: Option<Algorithm>,
) -> Result<(Option<Box<str>>, Key), String> {
    let is_for_signatures = match (&jwk.common.public_key_use, &jwk.common.key_operations) {
        (Some(PublicKeyUse::Signature) | None, None) => true,
        (Some(PublicKeyUse::Signature) | None, Some(operations)) => {
            operations.contains(&KeyOperations::Verify)
        }
        _ => false,
    };
    if !is_for_signatures {
        return Err("is not for signatures".to_owned());
    }
    // `alg` may be left out (RFC 7517, section 4.4).
    let by_type = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) => {
            (key.curve == EllipticCurve::P256).then_some(Algorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(key) => {
            (key.curve == EllipticCurve::Ed25519).then_some(Algorithm::EdDSA)
        }
        // A secret has no place in a set that is published.
        _ => None,
    };
    let fits = |algorithm: &Algorithm| match jwk.common.key_algorithm {
        Some(named) => named == KeyAlgorithm::from(*algorithm),
        None => true,
    };
    let algorithm = by_type
        .filter(fits)
        .ok_or("is of another kind than RS256, ES256 and EdDSA (Ed25519)")?;
    if only.is_some_and(|only| only != algorithm) {
        return Err(format!("is for {algorithm:?}"));
    }
    let key = DecodingKey::from_jwk(jwk).map_err(|error| format!("cannot be read: {error}"))?;
    let key = Key::new(key, algorithm, expected)?;
    Ok((jwk.common.key_id.as_deref().map(Into::into), key))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;

    /// So long a condition may take to come true on a busy machine.
    const DEADLINE: Duration = Duration::from_secs(60);
    const NEVER: Duration = Duration::from_secs(24 * 3600);
    const SOON: Duration = Duration::from_millis(10);

    fn expected() -> Expected {
        Expected {
            issuer: "https://id.example".into(),
            audience: None,
        }
    }

    fn ec(kid: &str) -> Value {
        json!({
            "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        })
    }

    fn rsa(kid: &str) -> Value {
        json!({
            "kty": "RSA", "kid": kid, "e": "AQAB",
            "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        })
    }

    fn ed(kid: &str) -> Value {
        json!({
            "kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        })
    }

    fn with(mut key: Value, changed: Value) -> Value {
        for (name, value) in changed.as_object().unwrap() {
            match value.is_null() {
                true => key.as_object_mut().unwrap().remove(name),
                false => key
                    .as_object_mut()
                    .unwrap()
                    .insert(name.clone(), value.clone()),
            };
        }
        key
    }

    fn text(keys: &[Value]) -> String {
        json!({"keys": keys}).to_string()
    }

    fn parsed(keys: &[Value]) -> Result<Set, String> {
        parse(text(keys).as_bytes(), &expected(), None)
    }

    fn kids(set: &Set) -> Vec<&str> {
        let mut kids: Vec<&str> = set.by_kid.keys().map(|kid| &**kid).collect();
        kids.sort_unstable();
        kids
    }

    #[test]
    fn keys_that_sign_tokens_are_taken_and_others_left_out() {
        let strange = [
            with(ec("enc"), json!({"use": "enc"})),
            with(ec("ops"), json!({"use": null, "key_ops": ["sign"]})),
            with(ec("p384"), json!({"crv": "P-384"})),
            with(ec("secp256k1"), json!({"crv": "secp256k1"})),
            with(ec("short"), json!({"x": "AAAA"})),
            with(ec("no base64"), json!({"x": "???"})),
            with(ed("ed448"), json!({"crv": "Ed448"})),
            with(rsa("rs512"), json!({"alg": "RS512"})),
            with(rsa("oaep"), json!({"alg": "RSA-OAEP"})),
            with(rsa("weak"), json!({"n": "AQAB"})),
            json!({"kty": "AKP", "kid": "pq", "alg": "ML-DSA-44", "pub": "AAAA"}),
            json!({"kty": "oct", "kid": "secret", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}),
            json!({"kid": "nothing"}),
            json!(7),
        ];
        for key in &strange {
            let alone = parsed(std::slice::from_ref(key)).expect_err("it was taken");
            assert!(alone.contains("no key that can be used"), "{key}: {alone}");
        }
        let mut keys = strange.to_vec();
        keys.extend([
            ec("a"),
            rsa("b"),
            ed("c"),
            with(rsa("d"), json!({"alg": "RS256", "key_ops": ["verify"]})),
        ]);
        let set = parsed(&keys).unwrap();
        assert_eq!(kids(&set), ["a", "b", "c", "d"]);
        assert!(set.only.is_none());
        let only = parse(text(&keys).as_bytes(), &expected(), Some(Algorithm::EdDSA)).unwrap();
        assert_eq!(kids(&only), ["c"]);
        assert!(only.only.is_some());
    }

    #[test]
    fn sets_that_are_wrong_are_refused() {
        for (text, word) in [
            ("nonsense".to_owned(), "JWKS"),
            ("{}".to_owned(), "keys"),
            (text(&[]), "empty"),
            (text(&[ec("a"), rsa("a")]), "two keys"),
            (
                text(&[ec("a"), with(ec("b"), json!({"d": "AAAA"}))]),
                "private",
            ),
            (" ".repeat(300_000), "more than"),
        ] {
            let refused = parse(text.as_bytes(), &expected(), None).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn one_key_needs_no_kid_and_one_of_several_does() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let find = |keys: &[Value], kid| {
            std::fs::write(path.path(), text(keys)).unwrap();
            let set = Jwks::from_file(path.path(), expected(), None).unwrap();
            set.find(kid).map(|_| ())
        };
        assert_eq!(find(&[ec("a")], None), Ok(()));
        assert_eq!(find(&[with(ec("a"), json!({"kid": null}))], None), Ok(()));
        assert_eq!(find(&[ec("a"), rsa("b")], None), Err(NoKey::Unnamed));
        assert_eq!(find(&[ec("a"), rsa("b")], Some("b")), Ok(()));
    }

    /// Gives the same answer to every request, until another is set.
    struct Server {
        address: SocketAddr,
        answer: Arc<Mutex<String>>,
        hits: Arc<AtomicUsize>,
        is_over: Arc<AtomicBool>,
    }

    impl Server {
        fn new(answer: String) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = Self {
                address: listener.local_addr().unwrap(),
                answer: Arc::new(Mutex::new(answer)),
                hits: Arc::default(),
                is_over: Arc::default(),
            };
            let (answer, hits) = (server.answer.clone(), server.hits.clone());
            let is_over = server.is_over.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n")
                        && stream.read(&mut byte).is_ok_and(|n| n == 1)
                    {
                        head.extend(byte);
                    }
                    let answer = answer.lock().unwrap().clone();
                    hits.fetch_add(1, Ordering::SeqCst);
                    // Who has gone meanwhile does not hear it.
                    drop(stream.write_all(answer.as_bytes()));
                }
            });
            server
        }

        fn answer(&self, answer: String) {
            *self.answer.lock().unwrap() = answer;
        }

        fn hits(&self) -> usize {
            self.hits.load(Ordering::SeqCst)
        }

        fn url(&self) -> Uri {
            checked(&format!("http://{}/keys", self.address)).unwrap()
        }

        fn jwks(&self, every: Duration, at_most_every: Duration) -> Jwks {
            let pace = Pace {
                every,
                at_most_every,
            };
            let source = Source::Url(self.url());
            Jwks::begin(Shared::new(source, expected(), None, pace)).unwrap()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            self.is_over.store(true, Ordering::SeqCst);
            drop(TcpStream::connect(self.address));
        }
    }

    fn ok(body: &str) -> String {
        let bytes = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\nconnection: close\r\n\r\n{body}")
    }

    fn down() -> String {
        "HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < end, "{what}: not in {DEADLINE:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn readings(jwks: &Jwks) -> u64 {
        jwks.shared.lock().ended
    }

    #[test]
    fn without_keys_nobody_is_judged_and_they_come_when_the_url_answers() {
        let server = Server::new(down());
        let jwks = server.jwks(NEVER, SOON);
        jwks.wait_for_first_reading(DEADLINE);
        assert_eq!(jwks.find(Some("a")).err(), Some(NoKey::NotNow));
        assert_eq!(jwks.find(None).err(), Some(NoKey::NotNow));
        server.answer(ok(&text(&[ec("a")])));
        until("the keys are there", || jwks.find(Some("a")).is_ok());
    }

    #[test]
    fn the_old_set_stays_while_the_url_is_down_or_talks_nonsense() {
        let server = Server::new(ok(&text(&[ec("a")])));
        let jwks = server.jwks(SOON, SOON);
        until("the keys are there", || jwks.find(Some("a")).is_ok());
        for answer in [down(), ok("nonsense"), ok("{\"keys\":[]}"), String::new()] {
            server.answer(answer.clone());
            let before = readings(&jwks);
            until("it was read again", || readings(&jwks) > before + 2);
            assert!(jwks.find(Some("a")).is_ok(), "after {answer:?}");
            // What is new may be good: it cannot be known.
            assert_eq!(
                jwks.find(Some("b")).err(),
                Some(NoKey::NotNow),
                "after {answer:?}"
            );
        }
        server.answer(ok(&text(&[ec("b")])));
        until("the new key is there", || jwks.find(Some("b")).is_ok());
        assert_eq!(
            jwks.find(Some("a")).err(),
            Some(NoKey::NotNow),
            "it was taken out"
        );
        until("it is known to be out", || {
            jwks.find(Some("a")).err() == Some(NoKey::Unknown)
        });
    }

    #[test]
    fn a_new_kid_is_fetched_and_a_refused_one_is_not_fetched_again() {
        let server = Server::new(ok(&text(&[ec("a")])));
        let jwks = server.jwks(NEVER, SOON);
        until("the keys are there", || jwks.find(Some("a")).is_ok());
        assert_eq!(server.hits(), 1);
        server.answer(ok(&text(&[ec("a"), rsa("b")])));
        assert_eq!(jwks.find(Some("b")).err(), Some(NoKey::NotNow));
        until("the new key is there", || jwks.find(Some("b")).is_ok());
        until("a strange kid is refused", || {
            jwks.find(Some("x")).err() == Some(NoKey::Unknown)
        });
        // A question that was asked twice before the answer came is still on its way.
        let before = readings(&jwks);
        until("a last question is answered", || {
            jwks.find(Some("y")).err() == Some(NoKey::Unknown) && readings(&jwks) > before
        });
        for _ in 0..1000 {
            assert_eq!(jwks.find(Some("x")).err(), Some(NoKey::Unknown));
        }
        let hits = server.hits();
        assert!(hits <= 6, "{hits} fetches for three kids");
    }

    #[test]
    fn unknown_kids_are_fetched_at_most_so_often() {
        let server = Server::new(ok(&text(&[ec("a")])));
        let jwks = server.jwks(NEVER, NEVER);
        until("the keys are there", || jwks.find(Some("a")).is_ok());
        for number in 0..5000 {
            let kid = format!("kid {number}");
            assert_eq!(jwks.find(Some(&kid)).err(), Some(NoKey::NotNow));
        }
        assert_eq!(server.hits(), 1);
        let remembered = jwks.shared.lock().asked.len();
        assert_eq!(remembered, MAX_ASKED);
    }

    #[test]
    fn kids_that_have_had_their_answer_make_room() {
        let mut state = State::default();
        for number in 0..MAX_ASKED {
            assert_eq!(state.first_asked(&number.to_string()), Some(0));
        }
        assert_eq!(state.first_asked("more"), None);
        (state.begun, state.good) = (1, 1);
        assert_eq!(state.first_asked("more"), Some(1));
        assert_eq!(state.asked.len(), 1);
    }

    #[test]
    fn the_thread_ends_with_the_set() {
        let server = Server::new(ok(&text(&[ec("a")])));
        let jwks = server.jwks(NEVER, NEVER);
        until("the keys are there", || jwks.find(Some("a")).is_ok());
        let shared = Arc::downgrade(&jwks.shared);
        drop(jwks);
        until("nobody holds it", || shared.upgrade().is_none());
    }

    #[test]
    fn answers_that_are_too_long_or_lead_elsewhere_are_refused() {
        let other = Server::new(ok(&text(&[ec("a")])));
        let server = Server::new(String::new());
        let moved = format!(
            "HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            other.url()
        );
        for answer in [
            moved,
            ok(&" ".repeat(256 * 1024 + 1)),
            down(),
            "nonsense\r\n\r\n".to_owned(),
        ] {
            server.answer(answer.clone());
            let short: String = answer.chars().take(60).collect();
            assert!(
                fetch(&server.url(), PATIENCE, system_roots).is_err(),
                "{short:?} was taken"
            );
        }
        assert_eq!(other.hits(), 0, "it was led elsewhere");
        server.answer(ok(&" ".repeat(256 * 1024)));
        assert_eq!(
            fetch(&server.url(), PATIENCE, system_roots).unwrap().len(),
            256 * 1024
        );
    }

    #[test]
    fn an_answer_that_never_comes_is_given_up() {
        // Takes connections and says nothing.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = checked(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let refused = fetch(&url, Duration::from_millis(100), system_roots).unwrap_err();
        assert!(refused.contains("timeout"), "{refused}");
    }

    /// One connection by TLS, with a certificate of the tests' own authority. Gives its address.
    fn tls_server(answer: String) -> SocketAddr {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};

        let chain = CertificateDer::from_pem_slice(include_bytes!("testdata/server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/server-key.pem")).unwrap();
        let ring = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(ring)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let session = rustls::ServerConnection::new(Arc::new(config)).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            let mut head = [0; 4096];
            // Who does not trust it goes away here.
            if stream.read(&mut head).is_ok_and(|n| n > 0) {
                stream.write_all(answer.as_bytes()).unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            }
        });
        address
    }

    fn roots_of_the_tests() -> RootCerts {
        let ca = Certificate::from_pem(include_bytes!("testdata/ca.pem")).unwrap();
        RootCerts::new_with_certs(&[ca])
    }

    #[test]
    fn https_is_believed_where_its_certificate_is_trusted() {
        let set = text(&[ec("a")]);
        let url = |address| checked(&format!("https://{address}/keys")).unwrap();
        let trusted = fetch(&url(tls_server(ok(&set))), PATIENCE, roots_of_the_tests);
        assert_eq!(trusted.unwrap(), set.as_bytes());
        let foreign = fetch(&url(tls_server(ok(&set))), PATIENCE, system_roots).unwrap_err();
        assert!(foreign.contains("certificate"), "{foreign}");
    }

    #[test]
    fn only_the_own_machine_may_do_without_tls() {
        for good in [
            "https://id.example/keys",
            "http://localhost:8080/keys",
            "http://127.0.0.1/keys",
            "http://[::1]:80/keys",
        ] {
            checked(good).unwrap();
        }
        for bad in [
            "http://id.example/keys",
            "http://127.0.0.1.evil.example/",
            "http://localhost.evil.example/",
            "ftp://id.example/",
            "https://user:secret@id.example/",
            "/keys",
            "",
        ] {
            let refused = checked(bad).unwrap_err();
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
