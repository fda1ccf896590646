//! Which headers of a message go along as user properties.

use gristmill_core::{HeaderPatterns, Headers};

use crate::properties;

/// Which headers go along: names, and beginnings of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Forwarded(HeaderPatterns);

impl Forwarded {
    /// From names and beginnings of names. The other way, the index of each that is neither, with what is wrong.
    pub(crate) fn parse(texts: &[String]) -> Result<Self, Vec<(usize, &'static str)>> {
        HeaderPatterns::parse(texts, |name| {
            if properties::is_reserved(name) {
                Err(
                    "has a place of its own in MQTT: see `content_type`, `response_topic` and `forward_correlation`",
                )
            } else {
                Ok(())
            }
        })
        .map(Self)
    }

    /// Those of a message, in its order. What has a place of its own in MQTT is none of them, whatever it begins with.
    pub(crate) fn of<'a>(&'a self, headers: &'a Headers) -> impl Iterator<Item = (&'a str, &'a str)> {
        headers.iter().filter(|(name, _)| self.0.takes(name) && !properties::is_reserved(name))
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
