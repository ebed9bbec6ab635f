//! Judges credentials: which identity a token or key stands for, and what it may do. Owns the order of the checks and what `auth.toml`
//! means; leaves tokens to `jwt`, keys to `api_keys`, the table of what is granted to `grants`.

use std::path::Path;
use std::time::{Duration, SystemTime};

use hark_protocol::{ErrorCode, TopicName, TopicPattern};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::api_keys::{self, ApiKeys};
use super::file::{self, AuthFile, IssuerForm, RuleForm, TopicForm};
use super::grants::{Added, Grants, Rights};
use super::jwks::Jwks;
use super::jwt::{Expected, Issuer, Key, Keys, MAX_SUBJECT_BYTES, Unverified};
use super::{Credential, Identity, Refusal, Who, ring_backend};
use crate::config;

/// How far the clocks of issuers may be off, where nothing is said.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// It is kept with each message of a subject.
const MAX_ISSUER_BYTES: usize = 255;
/// The algorithms that are taken, by their names in tokens.
const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// Judges credentials.
#[derive(Debug)]
pub(crate) struct Authority(Option<Configured>);

#[derive(Debug)]
struct Configured {
    issuers: Vec<Issuer>,
    api_keys: Option<ApiKeys>,
    rules: Vec<Rule>,
    /// In the order of the file: the first that matches a topic counts.
    topics: Vec<TopicRule>,
    anonymous: Identity,
}

/// What holds for the topics of a pattern.
#[derive(Debug)]
struct TopicRule {
    pattern: TopicPattern,
    tells_identity: bool,
}

#[derive(Debug)]
struct Rule {
    name: Option<String>,
    whose: Option<Whose>,
    rights: Rights,
}

/// Whom a rule is for.
#[derive(Debug)]
enum Whose {
    /// Also those without a credential.
    Everybody,
    EveryIdentity,
    /// All of one issuer.
    Issuer(Box<str>),
    One(Who),
}

/// Why a credential is judged as it is.
#[derive(Debug)]
pub(crate) struct Explanation {
    pub(crate) judgement: Result<Identity, Refusal>,
    /// One sentence for each rule, and for what was not believed.
    pub(crate) notes: Vec<String>,
}

impl Authority {
    /// No authentication is configured: anybody may everything, and a credential cannot be looked at.
    pub(crate) fn open() -> Self {
        Self(None)
    }

    /// Reads `auth.toml` and all that it names. The error is one sentence that names file and setting.
    pub(crate) fn load(path: &Path) -> Result<Self, String> {
        ring_backend::install();
        let form: AuthFile = file::parse(path, &file::read_bytes(path)?)?;
        let configured = Configured::load(form, path.parent().unwrap_or(Path::new("")));
        let configured = configured.map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(Some(configured)))
    }

    /// Who shows this, and what may they do? Quick: what has to be fetched is fetched elsewhere, and `busy` until then.
    pub(crate) fn judge(
        &self,
        credential: Credential<'_>,
        now: SystemTime,
    ) -> Result<Identity, Refusal> {
        match (&self.0, credential) {
            (None, Credential::None) => Ok(Identity::unrestricted()),
            // Whoever gives a token believes that it is looked at.
            (None, Credential::Bearer(_)) => Err(Refusal::new(
                ErrorCode::Unsupported,
                "no authentication is configured here, so that a token cannot be looked at; connect without one",
            )),
            (Some(configured), Credential::None) => Ok(configured.anonymous.clone()),
            (Some(configured), Credential::Bearer(token)) => {
                let judged = configured.judge(token, now)?;
                let grants = configured.grants(&judged, |_, _| ());
                Ok(judged.identity(grants))
            }
        }
    }

    /// Judges, and says why.
    pub(crate) fn explain(&self, credential: Credential<'_>, now: SystemTime) -> Explanation {
        let mut notes = Vec::new();
        let judgement = self.judge(credential, now);
        if let (Some(configured), Credential::Bearer(token)) = (&self.0, credential) {
            for issuer in &configured.issuers {
                if let Keys::Set(set) = &issuer.keys
                    && let Some(failure) = set.failure()
                {
                    notes.push(format!("[[issuer]] {:?}: {failure}", issuer.name));
                }
            }
            if let Ok(judged) = configured.judge(token, now) {
                notes.extend(judged.notes.iter().map(|note| (*note).to_owned()));
                configured.grants(&judged, |source, outcome| {
                    let outcome = match outcome {
                        Outcome::ForOthers => "for others",
                        Outcome::Applies(Added::All) => "applied",
                        Outcome::Applies(Added::SubjectDoesNotFit) => {
                            "gives nothing; the subject, put in for {sub}, is not exactly one legal segment of a topic's name"
                        }
                    };
                    notes.push(format!("{source}: {outcome}"));
                });
            }
        }
        Explanation { judgement, notes }
    }

    /// Whether readers of `topic` are told who published a message.
    pub(crate) fn tells_identity(&self, topic: &TopicName) -> bool {
        let mut rules = self.0.iter().flat_map(|configured| &configured.topics);
        let first = rules.find(|rule| rule.pattern.matches(topic));
        first.is_some_and(|rule| rule.tells_identity)
    }

    /// Waits until every set of keys has been read, or could not be. For those who ask once and go.
    pub(crate) fn wait_for_keys(&self, patience: Duration) {
        for issuer in self.0.iter().flat_map(|configured| &configured.issuers) {
            if let Keys::Set(set) = &issuer.keys {
                set.wait_for_first_reading(patience);
            }
        }
    }
}

