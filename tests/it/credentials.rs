//! The commands that make, list, revoke and explain credentials: they work on files alone, and no broker runs. What they print goes to
//! other programs, so their exit codes and what goes where are looked at too.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hark_tests::{Cli, Exit, hark};
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
