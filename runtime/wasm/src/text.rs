//! Text that a guest wrote, made fit for a log or an error: cut, and without what could break a line or a terminal.

use std::borrow::Cow;

/// The text with control characters escaped and cut to about `max` bytes. Tabs stay; line breaks stay when `lines` is true.
pub(crate) fn clean(text: &str, max: usize, lines: bool) -> Cow<'_, str> {
    let harmless = |c: char| !c.is_control() || c == '\t' || (lines && c == '\n');
    let text = text.trim_end_matches(['\n', '\r']);
    if text.len() <= max && text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let kept = text.get(..floor_char_boundary(text, max)).unwrap_or_default();
    let mut clean = String::with_capacity(kept.len() + 32);
    for c in kept.chars() {
        if harmless(c) {
            clean.push(c);
        } else {
            clean.extend(c.escape_default());
        }
    }
    if kept.len() < text.len() {
        clean.push_str(&format!("… ({} bytes more)", text.len() - kept.len()));
    }
    Cow::Owned(clean)
}

/// The greatest place at or before `at` where the text can be cut.
fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn what_could_break_a_line_or_a_terminal_is_escaped() {
        assert_eq!(clean("plain\ttext\n", 100, false), "plain\ttext");
        assert_eq!(clean("a\nb\u{1b}[31m", 100, false), "a\\nb\\u{1b}[31m");
        assert_eq!(clean("a\nb\r", 100, true), "a\nb");
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(clean("ääää", 5, false), "ää… (4 bytes more)");
    }
}
