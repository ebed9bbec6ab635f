//! "Let people in" of the README, and the second half of its start, as somebody would follow them: the commands run as they stand there, the
//! back ends sign, and a page comes in by what they have signed.

use std::path::Path;
use std::process::{Command, Stdio};

use hark_tests::{
    Broker, Browser, Cli, Response, Setup, hark, peers, quiet_port, raw_http, upgrade,
};
use serde_json::json;
use tempfile::TempDir;

/// What the README shows, and where it is kept to be run.
const SIGNING: [(&str, &str); 3] = [
    (
        "js",
        include_str!("../../client-sdk/examples/sign/sign.mjs"),
    ),
    (
        "python",
        include_str!("../../client-sdk/examples/sign/sign.py"),
    ),
    (
        "rust,ignore",
        include_str!("../../client-sdk/examples/sign/sign.rs"),
    ),
];
const ADDRESS: &str = "192.168.1.20";

/// The commands of a section, a block each.
fn commands(section: &str) -> Vec<&'static str> {
    const README: &str = include_str!("../../README.md");
    let (_, text) = README.split_once(&format!("\n{section}\n")).unwrap();
    let end = text.find("\n## ").unwrap();
    let blocks = text[..end].split("\n```sh\n").skip(1);
    blocks
        .map(|block| block.split("\n```").next().unwrap())
        .collect()
}

/// A folder in which the README is followed.
struct Reader {
    dir: TempDir,
}

impl Reader {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let program = hark().get_program().to_owned();
        std::fs::create_dir(dir.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(program, dir.path().join("bin/hark")).unwrap();
        Self { dir }
    }

    /// Does as a block says, but for the broker, which is the test's; gives what is printed.
    fn follow(&self, block: &str, env: &[(&str, &str)]) -> String {
        let (before, after) = block.split_once("\nhark serve ").unwrap_or((block, ""));
        assert!(
            !after.trim_end().contains("\nhark"),
            "the broker is started last"
        );
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("sh");
        command
            .args(["-euc", before])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .env(
                "PATH",
                format!("{}:{path}", self.dir.path().join("bin").display()),
            );
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HARK_") {
                command.env_remove(name);
            }
        }
        let output = command.envs(env.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{before}\n{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn read(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path().join(name)).unwrap();
        text.trim().to_owned()
    }

    fn serve(&self) -> Broker {
        let auth = self.path().join("auth.toml");
        Setup::new().flag("auth", auth.display()).start()
    }
}

fn get(broker: &Broker, credential: &str, topic: &str) -> Response {
    let bearer = format!("Bearer {credential}");
    let path = format!("/v1/topics/{topic}/messages");
    broker
        .http()
        .request("GET", &path, &[("authorization", &bearer)], b"")
}

fn post(broker: &Broker, credential: &str, topic: &str) -> Response {
    let bearer = format!("Bearer {credential}");
    let path = format!("/v1/topics/{topic}/messages");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    broker.http().post(&path, &headers, "1")
}

/// Ana is let in, to what is hers and nowhere else.
#[track_caller]
fn lets_ana_in(broker: &Broker, token: &str) {
    post(broker, token, "user.ana.inbox").ok();
    get(broker, token, "user.ana.inbox").ok();
    get(broker, token, "public.news").ok();
    let header = format!("Authorization: Bearer {token}\r\n");
    assert_eq!(raw_http(broker, &upgrade(broker, &header)).status, 101);
    for topic in ["user.bob.inbox", "user.ana", "orders"] {
        post(broker, token, topic).expect_error(403, "forbidden");
        get(broker, token, topic).expect_error(403, "forbidden");
    }
    post(broker, token, "public.news").expect_error(403, "forbidden");
}

#[test]
fn the_readme_shows_the_back_ends_that_are_tested() {
    let readme = include_str!("../../README.md");
    for (language, source) in SIGNING {
        let shown = match source.starts_with("//! ") {
            true => source.split_once("\n\n").unwrap().1,
            false => source,
        };
        assert!(
            readme.contains(&format!("```{language}\n{shown}```")),
            "README.md has not, as {language}:\n{shown}"
        );
        assert!(shown.lines().count() <= 12, "{language} is long");
    }
}

