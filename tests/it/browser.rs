//! A real browser: headless Chromium, with pages of the broker's own, through kills, restarts of a proxy, and refused WebSockets. What browsers give
//! (WebSocket, EventSource) is used bare, and through the SDK that the broker serves.
//!
//! Needs `tests/peers/setup.sh` to have been run.

use hark_tests::{Broker, Browser, Nginx, Setup, Tab, publish_paced, until};
use serde_json::{Value, json};

const WEBSOCKET: &str = include_str!("../peers/node/pages/websocket.js");
const EVENTSOURCE: &str = include_str!("../peers/node/pages/eventsource.js");
const SDK: &str = include_str!("../peers/node/pages/sdk.js");

/// A page script for this topic, with these options of the SDK and, perhaps, a cursor that is stored.
fn sdk(topic: &str, options: &str, stored: bool) -> String {
    let script = SDK.replace("TOPIC", topic).replace("OPTIONS", options);
    run(&script.replace("STORED", if stored { "true" } else { "false" }))
}

fn for_topic(script: &str, topic: &str) -> String {
    run(&script.replace("TOPIC", topic))
}

/// A script as an expression without a value that could not leave the page.
fn run(script: &str) -> String {
    format!("(() => {{ {script} }})()")
}

/// Waits until the page has so many events.
pub(crate) fn has_seen(tab: &Tab<'_>, count: u64) {
    tab.until(
        &format!("window.seen?.length >= {count}"),
        "JSON.stringify([seen.length, seen.slice(-1), window.states?.slice(-4)])",
    );
}

/// Checks that the page has seen exactly these messages, as the topic keeps them.
#[track_caller]
pub(crate) fn has_exactly(tab: &Tab<'_>, broker: &Broker, topic: &str) -> Vec<Value> {
    let mut kept = Vec::new();
    let mut after = "from=earliest".to_owned();
    loop {
        let page = broker
            .http()
            .history(topic, &format!("{after}&limit=1000"))
            .ok()
            .json();
        kept.extend(page["messages"].as_array().unwrap().iter().cloned());
        if page["caught_up"] == true {
            break;
        }
        after = format!("after={}", page["cursor"].as_str().unwrap());
    }
    has_seen(tab, kept.len() as u64);
    let seen =
        tab.eval("seen.map(event => [event.type, event.offset, JSON.stringify(event.data)])");
    let expected: Vec<Value> = kept
        .iter()
        .map(|m| json!(["message", m["offset"], m["data"].to_string()]))
        .collect();
    // JSON.stringify and ours agree on the messages that these tests publish, but for the order of keys in objects.
    let seen: Vec<Value> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            let data: Value = serde_json::from_str(event[2].as_str().unwrap_or("null")).unwrap();
            json!([event[0], event[1], data.to_string()])
        })
        .collect();
    assert!(
        seen == expected,
        "{} events for {} messages; {:?}",
        seen.len(),
        expected.len(),
        seen.iter()
            .zip(&expected)
            .find(|(seen, expected)| seen != expected)
    );
    kept
}

pub(crate) fn head(broker: &Broker, topic: &str) -> u64 {
    broker
        .http()
        .get(&format!("/v1/topics/{topic}"))
        .ok()
        .json()["head"]
        .as_u64()
        .unwrap()
}

