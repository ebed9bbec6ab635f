//! `hark token …`: makes a token, for tests and first steps, and says what the broker would make of one. Works on files alone; no broker
//! is asked. Secrets and tokens are read from files, never from arguments, which everybody on the machine can see.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use hark_protocol::TopicName;
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::CliError;
use super::output::{Output, shown};
use crate::config;
use crate::identity::{
    Act, Authority, Credential, Explanation, MIN_SECRET_BYTES, install_backend, random_id,
    read_private, secret, unverified_parts,
};

/// How long a set of keys may take to be fetched.
const KEYS_PATIENCE: Duration = Duration::from_secs(6);
/// The most that is read of what should be a token.
const MAX_READ_BYTES: u64 = 2 << 20;

/// Make a token for tests and first steps, or explain what the broker makes of one.
#[derive(Debug, clap::Args)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    // What they do is said where their arguments are.
    Make(Box<MakeArgs>),
    Explain(ExplainArgs),
}

/// Sign a token and print it. For tests and first steps: in production your back end signs.
#[derive(Debug, clap::Args)]
struct MakeArgs {
    #[command(flatten)]
    key: KeyArgs,

    /// Who signs: the name of an [[issuer]] (iss).
    #[arg(long)]
    issuer: String,

    /// Whom the token is for (sub).
    #[arg(long)]
    subject: String,

    /// The broker it is meant for (aud). Repeatable.
    #[arg(long)]
    audience: Vec<String>,

    /// How long it is valid.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = config::duration)]
    expires_in: Duration,

    /// The name of the signing key (kid), where the issuer has a set of keys.
    #[arg(long, value_name = "KID")]
    key_id: Option<String>,

    /// What the token can be revoked by (jti); drawn by default.
    #[arg(long, value_name = "ID")]
    token_id: Option<String>,

    #[command(flatten)]
    grants: GrantArgs,
}

/// What it is signed with.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// A file with a secret of 32 bytes or more, for HS256. Nobody else may read it.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,

    /// A file with a private key in PEM form (PKCS#8), for RS256, ES256 or EdDSA. Nobody else may read it.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
}

/// What is granted.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct GrantArgs {
    /// A pattern of topics it may publish to, such as user.{sub}.>. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(super) publish: Vec<String>,

    /// A pattern of topics it may read. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(super) subscribe: Vec<String>,

    /// A pattern of topics it may delete. Repeatable.
    #[arg(long, value_name = "PATTERN")]
    pub(super) manage: Vec<String>,

    /// Allow it to see metrics, the list of topics, and sessions.
    #[arg(long)]
    pub(super) monitor: bool,

    /// Allow it to administer the broker.
    #[arg(long)]
    pub(super) admin: bool,
}

/// Say whether a token or API key would be let in, to what, and if not, why. Without a token: what everybody may.
#[derive(Debug, clap::Args)]
struct ExplainArgs {
    /// The broker's file of who may what.
    #[arg(long, env = "HARK_AUTH", value_name = "FILE")]
    auth: PathBuf,

    /// A file with the token or API key; - is standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// A topic to say of what is allowed on it. Repeatable.
    #[arg(long)]
    topic: Vec<TopicName>,

    /// Print JSON also on a terminal.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: TokenArgs) -> Result<(), CliError> {
    match args.command {
        TokenCommand::Make(args) => {
            let token = make(*args, SystemTime::now())?;
            // As it is, also into a pipe: it is given to other programs.
            let mut output = Output::new(false);
            output.line(token.as_bytes())?;
            output.flush()?;
            Ok(())
        }
        TokenCommand::Explain(args) => explain(&args),
    }
}

fn make(args: MakeArgs, now: SystemTime) -> Result<String, CliError> {
    install_backend();
    let (algorithm, key) = signing_key(&args.key)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = Map::new();
    let token_id = match args.token_id {
        Some(id) => id,
        None => random_id().map_err(CliError::failed)?,
    };
    claims.insert("iss".to_owned(), args.issuer.into());
    claims.insert("sub".to_owned(), args.subject.into());
    claims.insert("iat".to_owned(), now.as_secs().into());
    claims.insert("exp".to_owned(), (now + args.expires_in).as_secs().into());
    claims.insert("jti".to_owned(), token_id.into());
    if !args.audience.is_empty() {
        claims.insert("aud".to_owned(), args.audience.into());
    }
    if let Some(grants) = args.grants.claim() {
        claims.insert("hark".to_owned(), grants);
    }
    let mut header = Header::new(algorithm);
    header.kid = args.key_id;
    jsonwebtoken::encode(&header, &claims, &key).map_err(|_| {
        CliError::failed(
            "the key cannot sign: RS256 needs 2048 bits or more, ES256 a key of P-256, EdDSA one of Ed25519",
        )
    })
}

