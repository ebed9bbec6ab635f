//! API keys: their form, the file that holds their hashes, and whether one that is shown is good. Owns making and revoking them; leaves
//! what they may do to `grants` and `authority`.
//!
//! `hark_` + id (8) + `_` + 32 random bytes in base64url (43) + checksum (6). The checksum tells a key that was cut off from one that is
//! wrong, and lets scanners of source code be sure of what they have found. With 256 random bits a plain hash is enough: there is
//! nothing to guess.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::grants::Rights;
use super::jwt::MAX_SUBJECT_BYTES;
use super::{Refusal, Who, file};

/// What an API key begins with, and a token never does.
pub(super) const PREFIX: &str = "hark_";
/// The issuer of all API keys of the broker, as rules name it.
pub(super) const ISSUER: &str = "api_keys";
const ID_CHARS: usize = 8;
const SECRET_BYTES: usize = 32;
const CHECKSUM_CHARS: usize = 6;
/// The length of a key.
const KEY_CHARS: usize = PREFIX.len() + ID_CHARS + 1 + 43 + CHECKSUM_CHARS;
/// The first line of a file of keys.
const HEAD: &str =
    "# API keys of Hark: their hashes. Written by `hark key make` and `hark key revoke`.\n\n";

/// The keys of the broker.
#[derive(Debug, Default)]
pub(super) struct ApiKeys(HashMap<Box<str>, ApiKey>);

/// One key, as the broker knows it.
#[derive(Debug)]
pub(super) struct ApiKey {
    hash: Hash,
    pub(super) who: Who,
    pub(super) rights: Rights,
    /// Names of rules that count for it too.
    pub(super) rules: Vec<String>,
    pub(super) made: SystemTime,
    pub(super) expires: Option<SystemTime>,
    is_revoked: bool,
}

impl ApiKeys {
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let mut keys = HashMap::new();
        for form in KeyFile::read(path)?.key {
            let id: Box<str> = form.id.as_str().into();
            // So much as an id has: there may be a whole key in its place.
            let shown = id.get(..ID_CHARS).unwrap_or(&id);
            let named = |error: String| format!("{}: [[key]] {shown:?}: {error}", path.display());
            let key = form.known().map_err(named)?;
            if keys.insert(id.clone(), key).is_some() {
                return Err(named(
                    "is there twice; revoke one and take it out".to_owned(),
                ));
            }
        }
        Ok(Self(keys))
    }

    /// The key that is shown, with its id, if it is good.
    pub(super) fn verify<'a>(
        &'a self,
        shown: &str,
        now: SystemTime,
    ) -> Result<(&'a str, &'a ApiKey), Refusal> {
        let id = id_of(shown).ok_or_else(|| {
            Refusal::unauthenticated("the API key is cut off or mistyped: its checksum is wrong")
        })?;
        let key = self.0.get_key_value(id);
        let key = key.filter(|(_, key)| key.hash.is_of(shown));
        let (id, key) = key.ok_or_else(|| Refusal::unauthenticated("there is no such API key"))?;
        key.check(now)?;
        Ok((id, key))
    }

    /// A key that was good before, if it still is.
    pub(super) fn again(
        &self,
        id: &str,
        hash: &Hash,
        now: SystemTime,
    ) -> Result<(&str, &ApiKey), Refusal> {
        let key = self.0.get_key_value(id);
        let key = key.filter(|(_, key)| key.hash == *hash);
        let (id, key) = key.ok_or_else(|| Refusal::unauthenticated("the API key is taken back"))?;
        key.check(now)?;
        Ok((id, key))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &ApiKey)> {
        self.0.iter().map(|(id, key)| (&**id, key))
    }
}

impl ApiKey {
    pub(super) fn hash(&self) -> &Hash {
        &self.hash
    }

    fn check(&self, now: SystemTime) -> Result<(), Refusal> {
        if self.is_revoked {
            return Err(Refusal::unauthenticated("the API key is revoked"));
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err(Refusal::unauthenticated("the API key has expired"));
        }
        Ok(())
    }
}

/// SHA-256 of a whole key, in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Hash(String);

