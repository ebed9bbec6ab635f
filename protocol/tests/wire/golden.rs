//! The golden files: bytes that may never change. Every client in every language is tested against them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use bytes::Bytes;
use hark_protocol::{ClientFrame, GapReason, ServerFrame, Subprotocol};
use serde_json::Value;

use crate::samples::{self, Frame, Sample};

/// What every `type` on the wire is called.
pub(crate) const TYPES: [&str; 18] = [
    "auth",
    "subscribe",
    "unsubscribe",
    "publish",
    "ping",
    "welcome",
    "authenticated",
    "subscribed",
    "message",
    "caught_up",
    "lagging",
    "gap",
    "unsubscribed",
    "published",
    "published_all",
    "error",
    "goodbye",
    "pong",
];

/// The `type` of a frame. Whoever adds a frame is led here, and from here to `TYPES` and to the samples.
pub(crate) fn type_of(frame: &Frame) -> &'static str {
    match frame {
        Frame::Client(frame) => match frame {
            ClientFrame::Auth { .. } => "auth",
            ClientFrame::Subscribe { .. } => "subscribe",
            ClientFrame::Unsubscribe { .. } => "unsubscribe",
            ClientFrame::Publish { .. } | ClientFrame::PublishAll { .. } => "publish",
            ClientFrame::Ping { .. } => "ping",
        },
        Frame::Hark(frame) => match frame {
            ServerFrame::Welcome { .. } => "welcome",
            ServerFrame::Authenticated { .. } => "authenticated",
            ServerFrame::Subscribed { .. } => "subscribed",
            ServerFrame::Message { .. } => "message",
            ServerFrame::CaughtUp { .. } => "caught_up",
            ServerFrame::Lagging { .. } => "lagging",
            ServerFrame::Gap { .. } => "gap",
            ServerFrame::Unsubscribed { .. } => "unsubscribed",
            ServerFrame::Published { .. } => "published",
            ServerFrame::PublishedAll { .. } => "published_all",
            ServerFrame::Error { .. } => "error",
            ServerFrame::Goodbye { .. } => "goodbye",
            ServerFrame::Pong { .. } => "pong",
        },
    }
}

/// The folder of the files. With `UPDATE_GOLDEN` set they are written first, before any test reads one.
fn golden_dir() -> PathBuf {
    static UPDATE: Once = Once::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    UPDATE.call_once(|| {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            for sample in samples::all() {
                fs::write(dir.join(format!("{}.json", sample.name)), file_of(&sample)).unwrap();
            }
        }
    });
    dir
}

/// How the file of a sample reads.
fn file_of(sample: &Sample) -> String {
    let says = match sample.frame {
        Frame::Client(_) => "client",
        Frame::Hark(_) => "hark",
    };
    let text = sample.frame.encode(Subprotocol::Json);
    let field = |name: &str, value: &str| format!("  \"{name}\": {}", Value::from(value));
    let fields = [
        field("name", sample.name),
        field("meaning", sample.meaning),
        field("says", says),
        field("json", std::str::from_utf8(&text).unwrap()),
        field(
            "bincode",
            &to_hex(&sample.frame.encode(Subprotocol::Bincode)),
        ),
    ];
    format!("{{\n{}\n}}\n", fields.join(",\n"))
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Bytes {
    assert!(
        hex.len().is_multiple_of(2) && hex.is_ascii(),
        "{hex} is no hex"
    );
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn files_are_what_the_values_say() {
    for sample in samples::all() {
        let path = golden_dir().join(format!("{}.json", sample.name));
        let expected = file_of(&sample);
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            found,
            expected,
            "{}: the wire is frozen, so an existing file may not change. UPDATE_GOLDEN=1 writes the file of a new sample",
            path.display(),
        );
    }
}

#[test]
fn no_file_without_a_sample() {
    let files: BTreeSet<String> = fs::read_dir(golden_dir())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let samples = samples::all();
    let expected: BTreeSet<String> = samples
        .iter()
        .map(|sample| format!("{}.json", sample.name))
        .collect();
    assert_eq!(expected.len(), samples.len(), "two samples of one name");
    assert_eq!(files, expected);
}

#[test]
fn files_read_as_the_values_they_stand_for() {
    for sample in samples::all() {
        let name = sample.name;
        let path = golden_dir().join(format!("{name}.json"));
        let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let json = Bytes::from(file["json"].as_str().unwrap().to_owned());
        let bincode = from_hex(file["bincode"].as_str().unwrap());

        let frame = sample.frame.decode_alike(&json, Subprotocol::Json).unwrap();
        assert_eq!(frame, sample.frame, "{name} as JSON");
        assert_eq!(
            sample.frame.decode_alike(&bincode, Subprotocol::Bincode),
            Ok(frame),
            "{name} as bincode"
        );
        assert!(
            !json.contains(&b'\n') && !json.contains(&b'\r'),
            "{name} is on one line"
        );

        let parsed: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(parsed["type"], type_of(&sample.frame), "{name}");
    }
}

#[test]
fn every_frame_and_every_gap_has_a_sample() {
    let samples = samples::all();
    let types: BTreeSet<_> = samples
        .iter()
        .map(|sample| type_of(&sample.frame))
        .collect();
    assert_eq!(types, TYPES.into_iter().collect());

    for reason in GapReason::ALL {
        let has = |s: &Sample| matches!(&s.frame, Frame::Hark(ServerFrame::Gap { reason: r, .. }) if *r == reason);
        assert!(
            samples.iter().any(has),
            "no gap with the reason {}",
            reason.as_str()
        );
    }
}
