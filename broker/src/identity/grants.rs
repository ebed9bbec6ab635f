//! What an identity may do: patterns of topics for each act, and two rights over the broker itself. Owns the table, what a rule, a key
//! or a claim adds to it, and how a subject is put into a pattern. Everything that is not in the table is refused.

use hark_protocol::{TopicName, TopicPattern};

use super::Act;

/// What stands for the subject in a pattern.
const PLACEHOLDER: &str = "{sub}";

/// What one identity may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    everything: bool,
    publish: Vec<TopicPattern>,
    subscribe: Vec<TopicPattern>,
    manage: Vec<TopicPattern>,
    monitor: bool,
    admin: bool,
}

impl Grants {
    /// Where no authentication is configured.
    pub(crate) fn everything() -> Self {
        Self {
            everything: true,
            monitor: true,
            admin: true,
            ..Self::default()
        }
    }

    /// One topic, and nothing but to read it.
    pub(super) fn to_read(topic: &TopicName) -> Self {
        Self {
            subscribe: vec![topic.into()],
            ..Self::default()
        }
    }

    pub(crate) fn may(&self, act: Act, topic: &TopicName) -> bool {
        let mut patterns = self.patterns(act).iter();
        self.everything || patterns.any(|pattern| pattern.matches(topic))
    }

    /// Lists, sessions, metrics. Who may change the broker may look at it.
    pub(crate) fn monitor(&self) -> bool {
        self.monitor || self.admin
    }

    pub(crate) fn admin(&self) -> bool {
        self.admin
    }

    pub(crate) fn is_nothing(&self) -> bool {
        let acts = [Act::Publish, Act::Subscribe, Act::Manage];
        let has_none = acts.iter().all(|&act| self.patterns(act).is_empty());
        has_none && !(self.everything || self.monitor || self.admin)
    }

    pub(crate) fn patterns(&self, act: Act) -> &[TopicPattern] {
        match act {
            Act::Publish => &self.publish,
            Act::Subscribe => &self.subscribe,
            Act::Manage => &self.manage,
        }
    }

    /// Adds what `rights` give to this subject: all of it, or, where the subject does not fit into one of the patterns, nothing.
    pub(super) fn add(&mut self, rights: &Rights, subject: Option<&str>) -> Added {
        let fill = |templates: &[Template]| -> Option<Vec<TopicPattern>> {
            let mut templates = templates.iter();
            templates.try_fold(Vec::new(), |mut filled, template| {
                filled.push(template.fill(subject)?);
                Some(filled)
            })
        };
        let filled = [&rights.publish, &rights.subscribe, &rights.manage].map(|list| fill(list));
        let [Some(publish), Some(subscribe), Some(manage)] = filled else {
            return Added::SubjectDoesNotFit;
        };
        self.publish.extend(publish);
        self.subscribe.extend(subscribe);
        self.manage.extend(manage);
        self.monitor |= rights.monitor;
        self.admin |= rights.admin;
        Added::All
    }
}

/// What came of adding rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    All,
    /// There is no subject, or it is not exactly one legal segment.
    SubjectDoesNotFit,
}

/// What a rule, a key or a claim gives, before it is known to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rights {
    publish: Vec<Template>,
    subscribe: Vec<Template>,
    manage: Vec<Template>,
    pub(super) monitor: bool,
    pub(super) admin: bool,
}

