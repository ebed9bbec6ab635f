//! Where requests come from: under which names Hark answers, which pages may ask, and what comes along with a request by itself (a cookie, the word of a
//! proxy) and when it counts. What browsers make of it is in `pages`.

use hark_protocol::{ClientFrame, ServerFrame, Subprotocol, SubscribeFrom, TopicName, codec};
use hark_tests::{Broker, Op, RawWs, Response, Setup, raw_http, upgrade};
use serde_json::{Value, json};

use crate::identity::{Issuers, RULES, SECRET, SHARED, ask, but, by_secret, claims, now_s, token};

const EVIL: &str = "https://evil.example";
/// Every route, one of each kind, and none.
const ROUTES: [(&str, &str); 19] = [
    ("GET", "/"),
    ("GET", "/demo"),
    ("GET", "/demo/"),
    ("GET", "/demo/demo.js"),
    ("GET", "/hark.js"),
    ("GET", "/favicon.ico"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/v1/topics"),
    ("GET", "/v1/topics/public.a"),
    ("DELETE", "/v1/topics/public.a"),
    ("GET", "/v1/topics/public.a/messages"),
    ("POST", "/v1/topics/public.a/messages"),
    ("GET", "/v1/messages?topic=public.a"),
    ("POST", "/v1/messages"),
    ("GET", "/v1/topics/public.a/events"),
    ("GET", "/v1/events?topic=public.a"),
    ("GET", "/ws"),
    ("GET", "/no/such/route"),
];

/// The answer to a request with exactly these header lines.
fn asked(broker: &Broker, (method, path): (&str, &str), lines: &str) -> Response {
    if path == "/ws" {
        let own = format!("Host: {}\r\n", broker.addr());
        return raw_http(broker, &upgrade(broker, lines).replacen(&own, "", 1));
    }
    let body = if method == "POST" { "1" } else { "" };
    let length = body.len();
    raw_http(
        broker,
        &format!("{method} {path} HTTP/1.1\r\n{lines}Content-Length: {length}\r\n\r\n{body}"),
    )
}

/// A way to ask, and whether each of the brokers lets it in.
struct Row {
    name: &'static str,
    lines: String,
    lets_in: [bool; 4],
    /// Also where it is only looked whether Hark is well.
    health: [bool; 4],
}

#[test]
fn every_route_knows_its_own_names_and_pages() {
    let issuers = Issuers::new();
    let public = "https://hark.example.org";
    // By what is configured: nothing, who may what, that and where it is found, and that everybody may.
    let brokers = [
        Setup::new(),
        issuers.setup(),
        issuers.setup().flag("public-url", public),
        Setup::new().env("HARK_INSECURE_NO_AUTH", "1"),
    ]
    .map(Setup::start);
    let link = "Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n";
    let rows = |port: u16| {
        let here = format!("Host: 127.0.0.1:{port}\r\n");
        let row = |name, lines: String, lets_in| Row {
            name,
            lines,
            lets_in,
            health: [true; 4],
        };
        let from = |host: &str, origin: &str| format!("Host: {host}\r\nOrigin: {origin}\r\n");
        let site = |site: &str, more: &str| format!("{here}Sec-Fetch-Site: {site}\r\n{more}");
        let page = |name, lines, lets_in: bool| Row {
            health: [lets_in; 4],
            ..row(name, lines, [lets_in; 4])
        };
        let rebound = format!("evil.example:{port}");
        vec![
            row("no page", here.clone(), [true; 4]),
            row(
                "another loopback name",
                format!("Host: localhost:{port}\r\n"),
                [true; 4],
            ),
            row(
                "an address",
                "Host: 192.0.2.7\r\n".into(),
                [false, true, false, true],
            ),
            row(
                "the public name",
                "Host: hark.example.org\r\n".into(),
                [false, false, true, true],
            ),
            row(
                "a name that was made to point here",
                format!("Host: {rebound}\r\n"),
                [false, false, false, true],
            ),
            Row {
                health: [true, true, false, true],
                ..row(
                    "its page",
                    from(&rebound, &format!("http://{rebound}")),
                    [false, false, false, true],
                )
            },
            row("no name", "Host:\r\n".into(), [false, false, false, true]),
            page(
                "the own page",
                from(
                    &format!("127.0.0.1:{port}"),
                    &format!("http://127.0.0.1:{port}"),
                ),
                true,
            ),
            page(
                "another port's page",
                from(&format!("127.0.0.1:{port}"), "http://127.0.0.1:1"),
                false,
            ),
            page(
                "a foreign page",
                from(&format!("127.0.0.1:{port}"), EVIL),
                false,
            ),
            page(
                "a page without an origin",
                from(&format!("127.0.0.1:{port}"), "null"),
                false,
            ),
            page(
                "a page with an empty origin",
                from(&format!("127.0.0.1:{port}"), ""),
                false,
            ),
            page("the own page's image", site("same-origin", ""), true),
            page("an address that was typed", site("none", link), true),
            page("a foreign page's image", site("cross-site", ""), false),
            page("a sister page's image", site("same-site", ""), false),
        ]
    };
    let mut wrong = Vec::new();
    for (at, broker) in brokers.iter().enumerate() {
        let mut rows = rows(broker.addr().port());
        if at == 2 {
            let lines = format!("Host: hark.example.org\r\nOrigin: {public}\r\n");
            rows.push(Row {
                name: "the public page",
                lines,
                lets_in: [true; 4],
                health: [true; 4],
            });
            let lines = "Host: hark.example.org\r\nOrigin: http://hark.example.org\r\n".into();
            rows.push(Row {
                name: "the public page by http",
                lines,
                lets_in: [false; 4],
                health: [false; 4],
            });
        }
        for row in rows {
            for route in ROUTES {
                let answer = asked(broker, route, &row.lines);
                let is_health = matches!(route.1, "/healthz" | "/readyz");
                let expected = row.lets_in[at] || (is_health && row.health[at]);
                // What nobody may without a token is 401.
                let lets_in = answer.status != 403;
                if lets_in != expected {
                    let status = answer.status;
                    wrong.push(format!("{at}: {} {route:?}: {status}", row.name));
                }
                if answer.status == 403 {
                    answer.expect_error(403, "forbidden");
                }
                assert!(
                    !answer
                        .headers
                        .contains_key("access-control-allow-credentials")
                );
                if answer.status != 101 {
                    assert_eq!(
                        answer.headers["x-content-type-options"], "nosniff",
                        "{route:?}"
                    );
                }
            }
        }
        // Somebody follows a link to here: nothing changes, and the page that has it sees nothing.
        let here = format!("Host: {}\r\n", broker.addr());
        let lines = format!("{here}Sec-Fetch-Site: cross-site\r\n{link}");
        for route in ROUTES {
            let answer = asked(broker, route, &lines);
            let is_read = route.0 == "GET";
            assert_eq!(answer.status != 403, is_read, "{at} {route:?}: {answer:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whoever follows the advice of a refusal is let in.
#[test]
fn a_name_that_is_refused_is_told_how_it_could_be_known() {
    let issuers = Issuers::new();
    let get = |broker: &Broker, host: &str| {
        asked(
            broker,
            ("GET", "/v1/topics/public.a"),
            &format!("Host: {host}\r\n"),
        )
    };
    let broker = issuers.setup().start();
    for host in ["hark.example.org", "hark:4275"] {
        let refused = get(&broker, host);
        refused.expect_error(403, "forbidden");
        let advice = refused.json()["message"].as_str().unwrap().to_owned();
        let (_, url) = advice.split_once("--public-url ").expect(&advice);
        let advised = issuers.setup().flag("public-url", url).start();
        get(&advised, host).ok();
        get(&advised, "evil.example").expect_error(403, "forbidden");
    }
    let refused = get(&broker, "a%20b");
    refused.expect_error(403, "forbidden");
    assert!(!refused.body.contains("--public-url"), "{refused:?}");
    for url in [
        "hark.example.org",
        "wss://hark.example.org",
        "https://hark.example.org/x",
    ] {
        let exit = issuers.setup().flag("public-url", url).try_start();
        assert_eq!(exit.expect_err("it is no URL").code, Some(2), "{url}");
    }
    // Without authentication everybody who reaches it could do everything.
    let open = || Setup::new().flag("public-url", "http://hark.example.org");
    let exit = open().try_start().expect_err("it is not meant so");
    assert!(exit.stderr.contains("--auth"), "{}", exit.stderr);
    open().env("HARK_INSECURE_NO_AUTH", "1").start();
    Setup::new()
        .flag("public-url", "http://localhost:8080")
        .start();
}

#[test]
fn every_html_page_tells_browsers_to_keep_it_apart() {
    let broker = Broker::start();
    let mut pages = 0;
    for route in ROUTES
        .iter()
        .filter(|(method, path)| *method == "GET" && *path != "/ws")
    {
        let answer = asked(&broker, *route, "Host: localhost\r\n");
        let content_type = answer
            .headers
            .get("content-type")
            .cloned()
            .unwrap_or_default();
        let is_html = content_type.starts_with("text/html");
        pages += usize::from(is_html);
        let policy = answer.headers.get("content-security-policy");
        assert_eq!(policy.is_some(), is_html, "{route:?}");
        if let Some(policy) = policy {
            for part in [
                "default-src 'none'",
                "frame-ancestors 'none'",
                "form-action 'none'",
                "base-uri 'none'",
            ] {
                assert!(policy.contains(part), "{route:?}: {policy}");
            }
            assert!(
                !policy.contains("unsafe") && !policy.contains(" ws:"),
                "{policy}"
            );
            assert_eq!(answer.headers["referrer-policy"], "no-referrer");
            assert_eq!(answer.headers["cross-origin-opener-policy"], "same-origin");
        }
    }
    assert_eq!(pages, 2);
}

/// The answer to a read, a publish, a stream and an upgrade with these lines: `ok`, or its status.
fn everywhere(broker: &Broker, topic: &str, lines: &str) -> [String; 4] {
    let host = format!("Host: {}\r\n{lines}", broker.addr());
    let path = |what: &str| format!("/v1/topics/{topic}/{what}");
    [
        ("GET", path("messages")),
        ("POST", path("messages")),
        ("GET", path("events")),
        ("GET", "/ws".to_owned()),
    ]
    .map(
        |(method, path)| match asked(broker, (method, &path), &host).status {
            200 | 101 => "ok".to_owned(),
            status => status.to_string(),
        },
    )
}

#[test]
fn a_cookie_counts_in_own_pages_alone() {
    let issuers = Issuers::new();
    let broker = issuers
        .setup()
        .flag("allowed-origin", "https://app.example")
        .start();
    let (good, bad) = (token("ana", 600), token("ana", 0));
    let bob = token("bob", 600);
    let own = &format!("Origin: http://{}\r\n", broker.addr());
    let same = "Sec-Fetch-Site: same-origin\r\n";
    let cookie = |value: &str| format!("Cookie: theme=dark; hark_session={value}; x=y\r\n");
    let (ok, no) = (["ok"; 4], ["403"; 4]);
    // Who is anonymous may connect, and read what is public.
    let anonymous = ["401", "401", "401", "ok"];
    let (mine, public) = ("user.ana.inbox", "public.a");
    for (name, topic, lines, expected) in [
        ("own origin", mine, format!("{own}{}", cookie(&good)), ok),
        ("own page", mine, format!("{same}{}", cookie(&good)), ok),
        (
            "in quotes",
            mine,
            format!("{own}{}", cookie(&format!("\"{good}\""))),
            ok,
        ),
        (
            "another's topic",
            "user.bob.x",
            format!("{own}{}", cookie(&good)),
            ["403", "403", "403", "ok"],
        ),
        ("no mark of a page", mine, cookie(&good), no),
        ("no mark of a page, public", public, cookie(&good), no),
        (
            "typed",
            mine,
            format!("Sec-Fetch-Site: none\r\n{}", cookie(&good)),
            no,
        ),
        (
            "a foreign page",
            mine,
            format!("Origin: {EVIL}\r\n{}", cookie(&good)),
            no,
        ),
        (
            "null",
            mine,
            format!("Origin: null\r\n{}", cookie(&good)),
            no,
        ),
        // It cannot help sending it, and has other ways to say who it is.
        (
            "an allowed page",
            mine,
            format!("Origin: https://app.example\r\n{}", cookie(&good)),
            anonymous,
        ),
        (
            "an allowed page, public",
            public,
            format!("Origin: https://app.example\r\n{}", cookie(&good)),
            ["ok", "401", "ok", "ok"],
        ),
        // What is bad is not taken for nothing, which could read this.
        (
            "run out",
            public,
            format!("{own}{}", cookie(&bad)),
            ["401"; 4],
        ),
        (
            "garbage",
            public,
            format!("{own}{}", cookie("garbage")),
            ["401"; 4],
        ),
        ("empty", public, format!("{own}{}", cookie("")), ["401"; 4]),
        (
            "twice",
            mine,
            format!("{own}{}", cookie(&format!("{good}; hark_session={good}"))),
            ["400"; 4],
        ),
        (
            "in two lines",
            mine,
            format!("{own}{}{}", cookie(&good), cookie(&good)),
            ["400"; 4],
        ),
        (
            "another name",
            mine,
            format!("{own}Cookie: hark_sessions={good}\r\n"),
            anonymous,
        ),
        // A header beats a cookie, also a bad one, and from wherever it comes.
        (
            "a header too",
            mine,
            format!("Authorization: Bearer {good}\r\n{}", cookie(&bob)),
            ok,
        ),
        (
            "a bad header",
            mine,
            format!("{own}Authorization: Bearer {bad}\r\n{}", cookie(&good)),
            ["401"; 4],
        ),
    ] {
        assert_eq!(everywhere(&broker, topic, &lines), expected, "{name}");
    }

    // Where none is configured it is the application's own.
    let broker = Issuers::with(&RULES.replace("[cookie]\nname = \"hark_session\"\n", ""));
    let broker = broker.setup().start();
    assert_eq!(
        everywhere(&broker, public, &cookie(&good)),
        ["ok", "401", "ok", "ok"]
    );
}

/// What is shown beats what came along: then the connection is that one's, and stays so.
#[test]
fn an_auth_frame_beats_a_cookie_once() {
    let issuers = Issuers::new();
    let broker = issuers.setup().start();
    let auth = |id: u64, subject| json!({"type": "auth", "id": id, "token": token(subject, 600)});
    let read = |id: u64, topic| json!({"type": "subscribe", "id": id, "topic": topic});
    let cookie = format!(
        "Origin: http://{}\r\nCookie: hark_session={}\r\n",
        broker.addr(),
        token("ana", 600)
    );
    let mut ws = RawWs::open(&broker, &cookie, None);
    assert_eq!(ask(&mut ws, &read(1, "user.ana.a")), "ok");
    assert_eq!(ask(&mut ws, &auth(2, "bob")), "ok");
    unsubscribed(&mut ws, "user.ana.a");
    assert_eq!(ask(&mut ws, &read(3, "user.ana.b")), "forbidden");
    assert_eq!(ask(&mut ws, &read(4, "user.bob.a")), "ok");
    assert_eq!(ask(&mut ws, &auth(5, "ana")), "forbidden");
}

const BY_PROXY: &str = r#"
[proxy_identity]
header = "X-Forwarded-User"
issuer = "proxy"

[[rule]]
who = "proxy ana"
subscribe = ["by-proxy"]
publish = ["by-proxy"]
"#;

#[test]
fn a_proxys_word_is_believed_of_declared_proxies_alone() {
    let issuers = Issuers::with(&format!("{RULES}{BY_PROXY}"));
    let app = "https://app.example";
    let setup = || issuers.setup().flag("allowed-origin", app);
    let declared = setup().flag("trusted-proxy", "127.0.0.1").start();
    let user = |name: &str| format!("X-Forwarded-User: {name}\r\n");
    let own = format!("Origin: http://{}\r\n", declared.addr());
    let away = "X-Forwarded-For: 192.0.2.7\r\n";
    let https = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n";
    let ana = token("ana", 600);
    let (ok, no) = (["ok"; 4], ["403"; 4]);
    let anonymous = ["401", "401", "401", "ok"];
    for (name, topic, lines, expected) in [
        ("named", "by-proxy", user("ana"), ok),
        ("named, by the rule for all", "user.ana.x", user("ana"), ok),
        (
            "from an own page",
            "by-proxy",
            format!("{own}{}", user("ana")),
            ok,
        ),
        (
            "from another machine by https",
            "by-proxy",
            format!("{https}{}", user("ana")),
            ok,
        ),
        (
            "from another machine",
            "by-proxy",
            format!("{away}{}", user("ana")),
            no,
        ),
        (
            "another",
            "by-proxy",
            user("bob"),
            ["403", "403", "403", "ok"],
        ),
        (
            "from a foreign page",
            "by-proxy",
            format!("Origin: {EVIL}\r\n{}", user("ana")),
            no,
        ),
        (
            "from an allowed page",
            "by-proxy",
            format!("Origin: {app}\r\n{}", user("ana")),
            anonymous,
        ),
        (
            "from a foreign page's image",
            "by-proxy",
            format!("Sec-Fetch-Site: cross-site\r\n{}", user("ana")),
            no,
        ),
        ("not named", "by-proxy", String::new(), anonymous),
        ("named by nothing", "by-proxy", user(""), anonymous),
        (
            "twice",
            "by-proxy",
            format!("{}{}", user("ana"), user("bob")),
            ["400"; 4],
        ),
        ("too long", "public.a", user(&"x".repeat(256)), ["401"; 4]),
        (
            "a token too",
            "by-proxy",
            format!("Authorization: Bearer {ana}\r\n{}", user("ana")),
            ["403", "403", "403", "ok"],
        ),
        (
            "a bad token too",
            "by-proxy",
            format!("Authorization: Bearer x\r\n{}", user("ana")),
            ["401"; 4],
        ),
        (
            "a cookie too",
            "by-proxy",
            format!("{own}Cookie: hark_session={ana}\r\n{}", user("ana")),
            ["403", "403", "403", "ok"],
        ),
    ] {
        assert_eq!(everywhere(&declared, topic, &lines), expected, "{name}");
    }

    // Whoever sends it takes it to count.
    let other = setup().flag("trusted-proxy", "192.0.2.1").start();
    assert_eq!(everywhere(&other, "public.a", &user("ana")), no);
    let lines = format!("Host: {}\r\n{}", other.addr(), user("ana"));
    let refused = asked(&other, ("GET", "/v1/topics/public.a"), &lines);
    assert!(
        refused.body.contains("--trusted-proxy 127.0.0.1"),
        "{refused:?}"
    );
    // Without a declared proxy it would never count.
    let exit = setup().try_start().expect_err("it can never match");
    assert!(exit.stderr.contains("--trusted-proxy"), "{}", exit.stderr);
}

/// A token for one topic: what it adds, for whom, and until when.
fn for_topic(subject: &str, topic: &str, seconds: u64) -> String {
    let changes = json!({"exp": now_s() + seconds, "hark": {"subscribe": [topic]}});
    by_secret(SECRET, &but(claims(SHARED, subject), changes))
}

fn with_grants_claim() -> Issuers {
    let secret = "secret_file = \"secret\"\n";
    Issuers::with(&RULES.replacen(secret, &format!("{secret}grants_claim = true\n"), 1))
}

/// Reads until a subscription has ended that nobody asked to end.
#[track_caller]
fn unsubscribed(ws: &mut RawWs, topic: &str) {
    loop {
        let frame = ws.read_json();
        if frame["type"] == "unsubscribed" {
            assert_eq!(
                (&frame["topic"], &frame["id"]),
                (&json!(topic), &Value::Null)
            );
            return;
        }
    }
}

fn subscribe(id: u64, topic: &str, token: &str) -> Value {
    json!({"type": "subscribe", "id": id, "topic": topic, "token": token})
}

#[test]
fn a_token_in_subscribe_adds_its_topic() {
    let issuers = with_grants_claim();
    let broker = issuers.setup().start();
    let mut ws = RawWs::connect(&broker);
    // Whoever is anonymous need not say who it is.
    let door = for_topic("guest", "door", 600);
    assert_eq!(ask(&mut ws, &subscribe(1, "door", &door)), "ok");
    let publish = json!({"type": "publish", "id": 2, "topic": "door", "data": 1});
    assert_eq!(ask(&mut ws, &publish), "unauthenticated", "it reads alone");
    assert_eq!(ask(&mut ws, &subscribe(3, "hall", &door)), "forbidden");
    let plain = json!({"type": "subscribe", "id": 4, "topic": "hall"});
    assert_eq!(ask(&mut ws, &plain), "unauthenticated");
    // A bad one is not taken for none, and nobody was taken for somebody: the session goes on.
    assert_eq!(
        ask(&mut ws, &subscribe(5, "public.a", "garbage")),
        "unauthenticated"
    );
    let over = for_topic("guest", "hall", 0);
    assert_eq!(
        ask(&mut ws, &subscribe(6, "hall", &over)),
        "unauthenticated"
    );
    // It goes with its subscription.
    let leave = json!({"type": "unsubscribe", "id": 7, "topic": "door"});
    assert_eq!(ask(&mut ws, &leave), "ok");
    let again = json!({"type": "subscribe", "id": 8, "topic": "door"});
    assert_eq!(ask(&mut ws, &again), "unauthenticated");
    // Asked for while it leaves: it is kept until then.
    assert_eq!(ask(&mut ws, &subscribe(9, "door", &door)), "ok");
    ws.send_json(&json!({"type": "unsubscribe", "id": 10, "topic": "door"}));
    assert_eq!(ask(&mut ws, &subscribe(11, "door", &door)), "ok");
    // It was somebody else's.
    let auth = json!({"type": "auth", "id": 12, "token": token("ana", 600)});
    assert_eq!(ask(&mut ws, &auth), "ok");
    unsubscribed(&mut ws, "door");
    assert_eq!(ask(&mut ws, &subscribe(13, "door", &door)), "forbidden");
    let own = for_topic("ana", "door", 600);
    assert_eq!(ask(&mut ws, &subscribe(14, "door", &own)), "ok");
    let renewed = json!({"type": "auth", "id": 15, "token": token("ana", 600)});
    assert_eq!(ask(&mut ws, &renewed), "ok");
    assert_eq!(ask(&mut ws, &plain), "forbidden");
    assert_eq!(ask(&mut ws, &json!({"type": "ping", "id": 16})), "ok");

    // Whose issuer is not believed, or where nothing is configured.
    let unbelieved = Issuers::new();
    let broker = unbelieved.setup().start();
    let mut ws = RawWs::connect(&broker);
    assert_eq!(ask(&mut ws, &subscribe(1, "door", &door)), "forbidden");
    let open = Broker::start();
    let mut ws = RawWs::connect(&open);
    assert_eq!(ask(&mut ws, &subscribe(1, "door", &door)), "unsupported");
}

#[test]
fn a_subscription_ends_with_the_token_for_its_topic() {
    let issuers = with_grants_claim();
    let broker = issuers.setup().start();
    let mut ws = RawWs::connect(&broker);
    let auth = json!({"type": "auth", "id": 1, "token": token("ana", 600)});
    assert_eq!(ask(&mut ws, &auth), "ok");
    for (id, topic, seconds) in [(2, "short", 10), (3, "long", 600), (4, "room.1", 10)] {
        let token = for_topic("ana", topic, seconds);
        assert_eq!(ask(&mut ws, &subscribe(id, topic, &token)), "ok");
    }
    unsubscribed(&mut ws, "short");
    // The others stay: by their own token, or by what ana may anyway.
    for (id, topic) in [(5, "long"), (6, "room.1")] {
        let token = for_topic("ana", topic, 600);
        assert_eq!(
            ask(&mut ws, &subscribe(id, topic, &token)),
            "already_subscribed"
        );
    }
    let token = for_topic("ana", "short", 600);
    assert_eq!(ask(&mut ws, &subscribe(7, "short", &token)), "ok");
}

/// Where nobody may do anything without a token, one for a topic is one, for as long as it lasts.
#[test]
fn a_token_for_one_topic_is_enough_to_stay() {
    let secret = "secret_file = \"secret\"\n";
    let nobody = "[[rule]]\nwho = \"*\"\nsubscribe = [\"room.*\"]\n";
    let issuers = Issuers::with(&format!(
        "[[issuer]]\nname = \"{SHARED}\"\naudience = [\"hark\"]\nalgorithm = \"HS256\"\n{secret}grants_claim = true\n{nobody}"
    ));
    let broker = issuers.setup().start();
    let mut ws = RawWs::connect(&broker);
    let door = for_topic("guest", "door", 8);
    assert_eq!(ask(&mut ws, &subscribe(1, "door", &door)), "ok");
    // Longer than whoever shows nothing may stay.
    unsubscribed(&mut ws, "door");
    let again = for_topic("guest", "door", 600);
    assert_eq!(ask(&mut ws, &subscribe(2, "door", &again)), "ok");
    let leave = json!({"type": "unsubscribe", "id": 3, "topic": "door"});
    assert_eq!(ask(&mut ws, &leave), "ok");
    // The last one is gone.
    assert_eq!(ws.expect_close(), 4401);
}

#[test]
fn a_token_in_subscribe_is_written_in_bincode_too() {
    let issuers = with_grants_claim();
    let broker = issuers.setup().start();
    let header = format!(
        "Sec-WebSocket-Protocol: {}\r\n",
        Subprotocol::Bincode.name()
    );
    let mut ws = RawWs::open(&broker, &header, None);
    for (token, is_let_in) in [(None, false), (Some(for_topic("guest", "door", 600)), true)] {
        let frame = ClientFrame::Subscribe {
            id: Some(1),
            topic: TopicName::parse("door").unwrap(),
            from: SubscribeFrom::Now,
            token,
        };
        let frame = codec::encode_client(&frame, Subprotocol::Bincode);
        ws.send(Op::BINARY, frame.as_bytes());
        let (_, answer) = ws.read_frame();
        let answer = codec::decode_server(&answer.into(), Subprotocol::Bincode).unwrap();
        match answer {
            ServerFrame::Subscribed { .. } => assert!(is_let_in),
            ServerFrame::Error { code, .. } => {
                assert_eq!((code.as_str(), is_let_in), ("unauthenticated", false));
            }
            other => panic!("{other:?}"),
        }
    }
}
