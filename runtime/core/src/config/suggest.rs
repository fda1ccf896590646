//! The nearest known word to a misspelt one.

/// The candidate nearest to `word`, if one is near enough to be what was meant: at most a third of its letters differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_lowercase().replace('-', "_")), c))
        .filter(|(distance, c)| *distance <= c.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let known = ["listen", "path", "methods", "max_body_bytes"];
        assert_eq!(nearest("pth", known), Some("path"));
        assert_eq!(nearest("method", known), Some("methods"));
        assert_eq!(nearest("maxBodyBytes", known), Some("max_body_bytes"));
        assert_eq!(nearest("max-body-bytes", known), Some("max_body_bytes"));
        assert_eq!(nearest("colour", known), None);
    }
}
