//! How a WebSocket begins: which subprotocol is chosen, and who is turned away with which status.

use hark_protocol::Subprotocol;
use hark_tests::{Broker, RawWs, Response, Setup, Ws, raw_http, upgrade};
use serde_json::json;

/// The answer to an upgrade with these header lines more.
fn answer(broker: &Broker, headers: &str) -> Response {
    raw_http(broker, &upgrade(broker, headers))
}

/// The answer to an upgrade in which `from` is replaced by `to`.
fn answer_with(broker: &Broker, from: &str, to: &str) -> Response {
    let request = upgrade(broker, "");
    assert!(request.contains(from), "{from:?} is not in {request:?}");
    raw_http(broker, &request.replace(from, to))
}

#[tokio::test]
async fn a_plain_client_gets_json() {
    let broker = Broker::start();

    let response = answer(&broker, "");

    assert_eq!(response.status, 101, "{response:#?}");
    assert!(
        !response.headers.contains_key("sec-websocket-protocol"),
        "none was offered: {response:#?}"
    );
}

#[tokio::test]
async fn nobody_has_to_wait_for_welcome() {
    let broker = Broker::start();
    let ping = RawWs::fragment(hark_tests::Op::TEXT, true, br#"{"type":"ping","id":1}"#);

    // The first command goes out right behind the upgrade, before anything has been read.
    let request = [upgrade(&broker, "").as_bytes(), &ping].concat();
    let mut raw = RawWs::open_with(&broker, &request);

    assert_eq!(raw.read_json()["type"], "welcome");
    assert_eq!(raw.read_json(), json!({"type": "pong", "id": 1}));
}

#[tokio::test]
async fn welcome_names_the_limits() {
    let broker = Setup::new().flag("heartbeat", "7s").start();

    for subprotocol in [None, Some(Subprotocol::Json), Some(Subprotocol::Bincode)] {
        let welcome = Ws::connect_as(&broker, subprotocol).await.welcome;

        assert_eq!(welcome["heartbeat_ms"], 7000, "{welcome}");
        assert_eq!(welcome["max_message_bytes"], 1_048_576, "{welcome}");
        assert_eq!(welcome["max_inflight"], 1024, "{welcome}");
        assert!(
            welcome["session"]
                .as_str()
                .is_some_and(|name| !name.is_empty()),
            "{welcome}"
        );
        assert!(
            welcome["version"]
                .as_str()
                .is_some_and(|version| version.contains('.')),
            "{welcome}"
        );
    }
}

#[tokio::test]
async fn the_first_known_subprotocol_is_chosen() {
    let broker = Broker::start();
    let offers = [
        ("Sec-WebSocket-Protocol: hark.v1.json\r\n", "hark.v1.json"),
        (
            "Sec-WebSocket-Protocol: hark.v1.bincode\r\n",
            "hark.v1.bincode",
        ),
        (
            "Sec-WebSocket-Protocol: graphql-ws, hark.v1.bincode, hark.v1.json\r\n",
            "hark.v1.bincode",
        ),
        (
            "Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Protocol: hark.v1.json\r\n",
            "hark.v1.json",
        ),
    ];

    for (offer, chosen) in offers {
        let response = answer(&broker, offer);

        assert_eq!(response.status, 101, "{offer}: {response:#?}");
        let found = response
            .headers
            .get("sec-websocket-protocol")
            .map(String::as_str);
        assert_eq!(found, Some(chosen), "{offer}");
    }
}

#[tokio::test]
async fn an_unknown_subprotocol_is_told_what_is_known() {
    let broker = Broker::start();

    let response = answer(&broker, "Sec-WebSocket-Protocol: mqtt, hark.v9.json\r\n");

    assert_eq!(response.status, 400, "{response:#?}");
    for subprotocol in Subprotocol::ALL {
        assert!(
            response.body.contains(subprotocol.name()),
            "{} is not listed: {response:#?}",
            subprotocol.name()
        );
    }
}

#[tokio::test]
async fn another_websocket_version_is_told_the_right_one() {
    let broker = Broker::start();

    for version in ["12", "8", "7", "14"] {
        let wrong = format!("Sec-WebSocket-Version: {version}");
        let response = answer_with(&broker, "Sec-WebSocket-Version: 13", &wrong);

        assert_eq!(response.status, 426, "{response:#?}");
        assert_eq!(
            response.headers["sec-websocket-version"], "13",
            "{response:#?}"
        );
    }
}

#[tokio::test]
async fn a_bad_key_or_no_upgrade_is_a_bad_request() {
    let broker = Broker::start();
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    for bad in [
        "",
        "Sec-WebSocket-Key: \r\n",
        "Sec-WebSocket-Key: short\r\n",
        "Sec-WebSocket-Key: %%%%\r\n",
    ] {
        assert_eq!(answer_with(&broker, key, bad).status, 400, "{bad:?}");
    }
    assert_eq!(
        broker.http().get("/ws").status,
        400,
        "a GET without an upgrade"
    );
    assert_eq!(
        answer_with(&broker, "Upgrade: websocket\r\n", "").status,
        400,
        "nothing to upgrade to"
    );
}

#[tokio::test]
async fn a_foreign_origin_is_refused() {
    let broker = Broker::start();
    let port = broker.addr().port();
    let foreign = [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        format!("http://127.0.0.1:{}", port ^ 1),
        format!("http://127.0.0.1:{port}.evil.example"),
        format!("http://evil.example:{port}"),
        "".to_owned(),
    ];

    for origin in foreign {
        let response = answer(&broker, &format!("Origin: {origin}\r\n"));
        assert_eq!(response.status, 403, "{origin:?}: {response:#?}");
    }
}

#[tokio::test]
async fn the_own_origin_is_welcome_and_so_is_none() {
    let broker = Broker::start();
    let own = format!("Origin: {}\r\n", broker.url(""));

    assert_eq!(answer(&broker, &own).status, 101);
    assert_eq!(answer(&broker, "").status, 101, "no Origin: not a browser");

    let by_name = upgrade(&broker, &own).replace("127.0.0.1", "localhost");
    assert_eq!(
        raw_http(&broker, &by_name).status,
        101,
        "by another loopback name"
    );
}

#[tokio::test]
async fn an_allowed_origin_is_welcome() {
    let broker = Setup::new()
        .flag("allowed-origin", "https://app.example")
        .start();

    assert_eq!(
        answer(&broker, "Origin: https://app.example\r\n").status,
        101
    );
    assert_eq!(
        answer(&broker, "Origin: http://app.example\r\n").status,
        403,
        "another scheme"
    );
    assert_eq!(
        answer(&broker, "Origin: https://app.example.evil.example\r\n").status,
        403,
        "a longer name"
    );
}

/// DNS rebinding: a page of evil.example, whose name now leads to 127.0.0.1, is of its "own" origin there.
#[tokio::test]
async fn without_authentication_the_host_must_be_a_loopback_name() {
    let broker = Broker::start();
    let port = broker.addr().port();
    let host = format!("Host: 127.0.0.1:{port}");

    for evil in [
        "Host: evil.example".to_owned(),
        format!("Host: evil.example:{port}"),
        "Host: 10.0.0.1".to_owned(),
    ] {
        assert_eq!(answer_with(&broker, &host, &evil).status, 403, "{evil}");
        for path in ["/v1/topics", "/v1/topics/a/messages?from=earliest"] {
            let get = format!("GET {path} HTTP/1.1\r\n{evil}\r\nConnection: close\r\n\r\n");
            assert_eq!(raw_http(&broker, &get).status, 403, "{evil} on {path}");
        }
        let origin = evil.replace("Host: ", "Origin: http://");
        let post = format!(
            "POST /v1/topics/a/messages HTTP/1.1\r\n{evil}\r\n{origin}\r\nContent-Type: application/json\r\n\
             Content-Length: 1\r\nConnection: close\r\n\r\n1"
        );
        assert_eq!(raw_http(&broker, &post).status, 403, "{evil} publishes");
    }
    for good in [
        format!("Host: localhost:{port}"),
        "Host: localhost".to_owned(),
        format!("Host: [::1]:{port}"),
    ] {
        assert_eq!(answer_with(&broker, &host, &good).status, 101, "{good}");
    }
}

also_over_tls! {
    a_plain_client_gets_json,
    nobody_has_to_wait_for_welcome,
    welcome_names_the_limits,
    the_first_known_subprotocol_is_chosen,
    an_unknown_subprotocol_is_told_what_is_known,
    another_websocket_version_is_told_the_right_one,
    a_bad_key_or_no_upgrade_is_a_bad_request,
    a_foreign_origin_is_refused,
    the_own_origin_is_welcome_and_so_is_none,
    an_allowed_origin_is_welcome,
    without_authentication_the_host_must_be_a_loopback_name,
}
