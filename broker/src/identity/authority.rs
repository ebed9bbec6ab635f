//! Judges credentials: which identity a token or key stands for, and what it may do. Owns the order of the checks and what `auth.toml`
//! means, which is read anew as a whole; leaves tokens to `jwt`, keys to `api_keys`, the table of what is granted to `grants`, what is
//! revoked to `revocations`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

use hark_protocol::{ErrorCode, TopicName, TopicPattern};
use jsonwebtoken::{Algorithm, DecodingKey};

use super::api_keys::{self, ApiKey, ApiKeys};
use super::file::{self, AuthFile, CookieForm, IssuerForm, RuleForm, TopicForm};
use super::grants::{Added, Grants, Rights};
use super::jwks::Jwks;
use super::jwt::{Expected, Issuer, Key, Keys, MAX_SUBJECT_BYTES, Unverified, Verified};
use super::kept::Kept;
use super::proxy::ProxyIdentity;
use super::revocations::{RevocationForm, Revoked, parse_lines};
use super::standing::{Changes, Standing};
use super::verified::VerifiedTokens;
use super::{Act, Credential, Identity, Inner, MayAdmin, Refusal, Shown, Who, ring_backend};
use crate::certificate::Certificate;
use crate::config;

/// How far the clocks of issuers may be off, where nothing is said.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);
/// What rules call the issuer of client certificates, where nothing is said.
const CERTIFICATES: &str = "client-certificate";
/// It is kept with each message of a subject.
pub(super) const MAX_ISSUER_BYTES: usize = 255;
/// The algorithms that are taken, by their names in tokens.
const ALGORITHMS: [(&str, Algorithm); 4] = [
    ("HS256", Algorithm::HS256),
    ("RS256", Algorithm::RS256),
    ("ES256", Algorithm::ES256),
    ("EdDSA", Algorithm::EdDSA),
];

/// How long a set of keys that a configuration names anew may take to be fetched before it is in force without.
const KEYS_PATIENCE: Duration = Duration::from_secs(6);

/// Judges credentials.
#[derive(Debug)]
pub(crate) struct Authority(Option<Arc<Live>>);

/// What credentials are judged by, while it changes.
#[derive(Debug)]
pub(super) struct Live {
    file: PathBuf,
    changes: Changes,
    configured: RwLock<Arc<Configured>>,
    /// By the admin API; whoever changes it has the lock until it is written.
    kept: Mutex<Option<Kept>>,
    /// What `kept` says.
    revoked: RwLock<Revoked>,
    itself: Weak<Self>,
}

/// What `auth.toml` says, with all that it names.
#[derive(Debug)]
struct Configured {
    issuers: Vec<Issuer>,
    verified: VerifiedTokens,
    api_keys: Option<ApiKeys>,
    cookie: Option<Arc<str>>,
    proxy: Option<ProxyIdentity>,
    /// What the issuer of client certificates is called, where they say who somebody is.
    certificates: Option<Box<str>>,
    rules: Vec<Rule>,
    /// In the order of the file: the first that matches a topic counts.
    topics: Vec<TopicRule>,
    revoked: Revoked,
    anonymous: OnceLock<Identity>,
    /// What it was read from beside `auth.toml`.
    files: Vec<PathBuf>,
}