async fn head_reaches(broker: &Broker, topic: &str, goal: u64) {
    until("messages have been kept", async || {
        (head(broker, topic) >= goal).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_reads_by_websocket_and_eventsource_through_kill_9() {
    const TOTAL: u64 = 2_000;
    let mut broker = Setup::new().restarts().start();
    let chromium = Browser::chromium();
    let tabs = [WEBSOCKET, EVENTSOURCE].map(|script| {
        let tab = chromium.open(&broker.url("/"));
        tab.eval(&for_topic(script, "a"));
        tab
    });

    let publishing = tokio::spawn(publish_paced(broker.addr(), "a", 1, TOTAL, 500));
    for tab in &tabs {
        has_seen(tab, TOTAL / 4);
    }
    assert!(!publishing.is_finished());
    broker.kill9();
    broker.start_again();

    publishing.await.unwrap();
    for tab in &tabs {
        assert_eq!(has_exactly(tab, &broker, "a").len() as u64, TOTAL);
        assert_eq!(tab.eval("connections"), 2, "it had to come back once");
    }
    let last = tabs[1].eval("seen.at(-1).cursor");
    assert!(
        last.as_str().unwrap().ends_with(&format!(":{TOTAL}")),
        "lastEventId is {last}"
    );
}

/// The page publishes and reads with the SDK while the broker and nginx are killed, while WebSockets are refused, and when they are allowed again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_in_a_page_survives_broker_and_proxy_and_finds_its_way() {
    const STEADY: u64 = 4_000;
    let mut broker = Setup::new().restarts().start();
    let mut nginx = Nginx::in_front_of(&broker);
    let chromium = Browser::chromium();
    let tab = chromium.open(&nginx.url("/"));
    // Asked for often, or the WebSocket would be tried again after a minute.
    tab.eval(&sdk("a", "{ probeMs: 1000 }", false));
    tab.eval("ready");
    let publishing = tokio::spawn(publish_paced(broker.addr(), "a", 1, STEADY, 500));
    tab.eval(&run("window.published = publishNumbered('first', 600)"));
    has_seen(&tab, 100);
    on_transport(&tab, "websocket");

    // The broker, then nginx, is killed with messages under way in both directions.
    broker.kill9();
    broker.start_again();
    let so_far = head(&broker, "a");
    has_seen(&tab, so_far + 50);
    nginx.kill9();
    nginx.start_again();
    let so_far = head(&broker, "a");
    has_seen(&tab, so_far + 50);
    on_transport(&tab, "websocket");

    // WebSockets are refused from now on: it goes on with server-sent events and POST.
    nginx.refuse(&["= /ws"]);
    nginx.stop();
    nginx.start_again();
    on_transport(&tab, "sse");
    tab.eval(&run("window.publishedToo = publishNumbered('second', 300)"));
    let so_far = head(&broker, "a");
    has_seen(&tab, so_far + 50);
    broker.kill9();
    broker.start_again();
    let so_far = head(&broker, "a");
    has_seen(&tab, so_far + 50);

    // They are allowed again: it comes back to them, while its stream goes on.
    nginx.refuse(&[]);
    on_transport(&tab, "websocket");
    publishing.await.unwrap();
    tab.eval("published");
    tab.eval("publishedToo");

    // Everything is kept once, the page's messages in their order, and the page has seen all of it so.
    assert_eq!(tab.eval("failed"), json!([]));
    assert_eq!(head(&broker, "a"), STEADY + 900);
    let kept = has_exactly(&tab, &broker, "a");
    for (name, count) in [("first", 600), ("second", 300)] {
        let numbers: Vec<u64> = kept
            .iter()
            .filter(|message| message["data"]["name"] == name)
            .map(|message| message["data"]["n"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, (1..=count).collect::<Vec<_>>(), "{name}");
        let receipts =
            format!("receipts.filter(({{ name }}) => name === '{name}').map(({{ n }}) => n)");
        assert_eq!(tab.eval(&receipts), json!(numbers), "receipts of {name}");
    }
}

#[track_caller]
fn on_transport(tab: &Tab<'_>, transport: &str) {
    tab.until(
        &format!("hark.state === 'open' && hark.transport === '{transport}'"),
        "JSON.stringify([hark.state, hark.transport, states.slice(-8)])",
    );
}

/// A browser without WebSocket, and one behind a proxy that lets neither WebSockets nor streams through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_does_without_websocket_and_without_streams() {
    const STEADY: u64 = 1_500;
    let mut broker = Setup::new().restarts().start();
    let chromium = Browser::chromium();
    let without_websocket = chromium.open_with(&broker.url("/"), "delete window.WebSocket");
    without_websocket.eval(&sdk("a", "{}", false));
    let mut nginx = Nginx::in_front_of(&broker);
    nginx.refuse(&["= /ws", "~ /events$"]);
    let by_long_poll = chromium.open(&nginx.url("/"));
    by_long_poll.eval(&sdk("a", "{}", false));
    let tabs = [(&without_websocket, "sse"), (&by_long_poll, "longpoll")];
    for (tab, transport) in tabs {
        tab.eval("ready");
        on_transport(tab, transport);
        tab.eval(&run("window.published = publishNumbered('page', 200)"));
    }

    let publishing = tokio::spawn(publish_paced(broker.addr(), "a", 1, STEADY, 500));
    for (tab, _) in tabs {
        has_seen(tab, STEADY / 4);
    }
    assert!(!publishing.is_finished());
    broker.kill9();
    broker.start_again();

    publishing.await.unwrap();
    for (tab, _) in tabs {
        tab.eval("published");
    }
    assert_eq!(head(&broker, "a"), STEADY + 2 * 200);
    for (tab, transport) in tabs {
        assert_eq!(tab.eval("failed"), json!([]), "{transport}");
        assert_eq!(tab.eval("receipts.length"), 200, "{transport}");
        has_exactly(tab, &broker, "a");
        on_transport(tab, transport);
    }
}

/// The cursor is stored once the page has taken the message: a reloaded page gets what follows, and nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reloaded_tab_goes_on_with_its_stored_cursor() {
    let mut broker = Setup::new().flag("log", "debug").restarts().start();
    let chromium = Browser::chromium();
    let script = sdk("a", "{}", true);
    let tab = chromium.open(&broker.url("/"));
    let mut published = 0;
    let mut publish = |broker: &Broker, count: u64| {
        for _ in 0..count {
            published += 1;
            broker.http().publish("a", &json!(published)).ok();
        }
    };
    // A page that is left can still take a message for a moment; then it is not the next one's.
    let has_left = async |broker: &Broker, times: usize| {
        until("the broker has seen the page leave", async || {
            (broker.log().matches("a session ended").count() == times).then_some(())
        })
        .await;
    };
    let offsets = |tab: &Tab<'_>| tab.eval("seen.map(event => event.offset)");
    publish(&broker, 50);
    tab.eval(&script);
    has_seen(&tab, 50);

    // Reloaded, with messages meanwhile …
    publish(&broker, 10);
    has_seen(&tab, 60);
    tab.reload();
    has_left(&broker, 1).await;
    publish(&broker, 10);
    tab.eval(&script);
    has_seen(&tab, 10);
    assert_eq!(offsets(&tab), json!((61..=70).collect::<Vec<_>>()));

    // … closed, and opened again when the broker has been killed …
    tab.close();
    has_left(&broker, 2).await;
    publish(&broker, 10);
    broker.kill9();
    broker.start_again();
    let tab = chromium.open(&broker.url("/"));
    tab.eval(&script);
    has_seen(&tab, 10);

    // … and the messages that come live follow those.
    publish(&broker, 1);
    has_seen(&tab, 11);
    assert_eq!(offsets(&tab), json!((71..=81).collect::<Vec<_>>()));
}

/// A page of another origin cannot publish, by none of the ways that pages have; one that is allowed can, by all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_can_publish_only_if_it_is_allowed() {
    let elsewhere = Broker::start();
    let site = Nginx::with_pages(&elsewhere); // whose pages are of another origin, and may connect to wherever they like
    let chromium = Browser::chromium();
    let attempts = |broker: &Broker| {
        let url = broker.url("");
        let ws_url = broker.ws_url();
        format!(
            r#"(async () => {{
                const url = "{url}/v1/topics/a/messages";
                const post = (type, mode) => fetch(url, {{
                    method: "POST", mode, body: "1", headers: type ? {{ "Content-Type": type }} : {{}},
                }}).then((response) => response.type === "opaque" ? "opaque" : response.status, () => "refused");
                const results = {{
                    plain: await post("text/plain", "no-cors"), // such a request is sent without a question before it
                    form: await post("application/x-www-form-urlencoded", "no-cors"),
                    json: await post("application/json", "cors"),
                    keyed: await fetch(url, {{ method: "POST", body: "1", headers: {{ "Hark-Message-Id": "k", "Content-Type": "application/json" }} }})
                        .then((response) => response.json()).then((receipt) => typeof receipt.cursor, () => "refused"),
                    many: await fetch("{url}/v1/messages", {{ method: "POST", body: '[{{"topic":"a","data":1}}]', headers: {{ "Content-Type": "application/json" }} }})
                        .then((response) => response.json()).then((answers) => typeof answers[0].cursor, () => "refused"),
                    beacon: navigator.sendBeacon(url, "1"),
                    remove: await fetch("{url}/v1/topics/b", {{ method: "DELETE" }}).then((response) => response.status, () => "refused"),
                    read: await fetch(url).then((response) => response.json()).then((page) => typeof page.cursor, () => "refused"),
                }};
                results.socket = await new Promise((done) => {{
                    const socket = new WebSocket("{ws_url}");
                    socket.onopen = () => socket.send('{{"type":"publish","id":1,"topic":"a","data":1}}');
                    socket.onmessage = ({{ data }}) => JSON.parse(data).type === "published" && done("published");
                    socket.onclose = () => done("refused");
                }});
                results.stream = await new Promise((done) => {{
                    const source = new EventSource("{url}/v1/topics/a/events");
                    const end = (result) => (source.close(), done(result));
                    source.addEventListener("subscribed", () => end("subscribed"));
                    source.onerror = () => end("refused");
                }});
                results.sdk = await import("{url}/hark.js").then(async ({{ connect }}) => {{
                    const hark = connect({{ url: "{url}", transports: ["longpoll"] }});
                    const receipt = await Promise.race([
                        hark.publish("a", 1),
                        new Promise((_, fail) => hark.on("state", ({{ error }}) => error && fail(error))),
                    ]).finally(() => hark.close());
                    return typeof receipt.cursor;
                }}).catch(() => "refused");
                return results;
            }})()"#
        )
    };

    // Not allowed: nothing is published, read or deleted.
    let broker = Broker::start();
    broker.http().publish("b", &json!("stays")).ok();
    let tab = chromium.open(&site.url("/pages/"));
    let results = tab.eval(&attempts(&broker));
    assert_eq!(
        results,
        json!({
            "plain": "opaque", "form": "opaque", "json": "refused", "keyed": "refused", "many": "refused", "beacon": true, "remove": "refused",
            "read": "refused", "socket": "refused", "stream": "refused", "sdk": "refused",
        })
    );
    // What the beacon sent has been answered when the page is gone.
    tab.close();
    assert_eq!((head(&broker, "a"), head(&broker, "b")), (0, 1));

    // Allowed: all of it is.
    let origin = site.url("");
    let broker = Setup::new().flag("allowed-origin", origin).start();
    broker.http().publish("b", &json!("goes")).ok();
    let tab = chromium.open(&site.url("/pages/"));
    let results = tab.eval(&attempts(&broker));
    assert_eq!(
        results,
        json!({
            "plain": "opaque", "form": "opaque", "json": 200, "keyed": "string", "many": "string", "beacon": true, "remove": 200,
            "read": "string", "socket": "published", "stream": "subscribed", "sdk": "string",
        })
    );
    head_reaches(&broker, "a", 8).await;
}

