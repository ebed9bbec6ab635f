//! Messages that come in part and never end: what they hold together, and that somebody who sends slowly but honestly outlives them.

use std::net::Ipv4Addr;

use hark_tests::{Broker, Op, RawWs, Setup};
use serde_json::json;

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 24 * MIB;
/// Addresses of the crowd, and how many messages each of them holds half.
const ADDRESSES: u8 = 3;
const OF_EACH: usize = 100;
/// What each of them has sent of its megabyte.
const HALF: usize = MIB * 3 / 4;
/// What the broker may grow by meanwhile: the limit, the buffers of 300 connections, and what its allocator gives back a little later.
/// Without a limit it is 400 MB and more.
const MOST_BYTES: u64 = 200 << 20;

/// One of a crowd that only holds its place.
enum Holder {
    Fragments(RawWs),
    Body(RawWs),
}

impl Holder {
    fn begin(broker: &Broker, address: Ipv4Addr, n: usize) -> Self {
        let mut raw = RawWs::connect_bare(broker, Some(address));
        match n % 2 {
            0 => {
                raw.upgrade(broker);
                let fragment = vec![b'x'; HALF / 2];
                // It may be told to go while it sends.
                drop(raw.try_write(&RawWs::fragment(Op::TEXT, false, &fragment)));
                drop(raw.try_write(&RawWs::fragment(Op::CONTINUATION, false, &fragment)));
                Self::Fragments(raw)
            }
            _ => {
                let head = format!(
                    "POST /v1/topics/crowd/messages HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n\
                     Content-Length: {MIB}\r\n\r\n"
                );
                raw.write(head.as_bytes());
                drop(raw.try_write(&vec![b'x'; HALF]));
                Self::Body(raw)
            }
        }
    }

    /// Whether it was told to go: with 1013, or 503. Else it can go on.
    fn was_told_to_go(self) -> bool {
        match self {
            Self::Fragments(mut raw) => {
                drop(raw.try_write(&RawWs::fragment(Op::PING, true, b"")));
                loop {
                    match raw.read_frame() {
                        (Op::PONG, _) => return false,
                        (Op::CLOSE, payload) => {
                            assert_eq!(payload[..2], 1013_u16.to_be_bytes());
                            return true;
                        }
                        _ => {}
                    }
                }
            }
            Self::Body(mut raw) => {
                drop(raw.try_write(&vec![b'x'; MIB - HALF]));
                let answer = raw.read_response();
                match answer.status {
                    200 => false,
                    _ => {
                        answer.expect_error(503, "busy");
                        assert!(answer.headers.contains_key("retry-after"), "{answer:#?}");
                        true
                    }
                }
            }
        }
    }
}

#[test]
fn a_crowd_that_only_holds_its_place_is_bounded_and_outlived_by_an_honest_upload() {
    let broker = Setup::new().flag("receiving-total-bytes", LIMIT).start();
    let before = broker.rss_bytes();
    let mut honest = RawWs::connect(&broker);
    let publish = json!({"type": "publish", "id": 1, "topic": "a", "data": "x".repeat(MIB / 2)});
    let frame = RawWs::fragment(Op::TEXT, true, publish.to_string().as_bytes());
    let holders = usize::from(ADDRESSES) * OF_EACH;
    let mut pieces = frame.chunks(frame.len().div_ceil(holders + 1));

    let mut crowd = Vec::new();
    let mut most = before;
    for n in 0..OF_EACH {
        for address in 0..ADDRESSES {
            let address = Ipv4Addr::new(127, 0, 0, 2 + address);
            crowd.push(Holder::begin(&broker, address, n));
            honest.write(pieces.next().unwrap());
            most = most.max(broker.rss_bytes());
        }
    }
    pieces.for_each(|piece| honest.write(piece));
    assert_eq!(honest.read_json()["type"], "published");

    let gone = crowd.into_iter().map(Holder::was_told_to_go);
    let gone = gone.filter(|gone| *gone).count();
    let grown = most - before;
    println!(
        "{gone} of {holders} were told to go; the broker grew by {} MiB",
        grown >> 20
    );
    // What stays is within the limit, and what goes is no more than has to.
    assert!((holders - gone) * HALF <= LIMIT, "{gone} were told to go");
    assert!(
        (holders - gone) * 2 * MIB >= LIMIT / 2,
        "{gone} were told to go"
    );
    assert!(grown < MOST_BYTES, "the broker grew by {grown} bytes");
}

also_over_tls! {
    a_crowd_that_only_holds_its_place_is_bounded_and_outlived_by_an_honest_upload,
}
