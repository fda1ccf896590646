//! Text with values in braces.

use crate::{
    config::place,
    convert,
    field::{Place, Scope},
};

/// A template, checked.
#[derive(Debug)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Value(Place),
    Header(String),
    MessageId,
}

impl Template {
    /// Parses `text {$.path} {header.name} {message.id} {{braces}}`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                literal.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                literal.push('}');
                rest = after;
            } else if let Some(inside) = from.strip_prefix('{') {
                let end = closing(inside)
                    .ok_or_else(|| format!("`{{{inside}` is not closed; write `{{{{` for a brace"))?;
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                let (name, after) = inside.split_at(end);
                parts.push(Part::parse(name.trim())?);
                rest = after.strip_prefix('}').unwrap_or_default();
            } else {
                return Err("a `}` without a `{`; write `}}` for a brace".to_owned());
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    /// The text, or none when one of its values is missing or null.
    pub(crate) fn fill(&self, scope: Scope<'_, '_>) -> Option<String> {
        let mut filled = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Value(place) => {
                    filled.push_str(&convert::text(place.first(scope).filter(|value| !value.is_null())?));
                }
                Part::Header(name) => filled.push_str(scope.message.header(name)?),
                Part::MessageId => filled.push_str(&scope.message.id),
            }
        }
        Some(filled)
    }
}

impl Part {
    fn parse(name: &str) -> Result<Self, String> {
        if name.starts_with('$') {
            return place(name).map(Part::Value);
        }
        if let Some(header) = name.strip_prefix("header.").filter(|header| !header.is_empty()) {
            return Ok(Part::Header(header.to_ascii_lowercase()));
        }
        if name == "message.id" {
            return Ok(Part::MessageId);
        }
        Err(format!(
            "`{{{name}}}` is neither a JSONPath (`{{$.name}}`) nor `{{header.NAME}}` nor `{{message.id}}`"
        ))
    }
}

/// Where the brace closes: the first `}` that is not inside a string of a path.
fn closing(inside: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (i, character) in inside.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '}' => return Some(i),
            None if matches!(character, '\'' | '"') => quote = Some(character),
            None => {}
        }
    }
    None
}