/// What was read anew, and is not in force yet.
#[derive(Debug)]
pub(crate) struct ReadAgain {
    live: Arc<Live>,
    configured: Configured,
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
        let configured = Configured::read(path, None)?;
        Ok(Self(Some(Arc::new_cyclic(|itself| Live {
            file: path.to_owned(),
            changes: Changes::default(),
            configured: RwLock::new(Arc::new(configured)),
            kept: Mutex::default(),
            revoked: RwLock::default(),
            itself: itself.clone(),
        }))))
    }

    /// From now on what `kept` says is revoked too.
    pub(crate) fn keeps(&self, kept: Kept) -> Result<(), String> {
        let Some(live) = &self.0 else {
            return Ok(());
        };
        *write(&live.revoked) = Revoked::of(kept.lines(), SystemTime::now())?;
        *live.kept() = Some(kept);
        live.changes.count_one();
        Ok(())
    }

    /// Makes the file of what was revoked by hand where it is missing. `is_new`: so is its directory.
    pub(crate) fn begin_to_keep(&self, is_new: bool) -> Result<(), String> {
        let Some(live) = &self.0 else {
            return Ok(());
        };
        let mut kept = live.kept();
        kept.as_mut().map_or(Ok(()), |kept| kept.begin(is_new))
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
            (None, Credential::Bearer(_) | Credential::Proxy(_)) => Err(unsupported()),
            // Whoever comes in with one has been let in by the listener; that is all it is for.
            (None, Credential::Certificate(_)) => Ok(Identity::unrestricted()),
            (Some(live), credential) => live.judge(credential, now),
        }
    }

    /// Whether a token lets its bearer read this topic, by its own claim: the identity that may read it, and nothing else.
    pub(crate) fn judge_for_topic(
        &self,
        token: &str,
        topic: &TopicName,
        now: SystemTime,
    ) -> Result<Identity, Refusal> {
        let live = self.0.as_ref().ok_or_else(unsupported)?;
        if token.starts_with(api_keys::PREFIX) {
            return Err(Refusal::unauthenticated(
                "a token for one topic is a JWT that the back end has signed, and no API key",
            ));
        }
        let changes = live.changes.so_far();
        let configured = live.configured();
        let judged = configured.judge_token(token, now)?;
        live.settle_shown(&configured, judged, Some(topic), changes, now)
    }

    /// The cookie in which browsers bring a token.
    pub(crate) fn cookie(&self) -> Option<Arc<str>> {
        self.0.as_ref()?.configured().cookie.clone()
    }

    /// The header by which a declared proxy says whom it has let in.
    pub(crate) fn proxy_header(&self) -> Option<Arc<str>> {
        Some(self.0.as_ref()?.configured().proxy.as_ref()?.header())
    }

    /// Judges, and says why.
    pub(crate) fn explain(&self, credential: Credential<'_>, now: SystemTime) -> Explanation {
        let mut notes = Vec::new();
        let judgement = self.judge(credential, now);
        if let (Some(live), Credential::Bearer(token)) = (&self.0, credential) {
            let configured = live.configured();
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

    /// Whether a client certificate says who somebody is.
    pub(crate) fn takes_certificates(&self) -> bool {
        let live = self.0.as_ref();
        live.is_none_or(|live| live.configured().certificates.is_some())
    }

    /// Whether readers of `topic` are told who published a message.
    pub(crate) fn tells_identity(&self, topic: &TopicName) -> bool {
        let Some(live) = &self.0 else { return false };
        let configured = live.configured();
        let mut rules = configured.topics.iter();
        let first = rules.find(|rule| rule.pattern.matches(topic));
        first.is_some_and(|rule| rule.tells_identity)
    }

    /// Waits until every set of keys has been read, or could not be. For those who ask once and go.
    pub(crate) fn wait_for_keys(&self, patience: Duration) {
        if let Some(live) = &self.0 {
            live.configured().wait_for_keys(patience);
        }
    }

    /// Every file that it was read from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Some(live) = &self.0 else {
            return Vec::new();
        };
        let mut files = vec![live.file.clone()];
        files.extend(live.configured().files.iter().cloned());
        files
    }

    /// Reads all of it anew, and puts nothing of it in force. None: there is nothing to read.
    pub(crate) fn read_again(&self) -> Result<Option<ReadAgain>, String> {
        let Some(live) = &self.0 else {
            return Ok(None);
        };
        let configured = Configured::read(&live.file, Some(&live.configured()))?;
        // Those that are fetched from elsewhere may be new. Who was good must not be told to wait.
        configured.wait_for_keys(KEYS_PATIENCE);
        Ok(Some(ReadAgain {
            live: live.clone(),
            configured,
        }))
    }

    /// How many sets of keys were read so far: where there are more than before, identities have to be judged again.
    pub(crate) fn sets_taken(&self) -> u64 {
        let Some(live) = &self.0 else { return 0 };
        let configured = live.configured();
        let sets = configured.issuers.iter();
        let sets = sets.filter_map(|issuer| match &issuer.keys {
            Keys::Set(set) => Some(set.taken()),
            Keys::One(_) => None,
        });
        sets.sum()
    }

    /// Whoever was judged is to be judged again.
    pub(crate) fn keys_have_changed(&self) {
        if let Some(live) = &self.0 {
            live.changes.count_one();
        }
    }

    /// Revokes, from now on and across restarts. It blocks: the line is on the disk before it is answered.
    pub(crate) fn revoke(
        &self,
        _: &MayAdmin,
        line: RevocationForm,
    ) -> Result<RevocationForm, Refusal> {
        let now = SystemTime::now();
        self.change_kept(|kept| kept.add(line, now))
    }

    /// Lifts what was revoked by the admin API: gives it, if there was such a one.
    pub(crate) fn lift(&self, _: &MayAdmin, id: &str) -> Result<Option<RevocationForm>, Refusal> {
        self.change_kept(|kept| Ok(kept.lift(id)))
    }

    /// Up to `limit` of what was revoked by the admin API, behind the id `after`.
    pub(crate) fn revoked(
        &self,
        _: &MayAdmin,
        after: &str,
        limit: usize,
    ) -> Result<Vec<RevocationForm>, Refusal> {
        let live = self.0.as_ref().ok_or_else(nothing_to_revoke)?;
        let kept = live.kept();
        let kept = kept.as_ref().ok_or_else(nothing_to_revoke)?;
        Ok(kept.page(after, limit))
    }

    fn change_kept<T>(
        &self,
        change: impl FnOnce(&mut Kept) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let live = self.0.as_ref().ok_or_else(nothing_to_revoke)?;
        let mut kept = live.kept();
        let kept = kept.as_mut().ok_or_else(nothing_to_revoke)?;
        let changed = change(kept)?;
        let internal = |error| Refusal::new(ErrorCode::Internal, error);
        let revoked = Revoked::of(kept.lines(), SystemTime::now()).map_err(internal)?;
        // In force first: what cannot be written must not go on either.
        *write(&live.revoked) = revoked;
        live.changes.count_one();
        kept.write().map_err(|error| {
            internal(format!(
                "it is in force now, and gone when hark starts anew, since it cannot be kept: {error}; ask again when that is mended"
            ))
        })?;
        Ok(changed)
    }
}

