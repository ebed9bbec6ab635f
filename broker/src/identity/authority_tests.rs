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
            "[[topic]] number 2: pattern: can never match",
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
    Setup::new("[[rule]]\nwho = \"anonymous\"\nsubscribe = [\"public.>\"]\n")
        .load()
        .unwrap();
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
