//! Headers and the bindings of headers exchanges.
//!
//! Names and values are bytes. Whoever encodes values knows which of them say the same.

/// How much of what a binding names must be in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatchMode {
    /// Everything, what begins with `x-` left aside.
    #[default]
    All,
    /// Something, what begins with `x-` left aside.
    Any,
    /// Everything.
    AllWithX,
    /// Something.
    AnyWithX,
}

impl MatchMode {
    /// Reads what the argument `x-match` says.
    pub fn from_name(name: &[u8]) -> Option<MatchMode> {
        match name {
            b"all" => Some(MatchMode::All),
            b"any" => Some(MatchMode::Any),
            b"all-with-x" => Some(MatchMode::AllWithX),
            b"any-with-x" => Some(MatchMode::AnyWithX),
            _ => None,
        }
    }

    fn is_any(self) -> bool {
        matches!(self, MatchMode::Any | MatchMode::AnyWithX)
    }

    fn counts(self, name: &[u8]) -> bool {
        let with_x = matches!(self, MatchMode::AllWithX | MatchMode::AnyWithX);
        name != b"x-match" && (with_x || !name.starts_with(b"x-"))
    }
}

/// What a binding asks of headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    mode: MatchMode,
    /// Ascending by name, each once.
    wanted: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// The headers of one message, put in order once for all bindings.
#[derive(Clone, Debug)]
pub struct Headers<'a>(Vec<(&'a [u8], &'a [u8])>);

impl HeaderMatch {
    /// Takes a binding's arguments; a value of `None` asks for the header and not for what it says. Of two of a name the first counts.
    pub fn new<'a>(
        mode: MatchMode,
        arguments: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> HeaderMatch {
        let counted = arguments.into_iter().filter(|(name, _)| mode.counts(name));
        let owned = counted.map(|(name, value)| (name.to_vec(), value.map(<[u8]>::to_vec)));
        let mut wanted: Vec<_> = owned.collect();
        wanted.sort_by(|one, other| one.0.cmp(&other.0));
        wanted.dedup_by(|later, first| later.0 == first.0);
        HeaderMatch { mode, wanted }
    }

    /// Tells whether a message with these headers is asked for. A binding that asks for nothing matches everything when all of it
    /// must be there, and nothing when something of it must.
    ///
    /// One pass over both. `is_same` compares a value that is asked for and one that is said.
    pub fn matches(&self, headers: &Headers<'_>, is_same: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        let mut left = headers.0.iter().peekable();
        let mut is_there = self.wanted.iter().map(|(name, value)| {
            while left.next_if(|(found, _)| *found < &name[..]).is_some() {}
            let found = left.next_if(|(found, _)| *found == &name[..]);
            found.is_some_and(|(_, said)| value.as_ref().is_none_or(|wanted| is_same(wanted, said)))
        });
        if self.mode.is_any() { is_there.any(|it| it) } else { is_there.all(|it| it) }
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Headers<'a> {
    /// Of two of a name the first counts.
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a [u8])>>(headers: I) -> Headers<'a> {
        let mut headers: Vec<_> = headers.into_iter().collect();
        headers.sort_by_key(|(name, _)| *name);
        headers.dedup_by_key(|(name, _)| *name);
        Headers(headers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Named = Vec<(String, Option<String>)>;

    fn binding(mode: MatchMode, wanted: &[(String, Option<String>)]) -> HeaderMatch {
        let pairs = wanted.iter();
        HeaderMatch::new(
            mode,
            pairs.map(|(name, value)| (name.as_bytes(), value.as_deref().map(str::as_bytes))),
        )
    }

    fn headers(said: &[(String, String)]) -> Headers<'_> {
        said.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }

    fn matches(binding: &HeaderMatch, said: &[(String, String)]) -> bool {
        binding.matches(&headers(said), |one, other| one == other)
    }

    fn pairs(said: &[(&str, &str)]) -> Vec<(String, String)> {
        said.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn wanted(said: &[(&str, &str)]) -> Named {
        pairs(said).into_iter().map(|(name, value)| (name, Some(value))).collect()
    }

    #[test]
    fn all_or_any_of_what_is_named_must_be_there() {
        let both = wanted(&[("b", "2"), ("a", "1"), ("x-c", "3"), ("x-match", "any")]);
        let one = pairs(&[("a", "1"), ("b", "other"), ("z", "9")]);
        let two = pairs(&[("b", "2"), ("a", "1")]);
        let three = pairs(&[("b", "2"), ("x-c", "3"), ("a", "1")]);
        let only_x = pairs(&[("x-c", "3")]);
        let cases = [
            (MatchMode::All, [false, true, true, false]),
            (MatchMode::Any, [true, true, true, false]),
            (MatchMode::AllWithX, [false, false, true, false]),
            (MatchMode::AnyWithX, [true, true, true, true]),
        ];
        for (mode, expected) in cases {
            let binding = binding(mode, &both);
            let found = [&one, &two, &three, &only_x].map(|said| matches(&binding, said));
            assert_eq!(found, expected, "{mode:?}");
        }
    }

    #[test]
    fn a_binding_that_asks_for_nothing_matches_everything_or_nothing() {
        for said in [pairs(&[]), pairs(&[("a", "1")])] {
            assert!(matches(&binding(MatchMode::All, &[]), &said));
            assert!(!matches(&binding(MatchMode::Any, &[]), &said));
        }
    }

    #[test]
    fn a_name_without_a_value_asks_for_the_header() {
        let binding = binding(MatchMode::All, &[("a".to_owned(), None)]);

        assert!(matches(&binding, &pairs(&[("a", "whatever")])));
        assert!(!matches(&binding, &pairs(&[("b", "")])));
    }

    #[test]
    fn modes_are_read_by_their_names() {
        let names = ["all", "any", "all-with-x", "any-with-x"];
        let modes = [MatchMode::All, MatchMode::Any, MatchMode::AllWithX, MatchMode::AnyWithX];
        assert_eq!(names.map(|name| MatchMode::from_name(name.as_bytes())), modes.map(Some));
        assert_eq!(MatchMode::from_name(b"ALL"), None);
    }

    /// The definition: each name by itself, searched from the front.
    fn defined(mode: MatchMode, asked: &Named, said: &[(String, String)]) -> bool {
        let with_x = matches!(mode, MatchMode::AllWithX | MatchMode::AnyWithX);
        let mut results = Vec::new();
        for (at, (name, value)) in asked.iter().enumerate() {
            let is_repeated = asked[..at].iter().any(|(earlier, _)| earlier == name);
            if is_repeated || name == "x-match" || (name.starts_with("x-") && !with_x) {
                continue;
            }
            let found = said.iter().find(|(found, _)| found == name);
            results.push(match (found, value) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some((_, said)), Some(value)) => said == value,
            });
        }
        match mode {
            MatchMode::All | MatchMode::AllWithX => results.iter().all(|it| *it),
            MatchMode::Any | MatchMode::AnyWithX => results.iter().any(|it| *it),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn matching_is_what_it_is_defined_to_be(
            mode in prop::sample::select(vec![
                MatchMode::All, MatchMode::Any, MatchMode::AllWithX, MatchMode::AnyWithX,
            ]),
            asked in vec(("(a|b|c|x-a|x-match)", proptest::option::of("[12]")), 0..5),
            said in vec(("(a|b|c|x-a|x-match)", "[12]"), 0..6),
        ) {
            let found = matches(&binding(mode, &asked), &said);
            prop_assert_eq!(found, defined(mode, &asked, &said));
        }
    }
}