impl Rights {
    /// The error names the list and the pattern.
    pub(super) fn new(
        publish: &[String],
        subscribe: &[String],
        manage: &[String],
        monitor: bool,
        admin: bool,
    ) -> Result<Self, String> {
        let parse = |list: &str, patterns: &[String]| -> Result<Vec<Template>, String> {
            let parsed = patterns.iter().map(|pattern| {
                Template::parse(pattern).map_err(|error| format!("{list}: {pattern:?}: {error}"))
            });
            parsed.collect()
        };
        let rights = Self {
            publish: parse("publish", publish)?,
            subscribe: parse("subscribe", subscribe)?,
            manage: parse("manage", manage)?,
            monitor,
            admin,
        };
        match publish.iter().find(|pattern| pattern.starts_with('$')) {
            Some(pattern) => Err(format!(
                "publish: {pattern:?} can never match: nobody publishes to the topics of the system"
            )),
            None => Ok(rights),
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything is given to this subject.
    pub(super) fn fit(&self, subject: Option<&str>) -> bool {
        Grants::default().add(self, subject) == Added::All
    }
}

/// A pattern in which `{sub}`, as a whole segment, stands for the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Template {
    Fixed(TopicPattern),
    OfSubject(Box<str>),
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let is_placeholder = |segment: &&str| *segment == PLACEHOLDER;
        let mut others = text.split('.').filter(|segment| !is_placeholder(segment));
        if others.any(|segment| segment.contains(['{', '}'])) {
            return Err(format!(
                "only {PLACEHOLDER} may be put in, and only as a whole segment"
            ));
        }
        // With the shortest subject: where that is too long, every other is.
        let shortest = TopicPattern::parse(&Self::replaced(text, "x"));
        let shortest = shortest.map_err(|error| error.to_string())?;
        Ok(
            match text.split('.').any(|segment| is_placeholder(&segment)) {
                true => Self::OfSubject(text.into()),
                false => Self::Fixed(shortest),
            },
        )
    }

    fn replaced(text: &str, subject: &str) -> String {
        let segments = text.split('.').map(|segment| match segment {
            PLACEHOLDER => subject,
            segment => segment,
        });
        segments.collect::<Vec<_>>().join(".")
    }

    fn fill(&self, subject: Option<&str>) -> Option<TopicPattern> {
        match self {
            Self::Fixed(pattern) => Some(pattern.clone()),
            Self::OfSubject(text) => {
                let subject = subject.filter(|subject| is_segment(subject))?;
                TopicPattern::parse(&Self::replaced(text, subject)).ok()
            }
        }
    }
}

