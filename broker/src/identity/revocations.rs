//! What is revoked before its time: the form of one line, and the question whether an identity is covered by any. Owns what a revocation means;
//! where lines are kept is `authority`'s (a file of the configuration) and `kept`'s (the admin API).
//!
//! ```json
//! {"jti":"t-4711","issuer":"https://app.example","until":"2026-12-01T12:00:00Z"}
//! {"issuer":"https://app.example","subject":"ana","issued_before":"2026-11-30T12:00:00Z"}
//! {"key":"abcd2345"}                                   an API key
//! {"issuer":"https://app.example","key":"k1"}          all that this key (kid) has signed
//! {"certificate":"9f86d081884c7d65…"}                  SHA-256 of a client certificate
//! ```

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::api_keys;
use super::{Identity, Shown, Who};

/// The most bytes of a name in a line.
const MAX_NAME_BYTES: usize = 255;
/// What tokens say of when they were issued is in whole seconds.
const ISSUED_TO: Duration = Duration::from_secs(1);
/// So long after a subject is revoked, who comes with a token of that second is told to come back: with one of a later second, mostly.
const UNDECIDED: Duration = Duration::from_secs(2);
/// Hexadecimal digits of a SHA-256.
const FINGERPRINT_CHARS: usize = 64;

/// One line, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RevocationForm {
    /// Given by Hark, to lift it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) issued_before: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate: Option<String>,
    /// After this nothing that it covers can be valid: it may be forgotten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<Time>,
    /// When Hark took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Time>,
}

/// A time as people and programs write it: RFC 3339, or seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) SystemTime);

/// What one line covers.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Covered {
    /// Of that issuer, or of whichever.
    Token {
        issuer: Option<Box<str>>,
        jti: Box<str>,
    },
    Subject {
        who: Who,
        issued_before: SystemTime,
    },
    ApiKey(Box<str>),
    SigningKey {
        issuer: Box<str>,
        kid: Box<str>,
    },
    Certificate(Box<str>),
}

/// All that is revoked by some lines.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    tokens: HashMap<Box<str>, Vec<Option<Box<str>>>>,
    subjects: HashMap<Who, SystemTime>,
    api_keys: HashSet<Box<str>>,
    signing_keys: HashMap<Box<str>, HashSet<Box<str>>>,
    certificates: HashSet<Box<str>>,
}

impl RevocationForm {
    /// Whether it makes sense; the error is a sentence.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.covered().map(drop)
    }

    /// Whether nothing that it covers can be valid any more.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.until.is_some_and(|until| until.0 <= now)
    }

    /// Whether it says the same as `other`, whoever was told of it first.
    pub(super) fn says(&self, other: &Self) -> bool {
        let bare = |form: &Self| Self {
            id: None,
            made: None,
            ..form.clone()
        };
        bare(self) == bare(other)
    }

    /// For people: what is revoked.
    pub(crate) fn in_words(&self) -> String {
        let of_issuer = match &self.issuer {
            Some(issuer) => format!(" of {issuer}"),
            None => String::new(),
        };
        match (&self.jti, &self.subject, &self.key, &self.certificate) {
            (Some(jti), ..) => format!("the token {jti}{of_issuer}"),
            (_, Some(subject), ..) => {
                let before = self
                    .issued_before
                    .map(|time| format!(" issued before {time}"));
                format!("all of {subject}{of_issuer}{}", before.unwrap_or_default())
            }
            (_, _, Some(key), _) if self.issuer.is_some() => {
                format!("the signing key {key}{of_issuer}")
            }
            (_, _, Some(key), _) => format!("the API key {key}"),
            (_, _, _, Some(certificate)) => format!("the certificate {certificate}"),
            _ => "nothing".to_owned(),
        }
    }

    fn covered(&self) -> Result<Covered, String> {
        let names = [
            ("jti", &self.jti),
            ("issuer", &self.issuer),
            ("subject", &self.subject),
            ("key", &self.key),
            ("certificate", &self.certificate),
        ];
        for (name, value) in names {
            if value
                .as_ref()
                .is_some_and(|value| value.is_empty() || value.len() > MAX_NAME_BYTES)
            {
                return Err(format!("{name}: has 1 to {MAX_NAME_BYTES} bytes"));
            }
        }
        let boxed = |text: &str| -> Box<str> { text.into() };
        let issuer = self.issuer.as_deref();
        let covered = match (&self.jti, &self.subject, &self.key, &self.certificate) {
            (Some(jti), None, None, None) => Covered::Token {
                issuer: issuer.map(boxed),
                jti: boxed(jti),
            },
            (None, Some(subject), None, None) => {
                let issuer = issuer.ok_or("issuer: is missing; a subject is one of an issuer")?;
                let before = self.issued_before.ok_or(
                    "issued_before: is missing; give the time before which what was issued to the subject is revoked",
                )?;
                return Ok(Covered::Subject {
                    who: Who::new(issuer, subject),
                    issued_before: before.0,
                });
            }
            (None, None, Some(key), None) => match issuer {
                None | Some(api_keys::ISSUER) => Covered::ApiKey(boxed(key)),
                Some(issuer) => Covered::SigningKey {
                    issuer: boxed(issuer),
                    kid: boxed(key),
                },
            },
            (None, None, None, Some(certificate)) => {
                if issuer.is_some() {
                    return Err("issuer: does not go with certificate".to_owned());
                }
                Covered::Certificate(fingerprint(certificate)?)
            }
            _ => {
                return Err(
                    "needs exactly one of jti, subject (with issuer and issued_before), key, certificate"
                        .to_owned(),
                );
            }
        };
        match self.issued_before {
            Some(_) => Err("issued_before: goes with subject alone".to_owned()),
            None => Ok(covered),
        }
    }
}