impl GrantArgs {
    /// The claim `hark`; none, where nothing is granted.
    fn claim(&self) -> Option<Value> {
        let mut claim = Map::new();
        for (name, patterns) in [
            ("publish", &self.publish),
            ("subscribe", &self.subscribe),
            ("manage", &self.manage),
        ] {
            if !patterns.is_empty() {
                claim.insert(name.to_owned(), patterns.clone().into());
            }
        }
        for (name, is_given) in [("monitor", self.monitor), ("admin", self.admin)] {
            if is_given {
                claim.insert(name.to_owned(), true.into());
            }
        }
        (!claim.is_empty()).then(|| claim.into())
    }
}

fn signing_key(args: &KeyArgs) -> Result<(Algorithm, EncodingKey), CliError> {
    if let Some(path) = &args.secret_file {
        let secret = secret(path).map_err(CliError::failed)?;
        if secret.len() < MIN_SECRET_BYTES {
            return Err(CliError::failed(format!(
                "{} has {} bytes; HS256 needs a secret of {MIN_SECRET_BYTES} or more",
                path.display(),
                secret.len()
            )));
        }
        let key = EncodingKey::from_secret(&secret);
        let key = key.map_err(|error| CliError::failed(error.to_string()))?;
        return Ok((Algorithm::HS256, key));
    }
    // One of the two is there: the group says so.
    let path = args.key_file.as_deref().unwrap_or(Path::new(""));
    let pem = read_private(path).map_err(CliError::failed)?;
    let is_private = String::from_utf8_lossy(&pem).contains("PRIVATE KEY-----");
    let keys = [
        (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)),
        (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)),
        (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem)),
    ];
    let mut keys = keys
        .into_iter()
        .filter_map(|(algorithm, key)| Some((algorithm, key.ok()?)));
    keys.next().filter(|_| is_private).ok_or_else(|| {
        CliError::failed(format!(
            "{0} holds no private key of PKCS#8 (-----BEGIN PRIVATE KEY-----); openssl pkcs8 -topk8 -nocrypt -in {0} makes one of another form",
            path.display()
        ))
    })
}

/// What `explain` says to programs.
#[derive(Debug, Serialize)]
struct Explained {
    let_in: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// What the token says of itself, true or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What it can be revoked by: the id, or the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issued: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    publish: Vec<String>,
    subscribe: Vec<String>,
    manage: Vec<String>,
    monitor: bool,
    admin: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    topics: BTreeMap<String, Vec<&'static str>>,
    notes: Vec<String>,
}

fn explain(args: &ExplainArgs) -> Result<(), CliError> {
    let token = args.token_file.as_deref().map(read_token).transpose()?;
    let authority = Authority::load(&args.auth).map_err(CliError::failed)?;
    authority.wait_for_keys(KEYS_PATIENCE);
    let explained = explained(&authority, token.as_deref(), &args.topic, SystemTime::now());
    let mut output = Output::new(args.json);
    match output.json {
        true => {
            let line = serde_json::to_string(&explained);
            output.line(
                line.map_err(|e| CliError::failed(e.to_string()))?
                    .as_bytes(),
            )?;
        }
        false => {
            for line in explained.lines() {
                output.line(shown(&line).as_bytes())?;
            }
        }
    }
    output.flush()?;
    match (&explained.error, &explained.message) {
        (Some(code), Some(message)) => {
            Err(CliError::failed(format!("not let in: {code}: {message}")))
        }
        _ => Ok(()),
    }
}

fn explained(
    authority: &Authority,
    token: Option<&str>,
    topics: &[TopicName],
    now: SystemTime,
) -> Explained {
    let credential = token.map_or(Credential::None, Credential::Bearer);
    let Explanation { judgement, notes } = authority.explain(credential, now);
    let parts = token.and_then(|token| unverified_parts(token).ok());
    let mut explained = Explained {
        let_in: judgement.is_ok(),
        error: None,
        message: None,
        token: parts.map(|[header, claims]| json!({"header": header, "claims": claims})),
        issuer: None,
        subject: None,
        token_id: None,
        issued: None,
        expires: None,
        publish: Vec::new(),
        subscribe: Vec::new(),
        manage: Vec::new(),
        monitor: false,
        admin: false,
        topics: BTreeMap::new(),
        notes,
    };
    let identity = match judgement {
        Ok(identity) => identity,
        Err(refusal) => {
            explained.error = Some(refusal.code.to_string());
            explained.message = Some(refusal.message);
            return explained;
        }
    };
    let who = identity.who();
    if !who.is_anonymous() {
        explained.issuer = Some(who.issuer().to_owned());
        explained.subject = Some(who.subject().to_owned());
    }
    explained.token_id = identity.token_id().map(str::to_owned);
    explained.issued = identity.issued_at().and_then(written);
    explained.expires = identity.expires_at().and_then(written);
    let patterns = |act| {
        let patterns = identity.grants().patterns(act).iter();
        patterns
            .map(|pattern| pattern.as_str().to_owned())
            .collect()
    };
    explained.publish = patterns(Act::Publish);
    explained.subscribe = patterns(Act::Subscribe);
    explained.manage = patterns(Act::Manage);
    explained.monitor = identity.may_monitor();
    explained.admin = identity.may_admin();
    for topic in topics {
        let acts = [
            (Act::Publish, "publish"),
            (Act::Subscribe, "subscribe"),
            (Act::Manage, "manage"),
        ];
        let may = acts.iter().filter(|(act, _)| identity.may(*act, topic));
        let may = may.map(|(_, name)| *name).collect();
        explained.topics.insert(topic.to_string(), may);
    }
    explained
}