impl Hash {
    fn of(key: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, key.as_bytes());
        // Once for each connect: by `format!` it would take longer than the hash.
        let digits = hash
            .as_ref()
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 0xf]);
        let digit = |digit: u8| char::from_digit(digit.into(), 16).unwrap_or_default();
        Self(digits.map(digit).collect())
    }

    fn is_of(&self, key: &str) -> bool {
        self.0.as_bytes().ct_eq(Self::of(key).0.as_bytes()).into()
    }

    fn is_valid(&self) -> bool {
        let is_hex = |c| matches!(c, b'0'..=b'9' | b'a'..=b'f');
        self.0.len() == 64 && self.0.bytes().all(is_hex)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

/// A key with that id; the secret is drawn.
fn draw(id: &str) -> Result<String, String> {
    let secret: [u8; SECRET_BYTES] = random()?;
    let key = format!("{PREFIX}{id}_{}", URL_SAFE_NO_PAD.encode(secret));
    Ok(format!("{key}{}", checksum(&key)))
}

/// Something of letters and digits that nobody has had before, as far as chance can tell.
pub(crate) fn random_id() -> Result<String, String> {
    id_of_chars::<16>()
}

fn id_of_chars<const N: usize>() -> Result<String, String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes: [u8; N] = random()?;
    let letter = |byte: &u8| char::from(LETTERS[usize::from(byte % 32)]);
    Ok(bytes.iter().map(letter).collect())
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| "the system has no random numbers".to_owned())?;
    Ok(bytes)
}

fn checksum(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(crc32fast::hash(text.as_bytes()).to_be_bytes())
}

/// The id of a key that is whole. The secret may hold `_` too, so it goes by places.
pub(super) fn id_of(key: &str) -> Option<&str> {
    if key.len() != KEY_CHARS {
        return None;
    }
    let (text, sum) = key.split_at_checked(KEY_CHARS - CHECKSUM_CHARS)?;
    let id = text.strip_prefix(PREFIX)?.get(..ID_CHARS)?;
    (checksum(text) == sum).then_some(id)
}

/// The file of keys, as it is written.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyFile {
    #[serde(default)]
    pub(crate) key: Vec<KeyForm>,
}

/// One key in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyForm {
    pub(crate) id: String,
    pub(crate) hash: Hash,
    pub(crate) subject: String,
    /// Names of rules of `auth.toml` that count for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rules: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) publish: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) subscribe: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) manage: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) monitor: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) admin: bool,
    pub(crate) made: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revoked: Option<String>,
}

/// What a key is made for.
#[derive(Debug, Default)]
pub(crate) struct NewKey {
    pub(crate) subject: String,
    pub(crate) rules: Vec<String>,
    pub(crate) publish: Vec<String>,
    pub(crate) subscribe: Vec<String>,
    pub(crate) manage: Vec<String>,
    pub(crate) monitor: bool,
    pub(crate) admin: bool,
    pub(crate) expires: Option<Timestamp>,
}

impl KeyForm {
    fn known(&self) -> Result<ApiKey, String> {
        if self.id.len() != ID_CHARS || !self.id.bytes().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("id: needs {ID_CHARS} letters and digits"));
        }
        if !self.hash.is_valid() {
            return Err(
                "hash: is not the SHA-256 of a key, in 64 lower-case hexadecimal digits".to_owned(),
            );
        }
        if self.subject.is_empty() || self.subject.len() > MAX_SUBJECT_BYTES {
            return Err(format!("subject: needs 1 to {MAX_SUBJECT_BYTES} bytes"));
        }
        let time = |name: &str, text: &str| {
            let time: Result<Timestamp, _> = text.parse();
            time.map(SystemTime::from)
                .map_err(|_| format!("{name}: {text:?} is no time such as 2026-01-31T12:00:00Z"))
        };
        let optional =
            |name, text: &Option<String>| text.as_ref().map(|text| time(name, text)).transpose();
        Ok(ApiKey {
            hash: self.hash.clone(),
            who: Who::new(ISSUER, &self.subject),
            rights: Rights::new(
                &self.publish,
                &self.subscribe,
                &self.manage,
                self.monitor,
                self.admin,
            )?,
            rules: self.rules.clone(),
            made: time("made", &self.made)?,
            expires: optional("expires", &self.expires)?,
            is_revoked: optional("revoked", &self.revoked)?.is_some(),
        })
    }
}