/// A good credential, before the rules are asked.
struct Judged<'a> {
    who: Who,
    expires_at: Option<SystemTime>,
    token_id: Option<Box<str>>,
    issued_at: Option<SystemTime>,
    /// What the credential itself gives.
    own: Option<Rights>,
    /// The rules that it names.
    rules: &'a [String],
    notes: Vec<&'static str>,
}

/// What became of a rule.
#[derive(Clone, Copy)]
enum Outcome {
    ForOthers,
    Applies(Added),
}

impl Judged<'_> {
    fn identity(self, grants: Grants) -> Identity {
        Identity::new(
            self.who,
            grants,
            self.expires_at,
            self.token_id,
            self.issued_at,
        )
    }
}

impl Configured {
    fn load(form: AuthFile, dir: &Path) -> Result<Self, String> {
        let mut issuers = Vec::new();
        for form in &form.issuer {
            let issuer = issuer(form, dir);
            issuers.push(issuer.map_err(|error| format!("[[issuer]] {:?}: {error}", form.name))?);
        }
        let api_keys = match &form.api_keys {
            Some(form) => {
                let keys = ApiKeys::load(&dir.join(&form.file));
                Some(keys.map_err(|error| format!("[api_keys] file: {error}"))?)
            }
            None => None,
        };
        let mut rules: Vec<Rule> = Vec::new();
        for (number, form) in (1..).zip(form.rule) {
            let named = |error: String| format!("[[rule]] number {number}: {error}");
            let is_known = |name: &str| {
                issuers.iter().any(|issuer| *issuer.name == *name)
                    || (api_keys.is_some() && name == api_keys::ISSUER)
            };
            let has_identities = !issuers.is_empty() || api_keys.is_some();
            let rule = rule(form, has_identities, is_known).map_err(named)?;
            if rule.name.is_some() && rules.iter().any(|other| other.name == rule.name) {
                return Err(named("name: another rule has it already".to_owned()));
            }
            rules.push(rule);
        }
        for (id, key) in api_keys.iter().flat_map(ApiKeys::iter) {
            let is_known = |name: &&String| {
                let mut names = rules.iter().filter_map(|rule| rule.name.as_ref());
                !names.any(|known| known == *name)
            };
            if let Some(name) = key.rules.iter().find(is_known) {
                return Err(format!(
                    "[api_keys] file: the key {id:?} names a rule {name:?}, and no [[rule]] has that name"
                ));
            }
        }
        let mut topics: Vec<TopicRule> = Vec::new();
        for (number, form) in (1..).zip(&form.topic) {
            let rule = topic_rule(form, &topics);
            topics.push(rule.map_err(|error| format!("[[topic]] number {number}: {error}"))?);
        }
        let has_grants = issuers.iter().any(|issuer| issuer.grants_claim);
        if rules.is_empty() && !has_grants && api_keys.is_none() {
            return Err("nobody could do anything; add a [[rule]]".to_owned());
        }
        let mut configured = Self {
            issuers,
            api_keys,
            rules,
            topics,
            anonymous: Identity::new(Who::anonymous(), Grants::default(), None, None, None),
        };
        let nobody = Judged {
            who: Who::anonymous(),
            expires_at: None,
            token_id: None,
            issued_at: None,
            own: None,
            rules: &[],
            notes: Vec::new(),
        };
        let grants = configured.grants(&nobody, |_, _| ());
        configured.anonymous = nobody.identity(grants);
        Ok(configured)
    }