/// Whether it is exactly one legal segment of a topic's name, and none of the system's.
fn is_segment(text: &str) -> bool {
    !text.contains('.') && TopicName::parse(text).is_ok_and(|name| !name.is_system())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(patterns: &[&str]) -> Vec<String> {
        patterns
            .iter()
            .map(|pattern| (*pattern).to_owned())
            .collect()
    }

    fn subscribing(patterns: &[&str]) -> Result<Rights, String> {
        Rights::new(&[], &strings(patterns), &[], false, false)
    }

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name).unwrap()
    }

    #[test]
    fn what_is_not_granted_is_refused() {
        let mut grants = Grants::default();
        let rights = Rights::new(
            &strings(&["in.*"]),
            &strings(&["out.>"]),
            &strings(&["old"]),
            false,
            false,
        );
        assert_eq!(grants.add(&rights.unwrap(), None), Added::All);
        for (act, granted) in [
            (Act::Publish, "in.a"),
            (Act::Subscribe, "out.a"),
            (Act::Manage, "old"),
        ] {
            for name in ["in.a", "out.a", "old", "in.a.b", "in", "out", "$sys.in"] {
                let expected = name == granted;
                assert_eq!(grants.may(act, &topic(name)), expected, "{act:?} {name}");
            }
        }
        assert!(!grants.monitor() && !grants.admin());
    }

    #[test]
    fn grants_add_up_and_an_administrator_may_look() {
        let mut grants = Grants::default();
        for rights in [
            subscribing(&["a"]).unwrap(),
            subscribing(&["b"]).unwrap(),
            Rights::new(&[], &[], &[], false, true).unwrap(),
        ] {
            grants.add(&rights, Some("x"));
        }
        assert!(grants.may(Act::Subscribe, &topic("a")) && grants.may(Act::Subscribe, &topic("b")));
        assert!(grants.monitor() && grants.admin());
    }

    #[test]
    fn everything_holds_the_topics_of_the_system_too() {
        let grants = Grants::everything();
        for act in [Act::Publish, Act::Subscribe, Act::Manage] {
            assert!(grants.may(act, &topic("$sys.x")) && grants.may(act, &topic("a.b")));
        }
        assert!(grants.monitor() && grants.admin());
    }

    #[test]
    fn a_subject_that_is_not_one_segment_gets_nothing_of_the_rule() {
        let rights = subscribing(&["public", "user.{sub}.>"]).unwrap();
        for subject in [
            "", "*", ">", "a.b", "$x", "a b", "ü", "{sub}", "a*", ".", "a\n",
        ] {
            let mut grants = Grants::default();
            assert_eq!(
                grants.add(&rights, Some(subject)),
                Added::SubjectDoesNotFit,
                "{subject:?}"
            );
            assert!(
                !grants.may(Act::Subscribe, &topic("public")),
                "{subject:?} got half of it"
            );
        }
        assert_eq!(
            Grants::default().add(&rights, None),
            Added::SubjectDoesNotFit
        );
        let mut grants = Grants::default();
        assert_eq!(grants.add(&rights, Some("ann@x")), Added::All);
        assert!(grants.may(Act::Subscribe, &topic("user.ann@x.inbox")));
        assert!(!grants.may(Act::Subscribe, &topic("user.bob.inbox")));
        // A pattern that would be too long.
        let long = "x".repeat(255);
        assert_eq!(
            Grants::default().add(&rights, Some(&long)),
            Added::SubjectDoesNotFit
        );
    }

    #[test]
    fn patterns_that_can_never_match_are_refused() {
        for bad in [
            "",
            "a..b",
            "a.>.b",
            "user-{sub}",
            "user.{sub}x",
            "user.{name}",
            "{sub",
            "a.{}",
        ] {
            assert!(subscribing(&[bad]).is_err(), "{bad:?} was taken");
        }
        let too_long = format!("{}.{{sub}}", "x".repeat(254));
        assert!(subscribing(&[&too_long]).is_err());
        let refused = Rights::new(&strings(&["$sys.x"]), &[], &[], false, false).unwrap_err();
        assert!(
            refused.contains("publish") && refused.contains("never"),
            "{refused}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]

        /// Whatever a subject is made of, it opens no topic that does not have it, whole, in its own segment.
        #[test]
        fn a_subject_never_reaches_out_of_its_segment(
            subject in prop_oneof![".*", "[ab.*>${}]{0,5}", "[ab]([.][ab*>]){0,2}", "[$]?[ab:@]{1,8}"],
            other in "[A-Za-z0-9_:@-]{1,3}(\\.[A-Za-z0-9_:@-]{1,3}){0,3}",
            own in any::<bool>(),
        ) {
            for template in ["user.{sub}.>", "{sub}.>", "{sub}", "a.*.{sub}", "{sub}.{sub}"] {
                let mut grants = Grants::default();
                grants.add(&subscribing(&[template]).unwrap(), Some(&subject));
                let at = template.split('.').position(|segment| segment == PLACEHOLDER).unwrap();
                let mut names = vec![other.clone(), format!("user.{other}"), format!("$sys.{other}"), format!("a.b.{other}")];
                if own {
                    names.extend([
                        template.replace(PLACEHOLDER, &subject).replace(['*', '>'], "x"),
                        format!("user.{subject}.{other}"),
                    ]);
                }
                for name in names.iter().filter_map(|name| TopicName::parse(name).ok()) {
                    if grants.may(Act::Subscribe, &name) {
                        prop_assert!(!name.is_system(), "{} by {}", name, template);
                        prop_assert_eq!(name.as_str().split('.').nth(at), Some(&*subject), "{} by {}", name, template);
                    }
                }
            }
        }
    }
}
