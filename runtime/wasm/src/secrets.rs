//! Keeping the secrets of a configuration out of what people read. A plugin is given its secrets and may repeat them in
//! whatever it says: a refusal, a failure, its stderr, a log line. Each of them is taken out before the text is cut or
//! escaped, also as it looks inside of JSON.

use std::borrow::Cow;

/// What is put in their place.
const REDACTED: &str = "[redacted]";

/// Shorter texts are no secrets: taking them out would only make other texts unreadable.
const MIN_SECRET_BYTES: usize = 4;

/// The texts that must not be read.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Vec<String>);

// === impl Secrets ===

impl Secrets {
    pub(crate) fn new(secrets: &[String]) -> Self {
        let mut all: Vec<String> = Vec::new();
        for secret in secrets {
            let json = serde_json::Value::from(secret.as_str()).to_string();
            // One quote on each side, not all: a secret may end with one itself.
            all.extend(json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).map(str::to_owned));
            all.push(secret.clone());
            // Output is taken line by line.
            all.extend(secret.lines().map(|line| line.trim_end().to_owned()));
        }
        all.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
        // One that holds another goes first.
        all.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        all.dedup();
        Self(all)
    }

    /// The text without them.
    pub(crate) fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut redacted = Cow::Borrowed(text);
        for secret in &self.0 {
            if redacted.contains(secret.as_str()) {
                redacted = Cow::Owned(redacted.replace(secret.as_str(), REDACTED));
            }
        }
        redacted
    }

    /// The text without them, where it is the end of a longer one, and may begin in the midst of one.
    pub(crate) fn redact_end(&self, text: &str) -> String {
        let whole = self.redact(text);
        let cut = |secret: &String| {
            let ends = secret.char_indices().map(|(at, _)| secret.get(at..).unwrap_or_default());
            ends.filter(|end| end.len() >= MIN_SECRET_BYTES).find(|end| whole.starts_with(end)).map(str::len)
        };
        match self.0.iter().filter_map(cut).max() {
            Some(len) => format!("{REDACTED}{}", whole.get(len..).unwrap_or_default()),
            None => whole.into_owned(),
        }
    }

    /// The text without them, where it is the beginning of a longer one, and may end in the midst of one.
    pub(crate) fn redact_beginning(&self, text: &str) -> String {
        let whole = self.redact(text);
        let cut = |secret: &String| {
            let beginnings = secret.char_indices().rev().map(|(at, _)| secret.get(..at).unwrap_or_default());
            beginnings.filter(|b| b.len() >= MIN_SECRET_BYTES).find(|b| whole.ends_with(b)).map(str::len)
        };
        match self.0.iter().filter_map(cut).max() {
            Some(len) => format!("{}{REDACTED}", whole.get(..whole.len() - len).unwrap_or_default()),
            None => whole.into_owned(),
        }
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(all: &[&str]) -> Secrets {
        Secrets::new(&all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn every_occurrence_goes_and_short_texts_stay() {
        let secrets = secrets(&["hunter2", "hunter2-long", "abc", ""]);
        assert_eq!(secrets.redact("abc hunter2, hunter2-long"), "abc [redacted], [redacted]");
        assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    }

    #[test]
    fn a_secret_is_known_in_json_and_line_by_line() {
        let secrets = secrets(&["first \"line\"\nsecond line"]);
        assert_eq!(secrets.redact(r#"{"a":"first \"line\"\nsecond line"}"#), r#"{"a":"[redacted]"}"#);
        assert_eq!(secrets.redact("-> second line"), "-> [redacted]");
    }

    #[test]
    fn what_was_cut_is_known_too() {
        let secrets = secrets(&["hunter2"]);
        assert_eq!(secrets.redact_end("nter2 and more"), "[redacted] and more");
        assert_eq!(secrets.redact_beginning("it is hunte"), "it is [redacted]");
        assert_eq!(secrets.redact_end("r2 and more"), "r2 and more");
    }
}