    fn judge(&self, shown: &str, now: SystemTime) -> Result<Judged<'_>, Refusal> {
        match shown.starts_with(api_keys::PREFIX) {
            true => self.judge_api_key(shown, now),
            false => self.judge_token(shown, now),
        }
    }

    fn judge_api_key(&self, shown: &str, now: SystemTime) -> Result<Judged<'_>, Refusal> {
        let keys = self.api_keys.as_ref().ok_or_else(|| {
            Refusal::unauthenticated("API keys are not taken here: [api_keys] is not configured")
        })?;
        let (id, key) = keys.verify(shown, now)?;
        Ok(Judged {
            who: key.who.clone(),
            expires_at: key.expires,
            token_id: Some(id.into()),
            issued_at: Some(key.made),
            own: Some(key.rights.clone()),
            rules: &key.rules,
            notes: Vec::new(),
        })
    }

    fn judge_token(&self, shown: &str, now: SystemTime) -> Result<Judged<'_>, Refusal> {
        let token = Unverified::read(shown)?;
        let mut refusal =
            Refusal::unauthenticated("the token's issuer (iss) is not one of those taken here");
        // An issuer may be there more than once, each time with another key.
        let issuers = self.issuers.iter();
        for issuer in issuers.filter(|issuer| *issuer.name == *token.issuer()) {
            match issuer.verify(&token, now) {
                Ok(verified) => {
                    return Ok(Judged {
                        who: verified.who,
                        expires_at: Some(verified.expires_at),
                        token_id: verified.token_id,
                        issued_at: verified.issued_at,
                        own: verified.rights,
                        rules: &[],
                        notes: verified.notes,
                    });
                }
                // What another key cannot judge yet may still be good.
                Err(_) if refusal.code == ErrorCode::Busy => {}
                Err(refused) => refusal = refused,
            }
        }
        Err(refusal)
    }

    /// What is granted: by the credential itself and by every rule that applies. `tell` hears what became of each.
    fn grants(&self, judged: &Judged<'_>, mut tell: impl FnMut(&str, Outcome)) -> Grants {
        let subject = (!judged.who.is_anonymous()).then(|| judged.who.subject());
        let mut grants = Grants::default();
        if let Some(own) = judged.own.as_ref().filter(|own| !own.is_nothing()) {
            let added = grants.add(own, subject);
            tell("own grants", Outcome::Applies(added));
        }
        for (number, rule) in (1..).zip(&self.rules) {
            let outcome = match rule.applies_to(&judged.who, judged.rules) {
                true => Outcome::Applies(grants.add(&rule.rights, subject)),
                false => Outcome::ForOthers,
            };
            tell(&format!("[[rule]] number {number}"), outcome);
        }
        grants
    }
}

impl Rule {
    fn applies_to(&self, who: &Who, named: &[String]) -> bool {
        let is_named = self.name.as_ref().is_some_and(|name| named.contains(name));
        is_named
            || match &self.whose {
                None => false,
                Some(Whose::Everybody) => true,
                Some(Whose::EveryIdentity) => !who.is_anonymous(),
                Some(Whose::Issuer(issuer)) => *who.issuer() == **issuer,
                Some(Whose::One(one)) => one == who,
            }
    }
}

