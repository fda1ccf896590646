//! XML to JSON. The parser is quick-xml; what it leaves to its caller is checked here: names, characters, the prolog, one
//! root, and the limits. A document type declaration is refused, so there are no entities but the five that XML predefines.

use std::{borrow::Cow, collections::HashMap, fmt};

use gristmill_json::{Number, Object, Value};
use quick_xml::{
    Reader, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesDecl, BytesRef, BytesStart, Event},
};

use crate::{names, pattern::Pattern};

/// quick-xml looks for repeated attributes by comparing all pairs.
const MAX_ATTRIBUTES: usize = 256;

/// How this direction works, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) attribute_prefix: String,
    pub(crate) text_key: String,
    pub(crate) always_array: Vec<Pattern>,
    pub(crate) strip_namespaces: bool,
    pub(crate) trim_text: bool,
    pub(crate) infer_types: bool,
    pub(crate) max_depth: usize,
    pub(crate) max_items: usize,
}

/// Why a document is not taken, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct XmlError {
    line: usize,
    column: usize,
    reason: String,
}

impl fmt::Display for XmlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}, column {}", self.reason, self.line, self.column)
    }
}

/// Converts a document.
pub(crate) fn convert(body: &[u8], settings: &Settings) -> Result<Value<'static>, XmlError> {
    let text = match str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => {
            let valid =
                String::from_utf8_lossy(body.get(..error.valid_up_to()).unwrap_or_default()).into_owned();
            return Err(locate(
                &valid,
                valid.len(),
                "invalid UTF-8, the only encoding that is taken".to_owned(),
            ));
        }
    };
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut converter = Converter { settings, open: Vec::new(), root: None, items: 0, started: false };
    let mut reader = Reader::from_str(text);
    loop {
        let before = offset(reader.buffer_position());
        let event = reader
            .read_event()
            .map_err(|error| locate(text, offset(reader.error_position()), error.to_string()))?;
        if let Event::Eof = event {
            break;
        }
        converter.event(event).map_err(|reason| locate(text, before, reason))?;
    }
    converter.finish().map_err(|reason| locate(text, text.len(), reason))
}

fn offset(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}

fn locate(text: &str, at: usize, reason: String) -> XmlError {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    XmlError {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        reason,
    }
}

/// An element that is not closed yet.
struct Element {
    /// As it comes out.
    name: String,
    attributes: Vec<(Cow<'static, str>, Value<'static>)>,
    children: Vec<(String, Value<'static>)>,
    text: String,
}

struct Converter<'s> {
    settings: &'s Settings,
    open: Vec<Element>,
    root: Option<(String, Value<'static>)>,
    items: usize,
    /// Something was there before: a declaration may only come first.
    started: bool,
}

impl Converter<'_> {
    fn event(&mut self, event: Event<'_>) -> Result<(), String> {
        let first = !std::mem::replace(&mut self.started, true);
        match event {
            Event::Decl(declaration) if first => check_declaration(&declaration),
            Event::Decl(_) => Err("an XML declaration may only stand at the very beginning".to_owned()),
            Event::DocType(_) => Err("a document type declaration (DOCTYPE) is refused".to_owned()),
            Event::Start(start) => self.start(&start),
            Event::Empty(start) => {
                self.start(&start)?;
                self.end()
            }
            Event::End(_) => self.end(),
            Event::Text(text) => self.text(&text.xml10_content()),
            Event::CData(text) if self.open.is_empty() => {
                Err(format!("text outside of the root element: {}", shorten(&text)))
            }
            Event::CData(text) => self.text(&text.xml10_content()),
            Event::GeneralRef(reference) => {
                let text = resolve(&reference)?;
                self.text(&text)
            }
            Event::Comment(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        if self.open.is_empty() && self.root.is_some() {
            return Err("a second root element".to_owned());
        }
        if self.open.len() >= self.settings.max_depth {
            return Err(format!("elements nest deeper than max_depth, {}", self.settings.max_depth));
        }
        let name = start.name();
        let name = self.name(name.as_ref())?;
        self.count()?;
        let mut element = Element { name, attributes: Vec::new(), children: Vec::new(), text: String::new() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let written = attribute.key.as_ref();
            if self.settings.strip_namespaces && (written == "xmlns" || written.starts_with("xmlns:")) {
                continue;
            }
            self.count()?;
            if element.attributes.len() >= MAX_ATTRIBUTES {
                return Err(format!("an element has more than {MAX_ATTRIBUTES} attributes"));
            }
            let key = format!("{}{}", self.settings.attribute_prefix, self.name(written)?);
            if element.attributes.iter().any(|(other, _)| *other == key) {
                return Err(format!("two attributes are `{key}` once their prefixes are gone"));
            }
            if attribute.value.contains('<') {
                return Err(format!("attribute `{written}` holds a `<`, which must be escaped"));
            }
            let value =
                attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|error| error.to_string())?;
            check_characters(&value)?;
            element.attributes.push((Cow::Owned(key), self.scalar(value.into_owned())));
        }
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(element) = self.open.pop() else { return Err("an end tag without a start tag".to_owned()) };
        let (name, value) = self.close(element);
        match self.open.last_mut() {
            Some(parent) => parent.children.push((name, value)),
            None => self.root = Some((name, value)),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        check_characters(text)?;
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(format!("text outside of the root element: {}", shorten(text))),
        }
        Ok(())
    }

    fn finish(self) -> Result<Value<'static>, String> {
        if let Some(element) = self.open.last() {
            return Err(format!("the document ends inside of `{}`", element.name));
        }
        let (name, value) = self.root.ok_or("there is no root element")?;
        let array =
            self.settings.always_array.iter().any(|pattern| pattern.matches(std::iter::empty(), &name));
        let value = if array { Value::Array(vec![value]) } else { value };
        Ok(Value::Object(Object::from_iter([(Cow::Owned(name), value)])))
    }