/// As others write it too: capital digits, colons between.
fn fingerprint(text: &str) -> Result<Box<str>, String> {
    let digits: String = text.chars().filter(|&c| c != ':').collect();
    let is_one = digits.len() == FINGERPRINT_CHARS && digits.bytes().all(|c| c.is_ascii_hexdigit());
    match is_one {
        true => Ok(digits.to_ascii_lowercase().into()),
        false => Err(format!(
            "certificate: is not a SHA-256 of {FINGERPRINT_CHARS} hexadecimal digits"
        )),
    }
}

impl Revoked {
    /// What these lines say, but for those that are over.
    pub(super) fn of<'a>(
        lines: impl IntoIterator<Item = &'a RevocationForm>,
        now: SystemTime,
    ) -> Result<Self, String> {
        let mut revoked = Self::default();
        for line in lines {
            let covered = line.covered()?;
            if !line.is_over(now) {
                revoked.add(covered);
            }
        }
        Ok(revoked)
    }

    fn add(&mut self, covered: Covered) {
        match covered {
            Covered::Token { issuer, jti } => self.tokens.entry(jti).or_default().push(issuer),
            Covered::Subject { who, issued_before } => {
                let before = self.subjects.entry(who).or_insert(issued_before);
                *before = (*before).max(issued_before);
            }
            Covered::ApiKey(id) => drop(self.api_keys.insert(id)),
            Covered::SigningKey { issuer, kid } => {
                self.signing_keys.entry(issuer).or_default().insert(kid);
            }
            Covered::Certificate(fingerprint) => drop(self.certificates.insert(fingerprint)),
        }
    }

    /// Why this identity is refused, if it is.
    pub(super) fn covers(&self, identity: &Identity) -> Option<&'static str> {
        let who = identity.who();
        let by_what_was_shown = match &identity.0.shown {
            Shown::Nothing | Shown::ByProxy | Shown::Certificate(_) => false,
            Shown::Token(known) => {
                let is_of = |issuer: &Option<Box<str>>| {
                    issuer
                        .as_deref()
                        .is_none_or(|issuer| issuer == who.issuer())
                };
                let token = identity.token_id().and_then(|jti| self.tokens.get(jti));
                let kids = self.signing_keys.get(who.issuer());
                token.is_some_and(|issuers| issuers.iter().any(is_of))
                    || known
                        .kid()
                        .is_some_and(|kid| kids.is_some_and(|kids| kids.contains(kid)))
            }
            Shown::ApiKey(_) => identity
                .token_id()
                .is_some_and(|id| self.api_keys.contains(id)),
        };
        let by_certificate = identity
            .certificate()
            .is_some_and(|fingerprint| self.certificates.contains(fingerprint));
        if by_what_was_shown || by_certificate {
            return Some("what was shown is revoked");
        }
        let before = self.subjects.get(who)?;
        // What does not say when it was made may have been made before.
        let is_before = identity.issued_at().is_none_or(|issued| issued < *before);
        is_before.then_some("what was issued to this subject so far is revoked; get a new one")
    }
}