fn issuer(form: &IssuerForm, dir: &Path) -> Result<Issuer, String> {
    if form.name.is_empty()
        || form
            .name
            .contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err("name: needs the `iss` of the tokens, which has no spaces".to_owned());
    }
    if form.name.len() > MAX_ISSUER_BYTES {
        return Err(format!("name: has at most {MAX_ISSUER_BYTES} bytes"));
    }
    if form.name == api_keys::ISSUER {
        return Err("name: that is what rules call the issuer of API keys".to_owned());
    }
    let audience = match (&form.audience, form.any_audience) {
        (Some(audience), false) if audience.is_empty() || audience.iter().any(String::is_empty) => {
            return Err("audience: needs at least one name, and none that is empty".to_owned());
        }
        (Some(audience), false) => Some(audience.clone()),
        (None, true) => None,
        (None, false) => {
            return Err(
                "audience: is missing; give what the tokens' `aud` says, or any_audience = true"
                    .to_owned(),
            );
        }
        (Some(_), true) => return Err("audience: goes without any_audience".to_owned()),
    };
    if form.admin_claim && !form.grants_claim {
        return Err("admin_claim: needs grants_claim = true".to_owned());
    }
    let expected = Expected {
        issuer: form.name.as_str().into(),
        audience,
    };
    Ok(Issuer {
        name: form.name.as_str().into(),
        keys: keys(form, dir, expected)?,
        leeway: leeway(form)?,
        grants_claim: form.grants_claim,
        admin_claim: form.admin_claim,
    })
}

fn leeway(form: &IssuerForm) -> Result<Duration, String> {
    let leeway = match form.leeway.as_deref() {
        None => DEFAULT_LEEWAY,
        Some("0s") => Duration::ZERO,
        Some(text) => config::duration(text).map_err(|error| format!("leeway: {error}"))?,
    };
    match leeway <= MAX_LEEWAY {
        true => Ok(leeway),
        false => Err("leeway: is 0s to 5m".to_owned()),
    }
}

fn keys(form: &IssuerForm, dir: &Path, expected: Expected) -> Result<Keys, String> {
    let algorithm = match form.algorithm.as_deref() {
        None => None,
        Some(name) => {
            let known = ALGORITHMS.iter().find(|(known, _)| *known == name);
            let known = known.ok_or_else(|| {
                format!("algorithm: {name:?} is not one of HS256, RS256, ES256, EdDSA")
            })?;
            Some(known.1)
        }
    };
    let needed = || "algorithm: is missing; give HS256, RS256, ES256 or EdDSA".to_owned();
    let is_secret = algorithm == Some(Algorithm::HS256);
    match (
        &form.key_file,
        &form.secret_file,
        &form.jwks_file,
        &form.jwks_url,
    ) {
        (Some(_), None, None, None) | (None, None, Some(_), None) | (None, None, None, Some(_))
            if is_secret =>
        {
            Err("algorithm: HS256 goes with secret_file alone".to_owned())
        }
        (Some(path), None, None, None) => {
            let algorithm = algorithm.ok_or_else(needed)?;
            let path = dir.join(path);
            let key = public_key(&path, algorithm)
                .and_then(|key| {
                    let key = Key::new(key, algorithm, &expected);
                    key.map_err(|error| format!("the key in {} {error}", path.display()))
                })
                .map_err(|error| format!("key_file: {error}"))?;
            Ok(Keys::One(key.into()))
        }
        (None, Some(path), None, None) => {
            match algorithm {
                None => return Err(needed()),
                Some(_) if !is_secret => {
                    return Err("algorithm: with secret_file it is HS256".to_owned());
                }
                Some(_) => {}
            }
            let path = dir.join(path);
            let key = secret(&path)
                .and_then(|secret| {
                    let unfit = |error: String| format!("the secret in {} {error}", path.display());
                    // An empty one is refused by the library itself.
                    let key = DecodingKey::from_secret(&secret)
                        .map_err(|_| unfit("is empty".to_owned()))?;
                    Key::new(key, Algorithm::HS256, &expected).map_err(unfit)
                })
                .map_err(|error| format!("secret_file: {error}"))?;
            Ok(Keys::One(key.into()))
        }
        (None, None, Some(path), None) => {
            let set = Jwks::from_file(&dir.join(path), expected, algorithm);
            Ok(Keys::Set(
                set.map_err(|error| format!("jwks_file: {error}"))?,
            ))
        }
        (None, None, None, Some(url)) => {
            let set = Jwks::from_url(url, expected, algorithm);
            Ok(Keys::Set(
                set.map_err(|error| format!("jwks_url: {error}"))?,
            ))
        }
        _ => Err("needs exactly one of key_file, secret_file, jwks_file, jwks_url".to_owned()),
    }
}

