//! RFC 6455, case by case: groups 1 to 7 and 10 of the Autobahn|Testsuite, each by its number, to be read beside its case list
//! (https://github.com/crossbario/autobahn-testsuite). A client on a bare socket plays them against the real binary.
//!
//! Hark echoes nothing, so the payload rides where it is carried and ignored: in a text it is a field of a `ping`, in front of the
//! `id`, so that the `pong` with that id says that all of it arrived; a binary message is a `publish` to a topic the client has
//! subscribed to, and comes back as it was sent. The sizes are those of the WebSocket message, as the suite has them. What the
//! suite waits for by the clock is asked for here: a ping that is answered says that nothing else has happened.
//!
//! What comes back is exact, also where the suite takes several answers for right: it calls that "non-strict" or "informational",
//! and the row says so.

use std::any::Any;

use hark_protocol::{
    ClientFrame, ErrorCode, Headers, Idempotency, Message, Payload, ServerFrame, Subprotocol,
    SubscribeFrom, TopicName, codec,
};
use hark_tests::{Broker, Op, RawWs};

use self::Chops::{AllInOne, Each, OfBytes};
use self::Step::{
    BadFrame, Binary, Close, Closed, Echo, First, Frame, InPieces, Last, Next, OneByOne, Pong,
    Split, Text, TextOf,
};

/// How many cases there are in each group, as the suite counts them.
const GROUPS: [(&str, usize); 37] = [
    ("1.1", 8),
    ("1.2", 8),
    ("2", 11),
    ("3", 7),
    ("4.1", 5),
    ("4.2", 5),
    ("5", 20),
    ("6.1", 3),
    ("6.2", 4),
    ("6.3", 2),
    ("6.4", 4),
    ("6.5", 5),
    ("6.6", 11),
    ("6.7", 4),
    ("6.8", 2),
    ("6.9", 4),
    ("6.10", 3),
    ("6.11", 5),
    ("6.12", 8),
    ("6.13", 5),
    ("6.14", 10),
    ("6.15", 1),
    ("6.16", 3),
    ("6.17", 5),
    ("6.18", 5),
    ("6.19", 5),
    ("6.20", 7),
    ("6.21", 8),
    ("6.22", 34),
    ("6.23", 7),
    ("7.1", 6),
    ("7.3", 6),
    ("7.5", 1),
    ("7.7", 13),
    ("7.9", 9),
    ("7.13", 2),
    ("10.1", 1),
];

/// The first byte of a frame: the last fragment's bit, the kinds, and the reserved bits (RFC 6455, section 5.2).
const FIN: u8 = 0x80;
const CONTINUATION: u8 = Op::CONTINUATION.0;
const TEXT: u8 = Op::TEXT.0;
const BINARY: u8 = Op::BINARY.0;
const CLOSE: u8 = Op::CLOSE.0;
const PING: u8 = Op::PING.0;
const PONG: u8 = Op::PONG.0;

const fn rsv(bits: u8) -> u8 {
    bits << 4
}

