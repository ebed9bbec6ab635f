//! Whole configurations against tokens and keys: who is let in, to what, and in which words a mistake is named.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hark_protocol::TopicName;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::super::{Act, KeyFile, NewKey};
use super::*;

/// The back end in Rust that the README shows.
#[allow(unreachable_pub, reason = "it is an example of a program of its own")]
#[path = "../../../client-sdk/examples/sign/sign.rs"]
mod readme;

const SECRET: &[u8] = b"a secret of the tests, long enough";
const NOW_SECS: u64 = 1_800_000_000;

fn now() -> SystemTime {
    at(0)
}

/// So many seconds from now.
fn at(secs: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW_SECS.checked_add_signed(secs).unwrap())
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

/// A directory with a configuration and the keys of the tests.
struct Setup {
    dir: tempfile::TempDir,
}

impl Setup {
    fn new(auth: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let setup = Self { dir };
        setup.write("auth.toml", auth.as_bytes());
        setup.write("secret", SECRET);
        setup.write("rsa.pem", include_bytes!("testdata/rsa-public.pem"));
        setup.write("p256.pem", include_bytes!("testdata/p256-public.pem"));
        setup.write("p384.pem", include_bytes!("testdata/p384-public.pem"));
        setup.write("ed25519.pem", include_bytes!("testdata/ed25519-public.pem"));
        setup.write("private.pem", include_bytes!("testdata/p256.pem"));
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
        self.mode(name, 0o600);
    }

    fn mode(&self, name: &str, mode: u32) {
        let mode = PermissionsExt::from_mode(mode);
        std::fs::set_permissions(self.path(name), mode).unwrap();
    }

    fn load(&self) -> Result<Authority, String> {
        Authority::load(&self.path("auth.toml"))
    }
}

/// One issuer of each algorithm, of which the first is believed what it grants.
const ISSUERS: &str = r#"
[[issuer]]
name = "https://hs.example"
audience = ["hark", "other"]
algorithm = "HS256"
secret_file = "secret"
grants_claim = true

[[issuer]]
name = "https://rs.example"
audience = ["hark"]
algorithm = "RS256"
key_file = "rsa.pem"
leeway = "0s"

[[issuer]]
name = "https://es.example"
any_audience = true
algorithm = "ES256"
key_file = "p256.pem"
grants_claim = true
admin_claim = true

[[issuer]]
name = "https://ed.example"
audience = ["hark"]
algorithm = "EdDSA"
key_file = "ed25519.pem"

[[rule]]
who = "*"
publish = ["user.{sub}.>"]

[[rule]]
who = "anonymous"
subscribe = ["public.>"]

[[rule]]
who = "https://rs.example bob"
subscribe = ["bobs"]
monitor = true

[[rule]]
who = "https://ed.example *"
subscribe = ["eds"]
"#;

fn signing_key(algorithm: Algorithm) -> EncodingKey {
    let key = match algorithm {
        Algorithm::HS256 => EncodingKey::from_secret(SECRET),
        Algorithm::RS256 => EncodingKey::from_rsa_pem(include_bytes!("testdata/rsa.pem")),
        Algorithm::ES256 => EncodingKey::from_ec_pem(include_bytes!("testdata/p256.pem")),
        _ => EncodingKey::from_ed_pem(include_bytes!("testdata/ed25519.pem")),
    };
    key.unwrap()
}

fn issuer_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "https://hs.example",
        Algorithm::RS256 => "https://rs.example",
        Algorithm::ES256 => "https://es.example",
        _ => "https://ed.example",
    }
}

fn sign(algorithm: Algorithm, claims: &Value) -> String {
    ring_backend::install();
    jsonwebtoken::encode(&Header::new(algorithm), claims, &signing_key(algorithm)).unwrap()
}

/// A good token, but for what is changed in its claims; null takes one out.
fn token(algorithm: Algorithm, changed: Value) -> String {
    let mut claims = json!({
        "iss": issuer_of(algorithm), "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600,
    });
    for (name, value) in changed.as_object().unwrap() {
        match value.is_null() {
            true => claims.as_object_mut().unwrap().remove(name),
            false => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    sign(algorithm, &claims)
}

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn judge(authority: &Authority, token: &str) -> Result<Identity, Refusal> {
    authority.judge(Credential::Bearer(token), now())
}

fn refusal(authority: &Authority, token: &str) -> String {
    let refused = judge(authority, token).expect_err("it was let in");
    assert_eq!(refused.code, ErrorCode::Unauthenticated, "{refused}");
    refused.message
}

#[test]
fn where_nothing_is_configured_anybody_may_everything_and_a_token_is_not_looked_at() {
    let open = Authority::open();
    let identity = open.judge(Credential::None, now()).unwrap();
    assert_eq!(identity.name(), "anonymous");
    assert!(identity.may(Act::Manage, &topic("$sys.x")) && identity.may_admin());
    let refused = open
        .judge(Credential::Bearer("garbage"), now())
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unsupported);
}

#[test]
fn a_good_token_of_every_algorithm_is_let_in() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    for (_, algorithm) in ALGORITHMS {
        let claims = json!({"jti": "t1", "iat": NOW_SECS, "nbf": NOW_SECS});
        let identity = judge(&authority, &token(algorithm, claims)).unwrap();
        assert_eq!(identity.who(), &Who::new(issuer_of(algorithm), "bob"));
        assert_eq!(identity.name(), "bob");
        assert_eq!(identity.token_id(), Some("t1"));
        assert_eq!(identity.issued_at(), Some(now()));
        // A clock that is a little behind must not throw out what another let in.
        let leeway = if algorithm == Algorithm::RS256 { 0 } else { 30 };
        assert_eq!(identity.expires_at(), Some(at(600 + leeway)));
        assert!(identity.may(Act::Publish, &topic("user.bob.x")));
        assert!(!identity.may(Act::Publish, &topic("user.eve.x")));
        assert!(identity.may(Act::Subscribe, &topic("public.x")));
        let is_rs = algorithm == Algorithm::RS256;
        assert_eq!(
            identity.may(Act::Subscribe, &topic("bobs")),
            is_rs,
            "{algorithm:?}"
        );
        assert_eq!(identity.may_monitor(), is_rs, "{algorithm:?}");
        let is_ed = algorithm == Algorithm::EdDSA;
        assert_eq!(
            identity.may(Act::Subscribe, &topic("eds")),
            is_ed,
            "{algorithm:?}"
        );
        assert!(!identity.may_admin());
    }
}

