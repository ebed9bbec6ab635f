//! What Hark serves as it is. What browsers make of it is tested with one (`browser`).

use hark_tests::Broker;

#[test]
fn the_demo_and_all_that_it_names_come_with_the_binary() {
    let broker = Broker::start();
    let http = broker.http();
    let page = http.get("/demo").ok();
    assert!(page.headers["content-type"].starts_with("text/html"));
    let policy = &page.headers["content-security-policy"];
    assert!(!policy.contains("unsafe"), "{policy}");

    let mut named: Vec<String> = page
        .body
        .split(['"', '\''])
        .filter(|text| text.starts_with("demo/"))
        .map(|text| format!("/{text}"))
        .collect();
    assert!(named.len() >= 3, "{named:?}");
    named.push("/hark.js".to_owned());
    for path in named {
        let asset = http.get(&path).ok();
        let expected = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("an asset of an unknown kind: {other}"),
        };
        assert_eq!(asset.headers["content-type"], expected, "{path}");
        assert!(!asset.body.is_empty());
    }
    assert!(
        !page.body.contains("https://"),
        "the page needs nothing from elsewhere"
    );
}

#[test]
fn what_a_browser_has_already_is_not_sent_again() {
    let broker = Broker::start();
    let http = broker.http();
    let first = http.get("/hark.js").ok();
    let tag = first.headers["etag"].clone();

    let again = http.request("GET", "/hark.js", &[("if-none-match", &tag)], b"");
    assert_eq!((again.status, again.body.as_str()), (304, ""));
    let other = http.request("GET", "/hark.js", &[("if-none-match", "\"other\"")], b"");
    assert_eq!(other.ok().body, first.body);
    http.request("POST", "/hark.js", &[], b"x")
        .expect_error(405, "unsupported");
}