impl KeyFile {
    /// Reads a file that is there.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        file::parse(path, &file::read_private(path)?)
    }

    /// Adds a key to the file, which is made if it is not there, and gives back the key: nobody can read it afterwards.
    pub(crate) fn make(path: &Path, new: NewKey, now: Timestamp) -> Result<String, String> {
        Self::change(path, |keys| {
            let mut id = id_of_chars::<ID_CHARS>()?;
            while keys.iter().any(|key| key.id == id) {
                id = id_of_chars::<ID_CHARS>()?;
            }
            let key = draw(&id)?;
            let form = KeyForm {
                id,
                hash: Hash::of(&key),
                subject: new.subject,
                rules: new.rules,
                publish: new.publish,
                subscribe: new.subscribe,
                manage: new.manage,
                monitor: new.monitor,
                admin: new.admin,
                made: written(now),
                expires: new.expires.map(written),
                revoked: None,
            };
            form.known()?;
            keys.push(form);
            Ok(key)
        })
    }

    /// Revokes a key, for good. Says whether it was good until now.
    pub(crate) fn revoke(path: &Path, id: &str, now: Timestamp) -> Result<bool, String> {
        // It is made where it is not there; here that would hide a mistyped name.
        Self::read(path)?;
        Self::change(path, |keys| {
            let key = keys.iter_mut().find(|key| key.id == id);
            let key = key.ok_or_else(|| format!("{} has no key {id:?}", path.display()))?;
            let was_good = key.revoked.is_none();
            key.revoked.get_or_insert_with(|| written(now));
            Ok(was_good)
        })
    }

    /// One at a time changes a file of keys. It is replaced as a whole: a broker that reads it sees the old or the new one.
    fn change<T>(
        path: &Path,
        change: impl FnOnce(&mut Vec<KeyForm>) -> Result<T, String>,
    ) -> Result<T, String> {
        // Where it is a link, what it leads to is replaced.
        let target = std::fs::canonicalize(path);
        let path = target.as_deref().unwrap_or(path);
        let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        let dir_file = File::open(dir).map_err(failed)?;
        rustix::fs::flock(&dir_file, FlockOperation::LockExclusive)
            .map_err(|error| failed(error.into()))?;
        let old = match std::fs::metadata(path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let mut keys = match old {
            Some(_) => Self::read(path)?,
            None => Self::default(),
        };
        let done = change(&mut keys.key)?;
        let text = toml::to_string(&keys).map_err(|error| error.to_string())?;
        // It has mode 0600 from the beginning.
        let mut new = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
        if let Some(old) = old {
            let (uid, gid) = (Some(old.uid()), Some(old.gid()));
            std::os::unix::fs::fchown(new.as_file(), uid, gid).map_err(failed)?;
            let mode = std::fs::Permissions::from_mode(old.mode() & 0o7777);
            new.as_file().set_permissions(mode).map_err(failed)?;
        }
        new.write_all(HEAD.as_bytes()).map_err(failed)?;
        new.write_all(text.as_bytes()).map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(path).map_err(|error| failed(error.error))?;
        dir_file.sync_all().map_err(failed)?;
        Ok(done)
    }
}

