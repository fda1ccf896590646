//! Which headers of a message go along as user properties.

use gristmill_core::{Headers, message::check_header};

use crate::properties;

/// Which headers go along: names, and beginnings of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forwarded(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Name(Box<str>),
    /// All that begin so.
    Begins(Box<str>),
}

// === impl Pattern ===

impl Pattern {
    /// From a name, of which a `*` may stand at the end.
    ///
    /// # Errors
    /// What is wrong, to follow the name.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, begins) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        let probe = if begins { format!("{name}x") } else { name.to_owned() };
        if name.contains('*') {
            Err("has a `*` that is not at its end")
        } else if check_header(&probe, "").is_err() {
            Err("is no name of a header, which is in lower case, without spaces and colons")
        } else if properties::is_reserved(name) {
            Err(
                "has a place of its own in MQTT: see `content_type`, `response_topic` and `forward_correlation`",
            )
        } else if begins {
            Ok(Self::Begins(name.into()))
        } else {
            Ok(Self::Name(name.into()))
        }
    }
}

// === impl Forwarded ===

impl Forwarded {
    /// From names and beginnings of names. The other way, the index of each that is neither, with what is wrong.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, Vec<(usize, &'static str)>> {
        let (mut patterns, mut problems) = (Vec::with_capacity(texts.len()), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            match Pattern::parse(text) {
                Ok(pattern) => patterns.push(pattern),
                Err(problem) => problems.push((index, problem)),
            }
        }
        if problems.is_empty() { Ok(Self(patterns)) } else { Err(problems) }
    }

    /// Those of a message, in its order. What has a place of its own in MQTT is none of them, whatever it begins with.
    pub(crate) fn of<'a>(&'a self, headers: &'a Headers) -> impl Iterator<Item = (&'a str, &'a str)> {
        headers.iter().filter(|(name, _)| self.takes(name) && !properties::is_reserved(name))
    }

    fn takes(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            Pattern::Name(wanted) => **wanted == *name,
            Pattern::Begins(prefix) => name.starts_with(&**prefix),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(texts: &[&str]) -> Result<Forwarded, Vec<(usize, &'static str)>> {
        Forwarded::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_is_itself_and_a_star_stands_for_what_follows() {
        let mut headers = Headers::new();
        let all = ["content-type", "mqtt-topic", "order-id", "order-line", "trace"];
        for name in all {
            headers.append(name, name).unwrap();
        }
        for (patterns, taken) in [
            (&["*"][..], &all[2..]),
            (&["order-*"], &all[2..4]),
            (&["trace", "order-id"], &["order-id", "trace"]),
            (&["c*", "m*"], &[]),
            (&[], &[]),
        ] {
            let forwarded = forwarded(patterns).unwrap();
            assert_eq!(
                forwarded.of(&headers).map(|(name, _)| name).collect::<Vec<_>>(),
                taken,
                "{patterns:?}"
            );
        }
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        let problems = forwarded(&["good", "a*b", "**", "A*", "", "mqtt-*", "content-type"]).unwrap_err();
        assert_eq!(problems.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    }
}
