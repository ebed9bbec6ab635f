//! What pages of other origins can make of Hark in a real browser, by whatever way a page has: nothing. And that a cookie serves pages of Hark's own, and no
//! others. (What each request is answered is in `origins`; what an allowed page can do in `browser`.)
//!
//! Needs `tests/peers/setup.sh` to have been run.

use std::time::{Duration, Instant};

use hark_tests::{Broker, Browser, Nginx, Setup, Tab, raw_http};
use serde_json::{Value, json};

use crate::browser::head;
use crate::identity::{Issuers, token};

/// Tries every way that a page has to read and to publish, at `url` with `topic`; gives what came of each.
fn attempts(url: &str, topic: &str) -> String {
    format!(
        r#"(async () => {{
            const topic = "{topic}", base = "{url}", path = `${{base}}/v1/topics/${{topic}}`;
            const json = {{ "content-type": "application/json" }};
            const status = (answer) => (answer.type === "opaque" ? "opaque" : answer.status);
            const ask = (url, options) => fetch(url, {{ credentials: "include", ...options }}).then(status, () => "refused");
            const first = (source, events) => new Promise((done) => {{
                for (const [event, result] of Object.entries(events)) {{
                    source.addEventListener(event, (told) => (source.close(), done(result(told))));
                }}
            }});
            const socket = new WebSocket(base.replace("http", "ws") + "/ws");
            socket.onopen = () => socket.send(JSON.stringify({{ type: "publish", id: 1, topic, data: "socket" }}));
            const answered = new Promise((done) => {{
                socket.onmessage = ({{ data }}) => {{
                    const frame = JSON.parse(data);
                    if (frame.id === 1) done(frame.code ?? frame.type);
                }};
                socket.onclose = () => done("refused");
            }});
            return {{
                read: await ask(`${{path}}/messages`),
                post: await ask(`${{path}}/messages`, {{ method: "POST", headers: json, body: "1" }}),
                keyed: await ask(`${{path}}/messages`, {{ method: "POST", headers: {{ ...json, "hark-message-id": "k" }}, body: "1" }}),
                remove: await ask(path, {{ method: "DELETE" }}),
                socket: await answered,
                stream: await first(new EventSource(`${{path}}/events`, {{ withCredentials: true }}), {{
                    subscribed: () => "subscribed",
                    error: () => "refused",
                }}),
            }};
        }})()"#
    )
}

/// What a page can send without asking anybody first. It learns nothing of the answers.
fn blind_attempts(url: &str, topic: &str) -> String {
    format!(
        r#"(async () => {{
            const path = "{url}/v1/topics/{topic}/messages";
            const blind = (body, type) => fetch(path, {{
                method: "POST", mode: "no-cors", credentials: "include", body, headers: {{ "content-type": type }},
            }}).then(({{ type }}) => type, () => "refused");
            const frame = () => new Promise((done) => {{
                const frame = Object.assign(document.createElement("iframe"), {{ name: "in" + Math.random() }});
                document.body.append(frame);
                done(frame);
            }});
            const form = async (method) => {{
                const target = await frame();
                const form = Object.assign(document.createElement("form"), {{ action: path, method, target: target.name, enctype: "text/plain" }});
                form.append(Object.assign(document.createElement("input"), {{ name: "a", value: "1" }}));
                document.body.append(form);
                const loaded = new Promise((done) => (target.onload = done));
                form.submit();
                await loaded;
                let seen;
                try {{ seen = target.contentDocument?.body.textContent ?? null; }} catch {{ seen = null; }}
                return seen;
            }};
            const results = {{
                plain: await blind("1", "text/plain"),
                form: await blind("a=1", "application/x-www-form-urlencoded"),
                beacon: navigator.sendBeacon(path, "1"),
                posted: await form("post"),
                got: await form("get"),
            }};
            // Everything that waits for something new, and more of it than the browser has connections.
            const wait = `${{path}}?from=now&wait=55`;
            const load = (name) => new Promise((done) => {{
                const element = Object.assign(document.createElement(name), {{ onload: done, onerror: done, src: wait + "&x=" + Math.random() }});
                document.body.append(element);
            }});
            const long = [];
            for (let n = 0; n < 8; n++) long.push(fetch(`${{wait}}&n=${{n}}`, {{ mode: "no-cors" }}).catch(() => {{}}));
            for (const name of ["img", "script", "iframe", "audio", "embed"]) long.push(load(name));
            await Promise.all(long);
            return results;
        }})()"#
    )
}

fn refused() -> Value {
    json!({
        "read": "refused", "post": "refused", "keyed": "refused", "remove": "refused", "socket": "refused", "stream": "refused",
    })
}

