//! Topic names and the patterns that match them. Owns the grammar; leaves who may use a topic to the broker.

use std::fmt;
use std::sync::Arc;

/// The most bytes a topic name may have.
const MAX_TOPIC_BYTES: usize = 255;

/// A topic's name, such as `orders.eu.42`: 1 to 255 bytes, segments of `A-Z a-z 0-9 _ - : @` joined by `.`.
///
/// Can only be made from a valid string, and is cheap to clone. A name whose first byte is `$` belongs to the system.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicName(Arc<str>);

/// Why a string is no topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The string is empty.
    #[error("a topic name may not be empty")]
    Empty,
    /// The string has more than 255 bytes.
    #[error("a topic name has at most {MAX_TOPIC_BYTES} bytes; this one has {0}")]
    TooLong(usize),
    /// A segment is empty: the name starts or ends with a dot, or has two in a row.
    #[error("a topic name may not have an empty segment: check the dots")]
    EmptySegment,
    /// A character is not allowed.
    #[error(
        "a topic name may not hold {0:?}; allowed are A-Z a-z 0-9 _ - : @ and dots between segments"
    )]
    BadCharacter(char),
}

impl TopicName {
    /// Checks `name` and keeps a copy.
    pub fn parse(name: &str) -> Result<Self, TopicNameError> {
        check_segments(name, check_characters)?;
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name belongs to the system (first byte `$`): clients cannot publish to it.
    pub fn is_system(&self) -> bool {
        self.0.starts_with('$')
    }
}

/// Calls `check` for each segment of `name` without the `$` a system name starts with.
fn check_segments(
    name: &str,
    check: impl Fn(&str) -> Result<(), TopicNameError>,
) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name.len() > MAX_TOPIC_BYTES {
        return Err(TopicNameError::TooLong(name.len()));
    }
    for segment in name.strip_prefix('$').unwrap_or(name).split('.') {
        if segment.is_empty() {
            return Err(TopicNameError::EmptySegment);
        }
        check(segment)?;
    }
    Ok(())
}

fn check_characters(segment: &str) -> Result<(), TopicNameError> {
    match segment
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '@')))
    {
        Some(c) => Err(TopicNameError::BadCharacter(c)),
        None => Ok(()),
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

/// A pattern over topic names: `*` is exactly one segment, a final `>` is one or more. Neither matches a first segment
/// that starts with `$`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern(String);

impl TopicPattern {
    /// Checks `pattern` and keeps a copy.
    pub fn parse(pattern: &str) -> Result<Self, TopicNameError> {
        // A wildcard stands for one character at least.
        if pattern.len() > MAX_TOPIC_BYTES {
            return Err(TopicNameError::TooLong(pattern.len()));
        }
        // No wildcard stands for a part of a segment.
        if pattern.starts_with("$*") {
            return Err(TopicNameError::BadCharacter('*'));
        }
        let names = pattern
            .strip_suffix('>')
            .map_or(Some(pattern), |rest| match rest {
                "" => None,
                rest => rest.strip_suffix('.'),
            });
        match names {
            None if pattern == ">" => {}
            None => return Err(TopicNameError::BadCharacter('>')),
            Some(names) => check_segments(names, |segment| match segment {
                "*" => Ok(()),
                segment => check_characters(segment),
            })?,
        }
        Ok(Self(pattern.to_owned()))
    }

    /// The pattern as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `topic` is one of those the pattern stands for.
    pub fn matches(&self, topic: &TopicName) -> bool {
        self.stands_for(topic.as_str())
    }

    /// Whether this one matches every topic that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        self.stands_for(&other.0)
    }

    /// Segment by segment: whether `text`, a topic's name or a pattern, is nothing beyond this pattern.
    fn stands_for(&self, text: &str) -> bool {
        let mut segments = text.split('.');
        let mut first = true;
        for wanted in self.0.split('.') {
            let Some(segment) = segments.next() else {
                return false;
            };
            let wild = matches!(wanted, "*" | ">");
            if wild && first && segment.starts_with('$') {
                return false;
            }
            first = false;
            match wanted {
                ">" => return true,
                // It is one segment, and that may be several.
                "*" if segment != ">" => {}
                wanted if wanted != segment => return false,
                _ => {}
            }
        }
        segments.next().is_none()
    }
}

/// It matches the topic of this name alone.
impl From<&TopicName> for TopicPattern {
    fn from(name: &TopicName) -> Self {
        Self(name.as_str().to_owned())
    }
}