fn nothing_to_revoke() -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        "no authentication is configured here, so that there is nothing to revoke; start hark with --auth",
    )
}

impl ReadAgain {
    /// Puts it in force.
    pub(crate) fn take_force(self) {
        *write(&self.live.configured) = Arc::new(self.configured);
        self.live.changes.count_one();
    }
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    fn configured(&self) -> Arc<Configured> {
        read(&self.configured).clone()
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, credential: Credential<'_>, now: SystemTime) -> Result<Identity, Refusal> {
        // Counted before anything is looked at: what changes meanwhile has it judged again.
        let changes = self.changes.so_far();
        let configured = self.configured();
        match credential {
            Credential::None => Ok(self.anonymous(&configured, changes)),
            Credential::Bearer(token) => {
                let judged = configured.judge(token, now)?;
                self.settle_shown(&configured, judged, None, changes, now)
            }
            Credential::Certificate(certificate) => {
                match configured.by_certificate(certificate, now)? {
                    Some(judged) => self.settle(&configured, judged, None, changes),
                    None => Ok(self.anonymous(&configured, changes)),
                }
            }
            Credential::Proxy(subject) => {
                let judged = configured.by_proxy(subject)?;
                self.settle(&configured, judged, None, changes)
            }
        }
    }

    /// Judges somebody who was found good before, without what was shown.
    pub(super) fn again(&self, identity: &Identity, now: SystemTime) -> Result<Identity, Refusal> {
        let changes = self.changes.so_far();
        let configured = self.configured();
        match configured.again(identity, now) {
            Ok(Some(judged)) => self.settle(&configured, judged, identity.0.only.as_ref(), changes),
            Ok(None) => Ok(self.anonymous(&configured, changes)),
            // Whoever cannot be judged just now stays what it was: unless it is revoked, which takes no keys to know.
            Err(refusal) if refusal.code == ErrorCode::Busy => {
                self.check_revoked(&configured, identity)?;
                Err(refusal)
            }
            Err(refusal) => Err(refusal),
        }
    }

    fn settle(
        &self,
        configured: &Configured,
        judged: Judged<'_>,
        only: Option<&TopicName>,
        changes: u64,
    ) -> Result<Identity, Refusal> {
        let identity = self.granted(configured, judged, only, changes)?;
        self.check_revoked(configured, &identity)?;
        Ok(identity)
    }

