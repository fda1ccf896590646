//! YAML text to nodes that know their place.
//!
//! Written on the parser's events rather than on a loaded document, because a loaded one has lost what a person has to be
//! shown: the place of a key, the second of two equal keys. Aliases and merge keys are refused: a flow has one canonical
//! form, and an alias can make a small file enormous. All of YAML's own types but text, numbers, booleans, null, lists and maps
//! are refused, too.

use std::{borrow::Cow, collections::HashSet, sync::Arc};

use gristmill_core::config::{Entry, Mistake, Mistakes, Node, Span, Value};
use saphyr::Scalar;
use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan, StrInput, Tag};

/// How deep lists and maps may nest.
const MAX_DEPTH: usize = 64;

/// Reads one YAML document. `file` is how the file is named in mistakes.
///
/// # Errors
/// All mistakes that can be found: a syntax error ends the reading, repeated keys and refused constructs do not.
pub fn parse(file: &str, text: &str) -> Result<Node, Mistakes> {
    match read(file, text) {
        (Some(node), mistakes) if mistakes.is_empty() => Ok(node),
        (_, mistakes) => Err(mistakes),
    }
}

/// Reads one YAML document as far as it goes, with all mistakes. There is no node after a syntax error; after other mistakes
/// (a repeated key) there is, so that the rest can be checked.
pub fn read(file: &str, text: &str) -> (Option<Node>, Mistakes) {
    let mut reader = Reader::new(file, text);
    let root = reader.document();
    (root, reader.mistakes)
}

struct Reader<'t> {
    file: Arc<str>,
    text: &'t str,
    /// Byte offset of each character, and of the end: the parser counts characters.
    offsets: Vec<usize>,
    events: Parser<'t, StrInput<'t>>,
    mistakes: Mistakes,
}

impl<'t> Reader<'t> {
    fn new(file: &str, text: &'t str) -> Self {
        let offsets = text.char_indices().map(|(i, _)| i).chain([text.len()]).collect();
        Self {
            file: file.into(),
            text,
            offsets,
            events: Parser::new_from_str(text),
            mistakes: Mistakes::new(),
        }
    }

    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        loop {
            let (event, span) = self.event()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    let span = self.span(&span);
                    self.mistakes.push(
                        Mistake::new("second_document", &span, "a second document begins here")
                            .mend("one file holds one document: move this into a file of its own"),
                    );
                    return None;
                }
                event => root = Some(self.node(event, span, 0)?),
            }
        }
        if root.is_none() && self.mistakes.is_empty() {
            let span = Span { file: Arc::clone(&self.file), line: 1, column: 1, start: 0, end: 0 };
            self.mistakes.push(
                Mistake::new("empty_file", &span, "the file is empty")
                    .mend("write a flow into it, or remove it"),
            );
        }
        root
    }

    /// The next event; `None` after a syntax error, which ends everything.
    fn event(&mut self) -> Option<(Event<'t>, YamlSpan)> {
        match self.events.next()? {
            Ok(event) => Some(event),
            Err(error) => {
                let at = *error.marker();
                let span = self.span(&YamlSpan::empty(at));
                let is_deep = error.info().contains("recursion limit");
                let text = match is_deep {
                    true => "lists and maps nest too deep to be read".to_owned(),
                    false => format!("this is not YAML: {}", error.info()),
                };
                let mend = if is_deep {
                    "take it apart: a flow nests 64 levels at most"
                } else if error.info().contains("tab") {
                    "indent with spaces"
                } else {
                    "look above it, too: a bracket, a quote or an indentation that does not fit is often there"
                };
                self.mistakes.push(Mistake::new("yaml_syntax", &span, text).mend(mend));
                None
            }
        }
    }

    fn node(&mut self, event: Event<'t>, span: YamlSpan, depth: usize) -> Option<Node> {
        let start = self.span(&span);
        if depth > MAX_DEPTH {
            let text = format!("lists and maps are nested deeper than {MAX_DEPTH}");
            self.mistakes.push(Mistake::new("nested_too_deep", &start, text));
            return None;
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_anchor(anchor, &start);
                let place = self.quoted(style, start);
                Some(Node::new(self.scalar(text, style, tag.as_ref(), &place), place))
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_anchor(anchor, &start);
                self.refuse_tag(tag.as_ref(), &start);
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.event()?;
                    if matches!(event, Event::SequenceEnd) {
                        return Some(Node::new(Value::List(items), self.to(start, &span)));
                    }
                    items.push(self.node(event, span, depth + 1)?);
                }
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_anchor(anchor, &start);
                self.refuse_tag(tag.as_ref(), &start);
                self.map(start, depth)
            }
            Event::Alias(_) => {
                self.mistakes.push(
                    Mistake::new("yaml_alias", &start, "aliases (`*name`) are not read")
                        .mend("write the value out where it is wanted"),
                );
                Some(Node::new(Value::Null, start))
            }
            _ => Some(Node::new(Value::Null, start)),
        }
    }

    fn map(&mut self, start: Span, depth: usize) -> Option<Node> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.event()?;
            if matches!(event, Event::MappingEnd) {
                return Some(Node::new(Value::Map(entries), self.to(start, &span)));
            }
            let key_node = self.node(event, span, depth + 1)?;
            let (event, span) = self.event()?;
            let value = self.node(event, span, depth + 1)?;
            let Some(key) = key_text(&key_node) else {
                let text = format!("a key is text, and this is {}", key_node.kind());
                self.mistakes.push(Mistake::new("key_not_text", &key_node.span, text));
                continue;
            };
            if !seen.insert(key.clone()) {
                let mistake =
                    Mistake::new("duplicate_key", &key_node.span, format!("`{key}` is written twice"));
                self.mistakes.push(mistake.mend("keep one of the two"));
                continue;
            }
            entries.push(Entry { key, key_span: key_node.span, value });
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        tag: Option<&Cow<'t, Tag>>,
        span: &Span,
    ) -> Value {
        if tag.is_some_and(|t| !t.is_yaml_core_schema()) {
            self.refuse_tag(tag, span);
        }
        match Scalar::parse_from_cow_and_metadata(text, style, tag) {
            Some(Scalar::Null) => Value::Null,
            Some(Scalar::Boolean(b)) => Value::Bool(b),
            Some(Scalar::Integer(i)) => Value::Int(i),
            Some(Scalar::FloatingPoint(f)) => Value::Float(f.into_inner()),
            Some(Scalar::String(s)) => Value::String(s.into_owned()),
            None => {
                let mistake =
                    Mistake::new("yaml_tag", span, "this value is not of the type that its tag says");
                self.mistakes.push(mistake.mend("remove the tag"));
                Value::Null
            }
        }
    }

    fn refuse_anchor(&mut self, anchor: usize, span: &Span) {
        if anchor != 0 {
            self.mistakes.push(
                Mistake::new("yaml_anchor", span, "anchors (`&name`) are not read")
                    .mend("write the value out where it is wanted"),
            );
        }
    }

    fn refuse_tag(&mut self, tag: Option<&Cow<'t, Tag>>, span: &Span) {
        if let Some(tag) = tag
            && !tag.is_yaml_core_schema()
        {
            let mistake = Mistake::new("yaml_tag", span, format!("the tag `!{}` is not known", tag.suffix));
            self.mistakes.push(mistake.mend("remove the tag"));
        }
    }

    fn span(&self, span: &YamlSpan) -> Span {
        let offset =
            |index: usize| self.offsets.get(index).or(self.offsets.last()).copied().unwrap_or_default();
        Span {
            file: Arc::clone(&self.file),
            line: span.start.line(),
            column: span.start.col() + 1,
            start: offset(span.start.index()),
            end: offset(span.end.index()),
        }
    }

    /// The place of a scalar. What is in quotes ends with its closing quote; the parser counts what is blank behind it, too.
    fn quoted(&self, style: ScalarStyle, place: Span) -> Span {
        let quote = match style {
            ScalarStyle::SingleQuoted => b'\'',
            ScalarStyle::DoubleQuoted => b'"',
            _ => return place,
        };
        let written = self.text.get(place.start..place.end).unwrap_or_default().as_bytes();
        let mut at = 1;
        while let Some(byte) = written.get(at) {
            let doubled = *byte == quote && quote == b'\'' && written.get(at + 1) == Some(&quote);
            match byte {
                b'\\' if quote == b'"' => at += 2,
                _ if doubled => at += 2,
                byte if *byte == quote => return Span { end: place.start + at + 1, ..place },
                _ => at += 1,
            }
        }
        place
    }

    fn to(&self, start: Span, end: &YamlSpan) -> Span {
        let end = self.span(end).end.max(start.end);
        Span { end, ..start }
    }
}

