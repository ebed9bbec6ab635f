//! Tokens (JWT, RFC 7519): whether one is genuine, meant for this broker and in time, and what it says. Owns the order of the checks and
//! the sentences of refusal; leaves signatures to `jsonwebtoken` and sets of keys to `jwks`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Validation};
use ring::digest;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::api_keys;
use super::grants::Rights;
use super::jwks::{Jwks, NoKey};
use super::verified::VerifiedTokens;
use super::{Refusal, Who, ring_backend};

/// The most bytes of a token that anything is read of.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// The most bytes of a subject: as many as a topic's name may have.
pub(super) const MAX_SUBJECT_BYTES: usize = 255;
/// The most bytes of a `kid`: it is remembered.
const MAX_KID_BYTES: usize = 255;
/// A clock that shows less was never set (2026-01-01): what expires cannot be judged by it.
const CLOCK_IS_SET_FROM: Duration = Duration::from_secs(1_767_225_600);

const ANOTHER_AUDIENCE: &str = "the token is for others (aud) than this broker";

/// One whose tokens are taken.
#[derive(Debug)]
pub(super) struct Issuer {
    pub(super) name: Box<str>,
    pub(super) keys: Keys,
    pub(super) leeway: Duration,
    /// Whether the `hark` claim of its tokens is believed.
    pub(super) grants_claim: bool,
    /// Whether `admin` in it is.
    pub(super) admin_claim: bool,
}

#[derive(Debug)]
pub(super) enum Keys {
    /// Whatever `kid` a token names.
    One(Arc<Key>),
    Set(Arc<Jwks>),
}

/// What is remembered of a token once its signature has been found good, so that it can be judged again without it.
#[derive(Debug)]
pub(super) struct Known {
    claims: Claims,
    signed_by: Fingerprint,
    /// What the token called the key.
    kid: Option<Box<str>>,
}

impl Known {
    pub(super) fn new(claims: Claims, by: &Key, kid: Option<&str>) -> Self {
        Self {
            claims,
            signed_by: by.fingerprint.clone(),
            kid: kid.map(Into::into),
        }
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }
}

/// SHA-256 of a key with its algorithm: which one it was.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

/// A secret has one too.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

/// What a token was found to say.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) known: Arc<Known>,
    pub(super) who: Who,
    pub(super) expires_at: SystemTime,
    pub(super) token_id: Option<Box<str>>,
    pub(super) issued_at: Option<SystemTime>,
    /// By the `hark` claim, where it is believed.
    pub(super) rights: Option<Rights>,
    /// What the token says and is not believed.
    pub(super) notes: Vec<&'static str>,
}

impl Issuer {
    pub(super) fn verify(
        &self,
        token: &Unverified<'_>,
        verified: &VerifiedTokens,
        now: SystemTime,
    ) -> Result<Verified, Refusal> {
        let key = match &self.keys {
            Keys::One(key) => key.clone(),
            Keys::Set(set) => set
                .find(token.kid())
                .map_err(|no_key| self.refuse(no_key))?,
        };
        let known = verified.known(token.token, &key, || {
            Ok(Known::new(key.verify(token)?, &key, token.kid()))
        })?;
        self.read(known, now)
    }

    /// What a token that was verified before says under the keys and the rules of now.
    pub(super) fn again(&self, known: &Arc<Known>, now: SystemTime) -> Result<Verified, Refusal> {
        let key = match &self.keys {
            Keys::One(key) => Some(key.clone()).filter(|key| key.fingerprint == known.signed_by),
            Keys::Set(set) => set
                .of(&known.signed_by)
                .map_err(|no_key| self.refuse(no_key))?,
        };
        let key = key.ok_or_else(|| {
            Refusal::unauthenticated("the key that has signed the token is taken back")
        })?;
        if !key.is_for(&known.claims) {
            return Err(Refusal::unauthenticated(ANOTHER_AUDIENCE));
        }
        self.read(known.clone(), now)
    }

    fn read(&self, known: Arc<Known>, now: SystemTime) -> Result<Verified, Refusal> {
        let claims = &known.claims;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if now < CLOCK_IS_SET_FROM {
            return Err(Refusal::busy(
                "the clock of the broker's machine is not set, so that no token can be judged; try again later",
            ));
        }
        let ends = claims.exp.0 + self.leeway;
        if now >= ends {
            return Err(Refusal::unauthenticated(format!(
                "the token has expired {} ago; get a new one",
                rough(now.saturating_sub(claims.exp.0))
            )));
        }
        let begins = claims.nbf.map(|nbf| nbf.0.saturating_sub(self.leeway));
        if let Some(early) = begins.and_then(|begins| begins.checked_sub(now))
            && !early.is_zero()
        {
            return Err(Refusal::unauthenticated(format!(
                "the token is not valid yet (nbf), for another {}; are the clocks set?",
                rough(early)
            )));
        }
        if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT_BYTES {
            return Err(Refusal::unauthenticated(format!(
                "the token's subject (sub) has {} bytes; it needs 1 to {MAX_SUBJECT_BYTES}",
                claims.sub.len()
            )));
        }
        let mut notes = Vec::new();
        let rights = match &claims.hark {
            Some(claim) if self.grants_claim => Some(self.rights(claim, &mut notes)?),
            Some(_) => {
                notes.push("the token's claim `hark` is not believed: its issuer has no grants_claim = true");
                None
            }
            None => None,
        };
        Ok(Verified {
            who: Who::new(&self.name, &claims.sub),
            expires_at: UNIX_EPOCH + ends,
            token_id: claims.jti.as_deref().map(Into::into),
            issued_at: claims.iat.map(|iat| UNIX_EPOCH + iat.0),
            rights,
            notes,
            known,
        })
    }