/// A step of a case: something is sent, or something must come back.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Sends a text with this payload.
    Text(&'static [u8]),
    /// Sends a text of exactly so many bytes, filled with this again and again.
    TextOf(usize, &'static [u8]),
    /// Sends a binary message of exactly so many bytes, filled with this byte.
    Binary(usize, u8),
    /// Sends the fragments of a text: the first, …
    First(&'static [u8]),
    /// … one in the middle, …
    Next(&'static [u8]),
    /// … and the last.
    Last(&'static [u8]),
    /// Sends a text in fragments of one byte.
    OneByOne(&'static [u8]),
    /// Sends a text of exactly so many bytes in fragments of at most so many.
    Split(usize, usize),
    /// Sends a text in one frame whose payload goes out in these three pieces.
    InPieces([&'static [u8]; 3]),
    /// Sends a frame with this first byte and exactly this payload.
    Frame(u8, &'static [u8]),
    /// Sends a close frame with a code and a reason.
    Close(u16, &'static [u8]),
    /// The next text or binary message of the client's comes back.
    Echo,
    /// The message before was WebSocket, but no frame of Hark's: it is told so, and the session goes on.
    BadFrame,
    /// A pong with this payload comes back.
    Pong(&'static [u8]),
    /// A close frame with this code comes back, nothing behind it, and Hark ends the connection.
    Closed(u16),
}

/// How bytes that follow each other are written.
#[derive(Debug, Clone, Copy)]
enum Chops {
    AllInOne,
    /// Each frame by itself.
    Each,
    OfBytes(usize),
}

/// A case. One without `Closed` ends as a good session does: the client closes with 1000, and so does Hark.
#[derive(Debug)]
struct Case {
    number: String,
    chops: Chops,
    steps: Vec<Step>,
}

fn case(number: impl Into<String>, steps: impl Into<Vec<Step>>) -> Case {
    chopped(number, AllInOne, steps)
}

fn chopped(number: impl Into<String>, chops: Chops, steps: impl Into<Vec<Step>>) -> Case {
    Case {
        number: number.into(),
        chops,
        steps: steps.into(),
    }
}

fn table() -> Vec<Case> {
    [
        framing(),
        pings(),
        reserved_bits(),
        opcodes(),
        fragments(),
        utf8(),
        utf8_sequences(),
        closing(),
        close_codes(),
        auto_fragmentation(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// 1: texts and binary messages at the borders of the three forms of a length.
fn framing() -> Vec<Case> {
    vec![
        case("1.1.1", [Frame(FIN | TEXT, b""), BadFrame]),
        case("1.1.2", [TextOf(125, b"*"), Echo]),
        case("1.1.3", [TextOf(126, b"*"), Echo]),
        case("1.1.4", [TextOf(127, b"*"), Echo]),
        case("1.1.5", [TextOf(128, b"*"), Echo]),
        case("1.1.6", [TextOf(65535, b"*"), Echo]),
        case("1.1.7", [TextOf(65536, b"*"), Echo]),
        chopped("1.1.8", OfBytes(997), [TextOf(65536, b"*"), Echo]),
        case("1.2.1", [Binary(0, 0xfe), BadFrame]),
        case("1.2.2", [Binary(125, 0xfe), Echo]),
        case("1.2.3", [Binary(126, 0xfe), Echo]),
        case("1.2.4", [Binary(127, 0xfe), Echo]),
        case("1.2.5", [Binary(128, 0xfe), Echo]),
        case("1.2.6", [Binary(65535, 0xfe), Echo]),
        case("1.2.7", [Binary(65536, 0xfe), Echo]),
        chopped("1.2.8", OfBytes(997), [Binary(65536, 0xfe), Echo]),
    ]
}

/// 2: pings and pongs.
fn pings() -> Vec<Case> {
    const BYTES: &[u8] = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff";
    const FE: &[u8] = &[0xfe; 126];
    const TEN: [&[u8]; 10] = [
        b"payload-0",
        b"payload-1",
        b"payload-2",
        b"payload-3",
        b"payload-4",
        b"payload-5",
        b"payload-6",
        b"payload-7",
        b"payload-8",
        b"payload-9",
    ];
    let pings = TEN.map(|payload| Frame(FIN | PING, payload));
    let ten: Vec<Step> = pings.into_iter().chain(TEN.map(Pong)).collect();
    vec![
        case("2.1", [Frame(FIN | PING, b""), Pong(b"")]),
        case(
            "2.2",
            [Frame(FIN | PING, b"Hello, world!"), Pong(b"Hello, world!")],
        ),
        case("2.3", [Frame(FIN | PING, BYTES), Pong(BYTES)]),
        case("2.4", [Frame(FIN | PING, &FE[1..]), Pong(&FE[1..])]),
        case("2.5", [Frame(FIN | PING, FE), Closed(1002)]),
        chopped(
            "2.6",
            OfBytes(1),
            [Frame(FIN | PING, &FE[1..]), Pong(&FE[1..])],
        ),
        case("2.7", [Frame(FIN | PONG, b"")]),
        case("2.8", [Frame(FIN | PONG, b"unsolicited pong payload")]),
        case(
            "2.9",
            [
                Frame(FIN | PONG, b"unsolicited pong payload"),
                Frame(FIN | PING, b"ping payload"),
                Pong(b"ping payload"),
            ],
        ),
        case("2.10", ten.clone()),
        chopped("2.11", OfBytes(1), ten),
    ]
}

/// 3: reserved bits, which no extension has given a meaning. Non-strict: the echo might be missing.
fn reserved_bits() -> Vec<Case> {
    let with_rsv = |bits: u8| {
        [
            Text(b"Hello, world!"),
            Frame(FIN | rsv(bits) | TEXT, b"Hello, world!"),
            Frame(FIN | PING, b""),
            Echo,
            Closed(1002),
        ]
    };
    vec![
        case(
            "3.1",
            [Frame(FIN | rsv(1) | TEXT, b"Hello, world!"), Closed(1002)],
        ),
        case("3.2", with_rsv(2)),
        chopped("3.3", Each, with_rsv(3)),
        chopped("3.4", OfBytes(1), with_rsv(4)),
        case(
            "3.5",
            [
                Frame(FIN | rsv(5) | BINARY, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"),
                Closed(1002),
            ],
        ),
        // By its description; what the suite sends is a binary frame.
        case(
            "3.6",
            [Frame(FIN | rsv(6) | PING, b"Hello, world!"), Closed(1002)],
        ),
        case("3.7", [Frame(FIN | rsv(7) | CLOSE, b""), Closed(1002)]),
    ]
}

/// 4: kinds of frames that are reserved. Non-strict: the echo might be missing.
fn opcodes() -> Vec<Case> {
    const PAYLOAD: &[u8] = b"reserved opcode payload";
    const HELLO: &[u8] = b"Hello, world!";
    let behind_a_text = |opcode: u8, payload| {
        [
            Text(HELLO),
            Frame(FIN | opcode, payload),
            Frame(FIN | PING, b""),
            Echo,
            Closed(1002),
        ]
    };
    vec![
        case("4.1.1", [Frame(FIN | 3, b""), Closed(1002)]),
        case("4.1.2", [Frame(FIN | 4, PAYLOAD), Closed(1002)]),
        case("4.1.3", behind_a_text(5, b"")),
        case("4.1.4", behind_a_text(6, HELLO)),
        chopped("4.1.5", OfBytes(1), behind_a_text(7, HELLO)),
        case("4.2.1", [Frame(FIN | 11, b""), Closed(1002)]),
        case("4.2.2", [Frame(FIN | 12, PAYLOAD), Closed(1002)]),
        case("4.2.3", behind_a_text(13, b"")),
        case("4.2.4", behind_a_text(14, HELLO)),
        chopped("4.2.5", OfBytes(1), behind_a_text(15, HELLO)),
    ]
}

/// 5: fragments. In 5.15 the echo might be missing (non-strict).
fn fragments() -> Vec<Case> {
    let fragmented_control = |opcode| {
        [
            Frame(opcode, b"fragment1"),
            Frame(FIN | CONTINUATION, b"fragment2"),
            Closed(1002),
        ]
    };
    let two = [First(b"fragment1"), Last(b"fragment2"), Echo];
    let ping_between = [
        First(b"fragment1"),
        Frame(FIN | PING, b"ping payload"),
        Last(b"fragment2"),
        Pong(b"ping payload"),
        Echo,
    ];
    let nothing_to_continue = |fin| {
        [
            Frame(fin | CONTINUATION, b"non-continuation payload"),
            Text(b"Hello, world!"),
            Closed(1002),
        ]
    };
    let twice_nothing_to_continue = |fin| {
        [
            Frame(fin | CONTINUATION, b"fragment1"),
            First(b"fragment2"),
            Last(b"fragment3"),
            Frame(fin | CONTINUATION, b"fragment1"),
            First(b"fragment2"),
            Last(b"fragment3"),
            Closed(1002),
        ]
    };
    let five_and_two_pings = [
        First(b"fragment1"),
        Next(b"fragment2"),
        Frame(FIN | PING, b"pongme 1!"),
        Pong(b"pongme 1!"),
        Next(b"fragment3"),
        Next(b"fragment4"),
        Frame(FIN | PING, b"pongme 2!"),
        Last(b"fragment5"),
        Pong(b"pongme 2!"),
        Echo,
    ];
    vec![
        case("5.1", fragmented_control(PING)),
        case("5.2", fragmented_control(PONG)),
        case("5.3", two),
        chopped("5.4", Each, two),
        chopped("5.5", OfBytes(1), two),
        case("5.6", ping_between),
        chopped("5.7", Each, ping_between),
        chopped("5.8", OfBytes(1), ping_between),
        case("5.9", nothing_to_continue(FIN)),
        chopped("5.10", Each, nothing_to_continue(FIN)),
        chopped("5.11", OfBytes(1), nothing_to_continue(FIN)),
        case("5.12", nothing_to_continue(0)),
        chopped("5.13", Each, nothing_to_continue(0)),
        chopped("5.14", OfBytes(1), nothing_to_continue(0)),
        case(
            "5.15",
            [
                First(b"fragment1"),
                Last(b"fragment2"),
                Frame(CONTINUATION, b"fragment3"),
                Text(b"fragment4"),
                Echo,
                Closed(1002),
            ],
        ),
        case("5.16", twice_nothing_to_continue(0)),
        case("5.17", twice_nothing_to_continue(FIN)),
        case(
            "5.18",
            [
                First(b"fragment1"),
                Frame(FIN | TEXT, b"fragment2"),
                Closed(1002),
            ],
        ),
        case("5.19", five_and_two_pings),
        chopped("5.20", Each, five_and_two_pings),
    ]
}

/// 6.1 to 6.4: UTF-8 in fragments and pieces. 6.4 asks for an end as soon as a byte cannot be right any more; Hark looks at whole
/// messages, and ends the session when the last byte is there, which the RFC allows (section 8.1) and the suite calls non-strict.
fn utf8() -> Vec<Case> {
    const HELLO: &[u8] = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    const KOSME: &[u8] = "κόσμε".as_bytes();
    const WITH_SURROGATE: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    // One byte more: that which begins what cannot be.
    const KOSME_AND_F4: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4";
    let in_three = |first, next, last| {
        [
            First(first),
            Frame(FIN | PING, b"A"),
            Pong(b"A"),
            Next(next),
            Last(last),
            Closed(1007),
        ]
    };
    vec![
        case("6.1.1", [Frame(FIN | TEXT, b""), BadFrame]),
        case(
            "6.1.2",
            [
                Frame(TEXT, b""),
                Frame(CONTINUATION, b""),
                Frame(FIN | CONTINUATION, b""),
                BadFrame,
            ],
        ),
        case(
            "6.1.3",
            [
                Frame(TEXT, b""),
                Frame(
                    CONTINUATION,
                    br#"{"type":"ping","x":"middle frame payload","id":1}"#,
                ),
                Frame(FIN | CONTINUATION, b""),
                Echo,
            ],
        ),
        case("6.2.1", [Text(HELLO), Echo]),
        case(
            "6.2.2",
            [
                First("Hello-µ@ßöä".as_bytes()),
                Last("üàá-UTF-8!!".as_bytes()),
                Echo,
            ],
        ),
        case("6.2.3", [OneByOne(HELLO), Echo]),
        case("6.2.4", [OneByOne(KOSME), Echo]),
        case("6.3.1", [Text(WITH_SURROGATE), Closed(1007)]),
        case("6.3.2", [OneByOne(WITH_SURROGATE), Closed(1007)]),
        case("6.4.1", in_three(KOSME, b"\xf4\x90\x80\x80", b"edited")),
        case("6.4.2", in_three(KOSME_AND_F4, b"\x90", b"\x80\x80edited")),
        case(
            "6.4.3",
            [
                InPieces([KOSME, b"\xf4\x90\x80\x80", b"edited"]),
                Closed(1007),
            ],
        ),
        case(
            "6.4.4",
            [
                InPieces([KOSME_AND_F4, b"\x90", b"\x80\x80edited"]),
                Closed(1007),
            ],
        ),
    ]
}

/// 6.5 to 6.23: texts that are UTF-8 come back, the others end the session with 1007.
fn utf8_sequences() -> Vec<Case> {
    // Whether it is UTF-8, and so what comes back.
    const YES: &[Step] = &[Echo];
    const NO: &[Step] = &[Closed(1007)];
    // JSON has no unescaped NUL in a string (RFC 8259, section 7). The text is UTF-8 all the same, and does not end the session.
    const NUL: &[Step] = &[BadFrame];
    // All but the last byte of the range, as the suite has it.
    const CONTINUATIONS: &[u8] =
        b"\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\
          \x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f\
          \xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf\
          \xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xbb\xbc\xbd\xbe";
    const STARTS_OF_2: &[u8] =
        b"\xc0 \xc1 \xc2 \xc3 \xc4 \xc5 \xc6 \xc7 \xc8 \xc9 \xca \xcb \xcc \xcd \xce \xcf \
          \xd0 \xd1 \xd2 \xd3 \xd4 \xd5 \xd6 \xd7 \xd8 \xd9 \xda \xdb \xdc \xdd \xde ";
    const STARTS_OF_3: &[u8] =
        b"\xe0 \xe1 \xe2 \xe3 \xe4 \xe5 \xe6 \xe7 \xe8 \xe9 \xea \xeb \xec \xed \xee ";
    const ALL_INCOMPLETE: &[u8] = b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\
          \xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf";
    #[rustfmt::skip]
    const SEQUENCES: &[(&str, &[u8], &[Step])] = &[
        // Some valid sequences.
        ("6.5.1", b"hello\x24world", YES),
        ("6.5.2", b"hello\xc2\xa2world", YES),
        ("6.5.3", b"hello\xe2\x82\xacworld", YES),
        ("6.5.4", b"hello\xf0\xa4\xad\xa2world", YES),
        ("6.5.5", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", YES),
        // All starts of a valid text.
        ("6.6.1", b"\xce", NO),
        ("6.6.2", b"\xce\xba", YES),
        ("6.6.3", b"\xce\xba\xe1", NO),
        ("6.6.4", b"\xce\xba\xe1\xbd", NO),
        ("6.6.5", b"\xce\xba\xe1\xbd\xb9", YES),
        ("6.6.6", b"\xce\xba\xe1\xbd\xb9\xcf", NO),
        ("6.6.7", b"\xce\xba\xe1\xbd\xb9\xcf\x83", YES),
        ("6.6.8", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce", NO),
        ("6.6.9", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc", YES),
        ("6.6.10", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce", NO),
        ("6.6.11", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5", YES),
        // The first sequence of each length.
        ("6.7.1", b"\x00", NUL),
        ("6.7.2", b"\xc2\x80", YES),
        ("6.7.3", b"\xe0\xa0\x80", YES),
        ("6.7.4", b"\xf0\x90\x80\x80", YES),
        ("6.8.1", b"\xf8\x88\x80\x80\x80", NO),
        ("6.8.2", b"\xfc\x84\x80\x80\x80\x80", NO),
        // The last sequence of each length.
        ("6.9.1", b"\x7f", YES),
        ("6.9.2", b"\xdf\xbf", YES),
        ("6.9.3", b"\xef\xbf\xbf", YES),
        ("6.9.4", b"\xf4\x8f\xbf\xbf", YES),
        ("6.10.1", b"\xf7\xbf\xbf\xbf", NO),
        ("6.10.2", b"\xfb\xbf\xbf\xbf\xbf", NO),
        ("6.10.3", b"\xfd\xbf\xbf\xbf\xbf\xbf", NO),
        // Other borders.
        ("6.11.1", b"\xed\x9f\xbf", YES),
        ("6.11.2", b"\xee\x80\x80", YES),
        ("6.11.3", b"\xef\xbf\xbd", YES),
        ("6.11.4", b"\xf4\x8f\xbf\xbf", YES),
        ("6.11.5", b"\xf4\x90\x80\x80", NO),
        // Continuations of nothing.
        ("6.12.1", b"\x80", NO),
        ("6.12.2", b"\xbf", NO),
        ("6.12.3", b"\x80\xbf", NO),
        ("6.12.4", b"\x80\xbf\x80", NO),
        ("6.12.5", b"\x80\xbf\x80\xbf", NO),
        ("6.12.6", b"\x80\xbf\x80\xbf\x80", NO),
        ("6.12.7", b"\x80\xbf\x80\xbf\x80\xbf", NO),
        ("6.12.8", CONTINUATIONS, NO),
        // Starts of nothing.
        ("6.13.1", STARTS_OF_2, NO),
        ("6.13.2", STARTS_OF_3, NO),
        ("6.13.3", b"\xf0 \xf1 \xf2 \xf3 \xf4 \xf5 \xf6 ", NO),
        ("6.13.4", b"\xf8 \xf9 \xfa ", NO),
        ("6.13.5", b"\xfc ", NO),
        // The last continuation is missing.
        ("6.14.1", b"\xc0", NO),
        ("6.14.2", b"\xe0\x80", NO),
        ("6.14.3", b"\xf0\x80\x80", NO),
        ("6.14.4", b"\xf8\x80\x80\x80", NO),
        ("6.14.5", b"\xfc\x80\x80\x80\x80", NO),
        ("6.14.6", b"\xdf", NO),
        ("6.14.7", b"\xef\xbf", NO),
        ("6.14.8", b"\xf7\xbf\xbf", NO),
        ("6.14.9", b"\xfb\xbf\xbf\xbf", NO),
        ("6.14.10", b"\xfd\xbf\xbf\xbf\xbf", NO),
        // All of these together.
        ("6.15.1", ALL_INCOMPLETE, NO),
        // Bytes that never occur.
        ("6.16.1", b"\xfe", NO),
        ("6.16.2", b"\xff", NO),
        ("6.16.3", b"\xfe\xfe\xff\xff", NO),
        // Longer than need be: a slash, the most that is too long, NUL.
        ("6.17.1", b"\xc0\xaf", NO),
        ("6.17.2", b"\xe0\x80\xaf", NO),
        ("6.17.3", b"\xf0\x80\x80\xaf", NO),
        ("6.17.4", b"\xf8\x80\x80\x80\xaf", NO),
        ("6.17.5", b"\xfc\x80\x80\x80\x80\xaf", NO),
        ("6.18.1", b"\xc1\xbf", NO),
        ("6.18.2", b"\xe0\x9f\xbf", NO),
        ("6.18.3", b"\xf0\x8f\xbf\xbf", NO),
        ("6.18.4", b"\xf8\x87\xbf\xbf\xbf", NO),
        ("6.18.5", b"\xfc\x83\xbf\xbf\xbf\xbf", NO),
        ("6.19.1", b"\xc0\x80", NO),
        ("6.19.2", b"\xe0\x80\x80", NO),
        ("6.19.3", b"\xf0\x80\x80\x80", NO),
        ("6.19.4", b"\xf8\x80\x80\x80\x80", NO),
        ("6.19.5", b"\xfc\x80\x80\x80\x80\x80", NO),
        // Surrogates of UTF-16, single and in pairs.
        ("6.20.1", b"\xed\xa0\x80", NO),
        ("6.20.2", b"\xed\xad\xbf", NO),
        ("6.20.3", b"\xed\xae\x80", NO),
        ("6.20.4", b"\xed\xaf\xbf", NO),
        ("6.20.5", b"\xed\xb0\x80", NO),
        ("6.20.6", b"\xed\xbe\x80", NO),
        ("6.20.7", b"\xed\xbf\xbf", NO),
        ("6.21.1", b"\xed\xa0\x80\xed\xb0\x80", NO),
        ("6.21.2", b"\xed\xa0\x80\xed\xbf\xbf", NO),
        ("6.21.3", b"\xed\xad\xbf\xed\xb0\x80", NO),
        ("6.21.4", b"\xed\xad\xbf\xed\xbf\xbf", NO),
        ("6.21.5", b"\xed\xae\x80\xed\xb0\x80", NO),
        ("6.21.6", b"\xed\xae\x80\xed\xbf\xbf", NO),
        ("6.21.7", b"\xed\xaf\xbf\xed\xb0\x80", NO),
        ("6.21.8", b"\xed\xaf\xbf\xed\xbf\xbf", NO),
        // Code points that are no characters, and are UTF-8.
        ("6.22.1", b"\xef\xbf\xbe", YES),
        ("6.22.2", b"\xef\xbf\xbf", YES),
        ("6.22.3", b"\xf0\x9f\xbf\xbe", YES),
        ("6.22.4", b"\xf0\x9f\xbf\xbf", YES),
        ("6.22.5", b"\xf0\xaf\xbf\xbe", YES),
        ("6.22.6", b"\xf0\xaf\xbf\xbf", YES),
        ("6.22.7", b"\xf0\xbf\xbf\xbe", YES),
        ("6.22.8", b"\xf0\xbf\xbf\xbf", YES),
        ("6.22.9", b"\xf1\x8f\xbf\xbe", YES),
        ("6.22.10", b"\xf1\x8f\xbf\xbf", YES),
        ("6.22.11", b"\xf1\x9f\xbf\xbe", YES),
        ("6.22.12", b"\xf1\x9f\xbf\xbf", YES),
        ("6.22.13", b"\xf1\xaf\xbf\xbe", YES),
        ("6.22.14", b"\xf1\xaf\xbf\xbf", YES),
        ("6.22.15", b"\xf1\xbf\xbf\xbe", YES),
        ("6.22.16", b"\xf1\xbf\xbf\xbf", YES),
        ("6.22.17", b"\xf2\x8f\xbf\xbe", YES),
        ("6.22.18", b"\xf2\x8f\xbf\xbf", YES),
        ("6.22.19", b"\xf2\x9f\xbf\xbe", YES),
        ("6.22.20", b"\xf2\x9f\xbf\xbf", YES),
        ("6.22.21", b"\xf2\xaf\xbf\xbe", YES),
        ("6.22.22", b"\xf2\xaf\xbf\xbf", YES),
        ("6.22.23", b"\xf2\xbf\xbf\xbe", YES),
        ("6.22.24", b"\xf2\xbf\xbf\xbf", YES),
        ("6.22.25", b"\xf3\x8f\xbf\xbe", YES),
        ("6.22.26", b"\xf3\x8f\xbf\xbf", YES),
        ("6.22.27", b"\xf3\x9f\xbf\xbe", YES),
        ("6.22.28", b"\xf3\x9f\xbf\xbf", YES),
        ("6.22.29", b"\xf3\xaf\xbf\xbe", YES),
        ("6.22.30", b"\xf3\xaf\xbf\xbf", YES),
        ("6.22.31", b"\xf3\xbf\xbf\xbe", YES),
        ("6.22.32", b"\xf3\xbf\xbf\xbf", YES),
        ("6.22.33", b"\xf4\x8f\xbf\xbe", YES),
        ("6.22.34", b"\xf4\x8f\xbf\xbf", YES),
        // Specials, the replacement character among them.
        ("6.23.1", b"\xef\xbf\xb9", YES),
        ("6.23.2", b"\xef\xbf\xba", YES),
        ("6.23.3", b"\xef\xbf\xbb", YES),
        ("6.23.4", b"\xef\xbf\xbc", YES),
        ("6.23.5", b"\xef\xbf\xbd", YES),
        ("6.23.6", b"\xef\xbf\xbe", YES),
        ("6.23.7", b"\xef\xbf\xbf", YES),
    ];
    let with_answer = |(number, payload, answer): &(&str, &'static [u8], &[Step])| {
        case(*number, [&[Text(payload)], *answer].concat())
    };
    SEQUENCES.iter().map(with_answer).collect()
}

/// 7.1, 7.3, 7.5, 7.13: closing. 7.1.6 is informational: what comes before the close is answered. So is 7.13: the RFC does not say
/// what codes beyond 4999 are; Hark takes them for a fault, as those of 7.9.
fn closing() -> Vec<Case> {
    const STARS: &[u8] = &[b'*'; 124];
    // UTF-8 up to a surrogate.
    const BAD_REASON: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    vec![
        case(
            "7.1.1",
            [Text(b"Hello World!"), Close(1000, b""), Echo, Closed(1000)],
        ),
        case(
            "7.1.2",
            [Close(1000, b""), Frame(FIN | CLOSE, b""), Closed(1000)],
        ),
        case(
            "7.1.3",
            [Close(1000, b""), Frame(FIN | PING, b""), Closed(1000)],
        ),
        case(
            "7.1.4",
            [Close(1000, b""), Text(b"Hello World!"), Closed(1000)],
        ),
        case(
            "7.1.5",
            [
                First(b"fragment1"),
                Close(1000, b""),
                Last(b"fragment2"),
                Closed(1000),
            ],
        ),
        case(
            "7.1.6",
            [
                TextOf(256 * 1024, b"BAsd7&jh23"),
                Text(b"Hello World!"),
                Close(1000, b""),
                Frame(FIN | PING, b""),
                Echo,
                Echo,
                Closed(1000),
            ],
        ),
        case("7.3.1", [Frame(FIN | CLOSE, b""), Closed(1000)]),
        case("7.3.2", [Frame(FIN | CLOSE, b"a"), Closed(1002)]),
        case("7.3.3", [Close(1000, b""), Closed(1000)]),
        case("7.3.4", [Close(1000, b"Hello World!"), Closed(1000)]),
        case("7.3.5", [Close(1000, &STARS[1..]), Closed(1000)]),
        case("7.3.6", [Close(1000, STARS), Closed(1002)]),
        // 1007 would be right as well.
        case("7.5.1", [Close(1000, BAD_REASON), Closed(1002)]),
        case("7.13.1", [Close(5000, b""), Closed(1002)]),
        case("7.13.2", [Close(65535, b""), Closed(1002)]),
    ]
}

/// 7.7 and 7.9: codes that may be sent, and codes that may not (RFC 6455, section 7.4). To echo a good code instead of 1000 would be
/// right as well.
fn close_codes() -> Vec<Case> {
    const GOOD: [u16; 13] = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    const BAD: [u16; 9] = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    let cases = |group, codes: &[u16], answer| -> Vec<Case> {
        let numbered = codes.iter().enumerate();
        let case_of = |(at, code): (usize, &u16)| {
            let number = format!("{group}.{}", at + 1);
            case(number, [Close(*code, b""), Closed(answer)])
        };
        numbered.map(case_of).collect()
    };
    [cases("7.7", &GOOD, 1000), cases("7.9", &BAD, 1002)]
        .into_iter()
        .flatten()
        .collect()
}

/// 10.1: 65536 bytes in fragments of 1300.
fn auto_fragmentation() -> Vec<Case> {
    vec![case("10.1.1", [Split(65536, 1300), Echo])]
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// The n-th message of the client's.
    Echo(u64),
    Refused(ErrorCode),
    Pong(Vec<u8>),
    Closed(u16),
    /// The broker hung up.
    End,
    Other(String),
}

/// A client that plays a case.
struct Player {
    raw: RawWs,
    subprotocol: Subprotocol,
    topic: TopicName,
    chops: Chops,
    /// Frames, or pieces of one, that are to be written before anything is read.
    unwritten: Vec<Vec<u8>>,
    /// Messages the client has begun; the number of the last one.
    begun: u64,
    /// What the last binary message carried.
    carried: Vec<u8>,
    /// Messages that have come back.
    echoed: u64,
    /// The client has said that it closes.
    has_closed: bool,
}

impl Player {
    fn begin(broker: &Broker, case: &Case) -> Self {
        let binary = |step: &Step| matches!(step, Binary(..));
        let subprotocol = match case.steps.iter().any(binary) {
            true => Subprotocol::Bincode,
            false => Subprotocol::Json,
        };
        let offer = format!("Sec-WebSocket-Protocol: {}\r\n", subprotocol.name());
        let mut player = Self {
            raw: RawWs::open(broker, &offer, None),
            subprotocol,
            topic: TopicName::parse(&format!("rfc6455.{}", case.number)).unwrap(),
            chops: case.chops,
            unwritten: Vec::new(),
            begun: 0,
            carried: Vec::new(),
            echoed: 0,
            has_closed: false,
        };
        if subprotocol == Subprotocol::Bincode {
            player.subscribe();
        }
        player
    }

    fn subscribe(&mut self) {
        let subscribe = ClientFrame::Subscribe {
            id: None,
            topic: self.topic.clone(),
            from: SubscribeFrom::Now,
            token: None,
        };
        let frame = codec::encode_client(&subscribe, self.subprotocol);
        self.raw.send(Op::BINARY, frame.as_bytes());
        loop {
            let (_, payload) = self.raw.read_frame();
            let frame = codec::decode_server(&payload.into(), self.subprotocol).unwrap();
            if matches!(frame, ServerFrame::CaughtUp { .. }) {
                break;
            }
        }
    }

    /// What stands in front of a text's payload.
    fn open_text(&mut self) -> &'static [u8] {
        self.begun += 1;
        br#"{"type":"ping","x":""#
    }

    /// What stands behind it: only a message that is whole has its id.
    fn close_text(&self) -> Vec<u8> {
        format!(r#"","id":{}}}"#, self.begun).into()
    }

    fn text(&mut self, payload: &[u8]) -> Vec<u8> {
        [self.open_text(), payload, &self.close_text()].concat()
    }

    fn text_of(&mut self, bytes: usize, filling: &[u8]) -> Vec<u8> {
        let rest = bytes - self.text(b"").len();
        self.begun -= 1;
        let payload: Vec<u8> = filling.iter().copied().cycle().take(rest).collect();
        self.text(&payload)
    }

    fn publish(&self, payload: Vec<u8>) -> Vec<u8> {
        let publish = ClientFrame::Publish {
            id: None,
            topic: self.topic.clone(),
            message: Message {
                payload: Payload::Bytes {
                    data: payload.into(),
                    content_type: None,
                },
                headers: Headers::default(),
            },
            idempotency: Idempotency::None,
        };
        codec::encode_client(&publish, self.subprotocol)
            .as_bytes()
            .to_vec()
    }

    /// A publish of exactly so many bytes, or nothing at all.
    fn publish_of(&mut self, bytes: usize, filling: u8) -> Vec<u8> {
        if bytes == 0 {
            return Vec::new();
        }
        self.begun += 1;
        // How many bytes a length takes depends on the length.
        let fitting = (0..=bytes)
            .rev()
            .find(|&carried| self.publish(vec![filling; carried]).len() <= bytes);
        self.carried = vec![filling; fitting.unwrap()];
        self.publish(self.carried.clone())
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        RawWs::fragment(Op(first & !FIN), first & FIN != 0, payload)
    }

    fn send(&mut self, first: u8, payload: &[u8]) {
        self.unwritten.push(Self::frame(first, payload));
    }

    fn send_in_fragments(&mut self, text: &[u8], bytes: usize) {
        let fragments = text.chunks(bytes);
        let last = fragments.len() - 1;
        for (at, fragment) in fragments.enumerate() {
            let fin = if at == last { FIN } else { 0 };
            let kind = if at == 0 { TEXT } else { CONTINUATION };
            self.send(fin | kind, fragment);
        }
    }

    fn send_in_pieces(&mut self, parts: [&[u8]; 3]) {
        let text = self.text(&parts.concat());
        let mut frame = Self::frame(FIN | TEXT, &text);
        let behind = parts[2].len() + self.close_text().len();
        let last = frame.split_off(frame.len() - behind);
        let middle = frame.split_off(frame.len() - parts[1].len());
        for piece in [frame, middle, last] {
            self.unwritten.push(piece);
            self.write_out(Each);
        }
    }

    /// Writes what is to be written. The broker may hang up meanwhile; what it said before is read all the same.
    fn write_out(&mut self, chops: Chops) {
        let frames = std::mem::take(&mut self.unwritten);
        let joined = frames.concat();
        let pieces: Vec<&[u8]> = match chops {
            AllInOne => vec![&joined],
            Each => frames.iter().map(Vec::as_slice).collect(),
            OfBytes(bytes) => joined.chunks(bytes).collect(),
        };
        for piece in pieces {
            if self.raw.try_write(piece).is_err() {
                return;
            }
        }
    }

    /// What comes next; Hark's own pings do not count.
    fn read(&mut self) -> Came {
        loop {
            let (op, payload) = match self.raw.try_read_frame() {
                None => return Came::End,
                Some((Op::PING, _)) => continue,
                Some(frame) => frame,
            };
            let kind = match self.subprotocol {
                Subprotocol::Json => Op::TEXT,
                Subprotocol::Bincode => Op::BINARY,
            };
            return match op {
                Op::PONG => Came::Pong(payload),
                Op::CLOSE if payload.len() >= 2 => {
                    Came::Closed(u16::from_be_bytes([payload[0], payload[1]]))
                }
                _ if op == kind => self.understand(payload),
                _ => Came::Other(format!("{op:?} {payload:?}")),
            };
        }
    }

    fn understand(&self, payload: Vec<u8>) -> Came {
        match codec::decode_server(&payload.into(), self.subprotocol) {
            Ok(ServerFrame::Pong { id: Some(id) }) => Came::Echo(id),
            Ok(ServerFrame::Error { code, .. }) => Came::Refused(code),
            Ok(ServerFrame::Message { record, .. }) if matches!(&record.message.payload, Payload::Bytes { data, .. } if *data == self.carried) => {
                Came::Echo(record.offset)
            }
            other => Came::Other(format!("{other:?}")),
        }
    }

    fn expect(&mut self, step: &str, expected: Came) -> Result<(), String> {
        self.write_out(self.chops);
        let came = self.read();
        match came == expected {
            true => Ok(()),
            false => Err(format!("{step}: {expected:?} was expected, {came:?} came")),
        }
    }

    /// Nothing follows a close frame but the end of the connection. Whoever was told of it first answers.
    fn expect_closed(&mut self, step: &str, code: u16) -> Result<(), String> {
        self.expect(step, Came::Closed(code))?;
        if !self.has_closed {
            self.close(code, b"");
        }
        self.expect("behind the close frame", Came::End)
    }

    fn close(&mut self, code: u16, reason: &[u8]) {
        self.has_closed = true;
        self.send(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat());
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let name = format!("{step:?}");
        match step {
            Text(payload) => {
                let text = self.text(payload);
                self.send(FIN | TEXT, &text);
            }
            TextOf(bytes, filling) => {
                let text = self.text_of(bytes, filling);
                assert_eq!(text.len(), bytes);
                self.send(FIN | TEXT, &text);
            }
            Binary(bytes, filling) => {
                let publish = self.publish_of(bytes, filling);
                assert_eq!(publish.len(), bytes);
                self.send(FIN | BINARY, &publish);
            }
            First(payload) => {
                let start = [self.open_text(), payload].concat();
                self.send(TEXT, &start);
            }
            Next(payload) => self.send(CONTINUATION, payload),
            Last(payload) => {
                let end = [payload, &self.close_text()].concat();
                self.send(FIN | CONTINUATION, &end);
            }
            OneByOne(payload) => {
                let text = self.text(payload);
                self.send_in_fragments(&text, 1);
            }
            Split(bytes, fragment_bytes) => {
                let text = self.text_of(bytes, b"*");
                self.send_in_fragments(&text, fragment_bytes);
            }
            InPieces(parts) => self.send_in_pieces(parts),
            Frame(first, payload) => {
                self.has_closed |= first & 0x0f == CLOSE;
                self.send(first, payload);
            }
            Close(code, reason) => self.close(code, reason),
            Echo => {
                self.echoed += 1;
                return self.expect(&name, Came::Echo(self.echoed));
            }
            BadFrame => return self.expect(&name, Came::Refused(ErrorCode::BadFrame)),
            Pong(payload) => return self.expect(&name, Came::Pong(payload.into())),
            Closed(code) => return self.expect_closed(&name, code),
        }
        Ok(())
    }
}

fn play(mut player: Player, steps: &[Step]) -> Result<(), String> {
    for step in steps {
        player.take(*step)?;
    }
    match steps.last() {
        Some(Closed(_)) => Ok(()),
        _ => {
            player.close(1000, b"");
            player.expect_closed("the client's own end", 1000)
        }
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

#[test]
fn every_case_of_the_autobahn_testsuite_comes_back_as_rfc_6455_has_it() {
    let broker = Broker::start();
    // At once: Hark may take a moment to end a connection.
    let played = table().into_iter().map(|case| {
        let player = Player::begin(&broker, &case);
        let Case { number, steps, .. } = case;
        let game = std::thread::spawn(move || play(player, &steps));
        (number, game)
    });
    let played: Vec<_> = played.collect();
    let failed: Vec<String> = played
        .into_iter()
        .filter_map(|(number, game)| {
            let came = game.join().unwrap_or_else(|panic| Err(said(&*panic)));
            came.err().map(|why| format!("{number}  {why}"))
        })
        .collect();

    assert!(
        failed.is_empty(),
        "{} cases failed:\n  {}",
        failed.len(),
        failed.join("\n  ")
    );
}

#[test]
fn every_number_of_the_groups_is_in_the_table_once() {
    let mut expected: Vec<String> = GROUPS
        .iter()
        .flat_map(|(group, cases)| (1..=*cases).map(move |case| format!("{group}.{case}")))
        .collect();
    let mut found: Vec<String> = table().into_iter().map(|case| case.number).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(
        found.len(),
        247,
        "the suite has 301 cases without group 12; 54 of them are of group 9, on speed"
    );
}

also_over_tls! {
    every_case_of_the_autobahn_testsuite_comes_back_as_rfc_6455_has_it,
}