/// Keys such as `404:` or `true:` are taken as the text they were written as.
fn key_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::String(text) => Some(text.clone()),
        Value::Int(i) => Some(i.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<String> {
        let mistakes = parse("f.yaml", text).unwrap_err();
        mistakes
            .into_sorted()
            .iter()
            .map(|m| format!("{}:{} {}", m.span.line, m.span.column, m.code))
            .collect()
    }

    #[test]
    fn values_know_their_place() {
        let node = parse("f.yaml", "flow: ä\nsource:\n  http: { port: 80, on: true }\n").unwrap();
        let port = node.at(["source", "http", "port"]);
        assert!(port.value == Value::Int(80));
        assert_eq!((port.span.line, port.span.column), (3, 17));
        let text = "flow: ä\nsource:\n  http: { port: 80, on: true }\n";
        assert_eq!(&text[port.span.start..port.span.end], "80");
        assert!(node.at(["source", "http", "on"]).value == Value::Bool(true));
    }

    #[test]
    fn what_is_in_quotes_ends_with_its_quote() {
        let text =
            "a: \"x \\\" y\"   # \"comment\"\nb: 'it''s' \nc: { d: \"e\" , f: 'g' }\nh: plain  # comment\n";
        let node = parse("f.yaml", text).unwrap();
        for (path, written) in [
            (&["a"][..], "\"x \\\" y\""),
            (&["b"], "'it''s'"),
            (&["c", "d"], "\"e\""),
            (&["c", "f"], "'g'"),
            (&["h"], "plain"),
        ] {
            let span = &node.at(path.iter().copied()).span;
            assert_eq!(&text[span.start..span.end], written);
        }
    }

    #[test]
    fn every_mistake_is_found_with_its_place() {
        assert_eq!(
            codes("a: 1\nb: &x 2\nc: *x\na: 3\nd: !foo 4\n"),
            ["2:4 yaml_anchor", "3:4 yaml_alias", "4:1 duplicate_key", "5:4 yaml_tag"]
        );
        assert_eq!(codes("a: [1\nb: 2\n").len(), 1);
        assert_eq!(codes(""), ["1:1 empty_file"]);
        assert_eq!(codes("a: 1\n---\nb: 2\n"), ["3:1 second_document"]);
        assert_eq!(codes(&"[".repeat(200)).len(), 1);
    }

    #[test]
    fn nested_beyond_measure_is_refused_without_a_crash() {
        let text = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse("f.yaml", &text).is_err());
    }
}