    /// A claim that cannot be read in full gives nothing: what is not understood might have been a restriction.
    fn rights(&self, claim: &Value, notes: &mut Vec<&'static str>) -> Result<Rights, Refusal> {
        let claim = GrantsClaim::deserialize(claim).map_err(|error| error.to_string());
        let rights = claim.and_then(|claim| {
            if claim.admin && !self.admin_claim {
                notes.push("`admin` in the token's claim `hark` is not believed: its issuer has no admin_claim = true");
            }
            Rights::new(
                &claim.publish,
                &claim.subscribe,
                &claim.manage,
                claim.monitor,
                claim.admin && self.admin_claim,
            )
        });
        rights.map_err(|error| {
            Refusal::unauthenticated(format!("the token's claim `hark` cannot be read: {error}"))
        })
    }

    fn refuse(&self, no_key: NoKey) -> Refusal {
        match no_key {
            NoKey::NotNow => Refusal::busy(format!(
                "the keys of the token's issuer ({}) are being read; try again in a moment",
                self.name
            )),
            NoKey::Unknown => Refusal::unauthenticated(format!(
                "the token's issuer ({}) has no key of this kid",
                self.name
            )),
            NoKey::Unnamed => Refusal::unauthenticated(format!(
                "the token names no key (kid), and its issuer ({}) has more than one",
                self.name
            )),
        }
    }
}

/// A token of which nothing is verified, taken apart so far that its key can be looked for.
pub(super) struct Unverified<'a> {
    token: &'a str,
    header: HeaderForm,
    issuer: String,
}

#[derive(Deserialize)]
struct HeaderForm {
    alg: String,
    kid: Option<String>,
}

#[derive(Deserialize)]
struct IssuerClaim {
    iss: Option<String>,
}

impl<'a> Unverified<'a> {
    pub(super) fn read(token: &'a str) -> Result<Self, Refusal> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refusal::unauthenticated(format!(
                "the token has {} bytes; at most {MAX_TOKEN_BYTES} are read",
                token.len()
            )));
        }
        let mut parts = token.split('.');
        let (Some(header), Some(claims), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::unauthenticated(
                "the token is neither a JWT of three parts nor an API key of Hark",
            ));
        };
        let header: HeaderForm = part(header, "header")?;
        if header
            .kid
            .as_ref()
            .is_some_and(|kid| kid.len() > MAX_KID_BYTES)
        {
            return Err(Refusal::unauthenticated(format!(
                "the token's kid has more than {MAX_KID_BYTES} bytes"
            )));
        }
        let claims: IssuerClaim = part(claims, "claims")?;
        let issuer = claims.iss.ok_or_else(|| {
            Refusal::unauthenticated("the token does not say who issued it (iss)")
        })?;
        Ok(Self {
            token,
            header,
            issuer,
        })
    }

    /// Who it says has issued it. Only to find the key with.
    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }
}

/// Never the token.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").finish_non_exhaustive()
    }
}

/// The claims of a token of which nothing is verified, for people to look at.
pub(crate) fn unverified_parts(
    token: &str,
) -> Result<[serde_json::Map<String, Value>; 2], Refusal> {
    Unverified::read(token)?;
    let mut parts = token.split('.');
    let mut next = |name| part(parts.next().unwrap_or_default(), name);
    Ok([next("header")?, next("claims")?])
}

/// What a credential calls itself, for logs, and nothing that could be shown in its place: issuer and `kid` of a token, or the id of an API
/// key. Anybody may have written them.
pub(crate) fn unverified_names(shown: &str) -> Option<(String, Option<String>)> {
    if shown.starts_with(api_keys::PREFIX) {
        let id = api_keys::id_of(shown)?;
        return Some((api_keys::ISSUER.to_owned(), Some(id.to_owned())));
    }
    let token = Unverified::read(shown).ok()?;
    let kid = token.kid().map(str::to_owned);
    Some((token.issuer, kid))
}

