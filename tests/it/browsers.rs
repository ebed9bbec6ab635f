//! Where browsers run the SDK, in Chromium and in Firefox: a page, each kind of worker, more tabs than a browser has connections, the page cache, a
//! network that goes and comes, and (Chromium) a frozen page. Each delivers every message once.
//!
//! Needs `tests/peers/setup.sh` to have been run.

use hark_tests::{Broker, Browser, Nginx, Setup, Tab};
use serde_json::{Value, json};

use crate::browser::{has_exactly, has_seen, head};

/// One browser for all scenarios: starting it is what takes longest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chromium_delivers_once_wherever_the_sdk_runs() {
    let browser = Browser::chromium();
    a_frozen_page(&browser);
    everywhere(&browser, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn firefox_delivers_once_wherever_the_sdk_runs() {
    // Firefox decides whether it keeps a page before it tells the page (`pagehide`), and keeps none that has a connection then.
    everywhere(&Browser::firefox(), false);
}

fn everywhere(browser: &Browser, keeps_pages: bool) {
    two_tabs_and_each_kind_of_worker(browser);
    offline_and_online_again(browser);
    the_page_cache(browser, keeps_pages);
    seven_tabs_on_event_streams(browser);
}

/// Has a page, or a worker of the kind, follow topic `a`.
fn begin<'a>(browser: &'a Browser, site: &Nginx, kind: &str, options: Value) -> Tab<'a> {
    let tab = browser.open(&site.url("/pages/"));
    begin_in(&tab, kind, options);
    tab
}

fn begin_in(tab: &Tab<'_>, kind: &str, mut options: Value) {
    options["topic"] = json!("a");
    tab.eval(&format!("begin('{kind}', {options})"));
}

/// Has the page, or its worker, publish so many messages.
fn publish(tab: &Tab<'_>, name: &str, count: u64) {
    tab.eval(&format!("publish('{name}', {count})"));
}

/// Waits until everything it has published has a receipt.
#[track_caller]
fn has_receipts(tab: &Tab<'_>, count: u64) {
    tab.until(
        &format!("receipts.length + failed.length >= {count}"),
        "JSON.stringify([receipts.length, states.slice(-4)])",
    );
    assert_eq!(tab.eval("failed"), json!([]));
    assert_eq!(
        tab.eval("receipts.filter(({ duplicate }) => duplicate)"),
        json!([])
    );
}

fn publish_here(broker: &Broker, count: u64) {
    for n in 1..=count {
        broker
            .http()
            .publish("a", &json!({"name": "here", "n": n}))
            .ok();
    }
}

/// Two pages, and a worker of each kind, follow one topic and publish to it, before and after the broker is killed.
fn two_tabs_and_each_kind_of_worker(browser: &Browser) {
    const EACH: u64 = 20;
    let kinds = ["page", "page", "worker", "sharedworker", "serviceworker"];
    let mut broker = Setup::new().restarts().start();
    let site = Nginx::with_pages(&broker);
    let tabs = kinds.map(|kind| begin(browser, &site, kind, json!({})));
    let mut published = 0;
    for round in 0..2 {
        for (at, tab) in tabs.iter().enumerate() {
            publish(tab, &format!("{} {at} {round}", kinds[at]), EACH);
        }
        publish_here(&broker, EACH);
        published += EACH * (kinds.len() as u64 + 1);
        for tab in &tabs {
            has_seen(tab, published);
        }
        if round == 0 {
            broker.kill9();
            broker.start_again();
        }
    }
    assert_eq!(head(&broker, "a"), published);
    for tab in tabs {
        has_receipts(&tab, 2 * EACH);
        has_exactly(&tab, &broker, "a");
        tab.close();
    }
}

/// A browser has six connections to a server over HTTP/1.1. With a tab more than that, each is connected, and a publish finds its way.
fn seven_tabs_on_event_streams(browser: &Browser) {
    let broker = Broker::start();
    let site = Nginx::with_pages(&broker);
    let tabs: Vec<Tab<'_>> = (0..7)
        .map(|_| begin(browser, &site, "page", json!({"transports": ["sse"]})))
        .collect();
    for tab in &tabs {
        tab.until("hark.state === 'open'", "JSON.stringify(states.slice(-4))");
    }
    publish(&tabs[0], "first", 5);
    has_receipts(&tabs[0], 5);
    publish(&tabs[6], "seventh", 5);
    has_receipts(&tabs[6], 5);
    publish_here(&broker, 5);
    for tab in tabs {
        has_exactly(&tab, &broker, "a");
        tab.close();
    }
}

/// A page that was left and come back to gets what it has missed, and nothing twice. Out of the browser's cache it is the same page: it has let go of
/// its connection, and goes on where it was. Else it is loaded anew.
fn the_page_cache(browser: &Browser, keeps_pages: bool) {
    let broker = Broker::start();
    let site = Nginx::with_pages(&broker);
    for transport in ["websocket", "sse", "longpoll"] {
        let options = json!({"transports": [transport]});
        let tab = begin(browser, &site, "page", options.clone());
        publish(&tab, "before", 5);
        has_receipts(&tab, 5);
        tab.eval("window.isSame = true");
        tab.go(&site.url("/pages/follow.js"));
        publish_here(&broker, 5);
        tab.back();
        tab.until(
            "window.told?.at(-1) === (window.isSame ? 'restored' : 'pageshow')",
            "[location.href, window.told]",
        );
        let is_same = tab.eval("Boolean(window.isSame)") == true;
        assert!(is_same || !keeps_pages, "{transport}");
        if !is_same {
            begin_in(&tab, "page", options);
        }
        publish(&tab, "back again", 5);
        has_receipts(&tab, if is_same { 10 } else { 5 });
        has_exactly(&tab, &broker, "a");
        tab.close();
    }
}

/// The network goes, with messages under way, and comes back.
fn offline_and_online_again(browser: &Browser) {
    let broker = Broker::start();
    let mut site = Nginx::with_pages(&broker);
    let tab = begin(browser, &site, "page", json!({}));
    publish(&tab, "before", 5);
    has_receipts(&tab, 5);
    // A browser that is told to be offline tells its pages, but may leave their WebSockets as they are.
    tab.offline(true);
    site.stop();
    tab.until("told.includes('offline')", "told");
    publish(&tab, "offline", 5);
    publish_here(&broker, 5);
    tab.until(
        "hark.state === 'waiting'",
        "JSON.stringify(states.slice(-4))",
    );
    site.start_again();
    tab.offline(false);
    tab.until("told.includes('online')", "told");
    publish(&tab, "online", 5);
    has_receipts(&tab, 15);
    has_exactly(&tab, &broker, "a");
    tab.close();
}

/// While a page is frozen nothing of it runs. Thawed, it gets what it has missed, also when the connection has died meanwhile.
fn a_frozen_page(browser: &Browser) {
    let mut broker = Setup::new().restarts().start();
    let site = Nginx::with_pages(&broker);
    let tab = begin(browser, &site, "page", json!({}));
    publish(&tab, "before", 5);
    has_receipts(&tab, 5);
    for dies in [false, true] {
        tab.freeze(true);
        publish_here(&broker, 5);
        if dies {
            broker.kill9();
            broker.start_again();
        }
        tab.freeze(false);
        publish_here(&broker, 5);
        publish(&tab, "thawed", 5);
    }
    has_receipts(&tab, 15);
    has_exactly(&tab, &broker, "a");
    tab.close();
}
