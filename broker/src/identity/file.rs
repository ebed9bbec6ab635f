//! The form of the files that say who may what: which fields there are, read strictly. An error is one sentence that names the file, the
//! line, and where a name is unknown the nearest that is known. Owns no meaning: that is `authority`'s and `api_keys`'.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The most bytes a file of the configuration may have.
const MAX_FILE_BYTES: u64 = 16 << 20;
/// A known name that is at least so like an unknown one (by Jaro and Winkler, 0 to 1) may have been meant.
const ALIKE: f64 = 0.8;

/// `auth.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthFile {
    #[serde(default)]
    pub(super) issuer: Vec<IssuerForm>,
    pub(super) api_keys: Option<ApiKeysForm>,
    pub(super) cookie: Option<CookieForm>,
    pub(super) proxy_identity: Option<ProxyIdentityForm>,
    pub(super) revocations: Option<RevocationsForm>,
    pub(super) client_certificates: Option<ClientCertificatesForm>,
    #[serde(default)]
    pub(super) rule: Vec<RuleForm>,
    #[serde(default)]
    pub(super) topic: Vec<TopicForm>,
}

/// Whose tokens are taken.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IssuerForm {
    /// The `iss` of its tokens.
    pub(super) name: String,
    pub(super) audience: Option<Vec<String>>,
    #[serde(default)]
    pub(super) any_audience: bool,
    pub(super) algorithm: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) secret_file: Option<PathBuf>,
    pub(super) jwks_file: Option<PathBuf>,
    pub(super) jwks_url: Option<String>,
    pub(super) leeway: Option<String>,
    #[serde(default)]
    pub(super) grants_claim: bool,
    #[serde(default)]
    pub(super) admin_claim: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeysForm {
    pub(super) file: PathBuf,
}

/// The cookie in which browsers bring a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CookieForm {
    pub(super) name: String,
}

/// How a proxy says whom it has let in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProxyIdentityForm {
    pub(super) header: String,
    /// What rules call it.
    pub(super) issuer: String,
}

/// What is revoked before its time.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationsForm {
    pub(super) file: PathBuf,
}

/// That client certificates say who somebody is. By whom they have to be signed the listener says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificatesForm {
    /// What rules call their issuer.
    pub(super) name: Option<String>,
}

/// What is allowed to whom.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleForm {
    /// By which API keys may refer to it.
    pub(super) name: Option<String>,
    pub(super) who: Option<String>,
    #[serde(default)]
    pub(super) publish: Vec<String>,
    #[serde(default)]
    pub(super) subscribe: Vec<String>,
    #[serde(default)]
    pub(super) manage: Vec<String>,
    #[serde(default)]
    pub(super) monitor: bool,
    #[serde(default)]
    pub(super) admin: bool,
}

/// What holds for topics, whoever publishes or reads.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicForm {
    pub(super) pattern: String,
    /// Whether readers are told who published a message.
    pub(super) identity: bool,
}

/// Reads a file of the configuration.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    read(path, |_| Ok(()))
}

/// Reads a file that nobody but its owner may read: mode 0600, or, where root owns it, 0640.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, String> {
    read(path, |metadata| {
        let others = match metadata.uid() {
            0 => 0o037,
            _ => 0o077,
        };
        let mode = metadata.mode() & 0o7777;
        match mode & others {
            0 => Ok(()),
            _ => Err(format!(
                "{0} has mode {mode:04o}, so that others can read or change it; run: chmod 600 {0}",
                path.display()
            )),
        }
    })
}

fn read(
    path: &Path,
    check: impl FnOnce(&Metadata) -> Result<(), String>,
) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    check(&file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    // One more, to find out that it is too many.
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
    match read.map_err(failed)? as u64 > MAX_FILE_BYTES {
        true => Err(format!(
            "{} has more than {MAX_FILE_BYTES} bytes",
            path.display()
        )),
        false => Ok(bytes),
    }
}

/// Reads TOML strictly.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_| format!("{} is not text in UTF-8", path.display()))?;
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| {
            let before = text.as_bytes().iter().take(span.start);
            before.filter(|byte| **byte == b'\n').count() + 1
        });
        let message = error.message();
        let nearest = nearest(message)
            .map(|name| format!(" (did you mean `{name}`?)"))
            .unwrap_or_default();
        format!("{}, line {line}: {message}{nearest}", path.display())
    })
}

/// The known name that an unknown one is most like, out of "unknown field `a`, expected one of `b`, `c`".
fn nearest(message: &str) -> Option<&str> {
    message.strip_prefix("unknown field ")?;
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next()?;
    let alike = |name: &&str| strsim::jaro_winkler(unknown, name);
    let nearest = names.max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&nearest) >= ALIKE).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn refused(text: &str) -> String {
        let parsed = parse::<AuthFile>(Path::new("auth.toml"), text.as_bytes());
        parsed.unwrap_err()
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line_and_the_nearest() {
        let refused_field = refused("[[issuer]]\nname = \"a\"\naudiense = [\"b\"]\n");
        for part in ["auth.toml, line 3", "`audiense`", "did you mean `audience`"] {
            assert!(refused_field.contains(part), "{refused_field}");
        }
        let section = refused("[api_key]\nfile = \"x\"\n");
        assert!(section.contains("did you mean `api_keys`"), "{section}");
        let far = refused("[[rule]]\nzzz = 1\n");
        assert!(!far.contains("did you mean"), "{far}");
    }

    #[test]
    fn what_is_no_toml_names_its_line() {
        assert!(refused("[[issuer]]\nname = \n").contains("line 2"));
        assert!(refused("[[rule]]\nwho = 7\n").contains("line 2"));
        let bytes = parse::<AuthFile>(Path::new("auth.toml"), &[0xff, 0xfe]).unwrap_err();
        assert!(bytes.contains("UTF-8"), "{bytes}");
    }

    #[test]
    fn a_private_file_is_for_its_owner_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode| std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode));
        for mode in [0o600, 0o400] {
            set(mode).unwrap();
            read_private(file.path()).unwrap();
        }
        for mode in [0o644, 0o604, 0o620, 0o666] {
            set(mode).unwrap();
            let refused = read_private(file.path()).unwrap_err();
            assert!(refused.contains("chmod 600"), "{mode:o}: {refused}");
        }
    }
}