/// Nothing can be read, published or deleted from this page, and nothing is waited for on its behalf.
#[track_caller]
fn can_do_nothing(tab: &Tab<'_>, url: &str, topic: &str, blind: &Value) {
    assert_eq!(tab.eval(&attempts(url, topic)), refused());
    let began = Instant::now();
    assert_eq!(tab.eval(&blind_attempts(url, topic)), *blind);
    // Half of what a single one of them would have waited.
    assert!(
        began.elapsed() < Duration::from_secs(27),
        "{:?}",
        began.elapsed()
    );
}

fn blind() -> Value {
    json!({"plain": "opaque", "form": "opaque", "beacon": true, "posted": null, "got": null})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_page_can_neither_read_nor_publish_nor_have_hark_work_for_it() {
    let elsewhere = Broker::start();
    let site = Nginx::with_pages(&elsewhere);
    let issuers = Issuers::new();
    let chromium = Browser::chromium();
    for broker in [Setup::new(), issuers.setup()].map(Setup::start) {
        let tab = chromium.open(&site.url("/pages/"));
        can_do_nothing(&tab, &broker.url(""), "public.a", &blind());
        // What the beacon sent has been answered when the page is gone.
        tab.close();
        assert_eq!(head(&broker, "public.a"), 0);
    }
}

/// Its name was made to point here after it had been loaded (DNS rebinding): to the browser, Hark is its own server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_name_leads_here_can_do_nothing_either() {
    let issuers = Issuers::new();
    let public = "https://hark.example.org";
    let chromium = Browser::chromium_with(&["--host-resolver-rules=MAP evil.example 127.0.0.1"]);
    for broker in [
        Setup::new(),
        issuers.setup(),
        issuers.setup().flag("public-url", public),
    ]
    .map(Setup::start)
    {
        let url = broker.url("").replace("127.0.0.1", "evil.example");
        // Whatever is shown there, it is of that origin.
        let tab = chromium.open(&url);
        assert_eq!(tab.eval("location.origin"), url.as_str());
        let found = tab.eval(&attempts(&url, "public.a"));
        let expected = json!({
            "read": 403, "post": 403, "keyed": 403, "remove": 403, "socket": "refused", "stream": "refused",
        });
        assert_eq!(found, expected);
        tab.close();
        assert_eq!(head(&broker, "public.a"), 0);
    }
}

/// In both browsers: what the back end has set for Hark's pages lets them in, by every transport, and no page beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_serves_own_pages_and_no_others() {
    let elsewhere = Broker::start();
    let site = Nginx::with_pages(&elsewhere);
    let issuers = Issuers::new();
    for browser in [Browser::chromium(), Browser::firefox()] {
        let broker = issuers.setup().start();
        let own = browser.open(&broker.url("/"));
        let topic = "user.ana.a";
        assert_eq!(own.eval(&attempts(&broker.url(""), topic))["read"], 401);
        let ana = token("ana", 600);
        own.eval(&format!(
            "void (document.cookie = 'hark_session={ana}; SameSite=Strict')"
        ));
        let found = own.eval(&attempts(&broker.url(""), topic));
        let expected = json!({
            "read": 200, "post": 200, "keyed": 200, "remove": 200, "socket": "published", "stream": "subscribed",
        });
        assert_eq!(found, expected);
        // Another port of the same machine is another origin, and has the same cookies.
        let foreign = browser.open(&site.url("/pages/"));
        let cookies = foreign.eval("document.cookie");
        assert!(cookies.as_str().unwrap().contains(&ana), "{cookies}");
        let before = head_of(&broker, topic, &ana);
        assert_eq!(foreign.eval(&attempts(&broker.url(""), topic)), refused());
        assert_eq!(head_of(&broker, topic, &ana), before);
    }
}

fn head_of(broker: &Broker, topic: &str, token: &str) -> Value {
    let request = format!(
        "GET /v1/topics/{topic} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\n\r\n",
        broker.addr()
    );
    raw_http(broker, &request).ok().json()
}

/// Firefox understands by `'self'` what Chromium does: the page's own WebSocket too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_page_works_under_its_policy_in_firefox() {
    let broker = Broker::start();
    let firefox = Browser::firefox();
    let tab = firefox.open(&broker.url("/demo"));
    tab.until(
        "document.querySelector('#pill-text').textContent === 'Connected · WebSocket'",
        "document.body.innerText",
    );
    tab.write("#text", "hello");
    tab.until(
        "document.querySelector('#messages .said')?.textContent === 'hello'",
        "document.body.innerText",
    );
    assert_eq!(tab.troubles(), Vec::<String>::new());
}