#[test]
fn who_follows_let_people_in_has_let_them_in() {
    let reader = Reader::new();
    let [serve, program, explain, ..] = commands("## Let people in")[..] else {
        panic!("three blocks of commands");
    };
    assert!(serve.ends_with("\nhark serve --auth auth.toml"), "{serve}");
    reader.follow(serve, &[]);
    let broker = reader.serve();

    // A program, by its key.
    let url = broker.url("");
    let receipt = reader.follow(program, &[("HARK_URL", &url)]);
    assert!(receipt.contains(":1"), "{receipt}");
    let key = reader.read("backend.key");
    post(&broker, &key, "public.news").ok();
    get(&broker, &key, "user.bob.inbox").ok();
    post(&broker, &key, "orders").expect_error(403, "forbidden");
    // Whoever shows nothing.
    broker.http().get("/v1/topics/public.news/messages").ok();
    let hers = broker.http().get("/v1/topics/user.ana.inbox/messages");
    hers.expect_error(401, "unauthenticated");
    // A user, by a token.
    let explained: serde_json::Value = serde_json::from_str(&reader.follow(explain, &[])).unwrap();
    assert_eq!(
        explained["topics"],
        json!({"user.ana.inbox": ["publish", "subscribe"], "user.bob.inbox": []})
    );
    lets_ana_in(&broker, &reader.read("token"));
}

/// What the page of the README would be given by its back end.
#[test]
fn the_back_ends_of_the_readme_let_their_user_in_and_nowhere_else() {
    let reader = Reader::new();
    reader.follow(commands("## Let people in")[0], &[]);
    let broker = reader.serve();
    for ((_, source), name) in SIGNING.into_iter().zip(["sign.mjs", "sign.py"]) {
        std::fs::write(reader.path().join(name), source).unwrap();
    }
    let mut node = peers::program("node");
    let script = "import { harkToken } from './sign.mjs'; console.log(harkToken('ana'))";
    node.args(["--input-type=module", "-e", script]);
    let mut python = Command::new(peers::peers().join("venv/bin/python"));
    python.args([
        "-c",
        "from sign import hark_token; print(hark_token('ana'))",
    ]);
    for mut back_end in [node, python] {
        let output = back_end.current_dir(reader.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let token = String::from_utf8(output.stdout).unwrap();
        lets_ana_in(&broker, token.trim());
    }
}

/// The broker is the one that the section starts, but for its address, which is the test's own machine on another port.
#[test]
fn who_follows_from_another_machine_has_a_browser_in() {
    let reader = Reader::new();
    let [block] = commands("### From another machine")[..] else {
        panic!("one block of commands");
    };
    let port = quiet_port();
    let block = block
        .replace(ADDRESS, "127.0.0.1")
        .replace("8443", &port.to_string());
    let (before, serve) = block.split_once("\nhark serve ").unwrap();
    let page = reader.follow(before, &[]);
    let page = page.trim();
    let mut serving = hark();
    let serve = serve.replace("\\\n", " ");
    serving
        .arg("serve")
        .args(serve.split_whitespace())
        .current_dir(reader.path());
    let mut broker = Cli::spawn(serving);
    assert!(broker.line().contains("https://"));

    // The browser's user looks at the warning once, and goes on; another certificate would be warned of again.
    let hash = "openssl x509 -in certificate.pem -pubkey -noout | openssl pkey -pubin -outform der | \
                openssl dgst -sha256 -binary | openssl base64";
    let hash = reader.follow(hash, &[]);
    let chromium = Browser::chromium_trusting(hash.trim());
    let open = |url: &str| {
        let tab = chromium.open(url);
        let is_there = "['open', 'closed'].includes(document.querySelector('#pill').dataset.state)";
        tab.until(is_there, "document.body.innerText");
        tab
    };
    let shows =
        |words: &str| format!("document.querySelector('#messages').innerText.includes('{words}')");

    // Who has the address writes and reads, also when it is reloaded.
    let (guest, other) = (open(page), open(page));
    guest.write("#text", "is it safe here?");
    other.until(&shows("is it safe here?"), "document.body.innerText");
    other.reload();
    other.until(&shows("is it safe here?"), "document.body.innerText");
    // Who has it without the token does neither.
    let stranger = open(page.split_once('#').unwrap().0);
    stranger.write("#text", "let me in");
    let refused = "document.querySelector('#receipt').textContent.includes('Not sent')";
    stranger.until(refused, "document.body.innerText");
    assert_eq!(stranger.eval(&shows("is it safe here?")), json!(false));
}