#[test]
fn the_back_end_of_the_readme_signs_for_its_user_alone() {
    let setup = Setup::new(
        "[[issuer]]\nname = \"https://app.example\"\naudience = [\"hark\"]\nalgorithm = \"HS256\"\nsecret_file = \"secret\"\n\
         [[rule]]\nwho = \"*\"\nsubscribe = [\"user.{sub}.>\"]\n",
    );
    let authority = setup.load().unwrap();
    let secret = format!("{}\n", std::str::from_utf8(SECRET).unwrap());
    let token = readme::hark_token(&secret, "ana").unwrap();
    let credential = Credential::Bearer(&token);
    let identity = authority.judge(credential, SystemTime::now()).unwrap();
    assert_eq!(identity.name(), "ana");
    assert!(identity.may(Act::Subscribe, &topic("user.ana.inbox")));
    for other in ["user.bob.inbox", "user.ana", "orders"] {
        assert!(!identity.may(Act::Subscribe, &topic(other)), "{other}");
    }
    let minutes = identity
        .expires_at()
        .unwrap()
        .duration_since(SystemTime::now());
    assert!(minutes.unwrap() < Duration::from_secs(6 * 60));
}

/// What is remembered is that its signature is good, and nothing else.
#[test]
fn a_token_that_was_let_in_is_judged_again_when_it_is_shown_again() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let claims = json!({"hark": {"subscribe": ["own"]}});
    let good = token(Algorithm::ES256, claims);
    for _ in 0..2 {
        let identity = judge(&authority, &good).unwrap();
        assert!(identity.may(Act::Subscribe, &topic("own")));
        assert!(identity.may(Act::Publish, &topic("user.bob.x")));
    }
    let late = authority.judge(Credential::Bearer(&good), at(631));
    assert!(late.unwrap_err().message.contains("expired"));
    let (text, signature) = good.rsplit_once('.').unwrap();
    let other = token(Algorithm::ES256, json!({"sub": "eve"}));
    let foreign = format!("{text}.{}", other.rsplit_once('.').unwrap().1);
    assert_ne!(foreign, good);
    assert!(refusal(&authority, &foreign).contains("signature"));
    let cut = format!("{text}.{}", &signature[..signature.len() - 1]);
    assert!(refusal(&authority, &cut).contains("cannot be read"));
    judge(&authority, &good).unwrap();
}

#[test]
fn equal_subjects_of_two_issuers_never_meet() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let [a, b] = [Algorithm::HS256, Algorithm::RS256]
        .map(|algorithm| judge(&authority, &token(algorithm, json!({}))).unwrap());
    assert_eq!(a.name(), b.name());
    assert_ne!(a.who(), b.who());
}