    fn count(&mut self) -> Result<(), String> {
        self.items += 1;
        if self.items > self.settings.max_items {
            return Err(format!("more elements and attributes than max_items, {}", self.settings.max_items));
        }
        Ok(())
    }

    /// A name as it comes out.
    fn name(&self, written: &str) -> Result<String, String> {
        if !names::is_name(written) {
            return Err(format!("`{}` is not a name", shorten(written)));
        }
        let name = match written.split_once(':') {
            Some((_, local)) if self.settings.strip_namespaces && !local.is_empty() => local,
            _ => written,
        };
        Ok(name.to_owned())
    }

    /// The value of an element all of whose content is known.
    fn close(&self, element: Element) -> (String, Value<'static>) {
        let Element { name, attributes, children, text } = element;
        let text = if self.settings.trim_text { text.trim() } else { &*text };
        if attributes.is_empty() && children.is_empty() {
            return (name, self.scalar(text.to_owned()));
        }
        let mut members = attributes;
        self.group(&name, children, &mut members);
        // White space that only lays out the children says nothing.
        if !text.trim().is_empty() {
            members.push((Cow::Owned(self.settings.text_key.clone()), self.scalar(text.to_owned())));
        }
        // The names are distinct: attributes and text begin with characters that no element's name begins with.
        (name, Value::Object(Object::from_distinct(members)))
    }

    /// Puts children of one name together, in the place of the first.
    fn group(
        &self,
        parent: &str,
        children: Vec<(String, Value<'static>)>,
        members: &mut Vec<(Cow<'static, str>, Value<'static>)>,
    ) {
        let mut groups: Vec<(String, Vec<Value<'static>>)> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for (name, value) in children {
            match places.get(&name).and_then(|place| groups.get_mut(*place)) {
                Some((_, values)) => values.push(value),
                None => {
                    places.insert(name.clone(), groups.len());
                    groups.push((name, vec![value]));
                }
            }
        }
        let mut ancestors: Vec<&str> = self.open.iter().map(|element| element.name.as_str()).collect();
        ancestors.push(parent);
        for (name, mut values) in groups {
            let always = || {
                self.settings
                    .always_array
                    .iter()
                    .any(|pattern| pattern.matches(ancestors.iter().copied(), &name))
            };
            let value = match values.pop() {
                Some(only) if values.is_empty() && !always() => only,
                Some(last) => {
                    values.push(last);
                    Value::Array(values)
                }
                None => Value::Array(values),
            };
            members.push((Cow::Owned(name), value));
        }
    }

    fn scalar(&self, text: String) -> Value<'static> {
        if self.settings.infer_types {
            match text.as_str() {
                "true" => return Value::Bool(true),
                "false" => return Value::Bool(false),
                number if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                    if let Some(number) = Number::from_text(number.to_owned()) {
                        return Value::Number(number);
                    }
                }
                _ => {}
            }
        }
        Value::String(Cow::Owned(text))
    }
}

fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), String> {
    let version = declaration.version().map_err(|error| error.to_string())?;
    if version != "1.0" {
        return Err(format!("XML version {version}; only 1.0 is taken"));
    }
    match declaration.encoding() {
        None => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(encoding))
            if encoding.eq_ignore_ascii_case("utf-8") || encoding.eq_ignore_ascii_case("us-ascii") =>
        {
            Ok(())
        }
        Some(Ok(encoding)) => Err(format!("the encoding {encoding} is not taken, only UTF-8")),
    }
}

/// A character reference, or one of the five entities that XML predefines.
fn resolve(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(character) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(character.to_string());
    }
    match resolve_predefined_entity(reference) {
        Some(text) => Ok(text.to_owned()),
        None => Err(format!(
            "the entity `&{};` is not predefined, and others are not expanded",
            shorten(reference)
        )),
    }
}

fn check_characters(text: &str) -> Result<(), String> {
    match names::forbidden(text) {
        Some(character) => Err(format!("the character U+{:04X} is not allowed in XML", u32::from(character))),
        None => Ok(()),
    }
}

/// What is shown of a document in an error text.
fn shorten(text: &str) -> String {
    const MAX_CHARACTERS: usize = 40;
    let short: String = text.chars().take(MAX_CHARACTERS).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}