    /// Settles who shows a token just now. What was issued in the very second of its subject's revocation may be newer: it is let in by nothing,
    /// and its client told to come back, with another by then.
    fn settle_shown(
        &self,
        configured: &Configured,
        judged: Judged<'_>,
        only: Option<&TopicName>,
        changes: u64,
        now: SystemTime,
    ) -> Result<Identity, Refusal> {
        let identity = self.granted(configured, judged, only, changes)?;
        let checked = self.check_revoked(configured, &identity);
        checked.map_err(|refusal| {
            let (who, issued_at) = (identity.who(), identity.issued_at());
            let may_be_newer = |revoked: &Revoked| revoked.may_be_newer(who, issued_at, now);
            match may_be_newer(&configured.revoked) || may_be_newer(&read(&self.revoked)) {
                true => Refusal::new(
                    ErrorCode::Busy,
                    "what was issued to this subject was revoked in the very second of this token; come back with a new one",
                ),
                false => refusal,
            }
        })?;
        Ok(identity)
    }

    fn granted(
        &self,
        configured: &Configured,
        judged: Judged<'_>,
        only: Option<&TopicName>,
        changes: u64,
    ) -> Result<Identity, Refusal> {
        let grants = match only {
            Some(topic) => judged.grants_of_its_own(topic)?,
            None => configured.grants(&judged, |_, _| ()),
        };
        Ok(judged.identity(grants, only.cloned(), self.standing(changes)))
    }

    fn check_revoked(&self, configured: &Configured, identity: &Identity) -> Result<(), Refusal> {
        let by_file = configured.revoked.covers(identity);
        match by_file.or_else(|| read(&self.revoked).covers(identity)) {
            Some(reason) => Err(Refusal::unauthenticated(reason)),
            None => Ok(()),
        }
    }

    fn standing(&self, changes: u64) -> Standing {
        Standing::new(&self.changes, changes, self.itself.clone())
    }

    /// All of them are one.
    fn anonymous(&self, configured: &Configured, changes: u64) -> Identity {
        let settled = configured.anonymous.get_or_init(|| {
            let nobody = Judged::without_end(Who::anonymous(), Shown::Nothing);
            let grants = configured.grants(&nobody, |_, _| ());
            nobody.identity(grants, None, self.standing(changes))
        });
        settled.clone()
    }
}

/// Whoever gives a token believes that it is looked at.
fn unsupported() -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        "no authentication is configured here, so that a token cannot be looked at; connect without one",
    )
}

/// A good credential, before the rules are asked.
struct Judged<'a> {
    who: Who,
    expires_at: Option<SystemTime>,
    token_id: Option<Box<str>>,
    issued_at: Option<SystemTime>,
    shown: Shown,
    /// What the credential itself gives.
    own: Option<Rights>,
    /// The rules that it names.
    rules: &'a [String],
    notes: Vec<&'static str>,
}

/// Where a grant stands. Put in words only for those who ask: this is settled for each request.
#[derive(Clone, Copy)]
enum Source {
    Own,
    /// By its place in the file, from 1.
    Rule(usize),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("own grants"),
            Self::Rule(number) => write!(f, "[[rule]] number {number}"),
        }
    }
}

/// What became of a rule.
#[derive(Clone, Copy)]
enum Outcome {
    ForOthers,
    Applies(Added),
}