/// The public key in a PEM file.
fn public_key(path: &Path, algorithm: Algorithm) -> Result<DecodingKey, String> {
    let pem = file::read_bytes(path)?;
    let is_private = String::from_utf8_lossy(&pem).contains("PRIVATE KEY-----");
    if is_private {
        return Err(format!(
            "{0} holds a private key, which the broker does not need; make the public one with: openssl pkey -in {0} -pubout",
            path.display()
        ));
    }
    let readers = [
        DecodingKey::from_rsa_pem,
        DecodingKey::from_ec_pem,
        DecodingKey::from_ed_pem,
    ];
    // Whatever it is: that it does not fit the algorithm is said with the kind that it is.
    let key = readers.iter().find_map(|read| read(&pem).ok());
    key.ok_or_else(|| {
        format!(
            "{} holds no public key in PEM form (-----BEGIN PUBLIC KEY-----), which {algorithm:?} needs",
            path.display()
        )
    })
}

/// The secret in a file, which nobody else may read: all its bytes; of a text, without the end of its last line.
pub(crate) fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = file::read_private(path)?;
    let is_line_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let text_len = bytes
        .iter()
        .rposition(|byte| !is_line_end(byte))
        .map_or(0, |at| at + 1);
    // 32 random bytes are never all printable.
    if bytes
        .iter()
        .take(text_len)
        .all(|byte| matches!(byte, b' '..=b'~'))
    {
        bytes.truncate(text_len);
    }
    Ok(bytes)
}

fn rule(
    form: RuleForm,
    has_identities: bool,
    is_known: impl Fn(&str) -> bool,
) -> Result<Rule, String> {
    let rights = Rights::new(
        &form.publish,
        &form.subscribe,
        &form.manage,
        form.monitor,
        form.admin,
    )?;
    if rights.is_nothing() {
        return Err("grants nothing; give publish, subscribe, manage, monitor or admin".to_owned());
    }
    let never = |why: &str| Err(format!("who: can never match: {why}"));
    let whose = match form.who.as_deref() {
        None if form.name.is_none() => {
            return Err(
                "who: is missing; give \"*\", \"anonymous\" or \"ISSUER SUBJECT\", or a name that API keys refer to"
                    .to_owned(),
            );
        }
        None => None,
        Some("anonymous") => Some(Whose::Everybody),
        Some("*") => Some(Whose::EveryIdentity),
        Some(who) => match who.split_once(' ') {
            Some((issuer, _)) if !is_known(issuer) => {
                return never(&format!("{issuer:?} is no [[issuer]], and no API keys"));
            }
            Some((issuer, "*")) => Some(Whose::Issuer(issuer.into())),
            Some((_, subject)) if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES => {
                return never("a subject has 1 to 255 bytes");
            }
            Some((_, subject)) if !rights.fit(Some(subject)) => {
                return never(&format!(
                    "the subject {subject:?}, put in for {{sub}}, is not exactly one legal segment of a topic's name"
                ));
            }
            Some((issuer, subject)) => Some(Whose::One(Who::new(issuer, subject))),
            None => {
                return Err(format!(
                    "who: {who:?} is neither \"*\" nor \"anonymous\" nor \"ISSUER SUBJECT\""
                ));
            }
        },
    };
    let needs_identity = matches!(whose, Some(Whose::EveryIdentity)) || whose.is_none();
    if !has_identities && (needs_identity || !rights.fit(None)) {
        return never("nobody has an identity without an [[issuer]] or [api_keys]");
    }
    Ok(Rule {
        name: form.name,
        whose,
        rights,
    })
}

fn topic_rule(form: &TopicForm, before: &[TopicRule]) -> Result<TopicRule, String> {
    let pattern = TopicPattern::parse(&form.pattern)
        .map_err(|error| format!("pattern: {:?}: {error}", form.pattern))?;
    if before.iter().any(|rule| rule.pattern == pattern) {
        return Err(format!(
            "pattern: can never match: {:?} stands before, and the first that matches a topic counts",
            form.pattern
        ));
    }
    Ok(TopicRule {
        pattern,
        tells_identity: form.identity,
    })
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
