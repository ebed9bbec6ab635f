//! The commands that make, list, revoke and explain credentials: they work on files alone, and no broker runs. What they print goes to
//! other programs, so their exit codes and what goes where are looked at too.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hark_tests::{Cli, Exit, Setup, hark};
use serde_json::{Value, json};
use tempfile::TempDir;

const AUTH: &str = r#"
[[issuer]]
name = "https://id.example"
audience = ["hark"]
algorithm = "HS256"
secret_file = "secret"
grants_claim = true

[api_keys]
file = "keys.toml"

[[rule]]
name = "backend"
publish = ["in.>"]

[[rule]]
who = "*"
subscribe = ["user.{sub}.>"]
"#;

const PUBLIC_PEM: &str = include_str!("../../broker/src/identity/testdata/p256-public.pem");

/// A directory with a configuration and a secret, in which the commands run.
fn setup() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("auth.toml"), AUTH).unwrap();
    let secret = dir.path().join("secret");
    fs::write(&secret, "a secret of the tests, long enough\n").unwrap();
    fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    dir
}

/// Runs `hark ARGS…` in `dir` to its end, with `input` on stdin.
fn run(dir: &TempDir, args: &str, input: &str) -> Exit {
    let mut command = hark();
    command.args(args.split(' ')).current_dir(dir.path());
    let mut cli = Cli::spawn(command);
    cli.write(input.as_bytes());
    cli.end_input();
    cli.wait()
}

#[track_caller]
fn ok(exit: &Exit) -> &str {
    assert_eq!(exit.code, Some(0), "{exit:#?}");
    exit.stdout.trim_end()
}

/// What `hark token explain` says of what is on its stdin.
fn explained(dir: &TempDir, credential: &str, code: i32) -> Value {
    let args = "token explain --auth auth.toml --token-file - --topic in.a";
    let exit = run(dir, args, credential);
    assert_eq!(exit.code, Some(code), "{exit:#?}");
    for out in [&exit.stdout, &exit.stderr] {
        assert!(!out.contains(credential), "{exit:#?}");
    }
    serde_json::from_str(&exit.stdout).unwrap()
}

#[test]
fn an_api_key_is_made_explained_listed_and_revoked() {
    let dir = setup();
    let made = run(&dir, "key make --subject shop --rule backend", "");
    // The key alone, as another program takes it.
    let key = ok(&made).to_owned();
    assert!(key.starts_with("hark_") && key.len() == 63, "{key}");
    assert!(made.stderr.contains("keep the key") && !made.stderr.contains(&key));
    let file = dir.path().join("keys.toml");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (id, secret) = (&key[5..13], &key[14..]);
    assert!(!fs::read_to_string(&file).unwrap().contains(secret));

    let good = explained(&dir, &key, 0);
    assert_eq!(good["issuer"], "api_keys");
    assert_eq!(good["subject"], "shop");
    assert_eq!(good["topics"], json!({"in.a": ["publish"]}));

    let listed = run(&dir, "key list", "");
    let line: Value = serde_json::from_str(ok(&listed)).unwrap();
    assert_eq!((&line["id"], &line["state"]), (&json!(id), &json!("good")));

    ok(&run(&dir, &format!("key revoke {id}"), ""));
    let revoked = explained(&dir, &key, 1);
    assert_eq!(revoked["error"], "unauthenticated");
    assert!(revoked["message"].as_str().unwrap().contains("revoked"));

    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    for args in [
        "key list",
        "key make --subject x",
        "token explain --auth auth.toml",
    ] {
        let refused = run(&dir, args, "");
        assert_eq!(refused.code, Some(1), "{refused:#?}");
        assert!(
            refused.stdout.is_empty() && refused.stderr.contains("chmod 600"),
            "{refused:#?}"
        );
    }
}

#[test]
fn a_token_is_made_and_explained() {
    let dir = setup();
    fs::write(dir.path().join("keys.toml"), "").unwrap();
    let keys = dir.path().join("keys.toml");
    fs::set_permissions(keys, PermissionsExt::from_mode(0o600)).unwrap();
    let args = "token make --secret-file secret --issuer https://id.example --audience hark --subject bob --publish in.*";
    let made = run(&dir, args, "");
    let token = ok(&made).to_owned();
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert_eq!(made.stderr, "");

    let good = explained(&dir, &token, 0);
    assert_eq!(good["subject"], "bob");
    assert_eq!(good["publish"], json!(["in.*"]));
    assert_eq!(good["subscribe"], json!(["user.bob.>"]));
    assert_eq!(good["token"]["claims"]["aud"], json!(["hark"]));

    let others = run(
        &dir,
        &args.replace("--audience hark", "--audience other"),
        "",
    );
    let refused = explained(&dir, ok(&others), 1);
    assert!(
        refused["message"].as_str().unwrap().contains("aud"),
        "{refused}"
    );

    // Nobody shows anything: what everybody may.
    let nobody = run(&dir, "token explain --auth auth.toml", "");
    let nobody: Value = serde_json::from_str(ok(&nobody)).unwrap();
    assert_eq!(
        (&nobody["let_in"], &nobody["subscribe"]),
        (&json!(true), &json!([]))
    );

    // A secret is no argument.
    let refused = run(&dir, "token make --secret abc --issuer a --subject b", "");
    assert_eq!(refused.code, Some(2), "{refused:#?}");
}