/// To the second, of UTC.
fn written(time: SystemTime) -> Option<String> {
    let time = Timestamp::try_from(time).ok()?;
    Some(format!("{time:.0}"))
}

impl Explained {
    /// For people.
    fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(token) = &self.token {
            lines.push(format!("the token says   {token}"));
        }
        if self.let_in {
            lines.push(match (&self.issuer, &self.subject) {
                (Some(issuer), Some(subject)) => {
                    format!("let in as        {subject} (issuer {issuer})")
                }
                _ => "let in as        anonymous".to_owned(),
            });
            for (name, value) in [
                ("id", &self.token_id),
                ("issued", &self.issued),
                ("until", &self.expires),
            ] {
                if let Some(value) = value {
                    lines.push(format!("{name:16} {value}"));
                }
            }
            for (name, patterns) in [
                ("may publish to", &self.publish),
                ("may subscribe to", &self.subscribe),
                ("may delete", &self.manage),
            ] {
                let patterns = match patterns.is_empty() {
                    true => "nothing".to_owned(),
                    false => patterns.join(" "),
                };
                lines.push(format!("{name:16} {patterns}"));
            }
            for (may, name) in [
                (self.monitor, "may monitor"),
                (self.admin, "may administer"),
            ] {
                lines.push(format!("{name:16} {}", if may { "yes" } else { "no" }));
            }
            for (topic, acts) in &self.topics {
                let acts = match acts.is_empty() {
                    true => "nothing".to_owned(),
                    false => acts.join(", "),
                };
                lines.push(format!("on {topic}: {acts}"));
            }
        }
        lines.extend(
            self.notes
                .iter()
                .map(|note| format!("note             {note}")),
        );
        lines
    }
}

