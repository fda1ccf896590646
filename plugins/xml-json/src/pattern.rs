//! Which elements are meant: `/a/b` from the root, `*` for any name, `//b` anywhere.

/// A pattern over the names from the root to an element.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    anywhere: bool,
    names: Vec<String>,
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (anywhere, rest) = match text.strip_prefix("//") {
            Some(rest) => (true, rest),
            None => (
                false,
                text.strip_prefix('/').ok_or_else(|| format!("`{text}` must begin with `/` or `//`"))?,
            ),
        };
        let names: Vec<String> = rest.split('/').map(str::to_owned).collect();
        if names.iter().any(String::is_empty) {
            return Err(format!("`{text}` has an empty name"));
        }
        Ok(Pattern { anywhere, names })
    }

    /// Whether an element with these ancestors is meant.
    pub(crate) fn matches<'n>(
        &self,
        ancestors: impl DoubleEndedIterator<Item = &'n str> + ExactSizeIterator,
        name: &'n str,
    ) -> bool {
        let depth = ancestors.len() + 1;
        let fits = if self.anywhere { depth >= self.names.len() } else { depth == self.names.len() };
        fits && std::iter::once(name)
            .chain(ancestors.rev())
            .zip(self.names.iter().rev())
            .all(|(name, pattern)| pattern == "*" || pattern == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, path: &[&str], expected: bool) {
        let (name, ancestors) = path.split_last().unwrap();
        assert_eq!(Pattern::parse(pattern).unwrap().matches(ancestors.iter().copied(), name), expected);
    }

    #[test]
    fn patterns_match_paths() {
        check("/a/b", &["a", "b"], true);
        check("/a/b", &["b"], false);
        check("/a/b", &["x", "a", "b"], false);
        check("/a/*/c", &["a", "b", "c"], true);
        check("//b", &["b"], true);
        check("//b", &["a", "b"], true);
        check("//a/b", &["x", "a", "b"], true);
        check("//a/b", &["b"], false);
    }

    #[test]
    fn bad_patterns_are_refused() {
        assert!(Pattern::parse("a").is_err());
        assert!(Pattern::parse("/").is_err());
        assert!(Pattern::parse("/a//b").is_err());
    }
}