/// To the second, of UTC.
fn written(time: Timestamp) -> String {
    format!("{time:.0}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hark_protocol::ErrorCode;

    use super::*;

    fn now() -> Timestamp {
        "2026-12-01T12:00:00Z".parse().unwrap()
    }

    struct Made {
        dir: tempfile::TempDir,
        key: String,
    }

    impl Made {
        fn new(new: NewKey) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let key = KeyFile::make(&dir.path().join("keys.toml"), new, now()).unwrap();
            Self { dir, key }
        }

        fn path(&self) -> std::path::PathBuf {
            self.dir.path().join("keys.toml")
        }

        fn id(&self) -> &str {
            id_of(&self.key).unwrap()
        }

        fn refusal(&self, key: &str, now: Timestamp) -> Option<String> {
            let keys = ApiKeys::load(&self.path()).unwrap();
            let refused = keys.verify(key, now.into()).err()?;
            assert_eq!(refused.code, ErrorCode::Unauthenticated);
            Some(refused.message)
        }
    }

    fn of(subject: &str) -> NewKey {
        NewKey {
            subject: subject.to_owned(),
            ..NewKey::default()
        }
    }

    #[test]
    fn a_key_that_was_made_is_good_and_any_other_is_not() {
        let made = Made::new(of("backend"));
        assert_eq!(made.key.len(), KEY_CHARS);
        assert_eq!(made.refusal(&made.key, now()), None);
        let keys = ApiKeys::load(&made.path()).unwrap();
        let (id, key) = keys.verify(&made.key, now().into()).unwrap();
        assert_eq!((id, key.who.subject()), (made.id(), "backend"));
        // Any other letter in any place.
        for at in 0..made.key.len() {
            let other = match &made.key[at..=at] {
                "x" => "y",
                _ => "x",
            };
            let mut wrong = made.key.clone();
            wrong.replace_range(at..=at, other);
            assert!(
                made.refusal(&wrong, now()).is_some(),
                "{at} was not looked at"
            );
        }
        let cut = &made.key[..made.key.len() - 1];
        assert!(made.refusal(cut, now()).unwrap().contains("checksum"));
        // The right form, even the right id, but another secret.
        let forged = draw(made.id()).unwrap();
        assert_eq!(
            made.refusal(&forged, now()).unwrap(),
            "there is no such API key"
        );
        let unknown = draw("aaaaaaaa").unwrap();
        assert_eq!(
            made.refusal(&unknown, now()).unwrap(),
            "there is no such API key"
        );
        assert!(made.refusal("hark_üüüü", now()).is_some());
    }

    #[test]
    fn a_file_holds_no_key() {
        let made = Made::new(of("backend"));
        let text = std::fs::read_to_string(made.path()).unwrap();
        let secret = &made.key[PREFIX.len() + ID_CHARS + 1..];
        assert!(text.contains(made.id()) && !text.contains(secret), "{text}");
        let mode = std::fs::metadata(made.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_revoked_key_is_refused_for_good() {
        let made = Made::new(of("backend"));
        let other = KeyFile::make(&made.path(), of("other"), now()).unwrap();
        assert!(KeyFile::revoke(&made.path(), made.id(), now()).unwrap());
        assert!(!KeyFile::revoke(&made.path(), made.id(), now()).unwrap());
        assert!(made.refusal(&made.key, now()).unwrap().contains("revoked"));
        assert_eq!(made.refusal(&other, now()), None);
        let unknown = KeyFile::revoke(&made.path(), "zzzzzzzz", now()).unwrap_err();
        assert!(unknown.contains("zzzzzzzz"), "{unknown}");
        let nowhere = KeyFile::revoke(&made.dir.path().join("no"), "x", now()).unwrap_err();
        assert!(nowhere.contains("cannot read"), "{nowhere}");
    }

    #[test]
    fn a_key_may_expire() {
        let hour = Duration::from_secs(3600);
        let made = Made::new(NewKey {
            expires: Some(now() + hour),
            ..of("backend")
        });
        assert_eq!(made.refusal(&made.key, now()), None);
        assert!(
            made.refusal(&made.key, now() + hour)
                .unwrap()
                .contains("expired")
        );
    }

    #[test]
    fn a_file_others_can_read_is_refused() {
        let made = Made::new(of("backend"));
        std::fs::set_permissions(made.path(), PermissionsExt::from_mode(0o644)).unwrap();
        for refused in [
            ApiKeys::load(&made.path()).map(drop),
            KeyFile::make(&made.path(), of("other"), now()).map(drop),
        ] {
            let refused = refused.unwrap_err();
            assert!(
                refused.contains("0644") && refused.contains("chmod 600"),
                "{refused}"
            );
        }
    }

    #[test]
    fn mistakes_in_a_file_name_the_key_and_the_field() {
        let made = Made::new(of("backend"));
        let text = std::fs::read_to_string(made.path()).unwrap();
        let twice = text.split("[[key]]").nth(1).unwrap();
        for (changed, parts) in [
            (
                text.replace("subject = \"backend\"", "subject = \"\""),
                ["subject", "1 to 255"],
            ),
            (
                text.replace("2026-12-01T12", "2026-13-01T12"),
                ["made", "2026-13-01T12"],
            ),
            (text.replace("hash = \"", "hash = \"x"), ["hash", "SHA-256"]),
            (
                text.replace("subject", "subjekt"),
                ["subjekt", "did you mean `subject`"],
            ),
            (format!("{text}\n[[key]]{twice}"), [made.id(), "twice"]),
            (
                text.replace("made =", "publish = [\"a..b\"]\nmade ="),
                ["publish", "a..b"],
            ),
        ] {
            std::fs::write(made.path(), changed).unwrap();
            let refused = ApiKeys::load(&made.path()).unwrap_err();
            for part in parts.iter().chain(&["keys.toml"]) {
                assert!(refused.contains(part), "{part} is missing: {refused}");
            }
        }
    }

    #[test]
    fn keys_that_are_made_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.toml");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| KeyFile::make(&path, of("backend"), now()).unwrap());
            }
        });
        assert_eq!(KeyFile::read(&path).unwrap().key.len(), 8);
    }
}