#[test]
fn bad_tokens_are_refused_and_told_why() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let good = token(Algorithm::RS256, json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        panic!("three parts")
    };
    let rsa_pem: &[u8] = include_bytes!("testdata/rsa-public.pem");
    let confused = {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = None;
        let claims = json!({"iss": "https://rs.example", "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600});
        jsonwebtoken::encode(
            &header,
            &claims,
            &EncodingKey::from_secret(rsa_pem).unwrap(),
        )
        .unwrap()
    };
    let none = |alg: &str, signature: &str| {
        format!(
            "{}.{claims}.{signature}",
            encoded(&json!({"alg": alg, "typ": "JWT"}))
        )
    };
    let other_secret = {
        let claims = json!({"iss": "https://hs.example", "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600});
        let key = EncodingKey::from_secret(b"another secret, of the same length").unwrap();
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    };
    let flipped = match signature.strip_prefix('A') {
        Some(rest) => format!("{header}.{claims}.B{rest}"),
        None => format!("{header}.{claims}.A{}", &signature[1..]),
    };
    let critical = {
        let header = encoded(&json!({"alg": "HS256", "crit": ["exp"], "exp": 1}));
        let message = format!(
            "{header}.{claims}",
            claims = encoded(&json!({
                "iss": "https://hs.example", "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600,
            }))
        );
        let key = signing_key(Algorithm::HS256);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        format!("{message}.{}", signature.unwrap())
    };
    let twice = {
        let claims = format!(
            r#"{{"iss":"https://hs.example","sub":"bob","aud":"hark","exp":{0},"exp":{0}}}"#,
            NOW_SECS + 600
        );
        let header = encoded(&json!({"alg": "HS256"}));
        let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
        let key = signing_key(Algorithm::HS256);
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        format!("{message}.{}", signature.unwrap())
    };
    let hs = |changed: Value| token(Algorithm::HS256, changed);
    let cases = [
        ("nothing", String::new(), "three parts"),
        ("garbage", "garbage".to_owned(), "three parts"),
        ("two dots", "..".to_owned(), "header"),
        ("four parts", format!("{good}.x"), "three parts"),
        ("of 1 MB", "x".repeat(1 << 20), "at most 16384"),
        (
            "of 1 MB, well formed",
            format!("{header}.{}.x", "e".repeat(1 << 20)),
            "at most 16384",
        ),
        (
            "without a signature",
            format!("{header}.{claims}."),
            "signature",
        ),
        ("another signature", flipped, "signature"),
        ("another secret", other_secret, "signature"),
        ("alg none", none("none", ""), "algorithm"),
        ("alg None", none("None", ""), "algorithm"),
        (
            "alg none with a signature",
            none("none", signature),
            "algorithm",
        ),
        ("an empty alg", none("", signature), "algorithm"),
        (
            "another alg of the same key",
            none("RS512", signature),
            "algorithm",
        ),
        ("HS256 by the public key", confused, "algorithm"),
        ("a critical extension", critical, "cannot be read"),
        ("exp twice", twice, "cannot be read"),
        (
            "another issuer",
            hs(json!({"iss": "https://evil.example"})),
            "issuer",
        ),
        (
            "an issuer with another's key",
            hs(json!({"iss": "https://rs.example"})),
            "algorithm",
        ),
        ("no issuer", hs(json!({"iss": null})), "iss"),
        (
            "issuers",
            hs(json!({"iss": ["https://hs.example"]})),
            "claims",
        ),
        ("another audience", hs(json!({"aud": "evil"})), "aud"),
        (
            "other audiences",
            hs(json!({"aud": ["evil", "worse"]})),
            "aud",
        ),
        ("no audience", hs(json!({"aud": null})), "aud"),
        ("expired", hs(json!({"exp": NOW_SECS - 31})), "expired"),
        ("no exp", hs(json!({"exp": null})), "cannot be read"),
        (
            "exp as text",
            hs(json!({"exp": "1900000000"})),
            "cannot be read",
        ),
        (
            "exp in milliseconds",
            hs(json!({"exp": NOW_SECS * 1000})),
            "cannot be read",
        ),
        ("exp of nonsense", hs(json!({"exp": -1})), "cannot be read"),
        (
            "not valid yet",
            hs(json!({"nbf": NOW_SECS + 31})),
            "not valid yet",
        ),
        ("nbf as text", hs(json!({"nbf": "soon"})), "cannot be read"),
        ("no subject", hs(json!({"sub": null})), "cannot be read"),
        ("an empty subject", hs(json!({"sub": ""})), "sub"),
        ("a long subject", hs(json!({"sub": "x".repeat(256)})), "sub"),
        (
            "a number as subject",
            hs(json!({"sub": 7})),
            "cannot be read",
        ),
        (
            "a pattern that is none",
            hs(json!({"hark": {"publish": ["a..b"]}})),
            "hark",
        ),
        (
            "an unknown grant",
            hs(json!({"hark": {"publish": ["a"], "only_on_monday": true}})),
            "hark",
        ),
        ("grants of another form", hs(json!({"hark": "all"})), "hark"),
        (
            "an API key",
            "hark_abcdefgh_xyz".to_owned(),
            "API keys are not taken",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, token, word) in &cases {
        match judge(&authority, token) {
            Ok(_) => wrong.push(format!("{name}: let in")),
            Err(refused) => {
                let piece = token.get(..40).unwrap_or("no piece of it");
                let is_right = refused.code == ErrorCode::Unauthenticated
                    && refused.message.contains(word)
                    && !refused.message.contains(piece);
                if !is_right {
                    wrong.push(format!("{name}: {refused}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    judge(&authority, &good).unwrap();
}

#[test]
fn times_have_the_leeway_that_is_stated() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    for (algorithm, leeway) in [(Algorithm::HS256, 30), (Algorithm::RS256, 0)] {
        let token = token(
            algorithm,
            json!({"exp": NOW_SECS + 100, "nbf": NOW_SECS - 100}),
        );
        let in_time = |secs: i64| {
            authority
                .judge(Credential::Bearer(&token), at(secs))
                .is_ok()
        };
        assert!(in_time(100 + leeway - 1) && !in_time(100 + leeway));
        assert!(in_time(-100 - leeway) && !in_time(-100 - leeway - 1));
    }
    // A fraction of a second is a time too.
    let fraction = token(Algorithm::RS256, json!({"exp": NOW_SECS as f64 + 0.5}));
    judge(&authority, &fraction).unwrap();
}

#[test]
fn a_clock_that_was_never_set_judges_nobody() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let token = token(Algorithm::HS256, json!({}));
    let refused = authority
        .judge(Credential::Bearer(&token), UNIX_EPOCH)
        .unwrap_err();
    assert_eq!(refused.code, ErrorCode::Busy);
}

#[test]
fn several_audiences_may_be_meant() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    for aud in [json!("other"), json!(["x", "hark"])] {
        judge(&authority, &token(Algorithm::HS256, json!({"aud": aud}))).unwrap();
    }
    // Waived.
    for aud in [json!("whatever"), Value::Null] {
        judge(&authority, &token(Algorithm::ES256, json!({"aud": aud}))).unwrap();
    }
}

#[test]
fn a_claim_is_believed_as_far_as_its_issuer_is() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let claim = json!({"hark": {
        "publish": ["p"], "subscribe": ["s.{sub}"], "manage": ["m"], "monitor": true, "admin": true,
    }});
    for (algorithm, believed, admin) in [
        (Algorithm::HS256, true, false),
        (Algorithm::RS256, false, false),
        (Algorithm::ES256, true, true),
        (Algorithm::EdDSA, false, false),
    ] {
        let token = token(algorithm, claim.clone());
        let identity = judge(&authority, &token).unwrap();
        assert_eq!(
            identity.may(Act::Publish, &topic("p")),
            believed,
            "{algorithm:?}"
        );
        assert_eq!(
            identity.may(Act::Subscribe, &topic("s.bob")),
            believed,
            "{algorithm:?}"
        );
        assert_eq!(
            identity.may(Act::Manage, &topic("m")),
            believed,
            "{algorithm:?}"
        );
        assert_eq!(identity.may_admin(), admin, "{algorithm:?}");
        let notes = authority
            .explain(Credential::Bearer(&token), now())
            .notes
            .join("\n");
        assert_eq!(notes.contains("grants_claim"), !believed, "{notes}");
        assert_eq!(notes.contains("admin_claim"), believed && !admin, "{notes}");
    }
}

#[test]
fn the_first_topic_rule_that_matches_says_whether_publishers_are_told() {
    let rules = r#"
[[topic]]
pattern = "chat.mute.>"
identity = false

[[topic]]
pattern = "chat.>"
identity = true

[[topic]]
pattern = "board"
identity = true
"#;
    let authority = Setup::new(&format!("{ISSUERS}{rules}")).load().unwrap();
    for (name, told) in [
        ("chat.eu", true),
        ("chat.eu.x", true),
        ("chat.mute.eu", false),
        ("chat.mute", true),
        ("chat", false),
        ("board", true),
        ("board.x", false),
    ] {
        assert_eq!(authority.tells_identity(&topic(name)), told, "{name}");
    }
    assert!(!Authority::open().tells_identity(&topic("chat.eu")));

    let refused = |rules: &str| Setup::new(&format!("{ISSUERS}{rules}")).load().unwrap_err();
    for (rules, part) in [
        (
            "[[topic]]\npattern = \"a..b\"\nidentity = true\n",
            "[[topic]] number 1: pattern",
        ),
        ("[[topic]]\npattern = \"a\"\n", "identity"),
        ("[[topic]]\nidentity = true\n", "pattern"),
        (
            "[[topic]]\npattern = \"a\"\nidentity = true\n[[topic]]\npattern = \"a\"\nidentity = false\n",
            "[[topic]] number 2: pattern: \"a\" can never match: \"a\" stands before",
        ),
        (
            "[[topic]]\npattern = \"chat.>\"\nidentity = true\n[[topic]]\npattern = \"chat.mute.>\"\nidentity = false\n",
            "[[topic]] number 2: pattern: \"chat.mute.>\" can never match: \"chat.>\" stands before, and the first that matches a topic counts; put the narrower one first",
        ),
    ] {
        let refused = refused(rules);
        assert!(refused.contains(part), "{refused}");
    }
}

#[test]
fn a_subject_that_is_no_segment_gets_nothing_of_the_rule_and_the_rest_stays() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let token = token(Algorithm::HS256, json!({"sub": "*"}));
    let identity = judge(&authority, &token).unwrap();
    assert!(!identity.may(Act::Publish, &topic("user.bob.x")));
    assert!(identity.may(Act::Subscribe, &topic("public.x")));
    let notes = authority
        .explain(Credential::Bearer(&token), now())
        .notes
        .join("\n");
    assert!(
        notes.contains("[[rule]] number 1: gives nothing"),
        "{notes}"
    );
    assert!(notes.contains("[[rule]] number 2: applied"), "{notes}");
    assert!(notes.contains("[[rule]] number 3: for others"), "{notes}");
}

#[test]
fn without_a_credential_one_has_what_everybody_has() {
    let setup = Setup::new(ISSUERS);
    let identity = setup
        .load()
        .unwrap()
        .judge(Credential::None, now())
        .unwrap();
    assert!(identity.who().is_anonymous());
    assert_eq!(identity.name(), "anonymous");
    assert!(identity.may(Act::Subscribe, &topic("public.x")));
    assert!(!identity.may(Act::Publish, &topic("user.anonymous.x")));
    assert!(!identity.may_monitor());
    // Another who is called so is still another.
    let setup = Setup::new(ISSUERS);
    let other = judge(
        &setup.load().unwrap(),
        &token(Algorithm::HS256, json!({"sub": "anonymous"})),
    );
    assert_ne!(other.unwrap().who(), identity.who());
}

fn certificate(subject: Option<&str>) -> Arc<Certificate> {
    Arc::new(Certificate {
        subject: subject.map(Into::into),
        not_before: at(-10),
        not_after: at(10),
        fingerprint: "ab12".into(),
    })
}

#[test]
fn a_certificate_is_an_identity_where_the_file_says_so() {
    let rules = "[[rule]]\nwho = \"anonymous\"\nsubscribe = [\"public.>\"]\n";
    let ana = certificate(Some("ana"));
    let judge = |auth: &str, shown: &Arc<Certificate>, now: SystemTime| {
        let authority = Setup::new(auth).load().unwrap();
        authority.judge(Credential::Certificate(shown), now)
    };
    assert!(judge(rules, &ana, now()).unwrap().who().is_anonymous());

    let with = format!(
        "{rules}[client_certificates]\n[[rule]]\nwho = \"client-certificate ana\"\npublish = [\"in.{{sub}}\"]\n"
    );
    let identity = judge(&with, &ana, now()).unwrap();
    assert_eq!(*identity.who(), Who::new("client-certificate", "ana"));
    assert_eq!(identity.certificate(), Some("ab12"));
    assert_eq!(identity.expires_at(), Some(at(10)));
    assert!(identity.may(Act::Publish, &topic("in.ana")));
    assert!(identity.may(Act::Subscribe, &topic("public.x")));
    let bob = judge(&with, &certificate(Some("bob")), now()).unwrap();
    assert!(!bob.may(Act::Publish, &topic("in.bob")));
    for (shown, now, said) in [
        (&ana, at(10), "run out"),
        (&certificate(None), now(), "names nobody"),
    ] {
        let refused = judge(&with, shown, now).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Unauthenticated);
        assert!(refused.message.contains(said), "{refused}");
    }
    // What lets in without --auth is no identity.
    let open = Authority::open().judge(Credential::Certificate(&ana), now());
    assert!(open.unwrap().who().is_anonymous());
}

#[test]
fn an_issuer_may_have_an_old_and_a_new_key() {
    let again = r#"
[[issuer]]
name = "https://hs.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret2"
"#;
    let setup = Setup::new(&format!("{ISSUERS}{again}"));
    setup.write("secret2", b"the next secret of the tests, as long\n");
    let authority = setup.load().unwrap();
    let claims =
        json!({"iss": "https://hs.example", "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600});
    // Without the end of the line that editors add.
    for secret in [SECRET, b"the next secret of the tests, as long"] {
        let key = EncodingKey::from_secret(secret).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        judge(&authority, &token).unwrap();
    }
}

const KEYS: &str = r#"
[api_keys]
file = "keys.toml"

[[rule]]
name = "backend"
publish = ["in.>"]

[[rule]]
who = "api_keys shop"
subscribe = ["shops"]
"#;

#[test]
fn an_api_key_has_its_own_grants_and_those_of_its_rules() {
    let setup = Setup::new(KEYS);
    let make = |subject: &str, rules: &[&str]| {
        let new = NewKey {
            subject: subject.to_owned(),
            rules: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            subscribe: vec!["own.{sub}".to_owned()],
            ..NewKey::default()
        };
        KeyFile::make(&setup.path("keys.toml"), new, jiff::Timestamp::now()).unwrap()
    };
    let (shop, other) = (make("shop", &["backend"]), make("other", &[]));
    let authority = setup.load().unwrap();
    let shop = judge(&authority, &shop).unwrap();
    assert_eq!(shop.who(), &Who::new("api_keys", "shop"));
    assert!(shop.token_id().is_some_and(|id| id.len() == 8) && shop.issued_at().is_some());
    assert!(shop.may(Act::Publish, &topic("in.x")));
    assert!(
        shop.may(Act::Subscribe, &topic("shops")) && shop.may(Act::Subscribe, &topic("own.shop"))
    );
    let other_key = other;
    let other = judge(&authority, &other_key).unwrap();
    assert!(
        !other.may(Act::Publish, &topic("in.x")) && !other.may(Act::Subscribe, &topic("shops"))
    );
    assert!(other.may(Act::Subscribe, &topic("own.other")));
    // A key is no token, and a bad one is nobody.
    assert!(refusal(&authority, &other_key[..60]).contains("checksum"));
    let missing = make("third", &["backstage"]);
    let refused = setup.load().unwrap_err();
    assert!(
        refused.contains("backstage") && refused.contains("auth.toml"),
        "{refused}"
    );
    assert!(!refused.contains(&missing));
}

#[test]
fn mistakes_are_named_with_file_and_setting() {
    let issuer = |fields: &str| {
        format!(
            "[[issuer]]\nname = \"i\"\naudience = [\"hark\"]\n{fields}\n[[rule]]\nwho = \"*\"\npublish = [\"a\"]\n"
        )
    };
    let hs = |fields: &str| {
        issuer(&format!(
            "algorithm = \"HS256\"\nsecret_file = \"secret\"\n{fields}"
        ))
    };
    let rule = |fields: &str| format!("{}[[rule]]\n{fields}\n", hs(""));
    let proxy = |header: &str, issuer: &str| {
        format!("[proxy_identity]\nheader = \"{header}\"\nissuer = \"{issuer}\"\n{ANONYMOUS_RULE}")
    };
    let cases = [
        (String::new(), &["nobody"][..]),
        (
            hs("leway = \"1s\""),
            &["leway", "line", "did you mean `leeway`"],
        ),
        (hs("leeway = \"6m\""), &["leeway", "5m"]),
        (hs("leeway = \"-1s\""), &["leeway"]),
        (hs("admin_claim = true"), &["admin_claim", "grants_claim"]),
        (hs("any_audience = true"), &["audience", "any_audience"]),
        (hs("").replace("[\"hark\"]", "[]"), &["audience"]),
        (hs("").replace("[\"hark\"]", "[\"\"]"), &["audience"]),
        (
            hs("").replace("audience = [\"hark\"]", ""),
            &["audience", "any_audience"],
        ),
        (
            rule("who = \"client-certificate *\"\npublish = [\"a\"]"),
            &["client-certificate", "[client_certificates]"],
        ),
        (
            hs("") + "[client_certificates]\nname = \"i\"\n",
            &["[client_certificates] name", "another issuer"],
        ),
        (
            hs("") + "[client_certificates]\nname = \"a b\"\n",
            &["[client_certificates] name", "spaces"],
        ),
        (
            hs("") + &format!("[client_certificates]\nname = \"{}\"\n", "c".repeat(256)),
            &["[client_certificates] name", "255 bytes"],
        ),
        (hs("").replace("\"i\"", "\"\""), &["name"]),
        (hs("").replace("\"i\"", "\"a b\""), &["name", "spaces"]),
        (
            hs("").replace("\"i\"", "\"api_keys\""),
            &["name", "API keys"],
        ),
        (hs("key_file = \"rsa.pem\""), &["exactly one", "jwks_url"]),
        (issuer(""), &["exactly one", "secret_file"]),
        (
            issuer("secret_file = \"secret\""),
            &["algorithm", "missing"],
        ),
        (issuer("key_file = \"rsa.pem\""), &["algorithm", "missing"]),
        (
            issuer("algorithm = \"none\"\nkey_file = \"rsa.pem\""),
            &["algorithm", "none", "EdDSA"],
        ),
        (
            issuer("algorithm = \"HS256\"\nkey_file = \"rsa.pem\""),
            &["algorithm", "secret_file"],
        ),
        (
            issuer("algorithm = \"RS256\"\nsecret_file = \"secret\""),
            &["algorithm", "secret_file"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"short\""),
            &["secret_file", "32 bytes"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"empty\""),
            &["secret_file", "empty"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"open\""),
            &["secret_file", "0644", "chmod 600"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"rsa.pem\""),
            &["key_file", "rsa.pem", "RSA", "ES256"],
        ),
        (
            issuer("algorithm = \"RS256\"\nkey_file = \"p256.pem\""),
            &["key_file", "elliptic-curve", "RS256"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"p384.pem\""),
            &["key_file", "P-256"],
        ),
        (
            issuer("algorithm = \"EdDSA\"\nkey_file = \"p256.pem\""),
            &["key_file", "EdDSA"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"private.pem\""),
            &["key_file", "private", "-pubout"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"secret\""),
            &["key_file", "PEM"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"nowhere.pem\""),
            &["key_file", "nowhere.pem", "cannot read"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"nowhere\""),
            &["secret_file", "nowhere", "cannot read"],
        ),
        (issuer("jwks_file = \"secret\""), &["jwks_file", "JWKS"]),
        (
            issuer("jwks_file = \"nowhere.json\""),
            &["jwks_file", "cannot read"],
        ),
        (
            issuer("jwks_file = \"empty.json\""),
            &["jwks_file", "empty"],
        ),
        (
            issuer("algorithm = \"HS256\"\njwks_file = \"empty.json\""),
            &["algorithm", "secret_file"],
        ),
        (
            issuer("jwks_url = \"http://id.example/keys\""),
            &["jwks_url", "https"],
        ),
        (
            issuer("jwks_url = \"https://a:b@id.example/keys\""),
            &["jwks_url", "password"],
        ),
        (
            issuer("jwks_url = \"keys.json\""),
            &["jwks_url", "https://"],
        ),
        (
            "[api_keys]\nfile = \"nowhere.toml\"\n".to_owned(),
            &["[api_keys] file", "nowhere.toml"],
        ),
        (
            "[api_keys]\nfile = \"open\"\n".to_owned(),
            &["[api_keys] file", "chmod 600"],
        ),
        (rule("publish = [\"a\"]"), &["number 2", "who", "missing"]),
        (rule("who = \"*\""), &["number 2", "grants nothing"]),
        (
            rule("who = \"bob\"\npublish = [\"a\"]"),
            &["who", "bob", "ISSUER SUBJECT"],
        ),
        (
            rule("who = \"j bob\"\npublish = [\"a\"]"),
            &["who", "never", "\"j\""],
        ),
        (
            rule("who = \"api_keys bob\"\npublish = [\"a\"]"),
            &["who", "never"],
        ),
        (rule("who = \"i \"\npublish = [\"a\"]"), &["who", "never"]),
        (
            rule("who = \"i a.b\"\npublish = [\"{sub}\"]"),
            &["who", "never", "a.b"],
        ),
        (
            rule("who = \"*\"\npublish = [\"a..b\"]"),
            &["publish", "a..b"],
        ),
        (
            rule("who = \"*\"\nsubscribe = [\"user-{sub}\"]"),
            &["subscribe", "segment"],
        ),
        (
            rule("who = \"*\"\nmanage = [\"{user}\"]"),
            &["manage", "{sub}"],
        ),
        (
            rule("who = \"*\"\npublish = [\"$sys.x\"]"),
            &["publish", "never"],
        ),
        (
            rule("name = \"a\"\nadmin = true\n[[rule]]\nname = \"a\"\nmonitor = true"),
            &["number 3", "name"],
        ),
        (
            "[[rule]]\nwho = \"*\"\npublish = [\"a\"]\n".to_owned(),
            &["never", "[[issuer]]"],
        ),
        (
            "[[rule]]\nname = \"a\"\npublish = [\"a\"]\n".to_owned(),
            &["never", "[api_keys]"],
        ),
        (
            "[[rule]]\nwho = \"anonymous\"\npublish = [\"{sub}\"]\n".to_owned(),
            &["never", "[[issuer]]"],
        ),
        (hs("[cookie]\nname = \"\""), &["[cookie]", "name"]),
        (hs("[cookie]\nname = \"a b\""), &["[cookie]", "name"]),
        (
            format!("[cookie]\nname = \"a\"\n{ANONYMOUS_RULE}"),
            &["[cookie]", "[[issuer]]"],
        ),
        (proxy("X-User", ""), &["[proxy_identity]", "issuer"]),
        (proxy("X-User", "a b"), &["[proxy_identity]", "issuer"]),
        (
            proxy("X-User", &"p".repeat(256)),
            &["[proxy_identity]", "255 bytes"],
        ),
        (
            proxy("X-User", "api_keys"),
            &["[proxy_identity]", "already"],
        ),
        (
            hs("[proxy_identity]\nheader = \"X-User\"\nissuer = \"i\""),
            &["[proxy_identity]", "already"],
        ),
        (proxy("", "p"), &["[proxy_identity]", "header"]),
        (proxy("X User", "p"), &["[proxy_identity]", "header"]),
        (
            proxy("X-Forwarded-For", "p"),
            &["[proxy_identity]", "x-forwarded-for"],
        ),
        (
            proxy("Hark-Producer", "p"),
            &["[proxy_identity]", "hark-producer"],
        ),
        (
            format!(
                "{}[[rule]]\nwho = \"q ana\"\npublish = [\"a\"]\n",
                proxy("X-User", "p")
            ),
            &["never", "\"q\""],
        ),
    ];
    for (auth, words) in cases {
        let setup = Setup::new(&auth);
        setup.write("short", &SECRET[..31]);
        setup.write("empty", b"\n");
        setup.write("empty.json", b"{\"keys\":[]}");
        setup.write("open", SECRET);
        setup.mode("open", 0o644);
        let refused = setup
            .load()
            .err()
            .unwrap_or_else(|| panic!("this was taken:\n{auth}"));
        assert!(!refused.contains('\n'), "more than a sentence: {refused}");
        for word in words.iter().chain(&["auth.toml"]) {
            assert!(
                refused.contains(word),
                "{word} is missing in {refused:?} of:\n{auth}"
            );
        }
    }
    Setup::new(ANONYMOUS_RULE).load().unwrap();
}

const ANONYMOUS_RULE: &str = "[[rule]]\nwho = \"anonymous\"\nsubscribe = [\"public.>\"]\n";

#[test]
fn whom_a_proxy_names_is_somebody_of_its_own() {
    let auth = ISSUERS.replacen(
        "[[rule]]",
        "[proxy_identity]\nheader = \"X-User\"\nissuer = \"proxy\"\n\n[[rule]]\nwho = \"proxy bob\"\nsubscribe = [\"by-proxy\"]\n\n[[rule]]",
        1,
    );
    let authority = Setup::new(&auth).load().unwrap();
    assert_eq!(authority.proxy_header().as_deref(), Some("x-user"));
    let named = |subject: &str| authority.judge(Credential::Proxy(subject), now());
    let bob = named("bob").unwrap();
    assert_eq!((bob.who().issuer(), bob.expires_at()), ("proxy", None));
    for (name, expected) in [("by-proxy", true), ("public.x", true), ("bobs", false)] {
        assert_eq!(bob.may(Act::Subscribe, &topic(name)), expected, "{name}");
    }
    assert!(bob.may(Act::Publish, &topic("user.bob.x")));
    let by_token = judge(&authority, &token(Algorithm::HS256, json!({}))).unwrap();
    assert_ne!(by_token.who(), bob.who());
    for bad in ["", "a\tb", &"x".repeat(256)] {
        let refused = named(bad).expect_err(bad);
        assert_eq!(refused.code, ErrorCode::Unauthenticated);
    }
}

/// It is what its own claim says, in as far as that is believed, and no more.
#[test]
fn a_token_for_one_topic_adds_to_read_it_alone() {
    let authority = Setup::new(ISSUERS).load().unwrap();
    let judge = |token: &str, name: &str| authority.judge_for_topic(token, &topic(name), now());
    let claim = json!({"hark": {"subscribe": ["room.1", "of.{sub}"], "publish": ["room.1"]}});
    let good = token(Algorithm::HS256, claim.clone());
    let added = judge(&good, "room.1").unwrap();
    assert_eq!(added.name(), "bob");
    assert_eq!(added.expires_at(), Some(at(630)));
    for (act, name, expected) in [
        (Act::Subscribe, "room.1", true),
        (Act::Subscribe, "of.bob", false),
        (Act::Subscribe, "public.x", false),
        (Act::Publish, "room.1", false),
        (Act::Publish, "user.bob.x", false),
    ] {
        assert_eq!(added.may(act, &topic(name)), expected, "{act:?} {name}");
    }
    judge(&good, "of.bob").unwrap();

    let code = |token: &str, name: &str| judge(token, name).unwrap_err().code;
    assert_eq!(code(&good, "room.2"), ErrorCode::Forbidden);
    // Everybody may read this; the token does not say so.
    assert_eq!(code(&good, "public.x"), ErrorCode::Forbidden);
    // Its issuer is not believed what it grants.
    let unbelieved = token(Algorithm::EdDSA, claim);
    assert_eq!(code(&unbelieved, "room.1"), ErrorCode::Forbidden);
    let over = token(
        Algorithm::HS256,
        json!({"exp": NOW_SECS - 60, "hark": {"subscribe": ["room.1"]}}),
    );
    assert_eq!(code(&over, "room.1"), ErrorCode::Unauthenticated);
    for bad in ["garbage", "hark_12345678_abc"] {
        assert_eq!(code(bad, "room.1"), ErrorCode::Unauthenticated);
    }
    let open = Authority::open().judge_for_topic(&good, &topic("room.1"), now());
    assert_eq!(open.unwrap_err().code, ErrorCode::Unsupported);
}

#[test]
fn an_issuer_whose_keys_cannot_be_read_yet_is_busy_and_the_reason_is_explained() {
    // Nobody listens there any more.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let url = format!(
        "{ISSUERS}\n[[issuer]]\nname = \"idp\"\naudience = [\"hark\"]\njwks_url = \"http://127.0.0.1:{port}/keys\"\n"
    );
    let setup = Setup::new(&url);
    let authority = setup.load().unwrap();
    authority.wait_for_keys(Duration::from_secs(60));
    let token = token(Algorithm::ES256, json!({"iss": "idp"}));
    let explained = authority.explain(Credential::Bearer(&token), now());
    assert_eq!(explained.judgement.unwrap_err().code, ErrorCode::Busy);
    let notes = explained.notes.join("\n");
    assert!(
        notes.contains("\"idp\"") && notes.contains("cannot fetch"),
        "{notes}"
    );
}

#[test]
fn a_set_of_keys_in_a_file_judges_tokens_by_their_kid() {
    let setup = Setup::new(
        "[[issuer]]\nname = \"idp\"\naudience = [\"hark\"]\njwks_file = \"keys.json\"\n[[rule]]\nwho = \"idp *\"\npublish = [\"a\"]\n",
    );
    ring_backend::install();
    // The public half of testdata/p256.pem, as its last 64 bytes.
    let pem = std::str::from_utf8(include_bytes!("testdata/p256-public.pem")).unwrap();
    let der: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD
        .decode(der)
        .unwrap();
    let (x, y) = der[der.len() - 64..].split_at(32);
    let key = |kid: &str| {
        json!({
            "kty": "EC", "crv": "P-256", "kid": kid,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    };
    setup.write(
        "keys.json",
        json!({"keys": [key("k1"), key("k2")]})
            .to_string()
            .as_bytes(),
    );
    let authority = setup.load().unwrap();
    let signed = |kid: Option<&str>| {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = kid.map(str::to_owned);
        let claims = json!({"iss": "idp", "sub": "bob", "aud": "hark", "exp": NOW_SECS + 600});
        jsonwebtoken::encode(&header, &claims, &signing_key(Algorithm::ES256)).unwrap()
    };
    let identity = judge(&authority, &signed(Some("k2"))).unwrap();
    assert!(identity.may(Act::Publish, &topic("a")));
    assert!(refusal(&authority, &signed(None)).contains("kid"));
    assert!(refusal(&authority, &signed(Some(&"k".repeat(256)))).contains("kid"));
    // It might have come since the file was read: until it is read again nobody knows.
    let strange = signed(Some("k3"));
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let refused = judge(&authority, &strange).unwrap_err();
        if refused.code == ErrorCode::Unauthenticated {
            assert!(refused.message.contains("kid"), "{refused}");
            break;
        }
        assert_eq!(refused.code, ErrorCode::Busy);
        assert!(
            std::time::Instant::now() < end,
            "the file is not read again"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Debug output ends in logs and in panics.
#[test]
fn debug_output_never_shows_a_secret_or_a_token() {
    let setup = Setup::new(&format!("{ISSUERS}{KEYS}"));
    let new = NewKey {
        subject: "shop".to_owned(),
        ..NewKey::default()
    };
    let key = KeyFile::make(&setup.path("keys.toml"), new, jiff::Timestamp::now()).unwrap();
    let keys = KeyFile::read(&setup.path("keys.toml")).unwrap();
    let hash = std::fs::read_to_string(setup.path("keys.toml")).unwrap();
    let hash = hash
        .split("hash = \"")
        .nth(1)
        .unwrap()
        .get(..64)
        .unwrap()
        .to_owned();
    let authority = setup.load().unwrap();
    let token = token(Algorithm::HS256, json!({}));
    let unverified = Unverified::read(&token).unwrap();
    let mut shown = Vec::new();
    for credential in [&*token, &*key] {
        shown.push(format!("{:?}", Credential::Bearer(credential)));
        shown.push(format!("{:?}", judge(&authority, credential)));
        shown.push(format!(
            "{:?}",
            authority.explain(Credential::Bearer(credential), now())
        ));
        let bad = format!("{credential}x");
        shown.push(format!("{:?}", judge(&authority, &bad)));
        shown.push(format!("{}", judge(&authority, &bad).unwrap_err()));
    }
    shown.push(format!("{authority:#?} {unverified:?} {keys:?}"));
    shown.push(format!("{:?}", EncodingKey::from_secret(SECRET)));
    let secret = std::str::from_utf8(SECRET).unwrap().to_owned();
    let in_numbers = format!("{SECRET:?}");
    let signature = token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        secret,
        in_numbers[1..40].to_owned(),
        token.clone(),
        signature,
        key[14..].to_owned(),
        hash,
    ];
    for text in shown {
        for secret in &secrets {
            assert!(!text.contains(&**secret), "{secret} is shown: {text}");
        }
    }
}

/// A token that is good by the clock of the machine, which whoever is judged again is judged by.
fn lasting(algorithm: Algorithm, changed: Value) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut claims = json!({"exp": now.as_secs() + 600});
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    token(algorithm, claims)
}

/// Who shows this under `ISSUERS`, and what has become of it when the file says `later`.
fn later(
    shown: &str,
    later: impl Fn(&Setup) -> String,
) -> (Identity, Result<Option<Identity>, String>) {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let judged = authority.judge(Credential::Bearer(shown), SystemTime::now());
    let identity = judged.unwrap();
    setup.write("auth.toml", later(&setup).as_bytes());
    authority.read_again().unwrap().unwrap().take_force();
    let current = match identity.current() {
        Ok(std::borrow::Cow::Borrowed(_)) => Ok(None),
        Ok(std::borrow::Cow::Owned(other)) => Ok(Some(other)),
        Err(refusal) => {
            assert_eq!(refusal.code, ErrorCode::Unauthenticated);
            Err(refusal.message)
        }
    };
    (identity, current)
}

#[test]
fn who_was_let_in_is_judged_again_without_what_was_shown() {
    let shown = lasting(
        Algorithm::HS256,
        json!({"aud": ["x", "other"], "hark": {"publish": ["own"]}}),
    );
    let publish = |identity: &Identity, name: &str| identity.may(Act::Publish, &topic(name));

    let (_, same) = later(&shown, |_| ISSUERS.to_owned());
    assert!(same.unwrap().is_none());
    let (before, less) = later(&shown, |_| ISSUERS.replace("user.{sub}.>", "users.{sub}.>"));
    let less = less.unwrap().expect("it has changed");
    assert!(publish(&before, "user.bob.x") && !publish(&less, "user.bob.x"));
    assert!(publish(&less, "users.bob.x") && publish(&less, "own"));
    let (_, unbelieved) = later(&shown, |_| ISSUERS.replacen("grants_claim = true", "", 1));
    assert!(!publish(&unbelieved.unwrap().unwrap(), "own"));
    // The same key by another name of its file.
    let (_, moved) = later(&shown, |setup| {
        setup.write("moved", SECRET);
        ISSUERS.replace("\"secret\"", "\"moved\"")
    });
    assert!(moved.unwrap().is_none());

    for (why, change) in [
        (
            "taken back",
            (|setup: &Setup| {
                setup.write("secret", b"another secret, of 32 bytes or so");
                ISSUERS.to_owned()
            }) as fn(&Setup) -> String,
        ),
        ("aud", |_| ISSUERS.replace("\"other\"", "\"others\"")),
        ("iss", |_| {
            ISSUERS.replace("https://hs.example", "https://hs2.example")
        }),
    ] {
        let (_, refused) = later(&shown, change);
        let refused = refused.expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
}

/// Whose keys cannot be read just now stays, unless it is revoked.
#[test]
fn revocations_reach_whoever_cannot_be_judged_just_now() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let shown = lasting(Algorithm::HS256, json!({"jti": "t1"}));
    for (line, is_good) in [("{\"jti\":\"t2\"}", true), ("{\"jti\":\"t1\"}", false)] {
        let (_, current) = later(&shown, |setup| {
            setup.write("revoked.jsonl", line.as_bytes());
            let key = "algorithm = \"HS256\"\nsecret_file = \"secret\"";
            let set = format!("jwks_url = \"http://127.0.0.1:{port}/keys\"");
            let auth = ISSUERS.replacen(key, &set, 1);
            format!("{auth}[revocations]\nfile = \"revoked.jsonl\"\n")
        });
        assert_eq!(current.is_ok(), is_good, "{current:?}");
    }
}

/// The time at which a token was issued is known to the second.
#[test]
fn a_token_of_the_very_second_of_a_revocation_is_told_to_come_back() {
    let subject = |before: f64| {
        let line =
            json!({"issuer": "https://hs.example", "subject": "bob", "issued_before": before});
        let setup = Setup::new(&format!(
            "{ISSUERS}[revocations]\nfile = \"revoked.jsonl\"\n"
        ));
        setup.write("revoked.jsonl", line.to_string().as_bytes());
        setup.load().unwrap()
    };
    let issued = |at: u64| token(Algorithm::HS256, json!({"iat": at}));
    let authority = subject(NOW_SECS as f64 + 0.5);
    let code = |at: u64, after_ms: u64| {
        let now = now() + Duration::from_millis(after_ms);
        let judged = authority.judge(Credential::Bearer(&issued(at)), now);
        judged.err().map(|refusal| refusal.code)
    };
    assert_eq!(code(NOW_SECS, 500), Some(ErrorCode::Busy));
    assert_eq!(code(NOW_SECS, 2499), Some(ErrorCode::Busy));
    assert_eq!(code(NOW_SECS, 2500), Some(ErrorCode::Unauthenticated));
    assert_eq!(code(NOW_SECS - 1, 500), Some(ErrorCode::Unauthenticated));
    assert_eq!(code(NOW_SECS + 1, 1500), None);
}

#[test]
fn whom_certificates_name_is_nobody_elses_when_they_are_called_otherwise() {
    let with = |name: &str| {
        format!(
            "[client_certificates]\nname = \"{name}\"\n[[rule]]\nwho = \"*\"\npublish = [\"a\"]\n"
        )
    };
    let setup = Setup::new(&with("mesh"));
    let authority = setup.load().unwrap();
    let shown = Arc::new(Certificate {
        subject: Some("ana".into()),
        not_before: SystemTime::now(),
        not_after: SystemTime::now() + Duration::from_secs(600),
        fingerprint: "ab12".into(),
    });
    let judged = authority.judge(Credential::Certificate(&shown), SystemTime::now());
    let identity = judged.unwrap();
    setup.write("auth.toml", with("net").as_bytes());
    authority.read_again().unwrap().unwrap().take_force();
    let refused = identity.current().unwrap_err();
    assert!(refused.message.contains("another issuer"), "{refused}");
}

#[test]
fn what_cannot_be_read_again_changes_nothing() {
    let setup = Setup::new(ISSUERS);
    let authority = setup.load().unwrap();
    let shown = lasting(Algorithm::HS256, json!({}));
    let judge = || authority.judge(Credential::Bearer(&shown), SystemTime::now());
    let identity = judge().unwrap();
    setup.write("secret", b"short");
    setup.write("auth.toml", b"[[rule]]\nwho = \"*\"\nread = [\"a\"]\n");
    for missing in ["auth.toml", "secret"] {
        authority.read_again().unwrap_err();
        std::fs::remove_file(setup.path(missing)).unwrap();
        authority.read_again().unwrap_err();
        setup.write(missing, ISSUERS.as_bytes());
    }
    let current = identity.current().unwrap();
    assert!(matches!(current, std::borrow::Cow::Borrowed(_)));
    judge().unwrap();
}

#[test]
fn an_api_key_is_judged_again_by_what_its_file_says() {
    let setup = Setup::new("[api_keys]\nfile = \"keys.toml\"\n");
    let path = setup.path("keys.toml");
    let made = jiff::Timestamp::now();
    let new = |subject: &str| NewKey {
        subject: subject.to_owned(),
        publish: vec!["a".to_owned()],
        ..NewKey::default()
    };
    let key = KeyFile::make(&path, new("shop"), made).unwrap();
    let other = KeyFile::make(&path, new("other"), made).unwrap();
    let authority = setup.load().unwrap();
    let judge = |key: &str| authority.judge(Credential::Bearer(key), SystemTime::now());
    let (shop, other) = (judge(&key).unwrap(), judge(&other).unwrap());
    let text = std::fs::read_to_string(&path).unwrap();

    for (changed, is_good) in [
        (text.clone(), true),
        (text.replace("hash = \"", "hash = \"0"), true),
        (text.replace("\"shop\"", "\"shop2\""), false),
        (String::new(), false),
        (text.clone(), true),
    ] {
        setup.write("keys.toml", changed.as_bytes());
        match authority.read_again() {
            Ok(again) => again.unwrap().take_force(),
            // The hash has a digit too many.
            Err(error) => assert!(error.contains("hash"), "{error}"),
        }
        assert_eq!(shop.current().is_ok(), is_good, "{changed}");
    }
    KeyFile::revoke(&path, shop.token_id().unwrap(), made).unwrap();
    authority.read_again().unwrap().unwrap().take_force();
    let refused = shop.current().unwrap_err();
    assert!(refused.message.contains("revoked"), "{refused}");
    other.current().unwrap();
}
