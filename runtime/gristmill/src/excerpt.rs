//! The part of a file that is shown with a mistake: its line and one on either side, cut to a width that a person can read.
//!
//! A renderer given the whole file would show a line of 100,000 characters whole, with a caret row of the same length below.

use std::ops::Range;

use gristmill_core::config::Span;
use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// How many characters of a line are shown at the most.
const WIDTH_CHARS: usize = 160;

/// Where a line was cut.
const CUT: char = '…';

/// The lines around a place.
#[derive(Debug)]
pub(crate) struct Excerpt {
    file: String,
    text: String,
    /// Number of the first line that is shown, from 0.
    first_line: usize,
    /// What to underline, within `text`.
    caret: Range<usize>,
    /// Line and column of the caret in the file, from 0.
    place: (usize, usize),
}

impl Excerpt {
    /// The lines around `span`, which need not fit the text: the file may have changed since it was checked.
    pub(crate) fn around(text: &str, span: &Span) -> Self {
        let start = text.floor_char_boundary(span.start);
        let line_start = before(text, start).rfind('\n').map_or(0, |newline| newline + 1);
        let column = text.get(line_start..start).unwrap_or_default().chars().count();
        let line = line_from(text, line_start);
        let skipped =
            if line.chars().count() > WIDTH_CHARS { column.saturating_sub(WIDTH_CHARS / 2) } else { 0 };

        let mut shown = String::new();
        let mut first_line = before(text, line_start).matches('\n').count();
        let number = first_line;
        if let Some(newline) = line_start.checked_sub(1) {
            let above = before(text, newline).rfind('\n').map_or(0, |newline| newline + 1);
            cut(line_from(text, above), skipped, &mut shown);
            first_line -= 1;
        }
        let begin = shown.len();
        cut(line, skipped, &mut shown);
        let end = begin + shown.get(begin..).map_or(0, |line| line.trim_end().len());
        cut(line_from(text, line_start + line.len()), skipped, &mut shown);

        // What to underline: the value's first line, at least one character, and never beyond what is shown.
        let mark = if skipped > 0 { CUT.len_utf8() } else { 0 };
        let in_line = line.char_indices().nth(skipped).map_or(line.len(), |(at, _)| at);
        let from = (begin + mark + (start - line_start).saturating_sub(in_line)).min(shown.len());
        let value = text
            .get(start..text.floor_char_boundary(span.end).max(start))
            .and_then(|value| value.lines().next());
        let room = usize::from(start < text.len());
        let length = value.map_or(0, |value| value.trim_end().len()).max(room);
        let to = shown.ceil_char_boundary((from + length).min(end.max(from + room)));
        Self {
            file: span.file.to_string(),
            text: shown,
            first_line,
            caret: from..to,
            place: (number, column),
        }
    }

    /// What to underline.
    pub(crate) fn caret(&self) -> Range<usize> {
        self.caret.clone()
    }
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        _lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        // Without lines around it, it is asked for where the caret is; with them, for what is to be shown.
        let (line, column) = if lines_before == 0 { self.place } else { (self.first_line, 0) };
        let span = if lines_before == 0 { *span } else { (0..self.text.len()).into() };
        let lines = self.text.lines().count();
        let name = self.file.clone();
        Ok(Box::new(MietteSpanContents::new_named(name, self.text.as_bytes(), span, line, column, lines)))
    }
}

/// Appends a line with its end, without the first `skipped` characters and what is beyond the width.
fn cut(line: &str, skipped: usize, out: &mut String) {
    let (content, end) = match line.strip_suffix('\n') {
        Some(content) => (content, "\n"),
        None => (line, ""),
    };
    if skipped > 0 && !content.is_empty() {
        out.push(CUT);
    }
    let mut rest = content.chars().skip(skipped);
    out.extend(rest.by_ref().take(WIDTH_CHARS));
    if rest.next().is_some() {
        out.push(CUT);
    }
    out.push_str(end);
}

/// The line that begins here, with its end.
fn line_from(text: &str, start: usize) -> &str {
    text.get(start..).and_then(|rest| rest.split_inclusive('\n').next()).unwrap_or_default()
}

fn before(text: &str, at: usize) -> &str {
    text.get(..at).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shown, what of it is underlined, and the number of its first line.
    fn shown(text: &str, start: usize, end: usize) -> (String, String, usize) {
        let span = Span { start, end, ..Span::nowhere("f.yaml") };
        let excerpt = Excerpt::around(text, &span);
        let caret = excerpt.text[excerpt.caret()].to_owned();
        (excerpt.text, caret, excerpt.first_line)
    }

    #[test]
    fn a_line_is_shown_with_its_neighbours() {
        let text = "a: 1\nb: 2\nc: three\nd: 4\ne: 5\n";
        assert_eq!(shown(text, 13, 18), ("b: 2\nc: three\nd: 4\n".into(), "three".into(), 1));
        assert_eq!(shown(text, 0, 1), ("a: 1\nb: 2\n".into(), "a".into(), 0));
        assert_eq!(shown(text, 27, 28), ("d: 4\ne: 5\n".into(), "5".into(), 3));
    }

    #[test]
    fn what_spans_lines_is_underlined_to_the_end_of_the_first() {
        assert_eq!(shown("a:\n  b: 1  \n  c: 2\n", 5, 19).1, "b: 1");
    }

    #[test]
    fn the_end_and_what_is_beyond_it_are_places_too() {
        assert_eq!(shown("", 0, 0), (String::new(), String::new(), 0));
        assert_eq!(shown("a: [\n", 5, 5), ("a: [\n".into(), String::new(), 0));
        assert_eq!(shown("a: 1", 70, 90), ("a: 1".into(), String::new(), 0));
        assert_eq!(shown("a: é", 4, 5).1, "é", "an offset inside a character is that character's");
    }

    #[test]
    fn long_lines_are_cut_around_the_caret() {
        let long = format!(
            "a: {}\nb: {}wrong{}\nc: 3\n",
            "x".repeat(100_000),
            "é".repeat(50_000),
            "z".repeat(50_000)
        );
        let start = long.find("wrong").unwrap();
        let (text, caret, first_line) = shown(&long, start, start + 5);
        assert_eq!((caret.as_str(), first_line), ("wrong", 0));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH_CHARS + 2), "{text}");
        assert!(lines[1].starts_with("…é") && lines[1].ends_with("z…"), "{text}");
        let (text, caret, _) = shown(&long, 3, 100_003);
        assert!(text.starts_with("a: xxx") && caret.ends_with('…') && caret.len() < 200, "{caret}");
    }
}