impl std::str::FromStr for TopicPattern {
    type Err = TopicNameError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_at_the_border_of_the_grammar() {
        for good in [
            "a",
            "orders.eu.42",
            "user:7@x",
            "$sys.stats",
            "A_b-C",
            &"x".repeat(255),
        ] {
            assert_eq!(TopicName::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "a b",
            "a*",
            "a/b",
            "ü",
            "$",
            "a.$b",
            "a\n",
            &"x".repeat(256),
        ] {
            assert!(TopicName::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn patterns_match_by_segment() {
        let cases = [
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.*", "a", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a.b", true),
            (">", "$sys.x", false),
            ("*.x", "$sys.x", false),
            ("$sys.>", "$sys.x", true),
            ("a.b", "a.b", true),
        ];
        for (pattern, topic, expected) in cases {
            let found = TopicPattern::parse(pattern)
                .unwrap()
                .matches(&TopicName::parse(topic).unwrap());
            assert_eq!(found, expected, "{pattern} on {topic}");
        }
        let too_long = format!("{}.>", "x".repeat(254));
        for bad in [
            "", "a>", "a.>.b", "a.**", "a..>", ".>", "$*", "$*.a", "$>", "$", &too_long,
        ] {
            assert!(TopicPattern::parse(bad).is_err(), "{bad:?} was taken");
        }
        TopicPattern::parse(&format!("{}.>", "x".repeat(253))).unwrap();
    }

    /// The rule as it is worded: `*` is one segment, a final `>` the rest (one or more), neither matches a first segment that starts
    /// with `$`. A `>` is tried as every number of `*` that it could be.
    fn matches_by_the_words(pattern: &str, topic: &str) -> bool {
        if let Some(before) = pattern.strip_suffix('>') {
            let most = topic.split('.').count();
            return (1..=most).any(|count| {
                let stars = vec!["*"; count].join(".");
                matches_by_the_words(&format!("{before}{stars}"), topic)
            });
        }
        let wanted: Vec<&str> = pattern.split('.').collect();
        let names: Vec<&str> = topic.split('.').collect();
        let fits = |(at, (wanted, name)): (usize, (&&str, &&str))| match *wanted {
            "*" => !(at == 0 && name.starts_with('$')),
            wanted => wanted == *name,
        };
        wanted.len() == names.len() && wanted.iter().zip(&names).enumerate().all(fits)
    }

    /// What a pattern is made of, by the same words.
    fn is_pattern_by_the_words(text: &str) -> bool {
        let segments: Vec<&str> = text.split('.').collect();
        let is_one = |(at, segment): (usize, &&str)| {
            let name = match at {
                0 => segment.strip_prefix('$').unwrap_or(segment),
                _ => segment,
            };
            *segment == "*"
                || (*segment == ">" && at == segments.len() - 1)
                || (!name.is_empty()
                    && name
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_-:@".contains(c)))
        };
        text.len() <= 255 && segments.iter().enumerate().all(is_one)
    }

    #[test]
    fn patterns_cover_by_segment() {
        let cases = [
            ("chat.>", "chat.mute.>", true),
            ("chat.mute.>", "chat.>", false),
            ("a.>", "a.*", true),
            ("a.*", "a.>", false),
            ("a.*", "a.b", true),
            ("a.b", "a.*", false),
            ("*.>", ">", false),
            (">", "*.>", true),
            (">", "$sys.>", false),
            ("$sys.>", "$sys.*.x", true),
            ("a.>", "a.>", true),
            ("a.>", "a", false),
        ];
        for (pattern, other, expected) in cases {
            let found = TopicPattern::parse(pattern)
                .unwrap()
                .covers(&TopicPattern::parse(other).unwrap());
            assert_eq!(found, expected, "{pattern} over {other}");
        }
    }

    /// Names of up to five segments, with a letter that the patterns below do not have.
    fn names() -> Vec<TopicName> {
        let mut level: Vec<String> = ["a", "z", "$a", "$z"].map(str::to_owned).into();
        let mut all = Vec::new();
        for _ in 0..5 {
            all.extend(level.iter().map(|name| TopicName::parse(name).unwrap()));
            let longer = |name: &String| [format!("{name}.a"), format!("{name}.z")];
            level = level.iter().flat_map(longer).collect();
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_pattern_covers_another_if_it_matches_all_that_the_other_matches(
            pattern in "([$]?a|[*])([.][a*]){0,2}([.]>)?|>",
            other in "([$]?a|[*])([.][a*]){0,2}([.]>)?|>",
        ) {
            let pattern = TopicPattern::parse(&pattern).unwrap();
            let other = TopicPattern::parse(&other).unwrap();
            let all = names().iter().all(|name| !other.matches(name) || pattern.matches(name));
            prop_assert_eq!(pattern.covers(&other), all);
        }

        /// Of few letters, so that they often match.
        #[test]
        fn patterns_match_as_they_are_worded(
            pattern in "[$]?([ab*]|ab)([.]([ab*]|ab)){0,3}([.]>)?|>",
            topic in "[$]?([ab]|ab)([.]([ab]|ab)){0,4}",
        ) {
            let name = TopicName::parse(&topic).unwrap();
            match TopicPattern::parse(&pattern) {
                Ok(parsed) => prop_assert_eq!(parsed.matches(&name), matches_by_the_words(&pattern, &topic)),
                Err(_) => prop_assert!(!is_pattern_by_the_words(&pattern)),
            }
        }

        #[test]
        fn patterns_are_taken_as_they_are_worded(text in "[a$*>. /]{0,7}") {
            prop_assert_eq!(TopicPattern::parse(&text).is_ok(), is_pattern_by_the_words(&text), "{}", text);
        }

        #[test]
        fn a_name_is_a_pattern_for_itself_alone(topic in "[$]?[ab]([.][ab]){0,2}", other in "[$]?[ab]([.][ab]){0,2}") {
            let pattern = TopicPattern::parse(&topic).unwrap();
            prop_assert_eq!(pattern.matches(&TopicName::parse(&other).unwrap()), topic == other);
        }
    }
}