/// What a newcomer sees first: the page that the broker serves, under the policy it is served with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_page_chats_and_remembers() {
    const SHOWN: &str =
        "[...document.querySelectorAll('#messages .said')].map(said => said.textContent)";
    let mut broker = Setup::new().restarts().start();
    let chromium = Browser::chromium();
    let policy = broker.http().get("/demo").ok().headers["content-security-policy"].clone();
    assert!(
        policy.contains("default-src 'none'") && policy.contains("script-src 'self'"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");
    let open = || {
        let tab = chromium.open(&broker.url("/demo?room=kitchen"));
        tab.until(
            "document.querySelector('#pill').dataset.state === 'open'",
            "document.body.innerText",
        );
        tab
    };
    let mut said: Vec<String> = Vec::new();
    let shows = |tab: &Tab<'_>, said: &[String]| {
        let said = json!(said).to_string();
        tab.until(
            &format!("JSON.stringify({SHOWN}) === {}", json!(said)),
            SHOWN,
        );
    };
    let quiet = |tab: &Tab<'_>| assert_eq!(tab.troubles(), Vec::<String>::new());

    // Two tabs talk, in words that a page had better not take for its own.
    let (ana, ben) = (open(), open());
    for (tab, words) in [
        (&ana, "hello 🎺"),
        (&ben, "<img src=x onerror=alert(1)> & <b>\"you\"</b>"),
    ] {
        tab.write("#text", words);
        said.push(words.to_owned());
        shows(&ana, &said);
        shows(&ben, &said);
    }
    ana.until(
        "/^Kept at \\w+:1/.test(document.querySelector('#receipt').textContent)",
        "document.body.innerText",
    );

    // The line for a terminal does what it says.
    let line = ana.eval("document.querySelector('#curl').textContent");
    let curl = std::process::Command::new("sh")
        .args(["-c", line.as_str().unwrap()])
        .output()
        .unwrap();
    let receipt: Value = serde_json::from_slice(&curl.stdout).unwrap();
    assert_eq!(receipt["duplicate"], false, "{line}: {receipt}");
    said.push("Hello from curl".to_owned());
    shows(&ana, &said);
    shows(&ben, &said);

    // Reloaded, it shows what was, and goes on.
    ana.reload();
    shows(&ana, &said);
    ben.write("#text", "are you back?");
    said.push("are you back?".to_owned());
    shows(&ana, &said);
    quiet(&ana);
    quiet(&ben);

    // What is written while Hark is away is sent when it is back; and a tab opened then shows everything.
    broker.kill9();
    ana.until(
        "document.querySelector('#pill').dataset.state !== 'open'",
        "document.body.innerText",
    );
    ana.write("#text", "is anybody there?");
    ana.until(
        "document.querySelector('#receipt').textContent.includes('waits')",
        "document.body.innerText",
    );
    broker.start_again();
    said.push("is anybody there?".to_owned());
    shows(&ana, &said);
    shows(&ben, &said);
    ben.close();
    ana.reload();
    ana.troubles(); // The browser's own words on refused connections, while Hark was away.
    shows(&ana, &said);
    assert_eq!(head(&broker, "demo.kitchen"), said.len() as u64);
    quiet(&ana);
}