/// The first word of a file.
fn read_token(path: &Path) -> Result<String, CliError> {
    let failed = |error: std::io::Error| {
        CliError::failed(format!(
            "cannot read the token in {}: {error}",
            path.display()
        ))
    };
    let mut text = String::new();
    let read = match path == Path::new("-") {
        true => std::io::stdin()
            .take(MAX_READ_BYTES)
            .read_to_string(&mut text),
        false => std::fs::File::open(path)
            .and_then(|file| file.take(MAX_READ_BYTES).read_to_string(&mut text)),
    };
    read.map_err(failed)?;
    match text.trim() {
        "" => Err(CliError::failed(format!("{} is empty", path.display()))),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        token: TokenArgs,
    }

    /// A directory with the keys of the tests and a broker's configuration.
    struct Setup {
        dir: tempfile::TempDir,
    }

    const AUTH: &str = r#"
[[issuer]]
name = "tests"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"
grants_claim = true

[[rule]]
who = "*"
subscribe = ["user.{sub}.>"]
"#;

    impl Setup {
        fn new() -> Self {
            let setup = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            setup.write("auth.toml", AUTH.as_bytes());
            setup.write("secret", b"a secret of the tests, long enough\n");
            let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/identity/testdata");
            for name in ["p256.pem", "p256-public.pem", "rsa.pem", "ed25519.pem"] {
                setup.write(name, &std::fs::read(format!("{dir}/{name}")).unwrap());
            }
            setup
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            std::fs::write(self.path(name), bytes).unwrap();
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(self.path(name), mode).unwrap();
        }

        /// What `hark token make` prints. Words that begin with `@` are files.
        fn make(&self, args: &str) -> Result<String, CliError> {
            let args = args.split(' ').map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).display().to_string(),
                None => word.to_owned(),
            });
            let args = ["token", "make", "--issuer", "tests", "--audience", "hark"]
                .map(String::from)
                .into_iter()
                .chain(args);
            let parsed =
                Alone::try_parse_from(args).map_err(|error| CliError::usage(error.to_string()))?;
            match parsed.token.command {
                TokenCommand::Make(args) => make(*args, SystemTime::now()),
                TokenCommand::Explain(_) => panic!("that is another command"),
            }
        }

        fn explained(&self, token: Option<&str>, topics: &[&str]) -> Explained {
            let authority = Authority::load(&self.path("auth.toml")).unwrap();
            let topics: Vec<TopicName> =
                topics.iter().map(|topic| topic.parse().unwrap()).collect();
            explained(&authority, token, &topics, SystemTime::now())
        }
    }

    #[test]
    fn what_is_made_is_let_in_and_explained() {
        let setup = Setup::new();
        let token = setup
            .make("--secret-file @secret --subject bob --publish in.* --monitor --expires-in 5m")
            .unwrap();
        let explained = setup.explained(Some(&token), &["in.a", "user.bob.x", "user.eve.x"]);
        assert!(explained.let_in, "{explained:?}");
        assert_eq!(explained.subject.as_deref(), Some("bob"));
        assert_eq!(explained.publish, ["in.*"]);
        assert_eq!(explained.subscribe, ["user.bob.>"]);
        assert!(explained.monitor && !explained.admin && explained.expires.is_some());
        assert!(explained.token_id.is_some() && explained.issued.is_some());
        assert_eq!(explained.topics["in.a"], ["publish"]);
        assert_eq!(explained.topics["user.bob.x"], ["subscribe"]);
        assert!(explained.topics["user.eve.x"].is_empty());
        let lines = explained.lines().join("\n");
        for part in [
            "bob (issuer tests)",
            "user.bob.>",
            "on user.eve.x: nothing",
            "\"alg\":\"HS256\"",
        ] {
            assert!(lines.contains(part), "{part} is missing:\n{lines}");
        }
        // What a token says is shown, the token itself is not.
        assert!(
            !lines.contains(token.rsplit('.').next().unwrap()),
            "{lines}"
        );
    }

    #[test]
    fn private_keys_of_every_kind_sign() {
        let setup = Setup::new();
        for (file, alg) in [
            ("rsa.pem", "RS256"),
            ("p256.pem", "ES256"),
            ("ed25519.pem", "EdDSA"),
        ] {
            let args = format!("--key-file @{file} --subject bob --key-id k1");
            let token = setup.make(&args).unwrap();
            let [header, claims] = unverified_parts(&token).unwrap();
            assert_eq!(header["alg"], alg);
            assert_eq!(header["kid"], "k1");
            assert_eq!(claims["sub"], "bob");
            assert!(claims["jti"].as_str().is_some_and(|id| id.len() == 16));
            assert!(!claims.contains_key("hark"), "nothing is granted");
        }
    }

    #[test]
    fn who_is_not_let_in_is_told_why() {
        let setup = Setup::new();
        let token = setup.make("--secret-file @secret --subject bob").unwrap();
        for (token, part) in [
            (format!("{token}x"), "signature"),
            ("garbage".to_owned(), "three parts"),
            ("hark_x".to_owned(), "API keys"),
        ] {
            let explained = setup.explained(Some(&token), &[]);
            assert!(!explained.let_in);
            assert_eq!(explained.error.as_deref(), Some("unauthenticated"));
            assert!(
                explained.message.as_ref().is_some_and(|m| m.contains(part)),
                "{explained:?}"
            );
        }
        let nobody = setup.explained(None, &[]);
        assert!(nobody.let_in && nobody.subject.is_none() && nobody.subscribe.is_empty());
        assert!(nobody.lines().join("\n").contains("anonymous"));
    }

    #[test]
    fn keys_that_cannot_sign_are_refused() {
        let setup = Setup::new();
        setup.write("short", b"short");
        for (args, part) in [
            ("--subject bob", "--secret-file"),
            (
                "--subject bob --secret-file @secret --key-file @p256.pem",
                "cannot be used",
            ),
            ("--subject bob --secret-file @short", "32"),
            ("--subject bob --secret-file @nowhere", "cannot read"),
            (
                "--subject bob --key-file @p256-public.pem",
                "no private key",
            ),
            ("--subject bob --key-file @secret", "no private key"),
        ] {
            let refused = setup.make(args).unwrap_err().to_string();
            assert!(refused.contains(part), "{args}: {refused}");
        }
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(setup.path("secret"), open).unwrap();
        let refused = setup
            .make("--subject bob --secret-file @secret")
            .unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_token_is_the_first_word_of_its_file() {
        let setup = Setup::new();
        setup.write("token", b"\n abc \n");
        setup.write("blank", b" \n");
        assert_eq!(read_token(&setup.path("token")).unwrap(), "abc");
        assert!(read_token(&setup.path("blank")).is_err());
        assert!(read_token(&setup.path("nowhere")).is_err());
    }
}
