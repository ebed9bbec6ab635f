//! The README says what the code does: whatever stands in both is compared here, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use hark_protocol::{
    CloseCode, ConnectAgain, ErrorCode, GapReason, MAX_FRAME_BYTES, MAX_HEADER_BYTES,
    MAX_HEADER_PAIRS, MAX_LIST_MESSAGES, MAX_PUBLISH_TOPICS, Subprotocol, SubscribeFrom, codec,
};

use crate::golden::{self, TYPES};
use crate::samples;

const README: &str = include_str!("../../README.md");

/// The rows of the one table of the section `heading` whose first column is called `column`.
fn table(heading: &str, column: &str) -> Vec<Vec<String>> {
    let section = README
        .split(&format!("\n{heading}\n"))
        .nth(1)
        .expect(heading);
    let level = heading.split(' ').next().unwrap_or_default();
    let section = section
        .split(&format!("\n{level} "))
        .next()
        .unwrap_or_default();
    let head = format!("| {column} |");
    let rows = section
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(2);
    let rows: Vec<_> = rows
        .take_while(|line| line.starts_with('|'))
        .map(|row| {
            row.trim_matches('|')
                .split(" | ")
                .map(|cell| cell.trim().to_owned())
                .collect()
        })
        .collect();
    assert!(
        !rows.is_empty(),
        "{heading} has no table that begins with {column}"
    );
    rows
}

fn plain(cell: &str) -> &str {
    cell.trim_matches('`')
}

fn yes(cell: &str) -> bool {
    match cell {
        "yes" => true,
        "no" => false,
        other => panic!("{other:?} is neither yes nor no"),
    }
}

#[test]
fn error_codes() {
    let rows = table("## Errors", "code");
    let written: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            (
                plain(&row[0]),
                (yes(&row[2]), row[3].parse::<u16>().unwrap()),
            )
        })
        .collect();
    let known: BTreeMap<_, _> = ErrorCode::ALL
        .iter()
        .map(|code| (code.as_str(), (code.try_again(), code.http_status())))
        .collect();
    assert_eq!(written, known);
    assert_eq!(rows.len(), known.len(), "a code stands twice");
}

#[test]
fn close_codes() {
    let rows = table("## Close codes", "code");
    let written: BTreeMap<u16, ConnectAgain> = rows
        .iter()
        .map(|row| {
            let again = match row[2].as_str() {
                "yes" | "yes, unless the client itself closed" => ConnectAgain::Always,
                "not after the third time in a row" => ConnectAgain::NotAfterTheThird,
                "once, with a fresh token" => ConnectAgain::OnceWithFreshToken,
                "no" => ConnectAgain::Never,
                other => panic!("{other:?} says nothing about connecting again"),
            };
            (row[0].parse().unwrap(), again)
        })
        .collect();
    let known: BTreeMap<u16, ConnectAgain> = CloseCode::ALL
        .iter()
        .map(|code| (code.0, code.connect_again()))
        .collect();
    assert_eq!(written, known);
    assert_eq!(rows.len(), known.len(), "a code stands twice");
}

#[test]
fn gap_reasons() {
    let rows = table("## Cursors and gaps", "reason");
    let written: BTreeSet<_> = rows.iter().map(|row| plain(&row[0])).collect();
    assert_eq!(
        written,
        GapReason::ALL
            .iter()
            .map(|reason| reason.as_str())
            .collect()
    );
}

#[test]
fn subprotocols() {
    let rows = table("## Connecting", "subprotocol");
    let written: Vec<_> = rows.iter().map(|row| plain(&row[0])).collect();
    assert_eq!(written, Subprotocol::ALL.map(Subprotocol::name));
}

#[test]
fn limits() {
    let written: Vec<usize> = table("## Limits", "what")
        .iter()
        .map(|row| row[1].parse().unwrap())
        .collect();
    // The last three are held by the tests of the types they belong to.
    assert_eq!(
        written,
        [
            MAX_FRAME_BYTES,
            MAX_LIST_MESSAGES,
            MAX_PUBLISH_TOPICS,
            MAX_HEADER_PAIRS,
            MAX_HEADER_BYTES,
            255,
            255,
            64
        ]
    );
}

/// Every line of the README's JSON blocks.
fn json_lines() -> impl Iterator<Item = &'static str> {
    README
        .split("```json\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap_or_default().lines())
}

#[test]
fn every_frame_in_the_readme_is_one_and_every_type_is_in_it() {
    let mut types = BTreeSet::new();
    for line in json_lines() {
        let bytes = Bytes::from(line);
        let value: serde_json::Value = serde_json::from_str(line).expect(line);
        let Some(kind) = value["type"].as_str() else {
            continue;
        };
        types.insert(kind.to_owned());
        // Written as Hark would write it, so that the order of the fields is right too.
        let written = match codec::decode_client(&bytes, Subprotocol::Json) {
            Ok(frame) => codec::json::encode_client(&frame),
            Err(_) => match codec::decode_server(&bytes, Subprotocol::Json) {
                Ok(frame) => codec::json::encode_server(&frame),
                Err(error) => panic!("{line}: {error}"),
            },
        };
        assert_eq!(&*written, line);
    }
    assert_eq!(
        types.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        TYPES.into_iter().collect()
    );
    for kind in TYPES {
        assert!(
            README.contains(&format!("**`{kind}`**")),
            "{kind} is not explained"
        );
    }
}

#[test]
fn type_bytes() {
    let rows = table("## The bincode form", "byte");
    let written: BTreeSet<_> = rows
        .iter()
        .map(|row| (plain(&row[0]).to_owned(), plain(&row[1]).to_owned()))
        .collect();
    let known: BTreeSet<_> = samples::all()
        .iter()
        .map(|sample| {
            let first = sample.frame.encode(Subprotocol::Bincode)[0];
            (
                format!("{first:02x}"),
                golden::type_of(&sample.frame).to_owned(),
            )
        })
        .collect();
    assert_eq!(written, known);
}

#[test]
fn the_worked_example_is_a_golden_file() {
    let example = README
        .split("```text\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    // What stands before three spaces are bytes.
    let hex: String = example
        .lines()
        .map(|line| {
            line.split("   ")
                .next()
                .unwrap_or_default()
                .replace(' ', "")
        })
        .collect();
    let sample = samples::all()
        .into_iter()
        .find(|sample| sample.name == "message_json")
        .unwrap();
    assert_eq!(
        hex,
        golden::to_hex(&sample.frame.encode(Subprotocol::Bincode))
    );
}

#[test]
fn places_to_start_from() {
    for row in table("## Frames", "JSON") {
        let (json, text) = (plain(&row[0]), plain(&row[1]));
        let in_query: SubscribeFrom = text.parse().unwrap();
        let frame = Bytes::from(format!(
            r#"{{"type":"subscribe","topic":"a","from":{json}}}"#
        ));
        let Ok(hark_protocol::ClientFrame::Subscribe { from, .. }) =
            codec::decode_client(&frame, Subprotocol::Json)
        else {
            panic!("{json} was refused");
        };
        assert_eq!(from, in_query, "{json} and {text}");
    }
    for ago in ["250ms", "90s", "5m", "1h 30m", "7d", "1w"] {
        assert!(README.contains(&format!("`{ago}`")), "{ago} is an example");
        assert!(SubscribeFrom::parse_since(ago).is_some(), "{ago} is read");
    }
}