impl Judged<'_> {
    /// Somebody who has shown no token that says more.
    fn without_end(who: Who, shown: Shown) -> Self {
        Self {
            who,
            expires_at: None,
            token_id: None,
            issued_at: None,
            shown,
            own: None,
            rules: &[],
            notes: Vec::new(),
        }
    }

    /// The same, as long as it stands for who it stood for before.
    fn if_still(self, identity: &Identity, for_another: &str) -> Result<Self, Refusal> {
        match self.who == *identity.who() {
            true => Ok(self),
            false => Err(Refusal::unauthenticated(for_another)),
        }
    }

    /// What it gives by itself for this topic, where rules do not count.
    fn grants_of_its_own(&self, topic: &TopicName) -> Result<Grants, Refusal> {
        let mut grants = Grants::default();
        if let Some(own) = &self.own {
            grants.add(own, Some(self.who.subject()));
        }
        match grants.may(Act::Subscribe, topic) {
            true => Ok(Grants::to_read(topic)),
            false => Err(Refusal::new(
                ErrorCode::Forbidden,
                format!(
                    "the token does not let its bearer read {topic}: its claim `hark` needs {{\"subscribe\": [\"{topic}\"]}}, and its issuer \
                     grants_claim = true"
                ),
            )),
        }
    }

    fn identity(self, grants: Grants, only: Option<TopicName>, standing: Standing) -> Identity {
        Identity(Arc::new(Inner {
            who: self.who,
            only,
            grants,
            expires_at: self.expires_at,
            token_id: self.token_id,
            issued_at: self.issued_at,
            shown: self.shown,
            standing: Some(standing),
        }))
    }
}

impl Configured {
    /// Reads `auth.toml` and all that it names. Sets of keys that are fetched go on where `before` has the same.
    fn read(path: &Path, before: Option<&Self>) -> Result<Self, String> {
        let form: AuthFile = file::parse(path, &file::read_bytes(path)?)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let configured = Self::load(form, dir, before);
        configured.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn load(form: AuthFile, dir: &Path, before: Option<&Self>) -> Result<Self, String> {
        let files = files_of(&form, dir);
        let known = before.map_or(&[][..], |before| &before.issuers);
        let mut issuers = Vec::new();
        for form in &form.issuer {
            let issuer = issuer(form, dir, known);
            issuers.push(issuer.map_err(|error| format!("[[issuer]] {:?}: {error}", form.name))?);
        }
        let api_keys = match &form.api_keys {
            Some(form) => {
                let keys = ApiKeys::load(&dir.join(&form.file));
                Some(keys.map_err(|error| format!("[api_keys] file: {error}"))?)
            }
            None => None,
        };
        let has_tokens = !issuers.is_empty() || api_keys.is_some();
        let cookie = form.cookie.map(|form| cookie(form, has_tokens));
        let cookie = cookie.transpose()?;
        let is_taken = |name: &str| {
            name == api_keys::ISSUER || issuers.iter().any(|issuer| *issuer.name == *name)
        };
        let proxy = form.proxy_identity;
        let proxy = proxy.map(|form| ProxyIdentity::new(&form.header, form.issuer, is_taken));
        let proxy = proxy.transpose()?;
        let certificates = match form.client_certificates {
            Some(form) => {
                let name = form.name.as_deref().unwrap_or(CERTIFICATES);
                let is_taken = issuers.iter().any(|issuer| *issuer.name == *name)
                    || proxy.as_ref().is_some_and(|proxy| proxy.issuer() == name);
                check_certificates(name, is_taken)
                    .map_err(|error| format!("[client_certificates] name: {error}"))?;
                Some(name.into())
            }
            None => None,
        };
        let mut rules: Vec<Rule> = Vec::new();
        for (number, form) in (1..).zip(form.rule) {
            let named = |error: String| format!("[[rule]] number {number}: {error}");
            let is_known = |name: &str| {
                issuers.iter().any(|issuer| *issuer.name == *name)
                    || (api_keys.is_some() && name == api_keys::ISSUER)
                    || proxy.as_ref().is_some_and(|proxy| proxy.issuer() == name)
                    || certificates.as_deref() == Some(name)
            };
            let has_identities = has_tokens || proxy.is_some() || certificates.is_some();
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
        let revoked = match &form.revocations {
            Some(form) => revoked_in(&dir.join(&form.file))
                .map_err(|error| format!("[revocations] file: {error}"))?,
            None => Revoked::default(),
        };
        Ok(Self {
            issuers,
            verified: VerifiedTokens::new(),
            api_keys,
            cookie,
            proxy,
            certificates,
            rules,
            topics,
            revoked,
            anonymous: OnceLock::new(),
            files,
        })
    }

    fn wait_for_keys(&self, patience: Duration) {
        for issuer in &self.issuers {
            if let Keys::Set(set) = &issuer.keys {
                set.wait_for_first_reading(patience);
            }
        }
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
        Ok(of_api_key(id, key))
    }

    /// Whom a certificate names; `None`: that counts for nothing here.
    fn by_certificate(
        &self,
        certificate: &Arc<Certificate>,
        now: SystemTime,
    ) -> Result<Option<Judged<'_>>, Refusal> {
        let Some(issuer) = &self.certificates else {
            return Ok(None);
        };
        // It was good when the connection began, or when its ticket was made.
        if certificate.not_after <= now {
            return Err(Refusal::unauthenticated(
                "the client's certificate has run out; connect with a new one",
            ));
        }
        let subject = certificate.subject.as_deref().ok_or_else(|| {
            Refusal::unauthenticated(
                "the client's certificate names nobody: it needs a URI, DNS or e-mail name, or a common name, of 1 to 255 bytes",
            )
        })?;
        Ok(Some(Judged {
            expires_at: Some(certificate.not_after),
            issued_at: Some(certificate.not_before),
            ..Judged::without_end(
                Who::new(issuer, subject),
                Shown::Certificate(certificate.clone()),
            )
        }))
    }

    fn judge_token(&self, shown: &str, now: SystemTime) -> Result<Judged<'_>, Refusal> {
        let token = Unverified::read(shown)?;
        self.by_issuer(token.issuer(), |issuer| {
            issuer.verify(&token, &self.verified, now)
        })
    }