impl Revoked {
    /// Whether what was issued to a subject at this time may be newer than its revocation, which was just now: they are of the same second.
    pub(super) fn may_be_newer(
        &self,
        who: &Who,
        issued_at: Option<SystemTime>,
        now: SystemTime,
    ) -> bool {
        let (Some(&before), Some(issued)) = (self.subjects.get(who), issued_at) else {
            return false;
        };
        issued < before && before < issued + ISSUED_TO && now < before + UNDECIDED
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = Timestamp::try_from(self.0).unwrap_or(Timestamp::MAX);
        time.fmt(f)
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        /// The year 9999: what is later was meant in another unit.
        const LATEST_SECS: f64 = 253_402_300_800.0;
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self(time.into()));
        }
        match text.parse() {
            Ok(seconds @ 0.0..LATEST_SECS) => {
                Ok(Self(UNIX_EPOCH + Duration::from_secs_f64(seconds)))
            }
            _ => Err(format!(
                "{text:?} is no time such as 2026-01-31T12:00:00Z, nor seconds since 1970"
            )),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = match &value {
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        text.parse().map_err(D::Error::custom)
    }
}

/// The lines of a file: one a line, empty ones and those that begin with `#` left out. The error names the line.
pub(super) fn parse_lines(text: &str) -> Result<Vec<RevocationForm>, String> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let named = |error: String| format!("line {number}: {error}");
        let form: RevocationForm =
            serde_json::from_str(line).map_err(|error| named(error.to_string()))?;
        form.check().map_err(named)?;
        lines.push(form);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> String {
        parse_lines(&format!("# a file\n\n{line}\n")).unwrap_err()
    }

    #[test]
    fn a_line_says_one_thing_and_all_of_it() {
        for (line, part) in [
            ("{}", "exactly one of"),
            (r#"{"jti":"a","key":"b"}"#, "exactly one of"),
            (
                r#"{"subject":"ana","issued_before":1}"#,
                "issuer: is missing",
            ),
            (
                r#"{"subject":"ana","issuer":"i"}"#,
                "issued_before: is missing",
            ),
            (r#"{"jti":"a","issued_before":1}"#, "goes with subject"),
            (r#"{"jti":""}"#, "jti: has 1 to"),
            (r#"{"certificate":"abc"}"#, "SHA-256"),
            (r#"{"jti":"a","until":"tomorrow"}"#, "no time such as"),
            (r#"{"jti":"a","until":1e30}"#, "no time such as"),
            (r#"{"jtl":"a"}"#, "jtl"),
            ("jti", "line 3"),
        ] {
            let said = refused(line);
            assert!(
                said.contains("line 3") && said.contains(part),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn times_are_text_or_seconds_and_come_back_as_text() {
        let lines = parse_lines(
            "{\"jti\":\"a\",\"until\":1800000000}\n{\"jti\":\"a\",\"until\":\"2027-01-15T08:00:00Z\"}\n",
        );
        let lines = lines.unwrap();
        assert_eq!(lines[0], lines[1]);
        let text = serde_json::to_string(&lines[0]).unwrap();
        assert_eq!(text, r#"{"jti":"a","until":"2027-01-15T08:00:00Z"}"#);
        assert!(lines[0].is_over(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        assert!(!lines[0].is_over(UNIX_EPOCH + Duration::from_secs(1_799_999_999)));
    }

    #[test]
    fn a_fingerprint_is_known_however_it_is_written() {
        let plain = "ab".repeat(32);
        let colons = ["AB"; 32].join(":");
        assert_eq!(fingerprint(&plain), fingerprint(&colons));
        assert!(fingerprint(&plain[1..]).is_err());
    }
}
