//! Lines of the log that do not come by way of `tracing`, since they are about it: a panic, lines that were left out. They look like the
//! others.

use std::borrow::Cow;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::Level;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Sentences of the command line.
    Sentence,
    /// The log.
    Text,
    /// The log as JSON lines.
    Json,
}

/// A line, with its end. What is told in `fields` may come from anywhere.
pub(super) fn line(style: Style, level: Level, message: &str, fields: &[(&str, Value)]) -> Vec<u8> {
    let mut line = match style {
        Style::Sentence => format!("hark: {}{}", shown(message), in_words(fields)),
        Style::Text => format!(
            "{} {level:>5} {TARGET}: {}{}",
            now(),
            shown(message),
            in_words(fields)
        ),
        Style::Json => in_json(level, message, fields),
    };
    line.push('\n');
    line.into_bytes()
}

/// Text with its control characters made visible, so that it stays on its line and moves no cursor of a terminal.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let show = |c: char| {
        if c.is_control() {
            c.escape_default().to_string()
        } else {
            c.to_string()
        }
    };
    Cow::Owned(text.chars().map(show).collect())
}

const TARGET: &str = "hark_broker::logging";

fn now() -> String {
    let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    format!("{now:.6}")
}

fn in_words(fields: &[(&str, Value)]) -> String {
    let word = |(name, value): &(&str, Value)| format!(" {name}={}", shown(&value.to_string()));
    fields.iter().map(word).collect()
}

fn in_json(level: Level, message: &str, fields: &[(&str, Value)]) -> String {
    let all = std::iter::once(("message", message.into())).chain(fields.iter().cloned());
    let fields: Map<_, _> = all.map(|(name, value)| (name.to_owned(), value)).collect();
    let line = json!({
        "timestamp": now(), "level": level.to_string(), "fields": fields, "target": TARGET,
    });
    line.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_one_line_whatever_is_told() {
        let fields = [("like", json!("a\nb\u{1b}[31m\u{9b}")), ("lines", json!(3))];
        let said = |style| String::from_utf8(line(style, Level::WARN, "x\ny", &fields)).unwrap();

        assert_eq!(
            said(Style::Sentence),
            "hark: x\\ny like=\"a\\nb\\u001b[31m\\u{9b}\" lines=3\n"
        );
        let text = said(Style::Text);
        let (_, after_the_time) = text.split_once(' ').unwrap();
        assert_eq!(
            after_the_time,
            " WARN hark_broker::logging: x\\ny like=\"a\\nb\\u001b[31m\\u{9b}\" lines=3\n"
        );
        let json = said(Style::Json);
        assert_eq!(json.lines().count(), 1);
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["fields"]["like"], "a\nb\u{1b}[31m\u{9b}");
        assert_eq!(
            (&json["level"], &json["fields"]["message"]),
            (&"WARN".into(), &"x\ny".into())
        );
    }

    #[test]
    fn control_characters_are_shown() {
        let cases = [
            ("plain ü 日本", "plain ü 日本"),
            ("\u{1b}[31mred", "\\u{1b}[31mred"),
            ("a\r\n\tb\u{9b}", "a\\r\\n\\tb\\u{9b}"),
        ];
        for (text, expected) in cases {
            assert_eq!(shown(text), expected);
        }
    }
}