fn part<T: DeserializeOwned>(encoded: &str, name: &str) -> Result<T, Refusal> {
    let bytes = URL_SAFE_NO_PAD.decode(encoded).ok();
    let read = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    read.ok_or_else(|| Refusal::unauthenticated(format!("the token's {name} cannot be read")))
}

/// What the tokens of one issuer must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) issuer: Box<str>,
    /// One of these. None: the audience is not looked at.
    pub(super) audience: Option<Vec<String>>,
}

/// A key with the one algorithm that it is for, and with what its tokens must say.
pub(super) struct Key {
    key: DecodingKey,
    algorithm: Algorithm,
    validation: Validation,
    pub(super) fingerprint: Fingerprint,
}

impl Key {
    /// The error is the end of a sentence about the key.
    pub(super) fn new(
        key: DecodingKey,
        algorithm: Algorithm,
        expected: &Expected,
    ) -> Result<Self, String> {
        ring_backend::check(algorithm, &key)?;
        let mut validation = Validation::new(algorithm);
        // Times are looked at here, by the clock that is given.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_issuer(&[&expected.issuer]);
        let mut required = vec!["iss", "sub", "exp"];
        match &expected.audience {
            Some(audience) => {
                validation.set_audience(audience);
                // One that is absent would pass otherwise.
                required.push("aud");
            }
            None => validation.validate_aud = false,
        }
        validation.set_required_spec_claims(&required);
        Ok(Self {
            fingerprint: fingerprint(&key, algorithm),
            key,
            algorithm,
            validation,
        })
    }

    /// Whether the audience of these claims is one that is expected of its tokens.
    fn is_for(&self, claims: &Claims) -> bool {
        let Some(expected) = &self.validation.aud else {
            return true;
        };
        let is_expected = |name: &Value| name.as_str().is_some_and(|name| expected.contains(name));
        match &claims.aud {
            Some(Value::Array(names)) => names.iter().any(is_expected),
            Some(name) => is_expected(name),
            None => false,
        }
    }

    fn verify(&self, token: &Unverified<'_>) -> Result<Claims, Refusal> {
        // By name, since the backend's list of algorithms is longer than Hark's.
        if token.header.alg != format!("{:?}", self.algorithm) {
            return Err(Refusal::unauthenticated(format!(
                "the token is not signed by the algorithm of its issuer's key, {:?}",
                self.algorithm
            )));
        }
        let decoded = jsonwebtoken::decode::<Claims>(token.token, &self.key, &self.validation);
        decoded.map(|decoded| decoded.claims).map_err(|error| {
            Refusal::unauthenticated(match error.kind() {
                ErrorKind::InvalidSignature => {
                    "the token's signature is not that of its issuer's key".to_owned()
                }
                ErrorKind::InvalidAudience => ANOTHER_AUDIENCE.to_owned(),
                ErrorKind::InvalidIssuer => "the token is of another issuer (iss)".to_owned(),
                ErrorKind::MissingRequiredClaim(claim) => {
                    format!("the token has no {claim}, or none that can be read")
                }
                ErrorKind::InvalidClaimFormat(claim) => {
                    format!("the token's {claim} cannot be read")
                }
                // Of the token's own text nothing is said again.
                ErrorKind::Json(_) => {
                    "the token's claims cannot be read: sub, jti are texts, exp, nbf, iat seconds since 1970"
                        .to_owned()
                }
                _ => "the token cannot be read".to_owned(),
            })
        })
    }
}

fn fingerprint(key: &DecodingKey, algorithm: Algorithm) -> Fingerprint {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(format!("{algorithm:?}\n").as_bytes());
    match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => hash.update(bytes),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            hash.update(n);
            hash.update(b"\n");
            hash.update(e);
        }
    }
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(hash.finish().as_ref());
    Fingerprint(fingerprint)
}

/// Never the key itself.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// What a token says whose signature is good.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    sub: String,
    aud: Option<Value>,
    exp: NumericDate,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    jti: Option<String>,
    hark: Option<Value>,
}

/// The claim `hark`.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct GrantsClaim {
    publish: Vec<String>,
    subscribe: Vec<String>,
    manage: Vec<String>,
    monitor: bool,
    admin: bool,
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
#[derive(Clone, Copy, Debug)]
struct NumericDate(Duration);

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The year 9999: what is later was meant in another unit.
        const LATEST_SECS: f64 = 253_402_300_800.0;
        let seconds = f64::deserialize(deserializer)?;
        match seconds {
            0.0..LATEST_SECS => Ok(Self(Duration::from_secs_f64(seconds))),
            _ => Err(D::Error::custom("no time in seconds since 1970")),
        }
    }
}

/// For people: how long, in the unit that fits.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        secs @ 0..120 => format!("{secs} s"),
        secs @ 120..7200 => format!("{} min", secs / 60),
        secs @ 7200..172_800 => format!("{} h", secs / 3600),
        secs => format!("{} days", secs / 86400),
    }
}