    /// What an identity was settled by, looked at under what is configured now; none where it was nothing.
    fn again(&self, identity: &Identity, now: SystemTime) -> Result<Option<Judged<'_>>, Refusal> {
        match &identity.0.shown {
            Shown::Nothing => Ok(None),
            Shown::Certificate(certificate) => {
                let judged = self.by_certificate(certificate, now)?;
                let for_another = "certificates stand for another issuer now";
                judged
                    .map(|judged| judged.if_still(identity, for_another))
                    .transpose()
            }
            Shown::ByProxy => {
                let judged = self.by_proxy(identity.who().subject())?;
                let judged = judged.if_still(identity, "the proxy stands for another issuer now");
                judged.map(Some)
            }
            Shown::Token(known) => {
                let issuer = identity.who().issuer();
                let judged = self.by_issuer(issuer, |issuer| issuer.again(known, now));
                judged.map(Some)
            }
            Shown::ApiKey(hash) => {
                let taken_back = || Refusal::unauthenticated("API keys are not taken any more");
                let keys = self.api_keys.as_ref().ok_or_else(taken_back)?;
                let id = identity.token_id().unwrap_or_default();
                let (id, key) = keys.again(id, hash, now)?;
                let judged = of_api_key(id, key);
                let judged =
                    judged.if_still(identity, "the API key stands for another subject now");
                judged.map(Some)
            }
        }
    }

    fn by_proxy(&self, subject: &str) -> Result<Judged<'_>, Refusal> {
        let proxy = self.proxy.as_ref().ok_or_else(unsupported)?;
        let who = proxy.identify(subject)?;
        Ok(Judged::without_end(who, Shown::ByProxy))
    }

    /// An issuer may be there more than once, each time with another key.
    fn by_issuer(
        &self,
        name: &str,
        verify: impl Fn(&Issuer) -> Result<Verified, Refusal>,
    ) -> Result<Judged<'_>, Refusal> {
        let mut refusal =
            Refusal::unauthenticated("the token's issuer (iss) is not one of those taken here");
        let issuers = self.issuers.iter();
        for issuer in issuers.filter(|issuer| *issuer.name == *name) {
            match verify(issuer) {
                Ok(verified) => {
                    return Ok(Judged {
                        who: verified.who,
                        expires_at: Some(verified.expires_at),
                        token_id: verified.token_id,
                        issued_at: verified.issued_at,
                        shown: Shown::Token(verified.known),
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
    fn grants(&self, judged: &Judged<'_>, mut tell: impl FnMut(Source, Outcome)) -> Grants {
        let subject = (!judged.who.is_anonymous()).then(|| judged.who.subject());
        let mut grants = Grants::default();
        if let Some(own) = judged.own.as_ref().filter(|own| !own.is_nothing()) {
            let added = grants.add(own, subject);
            tell(Source::Own, Outcome::Applies(added));
        }
        for (number, rule) in (1..).zip(&self.rules) {
            let outcome = match rule.applies_to(&judged.who, judged.rules) {
                true => Outcome::Applies(grants.add(&rule.rights, subject)),
                false => Outcome::ForOthers,
            };
            tell(Source::Rule(number), outcome);
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

/// Equal names would make one issuer of two.
fn check_certificates(name: &str, is_taken: bool) -> Result<(), String> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("needs a name without spaces, by which rules refer to it".to_owned());
    }
    if name.len() > MAX_ISSUER_BYTES {
        return Err(format!("has at most {MAX_ISSUER_BYTES} bytes"));
    }
    match is_taken || name == api_keys::ISSUER {
        true => Err(format!("{name:?} is another issuer's")),
        false => Ok(()),
    }
}

fn cookie(form: CookieForm, has_tokens: bool) -> Result<Arc<str>, String> {
    // RFC 6265, section 4.1.1; RFC 9110, section 5.6.2.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if form.name.is_empty() || !form.name.bytes().all(is_token) {
        return Err("[cookie] name: needs the name of a cookie, such as hark_session".to_owned());
    }
    match has_tokens {
        true => Ok(form.name.into()),
        false => Err(
            "[cookie]: holds a token, and none is taken without an [[issuer]] or [api_keys]"
                .to_owned(),
        ),
    }
}

fn of_api_key<'a>(id: &str, key: &'a ApiKey) -> Judged<'a> {
    Judged {
        who: key.who.clone(),
        expires_at: key.expires,
        token_id: Some(id.into()),
        issued_at: Some(key.made),
        shown: Shown::ApiKey(key.hash().clone()),
        own: Some(key.rights.clone()),
        rules: &key.rules,
        notes: Vec::new(),
    }
}

/// Every file that is named.
fn files_of(form: &AuthFile, dir: &Path) -> Vec<PathBuf> {
    let of_issuer = |issuer: &IssuerForm| {
        let files = [&issuer.key_file, &issuer.secret_file, &issuer.jwks_file];
        files.map(Option::clone)
    };
    let of_issuers = form.issuer.iter().flat_map(of_issuer);
    let api_keys = form.api_keys.as_ref().map(|form| form.file.clone());
    let revocations = form.revocations.as_ref().map(|form| form.file.clone());
    let all = of_issuers.chain([api_keys, revocations]).flatten();
    all.map(|file| dir.join(file)).collect()
}

/// What the lines of a file revoke.
fn revoked_in(path: &Path) -> Result<Revoked, String> {
    let named = |error: String| format!("{}: {error}", path.display());
    let text = String::from_utf8(file::read_bytes(path)?)
        .map_err(|_| named("is not text in UTF-8".to_owned()))?;
    let lines = parse_lines(&text).map_err(named)?;
    Revoked::of(&lines, SystemTime::now()).map_err(named)
}

fn issuer(form: &IssuerForm, dir: &Path, known: &[Issuer]) -> Result<Issuer, String> {
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
        keys: keys(form, dir, expected, known)?,
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

fn keys(
    form: &IssuerForm,
    dir: &Path,
    expected: Expected,
    known: &[Issuer],
) -> Result<Keys, String> {
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
            let set = set.map_err(|error| format!("jwks_file: {error}"))?;
            Ok(Keys::Set(Arc::new(set)))
        }
        (None, None, None, Some(url)) => {
            let same = known.iter().find_map(|issuer| match &issuer.keys {
                Keys::Set(set) if set.is_of_url(url, &expected, algorithm) => Some(set.clone()),
                _ => None,
            });
            if let Some(set) = same {
                return Ok(Keys::Set(set));
            }
            let set = Jwks::from_url(url, expected, algorithm)
                .map_err(|error| format!("jwks_url: {error}"))?;
            Ok(Keys::Set(Arc::new(set)))
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
                return never(&format!(
                    "{issuer:?} is no [[issuer]], no API keys, no proxy's and no [client_certificates]"
                ));
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
        return never(
            "nobody has an identity without an [[issuer]], [api_keys], [proxy_identity] or [client_certificates]",
        );
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
    if let Some(wider) = before.iter().find(|rule| rule.pattern.covers(&pattern)) {
        return Err(format!(
            "pattern: {:?} can never match: {:?} stands before, and the first that matches a topic counts; put the narrower one first",
            form.pattern,
            wider.pattern.as_str()
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