/// Sooner than anybody could be judged wrongly: one sentence, which names the setting.
#[test]
fn a_broker_that_cannot_judge_does_not_start() {
    let issuer = |fields: &str| {
        format!(
            "[[issuer]]\nname = \"https://id.example\"\naudience = [\"hark\"]\n{fields}\n[[rule]]\nwho = \"*\"\npublish = [\"a\"]\n"
        )
    };
    let secret = "algorithm = \"HS256\"\nsecret_file = \"secret\"";
    let rule = |fields: &str| format!("{}[[rule]]\n{fields}\n", issuer(secret));
    for (auth, words) in [
        ("[[issuer]\n".to_owned(), &["line 1"][..]),
        // A key file that cannot be read.
        (
            issuer("algorithm = \"ES256\"\nkey_file = \"nowhere.pem\""),
            &["key_file", "nowhere.pem"],
        ),
        (
            issuer("algorithm = \"ES256\"\nkey_file = \".\""),
            &["key_file"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"open\""),
            &["secret_file", "chmod 600"],
        ),
        (
            issuer("algorithm = \"HS256\"\nsecret_file = \"short\""),
            &["secret_file", "32 bytes"],
        ),
        // Keys that are none.
        (issuer("jwks_file = \"secret\""), &["jwks_file", "JWKS"]),
        (issuer("jwks_file = \"list.json\""), &["jwks_file", "keys"]),
        (
            issuer("jwks_file = \"odd.json\""),
            &["jwks_file", "no key that can be used"],
        ),
        (
            issuer("jwks_url = \"http://id.example/keys\""),
            &["jwks_url", "https"],
        ),
        // An algorithm that is none, or another than the key's.
        (
            issuer("algorithm = \"none\"\nkey_file = \"public.pem\""),
            &["algorithm", "none", "HS256"],
        ),
        (
            issuer("algorithm = \"RS256\"\nkey_file = \"public.pem\""),
            &["key_file", "RS256"],
        ),
        (
            issuer("algorithm = \"HS256\"\nkey_file = \"public.pem\""),
            &["algorithm", "secret_file"],
        ),
        // A rule that can never match.
        (
            rule("who = \"https://other.example ana\"\npublish = [\"a\"]"),
            &["[[rule]] number 2", "who", "never"],
        ),
        (
            rule("who = \"https://id.example a.b\"\npublish = [\"user.{sub}\"]"),
            &["[[rule]] number 2", "who", "never"],
        ),
        (
            rule("who = \"*\"\npublish = [\"$sys.a\"]"),
            &["publish", "never"],
        ),
        (
            rule("who = \"*\"\nsubscribe = [\"a.>.b\"]"),
            &["subscribe", "a.>.b"],
        ),
        (
            rule("who = \"*\""),
            &["[[rule]] number 2", "grants nothing"],
        ),
    ] {
        let dir = setup();
        fs::write(dir.path().join("auth.toml"), &auth).unwrap();
        fs::write(dir.path().join("public.pem"), PUBLIC_PEM).unwrap();
        fs::write(dir.path().join("list.json"), "[1]").unwrap();
        fs::write(
            dir.path().join("odd.json"),
            r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#,
        )
        .unwrap();
        for (name, bytes, mode) in [
            ("open", &[b'x'; 32][..], 0o644),
            ("short", &[b'x'; 31], 0o600),
        ] {
            let path = dir.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let file = dir.path().join("auth.toml");
        let exit = Setup::new().flag("auth", file.display()).try_start();
        let exit = exit
            .err()
            .unwrap_or_else(|| panic!("it started with:\n{auth}"));
        assert!(matches!(exit.code, Some(1 | 2)), "{exit:#?}");
        assert_eq!(exit.stderr.trim().lines().count(), 1, "{}", exit.stderr);
        for word in words.iter().chain(&["auth.toml"]) {
            assert!(
                exit.stderr.contains(word),
                "{word}: {}\n{auth}",
                exit.stderr
            );
        }
    }
}

/// What only shows when a token comes is said by `hark token explain`, before anybody is turned away.
#[test]
fn a_token_that_is_too_long_or_a_clock_that_is_off_is_explained() {
    let dir = setup();
    fs::write(dir.path().join("keys.toml"), "").unwrap();
    let keys = dir.path().join("keys.toml");
    fs::set_permissions(keys, PermissionsExt::from_mode(0o600)).unwrap();
    let long = explained(&dir, &"x".repeat(1 << 20), 1);
    let message = long["message"].as_str().unwrap();
    assert!(
        message.contains("1048576 bytes") && message.contains("16384"),
        "{long}"
    );
    let now = crate::identity::now_s();
    for (exp, nbf, words) in [
        (now - 120, now - 300, ["has expired", "ago"]),
        (
            now + 300,
            now + 120,
            ["not valid yet", "are the clocks set?"],
        ),
    ] {
        let claims = json!({"iss": "https://id.example", "aud": "hark", "sub": "bob", "exp": exp, "nbf": nbf});
        let token = crate::identity::by_secret(b"a secret of the tests, long enough", &claims);
        let refused = explained(&dir, &token, 1);
        let message = refused["message"].as_str().unwrap();
        for word in words {
            assert!(message.contains(word), "{refused}");
        }
    }
}
